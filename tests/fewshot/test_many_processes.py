"""Several processes train what one would: torchrun and accelerate start real ones, which run this file.

Each process writes down what it trained on, and what came out; one process, with batches that are as large as theirs
together, is the measure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runcast
import runcast.testing.lines  # noqa: F401 -- registers the tracker that the processes report to
from runcast.fewshot import FewShotClassifier, Trainer, TrainingArguments
from runcast.testing.contract import wait_until_through
from runcast.testing.lines import lines_of

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FEW = {
    "text": ["my invoice charge", "your parcel late", "a password login", "the refund payment", "this card"],
    "label": ["billing", "delivery", "account", "billing", "billing"],
}
# Five texts make 15 pairs, and drawn seven times nine batches of four: two processes can't share them evenly.
TRAININGS: dict[str, dict[str, Any]] = {
    "pairs": {"sampling_strategy": "unique", "per_device_train_batch_size": 4, "num_train_epochs": 3},
    "a last step for one of them": {"sampling_strategy": "unique", "per_device_train_batch_size": 7},
    "accumulated": {"sampling_strategy": "unique", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "batches": {
        "sampling_strategy": "batch",
        "classes_per_batch": 2,
        "examples_per_class": 2,
        "num_iterations": 7,
        "num_train_epochs": 2,
    },
}


class Watched(Trainer):
    """Writes down the tokens of what it trains on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trained: list[Any] = []

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        texts = [" ".join(map(str, ids[ids > 0].tolist())) for ids in inputs["input_ids"]]
        if float(inputs.get("weight", 1.0)) == 0.0:
            self.trained.append(None)
        elif "target" in inputs:
            sides = (inputs[side].tolist() for side in ("left", "right"))
            self.trained.append([sorted((texts[left], texts[right])) for left, right in zip(*sides, strict=True)])
        else:
            self.trained.append([sorted(texts)])
        return super().compute_loss(model, inputs, *args, **kwargs)


