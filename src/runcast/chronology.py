"""A record as events again, in the order of time: what an import writes into a new journal.

The same record always gives the same events, so that an import that was cut short goes on where it ended.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runcast import events, media
from runcast.errors import MissingDependencyError
from runcast.events import Event, StoredFile, Writer, plain
from runcast.record import ArtifactRecord, Content, RunRecord, inside
from runcast.redact import redact, redact_argument, redact_row, redact_text
from runcast.run import MAX_NAME
from runcast.trust import own_folder

logger = logging.getLogger("runcast")

_SERIES = ("metrics", "texts", "images", "tables", "histograms")


class _Item(NamedTuple):
    """A point on its way into the journal. `when` never goes back within a series: its order is kept."""

    when: float
    step: int
    series: int
    kind: str
    key: str
    point: Any


def count(record: RunRecord) -> int:
    """How many points and files a record has: what the progress of an import is measured in."""
    return sum(len(points) for kind in _SERIES for points in getattr(record, kind).values()) + len(record.artifacts)


class Chronology:
    """The events of a record.

    Args:
        record: The run.
        run_id: What the run is called here.
        run_dir: The run folder, where images, tables and artifacts are stored.
        writer: Who writes the journal.
        now: When the run began if nothing tells, Unix seconds.

    Attributes:
        done: How many points and files were told so far, of `count`.
    """

    def __init__(self, record: RunRecord, run_id: str, run_dir: Path, writer: Writer, now: float) -> None:
        self._record, self._run_id, self._run_dir, self._writer, self._now = record, run_id, run_dir, writer, now
        self._names: dict[str, str] = {}
        self.done = 0

    def __iter__(self) -> Iterator[Event]:
        record = self._record
        items = list(heapq.merge(*self._series()))
        first = min((item.point.time for item in items), default=record.finished)
        started = next((time for time in (record.started, first) if time is not None), None)
        started = self._now if started is None else started
        last = max([started, *(item.point.time for item in items)])
        yield events.RunStarted(
            time=started,
            run_id=self._run_id,
            project=redact_argument(record.project or "runcast"),
            name=redact_argument(record.name or self._run_id),
            group=record.group and redact_argument(record.group),
            tags=tuple(redact_argument(tag) for tag in record.tags),
            config=redact(plain(record.config)),
            writer=self._writer,
        )
        yield from self._points(items)
        for artifact in record.artifacts.values():
            yield self._artifact(artifact, last)
            self.done += 1
        if record.summary:
            yield events.Summary(time=last, values=redact(plain(record.summary)))
        # Nobody goes on with it here, so a run without an end has ended as one whose process vanished.
        status = "crashed" if record.status == "running" else record.status
        yield events.RunFinished(time=last if record.finished is None else record.finished, status=status)

    def _series(self) -> Iterator[Iterator[_Item]]:
        number = 0
        for kind in _SERIES:
            for key, points in getattr(self._record, kind).items():
                yield _ordered(kind, self._name(key), points, number)
                number += 1

    def _points(self, items: list[_Item]) -> Iterator[Event]:
        values: dict[str, float] = {}
        at: tuple[int, float] | None = None
        for item in items:
            here = (item.point.step, item.point.time)
            if values and at is not None and (item.kind != "metrics" or here != at or item.key in values):
                yield events.Metrics(time=at[1], step=at[0], values=values)
                values = {}
            self.done += 1
            if item.kind == "metrics":
                at = here
                values[item.key] = float(item.point.value)
            elif (event := self._medium(item)) is not None:
                yield event
        if values and at is not None:
            yield events.Metrics(time=at[1], step=at[0], values=values)

    def _medium(self, item: _Item) -> Event | None:
        key, point = item.key, item.point
        time, step = point.time, point.step
        match item.kind:
            case "texts":
                return events.Text(time=time, step=step, key=key, text=redact_argument(point.text))
            case "histograms":
                try:
                    return events.Histogram(time=time, step=step, key=key, counts=point.counts, edges=point.edges)
                except ValueError as error:
                    logger.warning("histogram %r at step %d is left out: %s", key, step, error)
                    return None
            case "images":
                image = _picture(point.image, key, step)
                if image is None:
                    return None
                file = media.store(self._run_dir, "images", key, step, image, ".png")
                return events.Image(time=time, step=step, key=key, path=file.path, size=file.size, sha256=file.sha256)
        names = [redact_text(column) for column in point.columns]
        rows = [redact_row(names, [plain(cell) for cell in row]) for row in point.rows]
        file = media.store(self._run_dir, "tables", key, step, media.table_json(names, rows), ".json")
        return events.Table(time=time, step=step, key=key, path=file.path, size=file.size, sha256=file.sha256)

    def _artifact(self, artifact: ArtifactRecord, time: float) -> Event:
        name = self._name(artifact.name)
        label = f"{media.slug(name)}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"
        root = own_folder(self._run_dir, "artifacts", "files", label)
        files = tuple(_stored(root, path, content) for path, content in artifact.files.items())
        return events.Artifact(
            time=time,
            step=artifact.step,
            name=name,
            kind=artifact.kind,
            path=str(root.relative_to(self._run_dir)),
            files=files,
            metadata=redact(plain(artifact.metadata)),
        )

    def _name(self, name: str) -> str:
        """The name as a run may have it; what had to be changed is said."""
        if name not in self._names:
            good = _valid(redact_text(name))
            while good in self._names.values():
                good = _shortened(f"{good}_", name)
            if good != name:
                logger.warning("%r is called %r here", name[:80], good)
            self._names[name] = good
        return self._names[name]


def _picture(content: Content, key: str, step: int) -> bytes | None:
    """The image as PNG; None, and said, if its file is gone or damaged. A store that doesn't answer is another matter."""
    try:
        data = content.read()
    except FileNotFoundError as error:
        logger.warning("image %r at step %d is left out: %s", key, step, error)
        return None
    try:
        return media.png(data)
    except MissingDependencyError:
        raise
    except Exception as error:  # whatever Pillow raises about what is no image
        logger.warning("image %r at step %d is left out: it can't be decoded: %s", key, step, error)
        return None


def _ordered(kind: str, key: str, points: list[Any], series: int) -> Iterator[_Item]:
    when = float("-inf")
    for point in points:
        when = max(when, point.time)
        yield _Item(when, point.step, series, kind, key, point)


def _stored(root: Path, path: str, content: Content) -> StoredFile:
    """A file of an artifact, written below `root` unless an earlier try did."""
    target = inside(root, path)
    own_folder(root, *Path(path).parts[:-1])
    if not (target.is_file() and target.stat().st_size == content.size):
        media.write_whole(target, content.read())
    return StoredFile(Path(path).as_posix(), content.size, content.sha256)


def _valid(name: str) -> str:
    parts = [re.sub(r"^\.\.?$", lambda dots: dots[0].replace(".", "%2E"), part) for part in name.split("/")]
    clean = re.sub(r"^/+", "", "/".join(parts)) or "unnamed"
    return clean if len(clean) <= MAX_NAME else _shortened(clean, name)


def _shortened(name: str, whole: str) -> str:
    digest = hashlib.sha256(whole.encode(errors="replace")).hexdigest()[:8]
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}-{digest}"
