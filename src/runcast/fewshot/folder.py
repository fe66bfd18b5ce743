"""The folder of a saved classifier: the body as sentence-transformers saves it, and two files of ours, without pickle.

classifier.json     the kind of head, the labels and their form, and the SHA-256 of every other file
head.safetensors    what the head has learnt
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from runcast.fewshot.heads import HEADS, Head, Link, Strategy, make_head
from runcast.fewshot.labels import Label, LabelForm

CONFIG_FILE = "classifier.json"
HEAD_FILE = "head.safetensors"
_NEWEST = 2


class Config(msgspec.Struct):
    """What ``classifier.json`` holds.

    Attributes:
        format: 1 had the head and the labels only.
        files: SHA-256 of the body's files and of the head's, by path relative to the folder.
    """

    head: str
    labels: list[str | int | float | bool] | None = None
    format: int = _NEWEST
    label_form: LabelForm = "single"
    multi_target_strategy: Strategy | None = None
    link: Link = "softmax"
    files: dict[str, str] = {}


def write(
    directory: Path, save_body: Callable[[str], None], head: Head, labels: Sequence[Label] | None, form: LabelForm
) -> None:
    """Writes a classifier; whatever else is in the folder stays there.

    The older configuration goes first and the new one comes last: who dies between leaves a damaged classifier, not one with
    the new body and the older head.

    Args:
        directory: The folder; created if it isn't there.
        save_body: Writes the body to a folder.
        head: The head, fitted or not.
        labels: What the classes are called.
        form: How labels are given.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as temporary:
        new = Path(temporary)
        save_body(temporary)
        if head.is_fitted:
            save_file({name: np.ascontiguousarray(array) for name, array in head.arrays().items()}, new / HEAD_FILE)
        files = {path.relative_to(new).as_posix(): _sha256(path) for path in sorted(new.rglob("*")) if path.is_file()}
        for name in (CONFIG_FILE, HEAD_FILE):
            (directory / name).unlink(missing_ok=True)
        for name in files:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).replace(directory / name)
    config = Config(
        head=head.kind,
        labels=None if labels is None else list(labels),
        label_form=form,
        multi_target_strategy=head.multi_target_strategy,
        link=head.link,
        files=files,
    )
    text = json.dumps(msgspec.to_builtins(config), indent=2, ensure_ascii=False)
    (directory / CONFIG_FILE).write_text(text + "\n", "utf-8")


def read_config(path: Path) -> Config:
    """What a ``classifier.json`` says.

    Raises:
        OSError: It is missing, or no such file, or of a newer version.
    """
    if not path.is_file():
        raise missing(path.parent, path.name)
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OSError(f"{path} is damaged: {error}") from error
    if config.format > _NEWEST:
        raise OSError(f"{path} has format {config.format}; this version of runcast reads up to {_NEWEST}: upgrade it")
    return config


def check_files(directory: Path, config: Config) -> None:
    """Every file must be there as it was saved: with others another model would load, and nobody would notice.

    Raises:
        OSError: One isn't.
    """
    gone = [name for name in config.files if not (directory / name).is_file()]
    if gone:
        raise missing(directory, *gone)
    changed = [name for name, digest in config.files.items() if _sha256(directory / name) != digest]
    if changed:
        raise OSError(
            f"{directory} is damaged: {', '.join(changed)} is not as it was saved; save or copy the model again. What was "
            f"changed on purpose can be taken out of 'files' in {CONFIG_FILE}"
        )


def missing(where: str | Path, *names: str) -> OSError:
    """What to raise where files are missing."""
    return OSError(f"{where} is damaged: {', '.join(names)} is missing; save or copy the model again")


def broken_file(directory: Path) -> str:
    """Says which JSON or safetensors file of a folder is none; empty if all are sound."""
    for path in sorted(directory.rglob("*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                with safe_open(path, "numpy"):
                    pass
        except (ValueError, SafetensorError) as error:
            return f"{path.relative_to(directory)} is damaged: {error}"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_head(config: Config, path: Path | None, where: str, head: Head | None = None) -> Head:
    """The head of a saved classifier.

    Args:
        config: What its ``classifier.json`` says.
        path: Its ``head.safetensors``; None if there is no such file.
        where: What error messages call the folder.
        head: The one that takes what was learnt; by default a new one.

    Raises:
        OSError: The file is missing or damaged, or doesn't fit the configuration; or nobody here defined that kind of head.
        ValueError: The head is of another kind than `head`.
    """
    if head is None and config.head not in HEADS:
        raise OSError(
            f"{where} has a head {config.head!r}, and here is none of that kind ({', '.join(sorted(HEADS))}): import the module that "
            "defines it, or pass head='logistic', and fit a new one"
        )
    if head is not None and head.kind != config.head:
        raise ValueError(f"{where} is of a classifier with a head {config.head!r}; this one has {head.kind!r}")
    try:
        if head is None:
            head = make_head(config.head, config.multi_target_strategy)
        if path is None:
            if HEAD_FILE in config.files:
                raise missing(where, HEAD_FILE)
            return head
        arrays = load_file(path)
        head.restore(arrays, config.link)
        if len(arrays["bias"]) != len(config.labels or ()):
            raise ValueError(f"{len(arrays['bias'])} classes, and {len(config.labels or ())} labels in {CONFIG_FILE}")
    except (SafetensorError, ValueError) as error:
        raise OSError(f"{path or where} is damaged: {error}") from error
    return head
