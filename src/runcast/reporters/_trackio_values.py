"""What is logged, as the JSON that Trackio keeps and its dashboard shows; and back.

A row is an object of names and values. A number is a metric; an object that names its ``_type`` is a text, an image, a
table or a histogram. Trackio keeps some names for itself and writes them with ``__`` in front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from runcast.events import float_name, pack, unpack
from runcast.flatten import to_text

TEXT, IMAGE, TABLE, HISTOGRAM = "trackio.markdown", "trackio.image", "trackio.table", "trackio.histogram"
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""How Trackio writes these numbers."""

_RESERVED = ("project", "run", "timestamp", "step", "time", "metrics")
_LOWEST, _BEYOND = -(2**63), 2**63


def key_of(name: str) -> str:
    """What Trackio calls it."""
    return f"__{name}" if name in _RESERVED or name.startswith("__") else name


def name_of(key: str) -> str:
    """What `key_of` was given."""
    return key.removeprefix("__")


def moment(time: float) -> str:
    """Unix seconds as Trackio writes them, to the microsecond.

    Raises:
        ValueError: No calendar goes that far.
    """
    try:
        return datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds")
    except (OverflowError, OSError) as error:
        raise ValueError(f"{time!r} is no time that Trackio can hold: {error}") from error


def seconds(moment: str) -> float:
    """Unix seconds of a time that Trackio wrote."""
    found = datetime.fromisoformat(moment)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def checked_step(step: int) -> int:
    """The step.

    Raises:
        ValueError: The database has no place for it.
    """
    if not _fits(step):
        raise ValueError(f"the step {step} is beyond 64 bits")
    return step


def numbers(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Metrics as a row."""
    return {key_of(name): value if _is_plain(value) else _shown(value) for name, value in metrics.items()}


def text(content: str) -> dict[str, Any]:
    """A text as Trackio shows it among its reports."""
    return {"_type": TEXT, "_value": content}


def image(path: str) -> dict[str, Any]:
    """An image, by its path below Trackio's media."""
    return {"_type": IMAGE, "file_path": path, "caption": None}


def histogram(counts: Sequence[float], edges: Sequence[float]) -> dict[str, Any]:
    """A distribution."""
    return {"_type": HISTOGRAM, "bins": list(edges), "values": list(counts)}


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """A table: rows by column, as Trackio has them, and beside them what such rows don't say."""
    names = _distinct(columns)
    shown = [
        {name: cell if _is_plain(cell) else _shown(cell) for name, cell in zip(names, row, strict=True)} for row in rows
    ]
    special = [
        [number, place, exact(cell)]
        for number, row in enumerate(rows)
        for place, cell in enumerate(row)
        if not _is_plain(cell)
    ]
    return {"_type": TABLE, "_value": shown, "columns": list(columns), "exact": special}


def columns_and_rows(table: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """What `table` was given."""
    rows = [list(row.values()) for row in table["_value"]]
    for number, place, cell in table["exact"]:
        rows[number][place] = from_exact(cell)
    return tuple(table["columns"]), tuple(map(tuple, rows))


def exact(value: Any) -> Any:
    """Any plain value as JSON that Trackio takes: it knows neither NaN nor integers beyond 64 bits."""
    return _with_texts(pack(value))


def from_exact(value: Any) -> Any:
    """What `exact` was given."""
    return unpack(_with_integers(value))


def _with_texts(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value if _fits(value) else {"$int": str(value)}
    if isinstance(value, dict):
        return {key: _with_texts(item) for key, item in value.items()}
    return [_with_texts(item) for item in value] if isinstance(value, list) else value


def _with_integers(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("$int"), str):
            return int(value["$int"])
        return {key: _with_integers(item) for key, item in value.items()}
    return [_with_integers(item) for item in value] if isinstance(value, list) else value


def _fits(number: int) -> bool:
    return _LOWEST <= number < _BEYOND


def _is_plain(cell: Any) -> bool:
    """Whether a cell is the same in JSON."""
    if isinstance(cell, float):
        return math.isfinite(cell)
    return cell is None or isinstance(cell, bool | str) or (isinstance(cell, int) and _fits(cell))


def _shown(cell: Any) -> str:
    return float_name(cell) if isinstance(cell, float) else to_text(cell)


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names of columns as keys: of several alike, all but the first get a number."""
    names: dict[str, None] = {}
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column} ({number})"
        names[name] = None
    return list(names)
