"""How values and names of every shape go into MLflow's alphabet and limits, and what they are called there."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from runcast.events import RunStatus, pack
from runcast.flatten import escape

NATIVE: dict[RunStatus, str] = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
    "crashed": "FAILED",  # the nearest that MLflow has; the tag `runcast.status` has our word
}
WORDS: dict[str, RunStatus] = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "killed"}

# Limits of MLflow. A name has up to 250 characters: ours leave room for the prefixes. A request has up to a megabyte, of
# which JSON may use twelve bytes a character.
_NAME, _FILE_NAME = 220, 140
VALUE = 5000
_CHARACTERS = 75_000

# Names: word characters, ``_-. :/``, and as a path they must be their own normal form.
NO_NAME = r"[^\w\-. :/]|\A/|(?<=/)/|/\Z|\A\.(?=\.)|(?<![^/])\.(?=\.?(?:/|\Z))"
NO_FILE_NAME = r"[^A-Za-z0-9_.\- /]|\A\.(?=\.?\Z)|(?<=\A\.)\.\Z"  # nor is it . or ..

# No value that `to_text` gives: there a key that begins with $ has two of them.
REMOVED = '{"$removed": true}'
PIECES = re.compile(r'\{"\$pieces": (\d+)\}')

# Names that `encode` gives to nothing: a mark of its own has a partner.
CLAIM = "runcast:run"
"""The param by which one of a job's runs takes the job's own run in MLflow, as no param ever changes."""
MORE = "runcast.more"
"""The tag of a run that has more tags, in files in the folder ``tags``, than its store has room for."""


def to_json(value: Any) -> bytes:
    return json.dumps(pack(value), ensure_ascii=False).encode()


def finite(value: Any) -> float | None:
    """A number that a metric can hold as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond every float
        return None


def pieces(key: str, text: str) -> dict[str, str]:
    """A text as tags: one, or a mark and as many as it needs."""
    if len(text) <= VALUE:
        return {key: text}
    starts = range(0, len(text), VALUE)
    parts = {f"piece.{number}.{key}": text[start : start + VALUE] for number, start in enumerate(starts)}
    return {**parts, key: json.dumps({"$pieces": len(parts)})}  # last, so that it never marks what isn't there


def requests(entries: Iterable[Any], most: int) -> Iterator[list[Any]]:
    """The entries in as many lists as there must be requests."""
    part: list[Any] = []
    size = 0
    for entry in entries:
        length = len(entry.key) + len(entry.value) if isinstance(entry.value, str) else len(entry.key)
        if len(part) == most or size + length > _CHARACTERS:
            yield part
            part, size = [], 0
        part.append(entry)
        size += length
    if part:
        yield part


def finite_tag(code: str, step: int, ms: int, value: float) -> str:
    """The tag that tells the greatest number of all from the infinity that SQL stores write as it."""
    point = f"{code} {step} {ms} {math.copysign(1, value)}"
    return f"runcast.finite.{hashlib.sha256(point.encode()).hexdigest()[:32]}"


def encode_name(name: str) -> str:
    """The name of a metric, param or tag as MLflow takes it."""
    return _encode(name, NO_NAME, ":", _NAME)


def encode_file_name(name: str) -> str:
    """A file's name, of a path's part, as MLflow takes it."""
    return _encode(name, NO_FILE_NAME, "=", _FILE_NAME)


def _encode(name: str, forbidden: str, mark: str, limit: int) -> str:
    """`escape`, with ``mark mark`` for the empty name, and ``beginning mark digest`` for one that is too long.

    In all other codes marks come in pairs with something between them, so that no two names have the same code.
    """
    code = escape(name, forbidden, mark) or mark * 2
    if len(code) <= limit:
        return code
    digest = hashlib.sha256(name.encode()).hexdigest()[:20]
    return f"{re.sub(f'{mark}[0-9a-f]*{mark}?', '-', code[: limit - 21]).rstrip('/')}{mark}{digest}"


def digest_in(code: str, mark: str) -> str | None:
    """The digest of a name that was too long."""
    head, found, digest = code.rpartition(mark)
    return digest if found and mark not in head and len(digest) == 20 else None
