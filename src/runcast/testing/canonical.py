"""A run with something of everything, for comparing what went in with what came out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from runcast.run import Run

CONFIG: dict[str, Any] = {
    "learning_rate": 3e-5,
    "epochs": 3,
    "model": {"name": "tiny", "layers": [1, 2, 3], "deep": {"er": {"bias": True, "dropout": None}}},
    "looks like a number": "0.1",
    "unicode": "naïve 漢字 🚀",
    "empty": {"text": "", "dict": {}, "list": []},
    "nan": math.nan,
    "long": "x" * 20_000,
    "a/b": "a slash in a key",
    "multi": "line one\nline two\ttabbed",
}
SUMMARY: dict[str, Any] = {"train_runtime": 12.5, "best_step": 7, "best": "checkpoint-7", "diverged": False}
TAGS = ("canonical", "with space", "ünicode")

ODD_NAMES = (
    "train/loss",
    "train_loss",
    "train.loss",
    "train loss",
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


def log_metrics(run: Run, steps: int = 20) -> None:
    """Ordinary numbers, numbers that need all 64 bits, NaN and infinities, and steps out of order."""
    for step in range(steps):
        run.log({"train/loss": 1 / (step + 1), "train/lr": 3e-5 * (1 - step / steps), "epoch": step / 10}, step=step)
        if step % 5 == 0:
            run.log({"eval/accuracy": 0.5 + step / 100}, step=step)
    for step, value in enumerate((math.nan, math.inf, -math.inf, 1e-300, 0.1 + 0.2, -0.0)):
        run.log({"odd/value": value}, step=step)
    for step in (7, 3, 5, 2**40):
        run.log({"odd/order": float(step)}, step=step)


def log_media(run: Run, folder: Path) -> None:
    """Texts, images, tables, histograms and artifacts.

    Args:
        folder: Where the files to log are made.
    """
    import numpy as np

    run.log_text("note", "first\nsecond line, **bold** <b>html</b> naïve 🚀", step=0)
    run.log_text("note", "another", step=5)
    pixels = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3)
    run.log_image("picture/rgb", pixels, step=0)
    run.log_image("picture/rgb", pixels[::-1], step=5)
    run.log_image("picture/grey", np.full((8, 8), 0.5), step=5)
    rows = [["a", 1, 0.5, None], ["b,c", -2, math.nan, True], ['"quoted"\nline', 2**40, 1e-9, False]]
    run.log_table("predictions", ["text", "n", "x", "flag"], rows, step=5)
    run.log_histogram("weights", np.linspace(-1.0, 1.0, 1001) ** 3, step=0)
    run.log_histogram("weights", [1.0, 1.0, 2.0], step=5)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.txt").write_bytes(b"bytes \x00\xff\n" * 100)
    run.log_artifact(folder / "notes.txt", metadata={"lines": 100, "nested": {"a": [1, "x"]}}, step=5)
    model = folder / "model"
    (model / "sub").mkdir(parents=True, exist_ok=True)
    (model / "weights.bin").write_bytes(bytes(range(256)) * 64)
    (model / "sub" / "config.json").write_text('{"a": 1}')
    run.log_artifact(model, name="best-model", kind="model", step=7)


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
