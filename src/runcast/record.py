"""What a run amounts to: the common currency of verification and migration.

A `RunRecord` comes from a journal (`RecordBuilder`) or from a tracker (`Reporter.read`), and looks the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from runcast import events
from runcast.events import AnyEvent, RunStatus, Unknown

logger = logging.getLogger("runcast")


class Point(NamedTuple):
    """One value of a metric: `time` in Unix seconds."""

    step: int
    value: float
    time: float


class TextPoint(NamedTuple):
    """A text at a step; `time` in Unix seconds."""

    step: int
    text: str
    time: float


@dataclass(frozen=True)
class Content:
    """A file's content, read when asked for; two are equal when their bytes are."""

    size: int
    sha256: str
    read: Callable[[], bytes] = field(compare=False, repr=False)

    @classmethod
    def of_bytes(cls, data: bytes) -> Content:
        return cls(len(data), hashlib.sha256(data).hexdigest(), lambda: data)

    @classmethod
    def of_file(cls, path: Path) -> Content:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path.stat().st_size, digest, path.read_bytes)


class ImagePoint(NamedTuple):
    """A PNG at a step; `time` in Unix seconds."""

    step: int
    image: Content
    time: float


class TablePoint(NamedTuple):
    """A table at a step; `time` in Unix seconds."""

    step: int
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    time: float


class HistogramPoint(NamedTuple):
    """A distribution at a step: `counts[i]` values between `edges[i]` and `edges[i + 1]`; `time` in Unix seconds."""

    step: int
    counts: tuple[float, ...]
    edges: tuple[float, ...]
    time: float


@dataclass(frozen=True)
class ArtifactRecord:
    """Files that belong to the run: path inside the artifact → content."""

    name: str
    kind: str
    files: dict[str, Content]
    step: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunRecord:
    """What a run amounts to. Series are in the order in which they were logged.

    Attributes:
        config: Nested.
        artifacts: By name; a later version replaces an earlier one.
        tags: Sorted, each once.
        summary: One-off results.
        started: Unix seconds, if known; likewise `finished`.
    """

    run_id: str = ""
    name: str = ""
    project: str = ""
    group: str | None = None
    status: RunStatus = "running"
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[Point]] = field(default_factory=dict)
    texts: dict[str, list[TextPoint]] = field(default_factory=dict)
    images: dict[str, list[ImagePoint]] = field(default_factory=dict)
    tables: dict[str, list[TablePoint]] = field(default_factory=dict)
    histograms: dict[str, list[HistogramPoint]] = field(default_factory=dict)
    artifacts: dict[str, ArtifactRecord] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    summary: dict[str, Any] = field(default_factory=dict)
    started: float | None = None
    finished: float | None = None


def merge(into: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """`into` with `update` merged in, nested; neither argument is changed."""
    merged = dict(into)
    for key, value in update.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) and value else value
    return merged


def read_table(path: Path) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """Columns and rows of a table file in a run folder.

    Raises:
        OSError: It can't be read.
        ValueError: It is no table.
    """
    try:
        data = events.unpack(json.loads(path.read_bytes()))
        columns, rows = tuple(data["columns"]), tuple(tuple(row) for row in data["rows"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path.name!r} is no table: {type(error).__name__}: {error}") from error
    if not all(isinstance(column, str) for column in columns) or not all(len(row) == len(columns) for row in rows):
        raise ValueError(f"{path.name!r} is no table: its rows don't fit its columns")
    return columns, rows


class RecordBuilder:
    """Folds events into a `RunRecord`.

    Args:
        run_dir: The run folder, where images, tables and artifacts are.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.record = RunRecord()

    def add_all(self, stream: Iterable[AnyEvent | Unknown]) -> RunRecord:
        """The record after all of `stream`."""
        for event in stream:
            self.add(event)
        return self.record

    def add(self, event: AnyEvent | Unknown) -> None:
        """Takes one more event into account. What a file in the run folder doesn't bear out is left out, and said."""
        try:
            self._add(event)
        except (OSError, ValueError, RuntimeError) as error:  # damage, or a stranger's paths and links
            logger.warning("%s: left out of the record: %s", type(event).__struct_config__.tag, error)

    def _add(self, event: AnyEvent | Unknown) -> None:
        record = self.record
        match event:
            case events.Metrics(step=step, time=time):
                for key, value in event.values.items():
                    record.metrics.setdefault(key, []).append(Point(step, value, time))
            case events.Text():
                record.texts.setdefault(event.key, []).append(TextPoint(event.step, event.text, event.time))
            case events.Image():
                content = self._content(event.path, event.size, event.sha256)
                record.images.setdefault(event.key, []).append(ImagePoint(event.step, content, event.time))
            case events.Table():
                columns, rows = read_table(inside(self.run_dir, event.path))
                record.tables.setdefault(event.key, []).append(TablePoint(event.step, columns, rows, event.time))
            case events.Histogram():
                point = HistogramPoint(event.step, event.counts, event.edges, event.time)
                record.histograms.setdefault(event.key, []).append(point)
            case events.Artifact():
                record.artifacts[event.name] = self._artifact(event)
            case events.ConfigUpdated():
                record.config = merge(record.config, event.config)
            case events.Summary():
                record.summary |= event.values
            case events.Tags():
                record.tags = tuple(sorted({*record.tags, *event.tags}))
            case events.RunStarted() if record.started is None:  # a line that stands there twice starts nothing anew
                record.run_id, record.name, record.project = event.run_id, event.name, event.project
                record.group, record.config, record.started = event.group, dict(event.config), event.time
                record.tags = tuple(sorted(set(event.tags)))
            case events.RunResumed():
                record.status, record.finished = "running", None
                if event.step is not None:
                    self._supersede(event.step)
            case events.RunFinished():
                record.status, record.finished = event.status, event.time

    def _content(self, path: str, size: int, sha256: str) -> Content:
        return Content(size, sha256, inside(self.run_dir, path).read_bytes)

    def _artifact(self, event: events.Artifact) -> ArtifactRecord:
        root = inside(self.run_dir, event.path)
        files = {}
        for file in event.files:
            path = inside(root, file.path) if root.is_dir() else root
            files[file.path] = Content(file.size, file.sha256, path.read_bytes)
        return ArtifactRecord(event.name, event.kind, files, event.step, event.metadata)

    def _supersede(self, step: int) -> None:
        """Forgets what was logged after the checkpoint that the run went on from."""
        record = self.record
        all_series: list[dict[str, list[Any]]] = [
            cast("dict[str, list[Any]]", series)
            for series in (record.metrics, record.texts, record.images, record.tables, record.histograms)
        ]
        for series in all_series:
            for key, points in list(series.items()):
                series[key] = [point for point in points if point.step <= step]
                if not series[key]:
                    del series[key]


def inside(folder: Path, path: str) -> Path:
    """`path` below `folder`.

    Raises:
        ValueError: It leads out of the folder, or to a pipe or device; a run folder may come from a stranger.
    """
    target = (folder / path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise ValueError(f"{path!r} leads out of {str(folder)!r}")
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise ValueError(f"{path!r} is no regular file")
    return target
