"""Reads a file of joblib's for the arrays in it, without running what is in it.

A pickle is a program: it imports what it names, and calls that. Here it gets nothing of its own: numbers and arrays are made
by a few functions that do only that, and everything else becomes a `Thing`, which has a name and attributes and does nothing.
So the result is the same whatever versions of scikit-learn or SetFit wrote the file, or if they aren't installed at all.
"""

from __future__ import annotations

import codecs
import collections
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch


class Thing:
    """What a pickle made of a class or function that isn't run.

    Attributes:
        origin: The dotted name of what would have been called.
    """

    origin = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._items: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __call__(self, *args: Any, **kwargs: Any) -> Thing:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        self._items.append((key, value))

    def append(self, item: Any) -> None:
        """As a list, which it may stand for."""
        self._items.append(item)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.__dict__.get(name, default)


def read(path: Path) -> tuple[Any, list[str]]:
    """What a file holds, and the dotted names of all that loading it in earnest would import, sorted.

    Raises:
        OSError: It is damaged, or no file that joblib writes.
    """
    with path.open("rb") as file:
        reader = _Reader(file)
        try:
            found = reader.load()
        except Exception as error:  # a damaged pickle fails in any way
            raise OSError(f"{path} is damaged, or no pickle by joblib: {error}") from error
    return found, sorted(reader.names)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    untyped = storage._untyped_storage  # storage.untyped() warns
    tensor = torch.empty(0, dtype=storage.dtype).set_(untyped, offset, tuple(size), tuple(stride))
    return tensor.float().numpy()


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _latin1(text: str, *_: Any) -> bytes:
    return codecs.encode(text, "latin1")


class _JoblibArray(Thing):
    """Stands before the bytes of an array."""

    def array(self, file: BinaryIO) -> Any:
        dtype, shape = self.get("dtype"), tuple(self.get("shape"))
        if not isinstance(dtype, np.dtype) or dtype.hasobject:
            raise ValueError(f"an array of {dtype}")
        if self.get("numpy_array_alignment_bytes") is not None:
            file.read(file.read(1)[0])
        size = math.prod(shape) * dtype.itemsize
        data = file.read(size)
        if len(data) < size:
            raise EOFError(f"{len(data)} of {size} bytes of an array")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if self.get("order") == "F" else "C").copy()


_HARMLESS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": collections.OrderedDict,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray.scalar": lambda dtype, data: np.frombuffer(data, dtype)[0],
    "numpy._core.multiarray.scalar": lambda dtype, data: np.frombuffer(data, dtype)[0],
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "_codecs.encode": _latin1,
    "joblib.numpy_pickle.NumpyArrayWrapper": _JoblibArray,
}


_build: Callable[[Any], None] = pickle._Unpickler.dispatch[pickle.BUILD[0]]


class _Reader(pickle._Unpickler):  # the one in Python: arrays stand between its opcodes
    stack: list[Any]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.file = file
        self.names: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        if origin not in _HARMLESS:
            self.names.add(origin)
            return type(name, (Thing,), {"origin": origin})
        if module.partition(".")[0] not in ("joblib", "collections", "_codecs"):
            self.names.add(origin)
        return _HARMLESS[origin]

    def load_build(self) -> None:
        """As an unpickler does, with what is made here only; then, if it was what stands before an array, the array."""
        if not isinstance(self.stack[-2], Thing | np.dtype):
            raise pickle.UnpicklingError(f"a state for a {type(self.stack[-2]).__name__}")
        _build(self)
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack[-1] = self.stack[-1].array(self.file)

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}
