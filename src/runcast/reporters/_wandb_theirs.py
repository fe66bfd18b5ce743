"""A run that was logged to W&B without runcast: what of it a `RunRecord` can hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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

Media = Callable[[dict[str, Any]], Content]


def record_of(fold: Any) -> RunRecord:
    """The record of a `_wandb_store.Fold` in whose config runcast left nothing."""
    run = fold.run
    record = RunRecord(tags=tuple(sorted(fold.tags)), artifacts=dict(fold.artifacts), status=_status(fold.exit_code))
    if run is not None:
        record.run_id = run.run_id
        record.name, record.project = run.display_name or run.run_id, run.project or "uncategorized"
        record.group = run.run_group or None
        record.started = run.start_time.ToNanoseconds() / 1e9 or None
    record.config = {key: value for key, value in fold.config.items() if key != "_wandb"}
    logged = set()
    for row, media in fold.all_rows:
        for key, value in _flat(row):
            logged.add(key)
            _add(
                record, key, value, int(row.get("_step", 0)), float(row.get("_timestamp", record.started or 0.0)), media
            )
        record.finished = row.get("_timestamp", record.finished)
    # W&B repeats each metric's last value there.
    record.summary = {key: value for key, value in _flat(fold.summary) if key not in logged}
    return record


def _status(exit_code: int | None) -> RunStatus:
    """W&B notes an exit code; without one the process vanished, or is still there."""
    return "running" if exit_code is None else "completed" if exit_code == 0 else "failed"


def _flat(row: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Columns and values; a dict that isn't media is columns with dots, as W&B shows it."""
    for column, value in row.items():
        if not above and column.startswith("_"):
            continue
        key = f"{above}{column}"
        if isinstance(value, dict) and "_type" not in value:
            yield from _flat(value, f"{key}.")
        elif value is not None:
            yield key, value


def _add(record: RunRecord, key: str, value: Any, step: int, time: float, media: Media) -> None:
    kind = value.get("_type", "") if isinstance(value, dict) else type(value).__name__
    if kind == "image-file":
        record.images.setdefault(key, []).append(ImagePoint(step, media(value), time))
    elif kind == "images/separated":
        for path in value["filenames"]:
            record.images.setdefault(key, []).append(ImagePoint(step, media({"path": path}), time))
    elif kind == "table-file":
        table = json.loads(media(value).read())
        columns = tuple(map(str, table["columns"]))
        record.tables.setdefault(key, []).append(TablePoint(step, columns, tuple(map(tuple, table["data"])), time))
    elif kind == "histogram":
        counts = tuple(map(float, value["values"]))
        record.histograms.setdefault(key, []).append(HistogramPoint(step, counts, _edges(value), time))
    elif kind in ("bool", "int", "float"):
        record.metrics.setdefault(key, []).append(Point(step, float(value), time))
    elif kind == "str":
        record.texts.setdefault(key, []).append(TextPoint(step, value, time))
    elif isinstance(value, dict) and "path" in value:  # audio, video, HTML, ...
        name = value["path"].rsplit("/", 1)[-1]
        record.artifacts[f"{key}/{step}"] = ArtifactRecord(f"{key}/{step}", "file", {name: media(value)}, step)
    else:
        record.texts.setdefault(key, []).append(TextPoint(step, json.dumps(value), time))


def _edges(histogram: dict[str, Any]) -> tuple[float, ...]:
    if "bins" in histogram:
        return tuple(map(float, histogram["bins"]))
    packed = histogram["packedBins"]
    return tuple(packed["min"] + packed["size"] * number for number in range(packed["count"] + 1))
