"""What Comet has of a run, in Comet's terms, and the `RunRecord` that it amounts to."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, cast

from runcast import events
from runcast.events import RunStatus
from runcast.flatten import from_text, unflatten
from runcast.record import (
    ArtifactRecord,
    Content,
    HistogramPoint,
    ImagePoint,
    Point,
    RunRecord,
    TablePoint,
    TextPoint,
)

RESERVED = frozenset({"process duration", "curr_step"})
"""Names under which the SDK itself logs a metric and a parameter."""
REMOVED = '{"$removed":true}'
"""The value of a parameter that a later config no longer has: nothing can be deleted. No `to_text` looks like it."""


@dataclass
class Asset:
    """A file in Comet.

    Attributes:
        about: Its metadata: ``runcast`` says what it is.
    """

    about: dict[str, Any]
    open: Callable[[], IO[bytes]]

    @property
    def identity(self) -> str:
        """The same for an asset that is delivered again."""
        return json.dumps(self.about, sort_keys=True)

    def content(self) -> Content:
        """Its content, read when asked for."""
        with self.open() as file:
            digest = hashlib.sha256()
            size = 0
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
        return Content(size, digest.hexdigest(), self.read)

    def read(self) -> bytes:
        """All of it."""
        with self.open() as file:
            return file.read()


@dataclass
class Stored:
    """What Comet has: of a session, or of the whole experiment.

    Attributes:
        metrics: Name, step, value, milliseconds.
        parameters: The last value of each.
        others: Likewise.
    """

    metrics: list[tuple[str, int, float, int]] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    assets: list[Asset] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)


def together(sessions: Sequence[Stored]) -> Stored:
    """The sessions of an experiment, oldest first, as Comet merges them."""
    whole = Stored()
    for stored in sessions:
        whole.metrics += stored.metrics
        whole.parameters |= stored.parameters
        whole.others |= stored.others
        whole.assets += stored.assets
        whole.tags |= stored.tags
    return whole


def config_of(stored: Stored) -> dict[str, Any]:
    """The config, nested."""
    whole = _wholes(stored)
    named = [whole.get(("parameter", *item), item) for item in stored.parameters.items() if item[0] not in RESERVED]
    return unflatten({key: from_text(text) for key, text in named if text != REMOVED})


def own_of(stored: Stored, run_id: str) -> dict[str, Any]:
    """What we noted of our data in an experiment that the user opened."""
    notes = [asset for asset in stored.assets if asset.about.get("runcast") == "own" and asset.about["run"] == run_id]
    empty: dict[str, Any] = {"config": {}, "summary": {}, "tags": [], "metrics": {}}
    return events.unpack(json.loads(notes[-1].read())) if notes else empty


def record_of(stored: Stored, joined: str | None = None) -> RunRecord:
    """The record.

    Args:
        joined: The run's id, if it is in an experiment that the user opened, beside data that isn't the run's.
    """
    record = RunRecord()
    whole = _wholes(stored)
    others = dict(whole.get(("other", *item), item) for item in stored.others.items())
    prefix = f"{joined}/" if joined else ""
    told = {name.removeprefix(prefix): text for name, text in others.items() if name.startswith(prefix)}
    record.run_id, record.name, record.project = told["run_id"], told["name"], told["project"]
    record.group = told.get("group")
    record.status = cast("RunStatus", told["status"])
    record.started = float(told["started"])
    record.finished = float(told["finished"]) if "finished" in told and record.status != "running" else None
    if joined:
        own = own_of(stored, joined)
        record.config, record.summary, record.tags = own["config"], own["summary"], tuple(sorted(own["tags"]))
        _add_metrics(record, _of_its_time(record, stored, own["metrics"]), own["metrics"])
        _add_assets(record, [asset for asset in stored.assets if asset.about.get("run") == joined])
        return record
    record.config, record.tags = config_of(stored), tuple(sorted(stored.tags))
    for name, text in others.items():
        if name.startswith("summary/"):
            record.summary[name.removeprefix("summary/")] = from_text(text)
    long = {name.removeprefix("metric/"): text for name, text in others.items() if name.startswith("metric/")}
    _add_metrics(record, stored.metrics, long)
    _add_assets(record, stored.assets)
    return record


def _of_its_time(record: RunRecord, stored: Stored, names: Mapping[str, str]) -> Iterator[tuple[str, int, float, int]]:
    """The points of these names that were logged while the run went on."""
    since, until = record.started or 0.0, record.finished or math.inf
    for point in stored.metrics:
        if point[0] in names and since - 0.001 <= point[3] / 1000 <= until + 0.001:
            yield point


def _add_metrics(record: RunRecord, points: Iterable[tuple[str, int, float, int]], names: Mapping[str, str]) -> None:
    for name, step, value, milliseconds in points:
        if name not in RESERVED:
            series = record.metrics.setdefault(names.get(name, name), [])
            series.append(Point(step, value, milliseconds / 1000))


def _wholes(stored: Stored) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Kind, name and value as they are shown → name and value as they were, where Comet has no room for these."""
    texts = [json.loads(asset.read()) for asset in stored.assets if asset.about.get("runcast") == "whole"]
    return {(w["kind"], w["shown"], w["value"]): (w["key"], w["text"]) for w in texts}


def _add_assets(record: RunRecord, assets: Sequence[Asset]) -> None:
    files: dict[tuple[str, float], dict[str, Content]] = {}
    for asset in assets:
        kind = asset.about.get("runcast")
        if kind in (None, "whole", "own"):
            continue
        key, step, time = asset.about["key"], asset.about["step"], asset.about["time"]
        match kind:
            case "text":
                record.texts.setdefault(key, []).append(TextPoint(step, asset.read().decode(), time))
            case "image":
                record.images.setdefault(key, []).append(ImagePoint(step, asset.content(), time))
            case "table":
                columns, *rows = csv.reader(io.StringIO(asset.read().decode(), newline=""))
                cells = tuple(tuple(from_text(cell) for cell in row) for row in rows)
                record.tables.setdefault(key, []).append(TablePoint(step, tuple(columns), cells, time))
            case "histogram":
                point = HistogramPoint(step, tuple(asset.about["counts"]), tuple(asset.about["edges"]), time)
                record.histograms.setdefault(key, []).append(point)
            case "file":
                files.setdefault((key, time), {})[asset.about["path"]] = asset.content()
            case "artifact":
                manifest = json.loads(asset.read())
                content = files.get((key, time), {})
                metadata = events.unpack(manifest["metadata"])
                record.artifacts[key] = ArtifactRecord(key, manifest["kind"], content, step, metadata)
