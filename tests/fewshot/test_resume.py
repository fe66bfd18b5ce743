"""Checkpoints hold all that a training needs to go on as if it had never stopped, or say what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import EarlyStoppingCallback, TrainerCallback

from runcast.fewshot import FewShotClassifier, Trainer
from runcast.fewshot.checkpoint import find_checkpoint
from runcast.fewshot.heads import LogisticHead

BATCHES = {"sampling_strategy": "batch", "classes_per_batch": 2, "examples_per_class": 4}


@pytest.fixture
def make_trainer(make_args, body_dir, train_data, eval_data):
    """A trainer for a fresh tiny model, with dropout; options of the arguments go by keyword."""

    def make(trainer=None, **options):
        defaults = {"train_dataset": train_data, "eval_dataset": eval_data}
        model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
        return Trainer(model=model, args=make_args(**options), **{**defaults, **(trainer or {})})

    return make


def state(trainer):
    """All that was learnt: every tensor of the body, and the head."""
    return {**trainer.model.state_dict(), **{k: torch.tensor(v) for k, v in trainer.model.head.arrays().items()}}


def same(one, other):
    """Whether two trainers have learnt the same, bit by bit."""
    left, right = state(one), state(other)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# -- going on --------------------------------------------------------------------------------------------------------


STRATEGIES = {
    "oversampling": {"sampling_strategy": "oversampling", "per_device_train_batch_size": 64},  # of 384 pairs
    "undersampling": {"sampling_strategy": "undersampling", "per_device_train_batch_size": 36},  # of 216
    "unique": {"sampling_strategy": "unique", "per_device_train_batch_size": 50},  # of 300
    "num_iterations": {"sampling_strategy": "unique", "num_iterations": 2, "per_device_train_batch_size": 16},  # of 96
    "batch": {**BATCHES, "num_iterations": 2},
    "accumulated": {**BATCHES, "num_iterations": 4, "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize(
    ("strategy", "stop"),
    [
        *((strategy, 8) for strategy in STRATEGIES),  # in the second epoch, of six steps each
        ("oversampling", 2),
        ("oversampling", 6),
        ("accumulated", 2),
        ("accumulated", 6),
    ],
)
def test_resuming_goes_on_as_if_never_interrupted(make_trainer, strategy, stop):
    """Every tensor and the head are those of a training in one go, wherever it stopped, with dropout on."""
    options = {**STRATEGIES[strategy], "max_steps": 9, "save_strategy": "steps", "save_steps": stop}
    whole = make_trainer(**options)
    whole.train()
    assert whole.state.num_train_epochs == 2
    resumed = make_trainer(**options)
    assert not same(whole, resumed)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{stop}")
    assert resumed.state.global_step == 9
    assert same(whole, resumed)


def test_the_best_model_and_the_patience_outlive_a_stop(make_trainer):
    """Evaluations, the best checkpoint and early stopping go on where they were; the same model is loaded at the end."""
    options = {
        "max_steps": 40,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "learning_rate": 0.03,
        "per_device_train_batch_size": 32,
    }

    def stopping():
        return make_trainer({"callbacks": [EarlyStoppingCallback(early_stopping_patience=4)]}, **options)

    whole = stopping()
    whole.train()
    steps, best = whole.state.global_step, whole.state.best_global_step
    assert steps == best + 8 < 40
    resumed = stopping()
    resumed.train(
        resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{steps - 4}"
    )  # the patience is half used up
    assert (resumed.state.global_step, resumed.state.best_global_step) == (steps, best)
    assert resumed.state.best_metric == whole.state.best_metric
    assert same(whole, resumed)
    accuracies = [
        [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
        for trainer in (whole, resumed)
    ]
    assert accuracies[0] == accuracies[1]


def test_a_callback_that_the_checkpoint_does_not_know_is_saved_with_the_next(make_trainer):
    """One may resume with one more callback that has a state, and from there again."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 4}
    first = make_trainer(**options)
    first.train()
    more = {"callbacks": [EarlyStoppingCallback(early_stopping_patience=9)]}
    second = make_trainer(more, **{**options, "max_steps": 6})
    second.train(resume_from_checkpoint=True)
    saved = json.loads((Path(second.args.output_dir) / "checkpoint-6" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["EarlyStoppingCallback"]["args"]["early_stopping_patience"] == 9


def test_reporters_of_ones_own_outlive_a_resumption(make_trainer, recorder, only_run):
    """A reporter that is an object can't be made from a checkpoint; the trainer keeps the one it was given."""
    options = {"report_to": recorder, "logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    with make_trainer(**options) as whole:
        whole.train()
    recorder.points.clear()
    with make_trainer(**options) as resumed:
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-2")
        assert resumed._reporting().reporters == [recorder]
    assert [step for key, step, _ in recorder.points if key == "train/loss"][-2:] == [3, 4]
    assert [point.step for point in only_run().metrics["train/loss"]] == [1, 2, 3, 4]


def test_skipped_batches_are_not_tokenized(make_trainer, monkeypatch):
    """Resuming draws past what was trained on already, and tokenizes no text of it."""
    data = {"text": [f"my text {number}" for number in range(400)], "label": [str(n % 2) for n in range(400)]}
    options = {"save_strategy": "steps", "save_steps": 30, "max_steps": 31, "sampling_strategy": "unique"}
    make_trainer({"train_dataset": data, "eval_dataset": None}, **options).train()
    resumed = make_trainer({"train_dataset": data, "eval_dataset": None}, **options)
    asked = []
    tokenize = resumed.model.tokenize
    monkeypatch.setattr(resumed.model, "tokenize", lambda texts: asked.extend(texts) or tokenize(texts))
    steps = []
    resumed.add_callback(Steps(steps))
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-30")
    assert steps == [31]
    assert len(asked) <= 2 * 2 * 8  # a batch of eight pairs, and the one that is fetched ahead


class Steps(TrainerCallback):
    """Notes the steps that are trained."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _saved(tmp_path_factory):
    """Where a training is saved, once for all tests here."""
    return tmp_path_factory.mktemp("saved")


@pytest.fixture
def checkpoint(make_trainer, _saved, tmp_path):
    """The folder of a checkpoint at step 4, beside one at step 2."""
    if not any(_saved.iterdir()):
        make_trainer(save_strategy="steps", save_steps=2, output_dir=str(_saved)).train()
    shutil.copytree(_saved, tmp_path / "output")
    return tmp_path / "output" / "checkpoint-4"


def test_a_checkpoint_is_a_complete_classifier(checkpoint, eval_data, make_trainer):
    """A checkpoint's folder loads as a classifier that predicts what the trained one does."""
    resumed = make_trainer(max_steps=4)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    loaded = FewShotClassifier.from_pretrained(checkpoint, device="cpu")
    assert (loaded.predict(eval_data["text"]) == resumed.model.predict(eval_data["text"])).all()


@pytest.mark.parametrize(
    ("file", "missing", "truncated"),
    [
        (
            "optimizer.pt",
            "optimizer.pt is missing; .*load it as a model",
            "optimizer.pt is damaged; .*load it as a model",
        ),
        (
            "scheduler.pt",
            "scheduler.pt is missing; resume from another",
            "scheduler.pt is damaged; resume from another",
        ),
        ("rng_state.pth", "rng_state.*pth is missing", "rng_state.pth is damaged"),
        ("trainer_state.json", "trainer_state.json is missing", "trainer_state.json is damaged"),
        ("modules.json", "modules.json is missing", "modules.json is"),
        ("model.safetensors", "model.safetensors is missing", "model.safetensors is"),
    ],
)
def test_a_damaged_checkpoint_is_refused(checkpoint, make_trainer, file, missing, truncated):
    """Whichever file is cut off or missing: an error that names it and the checkpoint, and nothing is trained."""
    trainer = make_trainer(max_steps=8)
    steps = []
    trainer.add_callback(Steps(steps))
    (checkpoint / file).write_bytes((checkpoint / file).read_bytes()[:-20])
    with pytest.raises(OSError, match=f"checkpoint-4 .*{truncated}"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / file).unlink()
    with pytest.raises(OSError, match=f"checkpoint-4 .*{missing}"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert not steps


def test_a_checkpoint_that_was_not_saved_to_the_end_is_passed_over(checkpoint, make_trainer, caplog):
    """The last complete one is gone on from, with a warning that says so."""
    (checkpoint / "trainer_state.json").unlink()
    (checkpoint / "scheduler.pt").unlink()
    resumed = make_trainer(max_steps=4)
    steps = []
    resumed.add_callback(Steps(steps))
    with caplog.at_level("WARNING", logger="runcast"):
        resumed.train(resume_from_checkpoint=True)
    assert steps == [3, 4]
    assert "checkpoint-4 was not saved to the end, and is passed over: scheduler.pt is missing" in caplog.text


@pytest.mark.parametrize(
    "file",
    ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors", "classifier.json"],
)
def test_a_checkpoint_that_ends_early_is_passed_over(checkpoint, file, caplog):
    """So is one of which a file is there, and cut off; and what somebody has put beside them."""
    shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-9-mine"))
    (checkpoint / file).write_bytes((checkpoint / file).read_bytes()[:-20])
    with caplog.at_level("WARNING", logger="runcast"):
        assert find_checkpoint(True, checkpoint.parent) == str(checkpoint.with_name("checkpoint-2"))
    assert file in caplog.text


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_is_spoilt_inside_is_refused(checkpoint, make_trainer, file):
    """What only loading it shows is an error that names it, too."""
    content = (checkpoint / file).read_bytes()
    (checkpoint / file).write_bytes(b"spoilt" * 20 + content[120:])
    with pytest.raises(OSError, match="checkpoint-4 is damaged, or of another training"):
        make_trainer(max_steps=8).train(resume_from_checkpoint=str(checkpoint))


def test_a_model_without_its_optimizer_is_no_checkpoint(make_trainer):
    """What save_only_model left is an error that says how to load it; training isn't started anew behind one's back."""
    trainer = make_trainer(save_strategy="steps", save_steps=4, save_only_model=True)
    trainer.train()
    with pytest.raises(OSError, match="optimizer.pt is missing.*or load it as a model"):
        make_trainer().train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-4")


def test_a_folder_that_is_no_checkpoint_is_refused(make_trainer, tmp_path):
    """Resuming from something else says so; so does wanting the last one where there is none."""
    with pytest.raises(ValueError, match="holds no checkpoint of a FewShotClassifier"):
        make_trainer().train(resume_from_checkpoint=str(tmp_path))
    with pytest.raises(ValueError, match="holds no checkpoint of a FewShotClassifier"):
        make_trainer().train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="output has no checkpoint to resume from"):
        make_trainer().train(resume_from_checkpoint=True)


def test_a_checkpoint_of_other_labels_is_refused(checkpoint, make_trainer, train_data):
    """Training data of other classes don't go on with a classifier of these."""
    data = {**train_data, "label": [label.upper() for label in train_data["label"]]}
    with pytest.raises(
        ValueError, match="checkpoint-4 is of a classifier with the labels .*'account'.*this one has .*'ACCOUNT'"
    ):
        make_trainer({"train_dataset": data, "eval_dataset": None}).train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_of_another_body_is_refused(checkpoint, make_trainer, tmp_path):
    """A body of other dimensions is an error that names the checkpoint."""
    trainer = make_trainer()
    trainer.model.body[0].auto_model.resize_token_embeddings(7)
    with pytest.raises(OSError, match="checkpoint-4 is damaged, or of another training: the model"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


@pytest.fixture
def coded_dir(body_dir, tmp_path):
    """A body whose transformer is code in its own folder, and that has a module of ours: nothing that is installed."""
    folder = tmp_path / "coded"
    shutil.copytree(body_dir, folder)
    (folder / "modeling_own.py").write_text(
        "from transformers import BertConfig, BertModel\n\n\nclass OwnConfig(BertConfig):\n    model_type = 'own-bert'\n\n\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own-bert", "auto_map": own}))
    return folder


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_body_with_its_own_code_is_resumed_and_its_best_loaded(make_args, coded_dir, train_data, eval_data, by_hand):
    """The consent to run its code was given when it was loaded, whoever loaded it; a checkpoint needs no other."""
    with pytest.raises(OSError, match="trust_remote_code"):
        FewShotClassifier.from_pretrained(coded_dir, device="cpu")

    def trainer(**options):
        model = FewShotClassifier.from_pretrained(coded_dir, device="cpu", trust_remote_code=True)
        if by_hand:
            model = FewShotClassifier(SentenceTransformer(modules=[model.body[0], OwnPooling(16)], device="cpu"))
        return Trainer(model, make_args(eval_strategy="steps", eval_steps=2, **options), train_data, eval_data)

    first = trainer(max_steps=6, learning_rate=0.5, load_best_model_at_end=True)
    first.train()
    assert first.evaluate()["eval_accuracy"] == first.state.best_metric
    resumed = trainer(max_steps=7, save_strategy="steps", save_steps=1)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 7


class OwnPooling(Pooling):
    """Pooling that is of no package."""


@pytest.fixture
def halves_class():
    """A kind of head of one's own that can't be made without an argument."""

    class HalvesHead(LogisticHead):
        kind = "halves"

        def __init__(self, part):
            super().__init__()
            self.part = part

        def _fit(self, vectors, targets, seed, **params):
            return super()._fit(vectors * self.part, targets, seed, **params)

    return HalvesHead


def test_a_checkpoint_is_read_into_the_head_that_there_is(make_trainer, body_dir, halves_class):
    """Whatever a head of one's own was made with stays; another kind of head is refused."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.5, "max_steps": 3, "save_total_limit": 3}
    head = halves_class(0.5)
    trainer = make_trainer(load_best_model_at_end=True, **options)
    trainer.model.head = head
    trainer.train()
    assert trainer.model.head is head and head.is_fitted and head.part == 0.5
    with pytest.raises(ValueError, match="is of a classifier with a head 'halves'; this one has 'logistic'"):
        make_trainer(**options).train(resume_from_checkpoint=True)


# -- the best model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "best_of"), [("loss", min), ("accuracy", max), ("f1", max)])
def test_the_best_model_is_loaded_at_the_end(make_trainer, metric, best_of):
    """With load_best_model_at_end the model is that of the best evaluation, by loss or by a metric, head included."""
    trainer = make_trainer(
        {"metric": "f1"},
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        learning_rate=0.5,  # too high: it gets worse again
        max_steps=8,
    )
    trainer.train()
    values = [entry[f"eval_{metric}"] for entry in trainer.state.log_history if f"eval_{metric}" in entry]
    assert best_of(values) != values[-1]  # the last one was worse
    assert trainer.evaluate()[f"eval_{metric}"] == pytest.approx(best_of(values), abs=1e-6)
    (kept,) = Path(trainer.args.output_dir).glob("checkpoint-*")
    saved = FewShotClassifier.from_pretrained(kept, device="cpu")
    assert all((saved.head.arrays()[key] == value).all() for key, value in trainer.model.head.arrays().items())


def test_a_metric_that_is_not_computed_cannot_choose_the_best(make_trainer):
    """A misspelt metric_for_best_model is an error at the first evaluation, which lists what there is."""
    trainer = make_trainer(eval_strategy="steps", eval_steps=1, metric_for_best_model="f2")
    with pytest.raises(KeyError, match="eval_accuracy"):
        trainer.train()


def test_early_stopping_stops(make_trainer):
    """EarlyStoppingCallback just works: evaluation on, no metric named, and it stops when accuracy stays put."""
    trainer = make_trainer(
        {"callbacks": [EarlyStoppingCallback(early_stopping_patience=5)]},
        max_steps=50,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        learning_rate=1e-8,
    )
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.state.best_metric == trainer.evaluate()["eval_accuracy"]
