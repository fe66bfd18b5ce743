"""Checkpoints: which one a training goes on from, and whether all of it is there."""

from __future__ import annotations

import contextlib
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

from runcast.fewshot.folder import CONFIG_FILE, check_files, read_config

logger = logging.getLogger("runcast")

# Without the optimizer's or the scheduler's file transformers would start these anew, and nobody would notice.
_FILES = ("modules.json", "optimizer.pt", "scheduler.pt", "rng_state*.pth", "trainer_state.json")


def find_checkpoint(wanted: str | Path | bool, output_dir: str | Path) -> str:
    """The folder of the checkpoint to go on from.

    Args:
        wanted: It; or True for the last one that is complete: a process may have been killed while it was saving.
        output_dir: Where checkpoints are.

    Raises:
        ValueError: There is none, or the folder is none.
        OSError: A part of it is missing.
    """
    if not isinstance(wanted, bool):
        _check(Path(wanted))
        return str(wanted)
    saved = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.partition("-")[2].isdigit()]
    for found in sorted(saved, key=lambda path: int(path.name.partition("-")[2]), reverse=True):
        flaws = _flaws(found) or _flaws_of_model(found)
        if not flaws:
            return str(found)
        logger.warning("%s was not saved to the end, and is passed over: %s", found, ", ".join(flaws))
    raise ValueError(f"{output_dir} has no checkpoint to resume from")


@contextlib.contextmanager
def reading(checkpoint: str | Path | None, files: str) -> Iterator[None]:
    """Whatever can't be read inside is an error that names the checkpoint and the files.

    Raises:
        OSError: Something is damaged, or is of another training.
    """
    try:
        yield
    except Exception as error:  # torch, pickle and zipfile have many kinds
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise OSError(f"{checkpoint} is damaged, or of another training: {files}: {reason}") from error


def _check(folder: Path) -> None:
    if not any(any(folder.glob(name)) for name in _FILES):
        raise ValueError(f"{folder} holds no checkpoint of a FewShotClassifier")
    flaws = _flaws(folder)
    if not flaws:
        return
    model_only = any(flaw.startswith("optimizer.pt") for flaw in flaws)
    raise OSError(
        f"{folder} can't be resumed from: {', '.join(flaws)}; resume from another checkpoint"
        + (", or load it as a model: FewShotClassifier.from_pretrained" if model_only else "")
    )


def _flaws(folder: Path) -> list[str]:
    """What is wrong with a checkpoint, as far as can be seen without loading it."""
    flaws = [f"{name} is missing" for name in _FILES if not any(folder.glob(name))]
    state = folder / "trainer_state.json"
    if state.is_file():
        try:
            json.loads(state.read_bytes())
        except ValueError:
            flaws.append(f"{state.name} is damaged")
    saved = sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".pth")) if folder.is_dir() else []
    # torch writes zip files, whose table of contents comes last.
    return [*flaws, *(f"{path.name} is damaged" for path in saved if not zipfile.is_zipfile(path))]


def _flaws_of_model(folder: Path) -> list[str]:
    """Likewise of the classifier in it, all of which is read for that."""
    try:
        check_files(folder, read_config(folder / CONFIG_FILE))
    except OSError as error:
        return [str(error)]
    return []
