"""A run that was logged to W&B without runcast: what of it a `RunRecord` can hold.

config       W&B's
metrics      numbers in the history; a dict is columns with dots, as W&B shows it
texts        texts in the history, the notes and the type of job, and lists and the like as JSON
images       images in the history
tables       tables in the history, of one that is logged in increments each by itself
artifacts    artifacts; audio, video, HTML and the like, one a column and step; media in a table; files that were saved beside
summary      what the user set, and what `define_metric` asked for; not the last values that W&B repeats there
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runcast.errors import MissingDependencyError
from runcast.events import RunStatus
from runcast.media import png
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
from runcast.reporters._wandb_items import Summary
from runcast.reporters._wandb_store import NAME, OWNER, Fold

logger = logging.getLogger("runcast")

_STORES = ("wandb", ".wandb")
_OWN = ("_step", "_timestamp", "_runtime", "_wandb")
"""Columns that W&B adds."""
_CLIENT = "wandb-client-artifact://"
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, MissingDependencyError)


class _Row(NamedTuple):
    """A row of the history: when it was logged, what reads its files, and the media in its tables."""

    step: int
    time: float
    media: Callable[[dict[str, Any]], Content]
    tables: Mapping[str, Callable[[], dict[str, Content]]]


def record_of(fold: Fold) -> RunRecord:
    """The record of a run in whose config runcast left nothing."""
    record = RunRecord(config=dict(fold.config), artifacts=dict(fold.artifacts), status=_status(fold.exit_code))
    _describe(record, fold.descriptions)
    row = _Row(0, record.started or 0.0, functools.partial(_content, fold.folders), fold.tables)
    last: dict[str, Any] = {}
    for values, media in fold.all_rows:
        time = float(values.get("_timestamp", row.time))
        row = row._replace(step=int(values.get("_step", 0)), time=time, media=media)
        for key, value in _logged(values):
            last[key] = value
            _add(record, row, key, value)
    if fold.all_rows and fold.exit_code is not None:
        record.finished = row.time
    _add_summary(record, row._replace(media=functools.partial(_content, fold.folders)), fold.summary, last)
    _add_saved(record, fold.saved)
    return record


def _status(exit_code: int | None) -> RunStatus:
    """W&B notes an exit code; without one the process vanished, or is still there."""
    return "running" if exit_code is None else "completed" if exit_code == 0 else "failed"


def _describe(record: RunRecord, sessions: list[Any]) -> None:
    """Adds what the sessions say of the run: the last one that says it, as W&B's server has it."""
    if not sessions:
        return

    def said(part: str) -> Any:
        return next((said for session in reversed(sessions) if (said := getattr(session, part))), None)

    record.run_id = sessions[-1].run_id
    record.name, record.project = said("display_name") or record.run_id, said("project") or "uncategorized"
    record.group, record.tags = said("run_group"), tuple(sorted(said("tags") or ()))
    record.started = sessions[0].start_time.ToNanoseconds() / 1e9 or None
    for part in ("notes", "job_type"):
        if text := said(part):
            record.texts[part] = [TextPoint(0, text, record.started or 0.0)]