def train(
    spec: dict[str, Any], name: str, resume: str | None = None, report_to: str = "none", **options: Any
) -> dict[str, Any]:
    """Trains once, and says what this process saw and got."""
    output = f"{spec['output']}/{name}"
    defaults = {
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "per_device_eval_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 3,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = TrainingArguments(output_dir=output, report_to=report_to, **{**defaults, **TRAININGS[name], **options})
    model = FewShotClassifier.from_pretrained(spec["body"], device="cpu", config_kwargs=NO_DROPOUT)
    with Watched(model, args, spec["data"], spec["eval_data"], metric="f1") as trainer:
        trainer.train(resume_from_checkpoint=resume)
        predictions = trainer.predict(spec["eval_data"])
        trainer.save_model(f"{output}/final")
        has_run = trainer._reporting() is not None and trainer._reporting().run is not None
    return {
        "trained": trainer.trained,
        "history": trainer.state.log_history,
        "steps": trainer.state.global_step,
        "parameters": [parameter.detach().tolist() for parameter in trainer.model.parameters()],
        "head": {key: value.tolist() for key, value in trainer.model.head.arrays().items()},
        "predictions": predictions.predictions.tolist(),
        "metrics": predictions.metrics,
        "has_run": has_run,
    }


def main() -> None:
    """What each process does."""
    spec = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(1)
    found = {name: train(spec, name) for name in spec["trainings"]}
    if spec["trainings"] == list(TRAININGS):
        resume = f"{spec['output']}/pairs/checkpoint-3"
        found["resumed"] = train(spec, "pairs", resume, report_to="lines")
    (Path(spec["output"]) / f"{os.environ['RANK']}.json").write_text(json.dumps(found), "utf-8")


def launch(command: list[str], folder: Path, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs this file in two processes; what each of them found."""
    path = folder / "spec.json"
    path.write_text(json.dumps({**spec, "output": str(folder)}), "utf-8")
    environment = {**os.environ, "RUNCAST_DELIVERY": "process", "RUNCAST_DIR": str(folder / "runs")}
    environment = {**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", *command, __file__, str(path)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]


@pytest.fixture(scope="module")
def spec(body_dir: Path) -> dict[str, Any]:
    """What is trained: the tiny body, five texts, and eleven to evaluate on, which isn't a multiple of anything."""
    texts = [f"{word} {text}" for word in ("my", "a") for text in FEW["text"]] + ["shipping package late"]
    labels = FEW["label"] * 2 + ["delivery"]
    data = {"body": str(body_dir), "data": FEW, "eval_data": {"text": texts, "label": labels}}
    return {**data, "trainings": list(TRAININGS)}


@pytest.fixture(scope="module")
def two(spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes of torchrun found, and their folder."""
    folder = tmp_path_factory.mktemp("two")
    return {
        "found": launch(["torch.distributed.run", "--standalone", "--nproc-per-node", "2"], folder, spec),
        "at": folder,
    }


@pytest.fixture(scope="module")
def one(spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds, with batches of pairs twice as large; batches of classes accumulate, two a step."""
    at = {**spec, "output": str(tmp_path_factory.mktemp("one"))}
    found = {}
    for name, options in TRAININGS.items():
        size = options.get("per_device_train_batch_size")
        more = {"gradient_accumulation_steps": 2} if size is None else {"per_device_train_batch_size": 2 * size}
        found[name] = train(at, name, **more)
    return found


def flat(parameters: list[Any]) -> torch.Tensor:
    return torch.cat([torch.tensor(parameter).flatten() for parameter in parameters])


@pytest.mark.parametrize("name", TRAININGS)
def test_together_they_train_on_what_one_does(one, two, name):
    """Each pair and each batch once an epoch, also where they don't divide evenly; and no process is idle for long."""
    shares = [process[name]["trained"] for process in two["found"]]
    assert len(shares[0]) == len(shares[1])
    drawn = [
        Counter(json.dumps(item) for share in some for item in share or ()) for some in (*shares, one[name]["trained"])
    ]
    assert drawn[0] + drawn[1] == drawn[2]
    epochs = TRAININGS[name].get("num_train_epochs", 1)
    if name != "batches":
        assert sum(drawn[2].values()) == 15 * epochs and set(drawn[2].values()) == {epochs}
    assert sum(share is None for some in shares for share in some) <= epochs
    assert two["found"][0][name]["steps"] == one[name]["steps"]


@pytest.mark.parametrize("name", TRAININGS)
def test_weights_are_those_of_one_process(one, two, name):
    """They are the same in both processes, and those of one process with batches as large as theirs together."""
    first, second = (flat(process[name]["parameters"]) for process in two["found"])
    assert torch.equal(first, second)
    assert torch.allclose(first, flat(one[name]["parameters"]), atol=2e-4)


@pytest.mark.parametrize("name", TRAININGS)
def test_evaluations_and_heads_are_those_of_one_process(one, two, name):
    """Each text counts once: metrics, losses, predictions and the head are the same in both and as with one process."""
    expected = one[name]
    heads = [process[name]["head"] for process in two["found"]]
    assert heads[0] == heads[1]
    for process in two["found"]:
        found = process[name]
        assert found["predictions"] == expected["predictions"]
        for mine, theirs in zip(found["history"], expected["history"], strict=True):
            assert mine.keys() == theirs.keys()
            for key in mine.keys() & {"loss", "eval_loss", "eval_accuracy", "eval_f1", "train_accuracy", "step"}:
                assert mine[key] == pytest.approx(theirs[key], abs=1e-3), (key, mine, theirs)
        assert found["metrics"]["test_accuracy"] == expected["metrics"]["test_accuracy"]
    assert np.allclose(heads[0]["weight"], expected["head"]["weight"], atol=1e-2)


def test_a_resumed_training_of_both_is_the_same(two):
    """From a checkpoint in the middle of the second epoch both go on to the very weights."""
    for process in two["found"]:
        assert process["resumed"]["parameters"] == process["pairs"]["parameters"]
        assert process["resumed"]["head"] == process["pairs"]["head"]
        assert process["resumed"]["trained"] == process["pairs"]["trained"][3:]


def test_checkpoints_are_written_once_and_complete(two, spec):
    """Each is a classifier with a random state for either process; the saved model predicts what the trained one does."""
    folder = two["at"] / "pairs"
    for checkpoint in ("checkpoint-3", "checkpoint-6"):
        files = sorted(path.name for path in (folder / checkpoint).iterdir())
        assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt", "classifier.json"} <= set(files)
        assert not any(name.startswith(".saving-") for name in files)
    saved = FewShotClassifier.from_pretrained(folder / "final", device="cpu")
    assert saved.predict(spec["eval_data"]["text"]).tolist() == two["found"][0]["pairs"]["predictions"]


def test_only_the_main_process_reports(two):
    """There is one run, completed, in which each step shows once; the other process opened none."""
    assert [process["resumed"]["has_run"] for process in two["found"]] == [True, False]
    (run_dir,) = (two["at"] / "runs").iterdir()
    record = runcast.read_run(run_dir)
    assert record.status == "completed"
    assert [point.step for point in record.metrics["train/loss"]] == [4, 5, 6]
    wait_until_through(run_dir, "lines")
    (path,) = run_dir.glob("lines/*.jsonl")
    lines = [line for line in lines_of(path) if line["kind"] == "metrics"]
    assert Counter(line["step"] for line in lines if "train/loss" in line["values"]) == {4: 1, 5: 1, 6: 1}


def test_accelerate_launches_it_too(two, spec, tmp_path):
    """`accelerate launch` gives the weights that torchrun gives."""
    command = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
    found = launch(command, tmp_path, {**spec, "trainings": ["pairs"]})
    for process, other in zip(found, two["found"], strict=True):
        assert process["pairs"]["parameters"] == other["pairs"]["parameters"]


if __name__ == "__main__":
    main()
