"""A metric as a line of block characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_NOT_FINITE = "x"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Values from left to right, as blocks from the lowest (▁) to the highest (█); x is NaN or an infinity.

    Args:
        values: In the order of steps.
        width: Characters at most; more values than that are averaged.
    """
    columns = [_mean(values[_at(i, values, width) : _at(i + 1, values, width)]) for i in range(min(width, len(values)))]
    finite = [value for value in columns if math.isfinite(value)]
    if not finite:
        return _NOT_FINITE * len(columns)
    low, high = min(finite), max(finite)
    return "".join(_block(value, low, high) for value in columns)


def _at(column: int, values: Sequence[float], width: int) -> int:
    return column * len(values) // min(width, len(values))


def _mean(values: Sequence[float]) -> float:
    """Of the finite ones, so that a single NaN doesn't hide its neighbours."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(value / len(finite) for value in finite) if finite else math.nan


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return _NOT_FINITE
    if low == high:
        return _BLOCKS[3]
    # Halved, because the range of floats is wider than a float.
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]
