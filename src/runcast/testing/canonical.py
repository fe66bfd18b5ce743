"""A run with something of everything, for comparing what went in with what came out."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from runcast.events import Histogram
from runcast.run import Run


def _abyss(levels: int) -> dict[str, Any]:
    return {"bottom": levels} if levels == 0 else {f"level {levels}": _abyss(levels - 1)}


CONFIG: dict[str, Any] = {
    "learning_rate": 3e-5,
    "epochs": 3,
    "model": {"name": "tiny", "layers": [1, 2, 3], "deep": {"er": {"bias": True, "dropout": None}}},
    "looks like a number": "0.1",
    "unicode": "naïve 漢字 🚀",
    "empty": {"text": "", "dict": {}, "list": []},
    "nan": math.nan,
    "infinities": [math.inf, -math.inf],
    "long": "x" * 20_000,
    "a/b": "a slash in a key",
    "a": {"b": "no slash in a key"},
    "a.b": "a dot in a key",
    "multi": "line one\nline two\ttabbed",
    "abyss": _abyss(20),
    "types": {
        "zero": 0,
        "false": False,
        "none": None,
        "one": 1.0,
        "big": 2**53 + 1,
        "tiny": 5e-324,
        "texts": {"zero": "0", "false": "False", "true": "true", "none": "None", "null": "null", "list": "[1]"},
    },
    "lists": [[1, [2, []]], {"in": {"a": ["list"]}}, None, "", True],
    "many": {f"option {number}": number for number in range(150)},
    "schlüssel 鍵": "a key beyond ASCII",
    "k" * 300: "a long key",
}
SUMMARY: dict[str, Any] = {
    "train_runtime": 12.5,
    "best_step": 7,
    "best": "checkpoint-7",
    "diverged": False,
    "nothing": None,
    "undefined": math.nan,
    "looks like a number": "1e3",
    "by/class": {"naïve": [0.1, 0.2], "漢字": []},
    "report": "a long line\n" * 500,
}
TAGS = ("canonical", "with space", "ünicode 🚀", "key=value", "a,b")

ODD_NAMES = (
    "train/loss",
    "train_loss",
    "train.loss",
    "train loss",
    "train-loss",
    "Train/Loss",
    "deep/er/and/deeper/still",
    "percent%2F",
    "hash#1",
    "colon:7",
    "emoji🚀",
    "漢字",
    "a//b",
    "trailing/",
    "_private",
    "step",
    "time",
    "x" * 250,
    "x" * 249 + "y",
)
SPECIAL = (math.nan, math.inf, -math.inf)
EXACT = (1e-300, 0.1 + 0.2, -0.0, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0**53 - 1, 123456.789012345)
STEPS = (7, 3, 5, 2**40)
MANY = {f"many/{number}": 2000 for number in range(5)}
"""Name → number of points: ten thousand in all."""
SHARED = "shared/name"
"""A name that a metric, a text, an image, a table, a histogram, an artifact and a result have."""

RETYPED: tuple[dict[str, Any], ...] = (
    {
        "dict, then number": {"a": 1, "b": {"c": 2}},
        "number, then dict": 3,
        "list, then dict": [1, 2],
        "dict, then empty": {"a": 1},
        "dict, number, dict": {"old": 1},
        "in": {"dict, then none": {"a": 1}, "number, then dict": 2.5, "stays": True},
    },
    {
        "dict, then number": 7,
        "number, then dict": {"a": {"b": "text"}},
        "list, then dict": {"c": [3]},
        "dict, then empty": {},
        "dict, number, dict": 2,
        "in": {"dict, then none": None, "number, then dict": {"x": {"y": 1}}},
    },
    {"dict, number, dict": {"new": 3}},
)
"""The config that a run begins with, and its updates: settings that become another type of thing."""
NEGATIVE = (-7, -1, -3)
"""Steps, as of a warm-up before the first."""
WIDE = {f"wide/{number}": number / 7 for number in range(1200)}
"""The metrics of one event."""


def log_metrics(run: Run, steps: int = 20) -> None:
    """Ordinary numbers, numbers that need all 64 bits, NaN and infinities, and steps out of order."""
    for step in range(steps):
        run.log({"train/loss": 1 / (step + 1), "train/lr": 3e-5 * (1 - step / steps), "epoch": step / 10}, step=step)
        if step % 5 == 0:
            run.log({"eval/accuracy": 0.5 + step / 100}, step=step)
    for name, values in (("odd/special", SPECIAL), ("odd/exact", EXACT)):
        for step, value in enumerate(values):
            run.log({name: value}, step=step)
    for step in STEPS:
        run.log({"odd/order": float(step)}, step=step)


def log_media(run: Run, folder: Path) -> None:
    """Texts, images, tables, histograms and artifacts.

    Args:
        folder: Where the files to log are made.
    """
    _log_texts(run)
    _log_images(run)
    _log_tables(run)
    _log_histograms(run)
    _log_artifacts(run, folder)


def _log_texts(run: Run) -> None:
    run.log_text("note", "first\nsecond line, **bold** <b>html</b> naïve 🚀", step=0)
    run.log_text("note", "another", step=5)
    run.log_text("text/empty", "", step=1)
    run.log_text("text/blank", " \t two spaces,  a tab and lines to the end \n\n", step=1)
    run.log_text("text/long", "a line of no great interest\n" * 5000, step=2)


def _log_images(run: Run) -> None:
    import numpy as np

    pixels = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3)
    run.log_image("picture/rgb", pixels, step=0)
    run.log_image("picture/rgb", pixels[::-1], step=5)
    run.log_image("picture/rgba", np.arange(8 * 8 * 4, dtype=np.uint8).reshape(8, 8, 4), step=1)
    run.log_image("picture/grey", np.full((8, 8), 0.5), step=5)
    run.log_image("picture/dot", np.array([[[7, 8, 9]]], dtype=np.uint8), step=5)


def _log_tables(run: Run) -> None:
    rows = [["a", 1, 0.5, None], ["b,c", -2, math.nan, True], ['"quoted"\nline', 2**40, 1e-9, False]]
    run.log_table("predictions", ["text", "n", "x", "flag"], rows, step=5)
    run.log_table("predictions", ["text", "n", "x", "flag"], rows[:1], step=6)
    run.log_table("table/empty", ["no", "rows"], [], step=5)
    run.log_table(
        "table/words", ["same", "same", ""], [["1", "true", ""], ["null", "NaN", " "], ["漢字", "🚀", "a"]], step=5
    )
    run.log_table("table/long", ["n", "square"], [[n, n * n] for n in range(500)], step=5)


def _log_histograms(run: Run) -> None:
    import numpy as np

    run.log_histogram("weights", np.linspace(-1.0, 1.0, 1001) ** 3, step=0)
    run.log_histogram("weights", [1.0, 1.0, 2.0], step=5)
    run.log_histogram("weights/one", [3.5], step=5)


def _log_artifacts(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.txt").write_bytes(b"bytes \x00\xff\n" * 100)
    run.log_artifact(folder / "notes.txt", metadata={"lines": 100, "nested": {"a": [1, "x"]}}, step=5)
    (folder / "empty").touch()
    run.log_artifact(folder / "empty", name="models/none", kind="dataset")
    model = folder / "model"
    (model / "sub").mkdir(parents=True, exist_ok=True)
    (model / "weights.bin").write_bytes(bytes(range(256)) * 64)
    (model / "sub" / "config.json").write_text('{"a": 1}')
    (model / "sub" / "weights.bin").write_bytes(b"another file of that name")
    (model / ".hidden").write_text("hidden")
    (model / "naïve 漢字.txt").write_text("a name beyond ASCII")
    run.log_artifact(model, name="best-model", kind="model", step=7)
    for version in ("first", "second"):
        (folder / "versioned.txt").write_text(version)
        run.log_artifact(folder / "versioned.txt", name="versioned", kind="checkpoint", step=8)


def log_everything(run: Run, folder: Path) -> None:
    """All of the above, config updates, summary and tags."""
    log_metrics(run)
    run.update_config({"model": {"layers": [4]}, "learnt_later": 7})
    log_media(run, folder)
    run.set_summary(SUMMARY)
    run.set_summary({"best_step": 8})
    run.add_tags(*TAGS)


def log_odd_names(run: Run) -> None:
    """Names of every shape, each with a value of its own."""
    for number, name in enumerate(ODD_NAMES):
        run.log({name: float(number)}, step=0)


def log_shared_name(run: Run, folder: Path) -> None:
    """One name for something of each kind, at one step; and for two values of a metric there, five milliseconds apart."""
    import numpy as np

    run.log({SHARED: 1.5}, step=3)
    run.log_text(SHARED, "a text", step=3)
    run.log_image(SHARED, np.array([[0, 255], [128, 7]], dtype=np.uint8), step=3)
    run.log_table(SHARED, ["a"], [["cell"]], step=3)
    run.log_histogram(SHARED, [0.0, 1.0], step=3)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shared").write_text("a file")
    run.log_artifact(folder / "shared", name=SHARED)
    run.set_summary({SHARED: "a result"})
    run.log({"twice": 1.0}, step=3)
    time.sleep(0.005)
    run.log({"twice": 2.0}, step=3)


def log_many(run: Run) -> None:
    """Ten thousand points."""
    for step in range(max(MANY.values())):
        run.log({name: step * 0.1 + len(name) for name in MANY}, step=step)


def log_one_of_each(run: Run, step: int, folder: Path) -> None:
    """Something of every kind that is of this step, and a new version, value or point of what others have as well.

    Args:
        folder: Where the file to log is made.
    """
    import numpy as np

    run.log({"loss": 1 / (step + 1)}, step=step)
    run.log_text("note", f"at step {step}", step=step)
    run.log_image("picture", np.full((4, 4), step, dtype=np.uint8), step=step)
    run.log_table("predictions", ["step"], [[step]], step=step)
    run.log_histogram("weights", [0.0, step + 1.0], step=step)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text(f"of step {step}")
    for name in (f"of-step-{step}", "latest"):
        run.log_artifact(folder / "file", name=name, step=step)
    run.update_config({"options": {f"of step {step}": step, "last": step}})
    run.set_summary({f"of step {step}": step, "last": step})
    run.add_tags(f"step {step}")


def log_extremes(run: Run) -> None:
    """What is greater than others of its kind, negative steps, and settings that become another type of thing."""
    import numpy as np

    for update in RETYPED[1:]:
        run.update_config(update)
    run.log(WIDE, step=0)
    for step in NEGATIVE:
        run.log({"negative": step / 7}, step=step)
    dot = np.array([[7]], dtype=np.uint8)
    run.log_text("negative/text", "before the first step", step=-7)
    run.log_image("negative/image", dot, step=-7)
    run.log_table("negative/table", ["a"], [["cell"]], step=-7)
    run.log_histogram("negative/histogram", [0.0, 1.0], step=-7)
    run.log_text("text/very-long", "a line of no interest at all\n" * 50_000, step=0)
    run.log_image("picture/large", (np.arange(1100 * 1040) % 251).astype(np.uint8).reshape(1040, 1100), step=0)
    run.log_table("table/very-long", ["n", "square"], [[n, n * n] for n in range(12_000)], step=0)
    run.log_table("table/wide", [f"column {n}" for n in range(60)], [list(range(m, m + 60)) for m in range(3)], step=0)
    _log_bins(run, "bins/many", [float(n % 5) for n in range(600)])
    _log_bins(run, "bins/fractions", [0.25, 1.5, 0.0, 1 / 3, 1e-3])
    run.set_summary({"report/very-long": "a long line\n" * 10_000})
    run.add_tags("a tag of three hundred " + "x" * 277)


def _log_bins(run: Run, key: str, counts: list[float]) -> None:
    """A distribution in bins that others chose, as an import brings them: `Run.log_histogram` makes its own."""
    edges = tuple(n / 10 for n in range(len(counts) + 1))
    run._append(Histogram(time=time.time(), step=0, key=key, counts=tuple(counts), edges=edges))
