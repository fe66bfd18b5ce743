"""The Sentence Transformer under a classifier: loaded, with errors that say what to do."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from runcast.errors import MissingDependencyError
from runcast.fewshot.folder import broken_file
from runcast.fewshot.hub import ask_hub, not_loaded

_BACKENDS = {"onnx": "optimum-onnx[onnxruntime]", "openvino": "optimum-intel[openvino]"}


def check_source(source: str, options: Mapping[str, Any]) -> None:
    """Fails at once where nothing can be loaded.

    Args:
        source: A folder, or a model's name on the hub.
        options: Those of `SentenceTransformer`.

    Raises:
        OSError: The hub has no such model.
        MissingDependencyError: The backend needs a package that isn't installed.
    """
    backend = options.get("backend", "torch")
    if backend in _BACKENDS and importlib.util.find_spec("optimum") is None:
        raise MissingDependencyError(
            f"backend {backend!r} needs Optimum, which is not installed: pip install '{_BACKENDS[backend]}'. Where your version "
            "of transformers is too new for it, FewShotClassifier.export_onnx writes an ONNX file without it"
        )
    if not Path(source).is_dir():
        try:
            ask_hub(source, options)
        except Exception as error:  # the hub's client raises what its HTTP library raises
            raise OSError(not_loaded(source, error)) from error


def load_body(source: str, options: Mapping[str, Any], dtype: str | torch.dtype | None = None) -> SentenceTransformer:
    """The Sentence Transformer of a folder or of the hub.

    Args:
        source: A folder, or a model's name on the hub.
        options: Those of `SentenceTransformer`.
        dtype: Of its parameters, ``"bfloat16"`` say; by default as they were saved.

    Raises:
        OSError: It can't be loaded.
        ValueError: There is no such dtype, or no such device here.
    """
    _check_device(options.get("device"))
    if isinstance(dtype, str):
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise ValueError(f"dtype is {dtype!r}; expected one of float32, bfloat16, float16")
        dtype = found
    if dtype is not None:
        options = {**options, "model_kwargs": {"dtype": dtype, **(options.get("model_kwargs") or {})}}
    try:
        body = SentenceTransformer(source, **options)
        _check_tokenizer(body)
    except Exception as error:  # whatever is wrong with the files
        broken = broken_file(Path(source)) if Path(source).is_dir() else ""
        raise OSError(f"{source}: {broken}" if broken else not_loaded(source, error)) from error
    return body


def _check_tokenizer(body: SentenceTransformer) -> None:
    """Fails where the tokenizer's file is missing or empty: transformers makes one that knows no word, and says nothing."""
    special = getattr(body.tokenizer, "all_special_tokens", None)
    if special is None:  # not a tokenizer of transformers', which has files of its own
        return
    files = " and ".join(body.tokenizer.vocab_files_names.values())
    try:
        body.tokenizer("a")
    except Exception as error:  # tokenizers raises Exception itself
        raise ValueError(f"its tokenizer fails ({error}); are {files} whole?") from error
    if len(body.tokenizer) <= len(special):
        raise ValueError(f"its tokenizer knows no words; are {files} there, and whole?")


def _check_device(device: Any) -> None:
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device is {device!r}, which can't be used here: {reason}") from error


def has_own_code(body: SentenceTransformer) -> bool:
    """Whether modules of it come from other places than the usual packages: from the body's own folder, or the user."""
    usual = ("torch.", "transformers.", "sentence_transformers.", "peft.")
    return any(not type(module).__module__.startswith(usual) for module in body.modules())


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """With or without dropout inside, and as it was afterwards."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def normalize(body: SentenceTransformer) -> None:
    """Has the body give embeddings of length 1, if it doesn't yet."""
    if type(body[-1]).__name__ == "Normalize":
        return
    try:
        modules: Any = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    except ImportError:  # before version 5.4
        modules = importlib.import_module("sentence_transformers.models")
    body.append(modules.Normalize())