def _logged(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Columns and values of a row of the history."""
    ours = (OWNER, NAME) if OWNER in row else ()  # of a run of ours that joined this one
    yield from _flat({key: value for key, value in row.items() if key not in ours and value is not None})


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; a dict that isn't media is names with dots, as W&B shows it."""
    for name, value in values.items():
        if not above and name in _OWN:
            continue
        key = f"{above}{name}"
        if isinstance(value, dict) and "_type" not in value:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _parts(value: Any) -> Iterator[Any]:
    """The media of a list that was logged, one by one; any other value is its own part."""
    if not isinstance(value, dict) or "path" in value:
        yield value
    elif value.get("_type") in ("images/separated", "molecule"):
        kind = "image-file" if value["_type"] == "images/separated" else "molecule-file"
        yield from ({"_type": kind, "path": path} for path in value["filenames"])
    else:
        yield from next((found for found in value.values() if _are_media(found)), [value])


def _are_media(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "path" in item for item in value)


def _add(record: RunRecord, row: _Row, key: str, value: Any) -> None:
    for part in _parts(value):
        try:
            _add_part(record, row, key, part)
        except _UNREADABLE as error:
            logger.warning("%r at step %d is left out: %s: %s", key, row.step, type(error).__name__, error)


def _add_part(record: RunRecord, row: _Row, key: str, value: Any) -> None:
    step, time = row.step, row.time
    kind = value.get("_type", "") if isinstance(value, dict) else type(value).__name__
    if kind == "image-file":
        image = row.media(value)
        png(image.read())  # of another format, it has to be readable
        record.images.setdefault(key, []).append(ImagePoint(step, image, time))
    elif kind in ("table-file", "incremental-table-file"):
        _add_table(record, row, key, value)
    elif kind == "histogram":
        counts = tuple(map(float, value["values"]))
        record.histograms.setdefault(key, []).append(HistogramPoint(step, counts, _edges(value), time))
    elif kind in ("bool", "int", "float"):
        record.metrics.setdefault(key, []).append(Point(step, float(value), time))
    elif kind == "str":
        record.texts.setdefault(key, []).append(TextPoint(step, value, time))
    elif isinstance(value, dict) and "path" in value:  # audio, video, HTML, ...
        _add_files(record, row, key, {value["path"].rsplit("/", 1)[-1]: row.media(value)})
    elif kind != "NoneType":
        record.texts.setdefault(key, []).append(TextPoint(step, json.dumps(value), time))


def _add_table(record: RunRecord, row: _Row, key: str, value: dict[str, Any]) -> None:
    """Adds a table. A cell with a medium has its path in the artifact that is called like the table and its step."""
    table = json.loads(row.media(value).read())
    rows = [list(cells) for cells in table["data"]]
    client, _, path = value.get("artifact_path", "").removeprefix(_CLIENT).partition("/")
    if client in row.tables:
        files = row.tables[client]()
        whole = json.loads(files.pop(path).read())["data"] if path in files else []
        for cells, full in zip(rows, whole, strict=False):
            for number, cell in enumerate(full):
                if isinstance(cell, dict) and "path" in cell:
                    cells[number] = cell["path"]
        _add_files(record, row, key, files)
    point = TablePoint(row.step, tuple(map(str, table["columns"])), tuple(map(tuple, rows)), row.time)
    record.tables.setdefault(key, []).append(point)


def _add_files(record: RunRecord, row: _Row, key: str, files: Mapping[str, Content]) -> None:
    name = f"{key}/{row.step}"
    record.artifacts.setdefault(name, ArtifactRecord(name, "file", {}, row.step)).files.update(files)


def _content(folders: Sequence[Path], value: Mapping[str, Any]) -> Content:
    """That of a file of one of the sessions."""
    paths = [inside(folder, value["path"]) for folder in folders]
    return Content.of_file(next((path for path in paths if path.is_file()), paths[-1]))


def _edges(histogram: dict[str, Any]) -> tuple[float, ...]:
    if "bins" in histogram:
        return tuple(map(float, histogram["bins"]))
    packed = histogram["packedBins"]
    return tuple(packed["min"] + packed["size"] * number for number in range(packed["count"] + 1))


def _add_summary(record: RunRecord, row: _Row, summary: Summary, last: Mapping[str, Any]) -> None:
    """Adds the summary, but for the last values of columns, which it repeats; media go where those of `row` are."""
    record.summary = {key: value for key, value in _flat(summary.automatic) if key not in last}
    for key, value in _flat(summary.chosen):
        if isinstance(value, dict) and "path" in value:
            _add(record, row, key, value)
        elif key not in last or value != last[key]:
            record.summary[key] = value


def _add_saved(record: RunRecord, saved: Mapping[str, Path]) -> None:
    """Adds the files that the user saved: offline, W&B keeps no more than links to them."""
    for name, folder in saved.items():
        place = folder.parents[1]
        root = place.parent if place.name in _STORES else folder
        try:  # a run may come from a stranger, and link to any file
            content = Content.of_file(inside(root, str(folder / name)))
        except (OSError, ValueError) as error:
            logger.warning("the file %r is left out: %s", name, error)
            continue
        called = name if name not in record.artifacts else f"files/{name}"
        record.artifacts[called] = ArtifactRecord(called, "file", {Path(name).name: content})
