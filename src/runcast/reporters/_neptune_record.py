"""A run's attributes, as Neptune has them, folded into a record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from runcast.record import ArtifactRecord, Content, HistogramPoint, ImagePoint, Point, RunRecord, TextPoint, inside

logger = logging.getLogger("runcast")

_DIGITS = 6
_PNG = b"\x89PNG\r\n\x1a\n"
# What of `sys/` a record has a place of its own for.
_IDENTITY = ("name", "tags", "group_tags", "creation_time", "failed")

T = TypeVar("T")


class Entry(NamedTuple):
    """A value of a series; the time is Unix seconds, if it is known."""

    step: Decimal
    value: Any
    time: float | None


def following(series: list[Entry]) -> Decimal:
    """The step of a value that was logged without one: Neptune counts on."""
    return series[-1].step + 1 if series else Decimal(0)


@dataclass
class Attributes:
    """What Neptune has of a run, by path.

    Attributes:
        values: Single values, `sys/...` among them.
        sets: Sets of strings.
        floats: Series; so are `strings`, `histograms` (counts and edges) and `file_series` (contents).
        files: Files and file sets: path inside → content.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)
    floats: dict[str, list[Entry]] = field(default_factory=dict)
    strings: dict[str, list[Entry]] = field(default_factory=dict)
    histograms: dict[str, list[Entry]] = field(default_factory=dict)
    file_series: dict[str, list[Entry]] = field(default_factory=dict)
    files: dict[str, dict[str, Content]] = field(default_factory=dict)

    def delete(self, path: str) -> None:
        """Forgets whatever is at a path."""
        for kind in (self.values, self.sets, self.files, *self._series):
            kind.pop(path, None)

    @property
    def _series(self) -> tuple[dict[str, list[Entry]], ...]:
        return (self.floats, self.strings, self.histograms, self.file_series)

    @property
    def last(self) -> float | None:
        """When the last value of a series was logged; Unix seconds."""
        entries = (entry for kind in self._series for series in kind.values() for entry in series)
        return max((entry.time for entry in entries if entry.time is not None), default=None)

    def record(self, run_id: str, project: str, started: float | None) -> RunRecord:
        """The run; `started` stands for times that aren't known."""
        sys = {path.removeprefix("sys/"): value for path, value in self.values.items() if path.startswith("sys/")}
        group = sorted(self.sets.get("sys/group_tags", ()))
        record = RunRecord(
            run_id=run_id,
            name=str(sys.get("name") or sys.get("id") or run_id),
            project=project,
            group=", ".join(group) or None,
            status="failed" if sys.get("failed") is True else "completed",
            tags=tuple(sorted(self.sets.get("sys/tags", ()))),
        )
        self._add_config(record)
        self._add_series(record, started or 0.0)
        for path, files in self.files.items():
            record.artifacts[path] = ArtifactRecord(path, "file", files)
        return record

    def _add_config(self, record: RunRecord) -> None:
        values = {**self.values, **{path: sorted(strings) for path, strings in self.sets.items()}}
        for path, value in values.items():
            if path.startswith("sys/") and path.removeprefix("sys/") in _IDENTITY:
                continue
            *parents, last = path.split("/")
            level = record.config
            for parent in parents:
                below = level.setdefault(parent, {})
                if not isinstance(below, dict):  # Neptune has no value where others are below; a damaged store may
                    below = level[parent] = {"": below}
                level = below
            if isinstance(level.get(last), dict):
                level, last = level[last], ""
            level[last] = value

    def _add_series(self, record: RunRecord, started: float) -> None:
        scale = self._scale()

        def points(series: dict[str, list[Entry]], make: Callable[[int, Any, float], T]) -> dict[str, list[T]]:
            return {
                path: [
                    make(round(entry.step * scale), entry.value, started if entry.time is None else entry.time)
                    for entry in entries
                ]
                for path, entries in series.items()
            }

        record.metrics = points(self.floats, Point)
        record.texts = points(self.strings, TextPoint)
        record.histograms = points(self.histograms, _histogram)
        for path, entries in self.file_series.items():
            if all(entry.value.read().startswith(_PNG) for entry in entries):
                record.images |= points({path: entries}, ImagePoint)
            else:
                files = {f"step_{round(entry.step * scale)}": entry.value for entry in entries}
                record.artifacts[path] = ArtifactRecord(path, "file", files)

    def _scale(self) -> int:
        """What makes whole numbers of all steps; Neptune's exports have up to six digits behind the point."""
        steps = {entry.step.normalize() for kind in self._series for series in kind.values() for entry in series}
        digits = max((-int(step.as_tuple().exponent) for step in steps), default=0)
        if digits <= 0:
            return 1
        scale = int(10 ** min(digits, _DIGITS))
        logger.warning("this run has fractions of steps: its steps are multiplied by %d", scale)
        return scale


def _histogram(step: int, value: Any, time: float) -> HistogramPoint:
    counts, edges = value
    return HistogramPoint(step, counts, edges, time)


def content_of(root: Path, path: str, whose: str) -> Content | None:
    """A file below `root`; None, and a warning, if there is none: only what is below is read, whatever a store says."""
    try:
        return Content.of_file(inside(root, path))
    except (OSError, ValueError) as error:
        logger.warning("the file %r of %s is left out: %s", path, whose, error)
        return None
