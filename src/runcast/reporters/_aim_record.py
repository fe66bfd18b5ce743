"""A run of ours in Aim: how names and values are written there, and its record."""

from __future__ import annotations

import json
from typing import Any

from runcast.events import pack, unpack
from runcast.flatten import from_text, to_text
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
from runcast.reporters._aim_store import Row, StoredRun

OURS, CONFIG, SUMMARY = "runcast", "hparams", "summary"  # among the run's attributes
REPEAT = "repeat"  # in the context of what is at its step the second, third, ... of its name
TYPE, TABLE = "type", "table"  # in the context of a table, which is a text
EDGES = "edges"  # in a distribution: Aim itself knows but the first and the last

_EMPTY = "~"
_LARGEST = 1 << 63


def key_of(name: str) -> str:
    """A name as Aim takes it, for which an empty one ruins a run: `name_of` is the inverse."""
    return name if name.strip(_EMPTY) else f"{_EMPTY}{name}"


def name_of(key: str) -> str:
    """What `key_of` was given."""
    return key if key.strip(_EMPTY) else key.removeprefix(_EMPTY)


def fits(number: int) -> bool:
    """Whether an integer has at most the 64 bits that Aim keeps."""
    return -_LARGEST <= number < _LARGEST


def to_stored(value: Any) -> Any:
    """A plain value as Aim takes it: `to_plain` is the inverse."""
    if isinstance(value, dict):
        return {key_of(key): to_stored(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_stored(item) for item in value]
    return to_text(value) if _is_text(value) else value


def to_plain(value: Any) -> Any:
    """What `to_stored` was given."""
    if isinstance(value, dict):
        return {name_of(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    return found if isinstance(value, str) and _is_text(found := from_text(value)) else value


def _is_text(value: Any) -> bool:
    """Whether it is written as JSON: integers that are too large, and texts that would read as one that is."""
    if isinstance(value, str):
        found = from_text(value)
        return found != value and _is_text(found)
    return isinstance(value, int) and not fits(value)


def table_text(columns: Any, rows: Any) -> str:
    """A table as JSON, a line for the columns and one for each row."""
    return "\n".join(json.dumps(pack(list(row)), ensure_ascii=False) for row in (columns, *rows))


def _table_of(text: str) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    columns, *rows = (tuple(unpack(json.loads(line))) for line in text.split("\n"))
    return columns, tuple(rows)


def own_record(stored: StoredRun) -> RunRecord:
    """The record of a run of ours."""
    attributes = to_plain(stored.attributes)
    own = attributes[OURS]
    record = RunRecord(own["run_id"], own["name"], own["project"], own["group"], own["status"])
    record.started, record.finished = own["started"], own["finished"]
    record.config, record.summary = attributes.get(CONFIG, {}), attributes.get(SUMMARY, {})
    record.tags = tuple(sorted(stored.tags))
    for name, about in own["artifacts"].items():
        folder = inside(stored.aim, f"artifacts/{stored.hash}/{about['folder']}")
        paths = {path: inside(folder, path) for path in about["files"]}
        files = {path: Content.of_file(file) for path, file in paths.items() if file.is_file()}
        record.artifacts[name] = ArtifactRecord(name, about["kind"], files, about["step"], about["metadata"])
    # In the order of the times; of the same time and step, in that of the contexts.
    for series in sorted(stored.series(), key=lambda series: int(series.context.get(REPEAT, 1))):
        kind = TABLE if series.context.get(TYPE) == TABLE else series.kind
        for row in series.rows:
            _add(record, name_of(series.name), kind, row)
    for points in (record.metrics, record.texts, record.images, record.tables, record.histograms):
        for found in points.values():
            found.sort(key=lambda point: (point.time, point.step))
    return record


def _add(record: RunRecord, name: str, kind: str, row: Row) -> None:
    step, value, time = row
    if kind == "number":
        record.metrics.setdefault(name, []).append(Point(step, float(value), time))
    elif kind == TABLE:
        record.tables.setdefault(name, []).append(TablePoint(step, *_table_of(value.data), time))
    elif kind == "aim.text":
        record.texts.setdefault(name, []).append(TextPoint(step, value.data, time))
    elif kind == "aim.image":
        content = Content.of_bytes(bytes(value.storage["data"]))
        record.images.setdefault(name, []).append(ImagePoint(step, content, time))
    elif kind == "aim.distribution":
        record.histograms.setdefault(name, []).append(histogram(step, value, time))


def histogram(step: int, distribution: Any, time: float) -> HistogramPoint:
    """A distribution of Aim's, with its exact edges where it has them."""
    import numpy as np

    counts = distribution.weights.astype(float).tolist()
    try:
        edges = np.frombuffer(bytes(distribution.storage[EDGES]), dtype=float).tolist()
    except KeyError:
        edges = distribution.ranges.tolist()
    return HistogramPoint(step, tuple(counts), tuple(edges), time)
