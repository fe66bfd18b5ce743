"""Times for MLflow's points. It takes two of one name, step, millisecond and value for one, and sorts others by value.

A point whose millisecond is taken gets the next free one. A point that comes again must get the same one again, or there
would be two of it: this courier's are remembered until they are flushed, an earlier courier's are told from the journal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from runcast import events
from runcast.journal import Journal

_FURTHEST = 10
"""Milliseconds that a point may be moved by; beyond, MLflow has no room for so many."""
_NEAR = 1000
"""Milliseconds within which points may meet."""
_KEPT = 10_000


class _Point(NamedTuple):
    name: str
    step: int
    time: float
    value: float | None  # None: NaN, which equals nothing


class Moments:
    """Which milliseconds the points of a run have."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, int, int], _Point] = {}
        self._moved: dict[_Point, int] = {}
        self._last = 0
        self._room = _KEPT

    def of(self, name: str, step: int, time: float, value: float) -> int:
        """The millisecond of a point that was logged at `time`; of the same point always the same."""
        return self._of(_point(name, step, time, value))

    def _of(self, point: _Point) -> int:
        if self._moved and (known := self._moved.get(point)) is not None:
            return known
        logged = self._last = milliseconds(point.time)
        for ms in range(logged, logged + _FURTHEST):
            if self._taken.setdefault((point.name, point.step, ms), point) == point:
                return ms
        return logged

    def flushed(self) -> None:
        """What was asked for will not come again: it is forgotten, but for what the next points may meet."""
        if len(self._taken) > self._room:
            self._taken = {key: point for key, point in self._taken.items() if key[2] > self._last - _NEAR}
            self._room = max(_KEPT, 2 * len(self._taken))

    def learn(self, journal: Journal) -> None:
        """Finds out which moments an earlier courier gave to the points of the journal."""
        for entry in journal.read(only=events.Metrics):
            assert isinstance(entry.event, events.Metrics)
            for name, value in entry.event.values.items():
                point = _point(name, entry.event.step, entry.event.time, value)
                if (ms := self._of(point)) != milliseconds(point.time):
                    self._moved[point] = ms
            self.flushed()


def _point(name: str, step: int, time: float, value: float) -> _Point:
    return _Point(name, step, time, None if math.isnan(value) else value)


def milliseconds(time: float) -> int:
    """Unix seconds as MLflow has them."""
    return round(time * 1000)
