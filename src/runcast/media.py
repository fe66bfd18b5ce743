"""Images, tables, histograms and artifacts: turned into files of the run folder, in the training process.

Files are named by their content, so that logging the same thing twice stores it once.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runcast.errors import missing_extra
from runcast.events import StoredFile, escape_surrogates, pack, plain, scalar
from runcast.trust import own_folder

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

BINS = 64
_PNG = b"\x89PNG\r\n\x1a\n"


def store(run_dir: Path, kind: str, key: str, step: int, data: bytes, suffix: str) -> StoredFile:
    """Writes bytes below ``artifacts/<kind>/``; the path in the answer is relative to the run folder.

    Raises:
        OSError: They don't fit. Nothing is left of them.
    """
    digest = hashlib.sha256(data).hexdigest()
    folder = own_folder(run_dir, "artifacts", kind)
    path = folder / f"{slug(key)}-{step}-{digest[:12]}{suffix}"
    if not (path.is_file() and path.stat().st_size == len(data)):
        write_whole(path, data)
    return StoredFile(str(path.relative_to(run_dir)), len(data), digest)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a private file that is there with all its bytes or not at all: a half one would be taken for whole later."""
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def slug(name: str) -> str:
    """A short, safe file name that still tells what it is."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:60] or "unnamed"


def png(image: Any) -> bytes:
    """An image as PNG.

    Args:
        image: A path, a PIL image, a matplotlib figure, the bytes of an image file, or an array (height, width[, 1, 3 or 4 channels]):
            integers 0 to 255, or floats 0 to 1.

    Raises:
        TypeError: It is none of these.
        ValueError: The array or file holds no image.
    """
    if isinstance(image, str | os.PathLike):
        image = Path(image).read_bytes()
    if isinstance(image, bytes):
        return image if image.startswith(_PNG) else _encode(_pillow().open(io.BytesIO(image)))
    if hasattr(image, "savefig"):
        return _figure(image)
    if hasattr(image, "save") and hasattr(image, "mode"):
        return _encode(image)
    if hasattr(image, "shape") or hasattr(image, "__array__"):
        return _encode(_of_array(image))
    raise TypeError(
        f"an image is a path, a PIL image, a matplotlib figure or an array (height, width[, channels]), not "
        f"{type(image).__name__}"
    )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise missing_extra("Pillow, which images need,", "images") from None
    return Image


def _encode(image: PilImage) -> bytes:
    out = io.BytesIO()
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        image = image.convert("RGB")
    image.save(out, format="PNG")
    return out.getvalue()


def _figure(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", bbox_inches="tight")
    return out.getvalue()


def _of_array(image: Any) -> PilImage:
    import numpy as np

    image = image.detach().cpu().numpy() if hasattr(image, "detach") else image
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise ValueError(f"an image array has the shape (height, width[, 1, 3 or 4 channels]), not {array.shape}")
    if array.dtype.kind == "f":
        array = (np.nan_to_num(array).clip(0.0, 1.0) * 255).round()
    elif array.dtype.kind == "b":
        array = array * 255
    elif array.dtype.kind not in "iu":
        raise ValueError(f"an image array holds numbers, not {array.dtype}")
    picture: PilImage = _pillow().fromarray(np.ascontiguousarray(array.clip(0, 255).astype(np.uint8)))
    return picture


def table_json(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as the JSON that `record.read_table` reads.

    Raises:
        ValueError: A row has not as many cells as there are columns.
    """
    names = [str(column) for column in columns]
    cells = [[plain(cell) for cell in row] for row in rows]
    for number, row in enumerate(cells):
        if len(row) != len(names):
            raise ValueError(f"row {number} of the table has {len(row)} cells, but there are {len(names)} columns")
    return msgspec.json.encode(escape_surrogates(pack({"columns": names, "rows": cells})))


def histogram(values: Any, bins: int = BINS) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Counts and edges of `bins` bins of equal width over the finite values.

    Raises:
        TypeError: Something in it is no number.
        ValueError: There is no finite value.
    """
    numpy = sys.modules.get("numpy")
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if numpy is not None and isinstance(values, numpy.ndarray):
        flat = values.astype(float).ravel()
        flat = flat[numpy.isfinite(flat)]
        if not flat.size:
            raise ValueError("a histogram needs at least one finite value")
        edges = _edges(float(flat.min()), float(flat.max()), bins)
        return tuple(numpy.histogram(flat, bins=numpy.array(edges))[0].astype(float).tolist()), edges
    numbers = [number for value in values if math.isfinite(number := _number(value))]
    if not numbers:
        raise ValueError("a histogram needs at least one finite value")
    edges = _edges(min(numbers), max(numbers), bins)
    counts = [0.0] * bins
    for number in numbers:
        counts[min(bisect.bisect(edges, number), bins) - 1] += 1
    return tuple(counts), edges


def _number(value: Any) -> float:
    number = scalar(value)
    if number is None:
        raise TypeError(f"a histogram takes numbers, not {type(value).__name__}")
    try:
        return float(number)
    except OverflowError:  # an integer beyond every float
        return math.inf


def _edges(low: float, high: float, bins: int) -> tuple[float, ...]:
    """Numpy's edges of bins of equal width, and some also where it has none: numbers almost equal, or at their limits."""
    least = 8 * bins * math.ulp(max(abs(low), abs(high)))
    if high - low < least:
        pad, most = max(0.5, least), sys.float_info.max
        low, high = max(low - pad, -most), min(high + pad, most)
    if math.isfinite(high - low):
        step = (high - low) / bins
        return *(low + i * step for i in range(bins)), high
    return *(low * (1 - i / bins) + high * (i / bins) for i in range(bins)), high


def store_artifact(run_dir: Path, path: Path, name: str) -> tuple[str, tuple[StoredFile, ...]]:
    """Brings a file or folder into the run folder.

    A folder (a checkpoint, which its trainer will delete) is hard-linked file by file, or copied across file systems.
    A single file is copied: it may be written again in place, and a link would change with it.

    Returns:
        Its path relative to the run folder, and its files.

    Raises:
        FileNotFoundError: There is no such file or folder.
        OSError: It doesn't fit. Nothing is left of it.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r} to log as an artifact")
    sources = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    base = path if path.is_dir() else path.parent
    parent = own_folder(run_dir, "artifacts", "files")
    target = _new_folder(parent, slug(name))
    try:
        files = [_bring(source, target, str(source.relative_to(base)), link=path.is_dir()) for source in sources]
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    root = target if path.is_dir() else target / files[0].path
    return str(root.relative_to(run_dir)), tuple(files)


def _bring(source: Path, target: Path, name: str, *, link: bool) -> StoredFile:
    name = escape_surrogates(name)  # bytes that are no UTF-8: the copy is called what the journal can say
    copy = target / name
    own_folder(target, *Path(name).parts[:-1])
    link_or_copy(source, copy, link=link)
    with copy.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredFile(Path(name).as_posix(), copy.stat().st_size, digest)


def _new_folder(parent: Path, name: str) -> Path:
    number = 0
    while True:
        folder = parent / (f"{name}-{number}" if number else name)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return folder


def link_or_copy(source: Path, target: Path, *, link: bool) -> None:
    """Brings a file to another place: by a hard link if one is wanted and possible, else as its owner's own copy."""
    if link:
        try:
            os.link(source.resolve(), target)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    shutil.copyfile(source, target)
