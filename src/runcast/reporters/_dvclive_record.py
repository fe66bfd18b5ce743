"""What a DVCLive folder amounts to, of which we wrote every file.

Beside DVCLive's own files there are two of ours: ``runcast.json`` says which run it is and how it is, and
``runcast.jsonl`` has a line for each text, image, table, histogram and artifact, for DVCLive keeps neither their steps nor
their times.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runcast.events import unpack
from runcast.record import (
    ArtifactRecord,
    Content,
    HistogramPoint,
    ImagePoint,
    Point,
    RunRecord,
    TablePoint,
    TextPoint,
    inside,
)
from runcast.reporters._dvclive_files import METRICS, from_json, from_yaml, in_nested, name_of, rows
from runcast.trust import regular

logger = logging.getLogger("runcast")

PARAMS, LATEST, DESCRIPTION = "params.yaml", "metrics.json", "dvc.yaml"
OWN, MEDIA = "runcast.json", "runcast.jsonl"


def record_of(folder: Path) -> RunRecord:
    """The record of a run that runcast wrote.

    Raises:
        OSError, ValueError, LookupError: One of its files can't be read, or is not ours.
    """
    own = from_json(folder / OWN)
    record = RunRecord(
        run_id=own["run_id"],
        name=own["name"],
        project=own["project"],
        group=own["group"],
        status=own["status"],
        tags=tuple(own["tags"]),
        started=own["started"],
        finished=own["finished"],
        config=from_yaml(folder / PARAMS),
    )
    for name, path in metrics_in(folder):
        record.metrics[name] = [Point(row.step, float(row.value), row.time or 0.0) for row in rows(path)]
    latest = from_json(folder / LATEST)
    for entry in media_in(folder):
        try:
            _add(record, folder, entry, latest)
        except (OSError, ValueError, LookupError, TypeError) as error:
            logger.warning("%s: a line is left out: %s: %s", folder / MEDIA, type(error).__name__, error)
    return record


def metrics_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """The names and tables of a folder's metrics."""
    root = folder / METRICS
    for path in sorted(root.rglob("*.tsv")):
        yield name_of(path.relative_to(root).as_posix().removesuffix(".tsv")), path


def media_in(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of ``runcast.jsonl``; a torn last one is none."""
    try:
        with open(folder / MEDIA, "rb", opener=regular) as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield unpack(json.loads(line))
        except (ValueError, RecursionError) as error:
            logger.warning("%s: a line is left out: %s", folder / MEDIA, error)


def _add(record: RunRecord, folder: Path, entry: dict[str, Any], latest: dict[str, Any]) -> None:
    match entry["kind"]:
        case "summary":
            record.summary |= {name: unpack(in_nested(latest, name)) for name in entry["names"]}
        case "artifact":
            record.artifacts[entry["name"]] = _artifact(folder, entry)
        case kind:
            _add_medium(record, kind, entry, inside(folder, entry["path"]))


def _add_medium(record: RunRecord, kind: str, entry: dict[str, Any], path: Path) -> None:
    key, step, time = entry["key"], entry["step"], entry["time"]
    if kind == "text":
        record.texts.setdefault(key, []).append(TextPoint(step, path.read_bytes().decode(), time))
    elif kind == "image":
        record.images.setdefault(key, []).append(ImagePoint(step, Content.of_file(path), time))
    elif kind == "table":
        cells = tuple(tuple(row.values()) for row in _data(path))
        record.tables.setdefault(key, []).append(TablePoint(step, tuple(entry["columns"]), cells, time))
    elif kind == "histogram":
        bins = _data(path)
        edges = (*(row["left"] for row in bins), bins[-1]["right"])
        point = HistogramPoint(step, tuple(row["count"] for row in bins), edges, time)
        record.histograms.setdefault(key, []).append(point)


def _data(path: Path) -> Sequence[dict[str, Any]]:
    found: list[dict[str, Any]] = unpack(json.loads(path.read_bytes()))
    return found


def _artifact(folder: Path, entry: dict[str, Any]) -> ArtifactRecord:
    root = inside(folder, entry["path"])
    files = {name: Content.of_file(inside(root, name)) for name in entry["files"]}
    return ArtifactRecord(entry["name"], entry["type"], files, entry["step"], entry["metadata"])
