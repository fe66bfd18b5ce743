"""Comet's histograms: bins that grow with the distance from a centre, of which a file has those that aren't empty."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from itertools import accumulate, repeat, takewhile
from operator import mul
from typing import Any

from runcast.record import HistogramPoint

_MOST = 10_000
"""Bins on a side; Comet has some 800."""


def histogram(data: bytes, step: int, time: float) -> HistogramPoint | None:
    """The histogram in a file; bins that are empty side by side are one. None if it is no such file."""
    try:
        found = json.loads(data)
        edges = _edges(*(float(found[key]) for key in ("start", "stop", "step", "offset")))
        counts: list[float] = []
        kept: list[float] = []
        for number, count in sorted((int(number), float(count)) for number, count in found["index_values"]):
            low, high = edges[number], edges[number + 1]
            if kept and low > kept[-1]:
                counts.append(0.0)
            kept += [low] if not kept or low > kept[-1] else []
            counts.append(count)
            kept.append(high)
    except (ValueError, LookupError, TypeError):
        return None
    return HistogramPoint(step, tuple(counts), tuple(kept), time) if counts and _finite(kept) else None


@lru_cache
def _edges(start: float, stop: float, step: float, offset: float) -> tuple[float, ...]:
    """The edges of all bins. They are added up as Comet does it, so that there are as many."""
    if not (start > 0 and step > 1 and math.log(stop / start) < _MOST * math.log(step)):
        raise ValueError("no bins of Comet's")
    distances = list(
        takewhile(lambda distance: offset + distance <= stop, accumulate(repeat(step), mul, initial=start))
    )
    below, above = (
        (offset - distance for distance in reversed(distances)),
        (offset + distance for distance in distances),
    )
    return (-math.inf, *below, offset, *above, math.inf)


def _finite(values: list[Any]) -> bool:
    return all(map(math.isfinite, values))
