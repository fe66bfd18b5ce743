"""What ClearML has of a run, in ClearML's terms, and the `RunRecord` that it amounts to."""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runcast import events
from runcast.events import RunStatus
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

SINGLE_VALUE = -(2**31)
"""The iteration of ClearML's single values."""
SUMMARY = "Summary"
"""Their title."""
_NOT_FINITE = re.compile(r"%(NaN|-?Infinity) (.*)", re.DOTALL)
_SAMPLE = re.compile(r"-?\d+-[0-9a-f]{12}\.(txt|png)")
"""How the files of texts and images are named that are ours."""


@dataclass
class Stored:
    """What ClearML has: of a session, or of the whole task.

    Attributes:
        events: Reads the events.
        artifact: The file at an address.
        sample: The file of an event.
    """

    task: Mapping[str, Any]
    events: Callable[[], Iterable[Mapping[str, Any]]]
    artifact: Callable[[str], Path]
    sample: Callable[[Mapping[str, Any]], Path]

    def properties(self) -> dict[str, str]:
        """The user properties."""
        return {key: item["value"] for key, item in self.task.get("hyperparams", {}).get("properties", {}).items()}

    def object(self, name: str) -> dict[str, Any] | None:
        """A configuration object of ours."""
        found = self.task.get("configuration", {}).get(name)
        return events.unpack(json.loads(found["value"])) if found else None

    def singles(self) -> dict[str, float]:
        """The single values, by name."""
        return {e["variant"]: float(e["value"]) for e in self.events() if _is_single(e)}


def latest(sessions: Sequence[Stored], name: str) -> dict[str, Any]:
    """A configuration object as the last session that has it knows it: each starts with what was known before."""
    found = (session.object(name) for session in reversed(sessions))
    return next((value for value in found if value is not None), {})


def record_of(sessions: Sequence[Stored], joined: str | None = None) -> RunRecord:
    """The record.

    Args:
        sessions: Oldest first.
        joined: The run's id, if it is in a task that the user opened, beside data that isn't the run's.
    """
    record = RunRecord()
    prefix = f"{joined}/" if joined else ""
    told: dict[str, str] = {}
    for session in sessions:
        found = session.properties().items()
        told |= {key.removeprefix(prefix): value for key, value in found if key.startswith(prefix)}
    record.config, record.summary, names = (latest(sessions, prefix + name) for name in ("config", "summary", "names"))
    record.run_id, record.name, record.project = told["run_id"], told["run_name"], told["run_project"]
    record.group = told.get("group")
    record.status = cast("RunStatus", told["status"])
    record.started = float(told["started"])
    record.finished = float(told["finished"]) if record.status != "running" else None
    own = latest(sessions, f"{prefix}own") if joined else None
    tags = {tag for session in sessions for tag in session.task.get("tags") or ()}
    record.tags = tuple(sorted(tags if own is None else own.get("tags", ())))
    series = {
        "metric": record.metrics,
        "text": record.texts,
        "image": record.images,
        "table": record.tables,
        "histogram": record.histograms,
    }
    for session in sessions:
        for event in session.events():
            if own is not None and not _of_its_time(record, event):
                continue
            for kind, key, point in _points(session, event, names):
                if own is None or kind != "metric" or key in own.get("metrics", ()):
                    cast("dict[str, list[Any]]", series[kind]).setdefault(key, []).append(point)
        for artifact in session.task.get("execution", {}).get("artifacts") or ():
            about = dict(artifact.get("display_data") or ())
            if about.get("run") == joined and "kind" in about and "step" in about:
                stored = _artifact(artifact, about, session.artifact(artifact["uri"]), names)
                record.artifacts[stored.name] = stored
    return record


def _of_its_time(record: RunRecord, event: Mapping[str, Any]) -> bool:
    """Whether the event is from when the run went on; another one may have been in the same task."""
    since, until = record.started or 0.0, record.finished or math.inf
    return bool(since - 0.001 <= event["timestamp"] / 1000 <= until + 0.001)


def title_and_series(name: str) -> tuple[str, str]:
    """A metric's name as ClearML's two: title and series. No two names get the same; `name_of` is the inverse."""
    title, slash, series = name.partition("/")
    if not slash:
        return title, "value"
    return title, f"%{series}" if series in ("", "value") or series.startswith("%") else series


def name_of(title: str, series: str) -> str:
    """The name that `title_and_series` was given."""
    return title if series == "value" else f"{title}/{series.removeprefix('%')}"


def _is_single(event: Mapping[str, Any]) -> bool:
    return bool(
        event["type"] == "training_stats_scalar" and event["metric"] == SUMMARY and event.get("iter") == SINGLE_VALUE
    )


def _points(
    session: Stored, event: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[tuple[str, str, Point | TextPoint | ImagePoint | TablePoint | HistogramPoint]]:
    """What an event says: kind, key, point."""
    step, time = event.get("iter", 0), event["timestamp"] / 1000
    title, series = event.get("metric", ""), event.get("variant", "")
    key = name_of(title, series)
    match event["type"]:
        case "training_stats_scalar" if not _is_single(event):  # the summary object has these, typed
            value = float(event["value"])
            if special := _NOT_FINITE.fullmatch(series):
                value, key = float(special[1]), name_of(title, special[2])
            yield "metric", key, Point(step, value, time)
        case "training_debug_image" if _SAMPLE.fullmatch(str(event.get("key", "")).rpartition("/")[2]):
            key, path = names.get(key, key), session.sample(event)
            if path.suffix == ".txt":
                yield "text", key, TextPoint(step, path.read_bytes().decode(), time)
            else:
                yield "image", key, ImagePoint(step, Content.of_file(path), time)
        case "plot":
            layout = json.loads(event["plot_str"]).get("layout") or {}
            meta = (layout.get("meta") or {}).get("runcast") if isinstance(layout.get("meta"), dict) else None
            if meta and "edges" in meta:
                yield "histogram", key, HistogramPoint(step, tuple(meta["counts"]), tuple(meta["edges"]), time)
            elif meta:
                rows = tuple(tuple(row) for row in events.unpack(meta["rows"]))
                yield "table", key, TablePoint(step, tuple(meta["columns"]), rows, time)


def _artifact(
    stored: Mapping[str, Any], about: Mapping[str, str], path: Path, names: Mapping[str, str]
) -> ArtifactRecord:
    name = names.get(stored["key"], stored["key"])
    files = files_in_zip(path) if stored["type"] == "archive" else {about["file"]: Content.of_file(path)}
    return ArtifactRecord(
        name, about["kind"], files, json.loads(about["step"]), events.unpack(json.loads(about["metadata"]))
    )


def files_in_zip(path: Path) -> dict[str, Content]:
    """The files in a zip, by their path in it."""
    with zipfile.ZipFile(path) as archive:
        return {name: _member(path, archive, name) for name in archive.namelist() if not name.endswith("/")}


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Content:
    def read() -> bytes:
        with zipfile.ZipFile(path) as again:
            return again.read(name)

    digest = hashlib.sha256()
    with archive.open(name) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return Content(archive.getinfo(name).file_size, digest.hexdigest(), read)
