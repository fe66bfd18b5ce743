"""A task that was logged to ClearML without runcast, in an offline session: what of it a `RunRecord` can hold.

config       hyper-parameters and user properties, a section each but for General, and configuration objects
metrics      scalars: ``title/series``, or the title where both are the same
texts        console, comment, other plots (their JSON), the addresses of files that are elsewhere
images       debug samples that are images
tables       tables, and bars with labels
histograms   bars without
artifacts    artifacts; other debug samples, one a step
summary      single values
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from runcast.distinct import Distinct
from runcast.flatten import nest
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
from runcast.redact import redact_text
from runcast.reporters._clearml_record import SINGLE_VALUE, SUMMARY, Stored, files_in_zip

logger = logging.getLogger("runcast")

_TASK, _LOG = "task.json", "log.jsonl"
_TOP = "General"
"""The section of hyper-parameters that have no other."""
_TRUTH = {"True": True, "False": False, "None": None, "": None}
_PICTURES = (".png", ".jpeg", ".jpg", ".gif", ".bmp")


def stored_sessions(source: Path) -> list[Path]:
    """The folders of offline sessions at or below a path; a session's zip stands for the folder beside it."""
    if source.is_file() and source.suffix == ".zip":
        source = source.with_suffix("")
    elif source.is_file():
        source = source.parent
    return sorted(path.parent for path in source.rglob(_TASK) if _is_task(path))


def _is_task(path: Path) -> bool:
    try:
        return "offline_folder" in json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False


def record_of(folder: Path, stored: Stored) -> RunRecord:
    """The record of a task.

    Args:
        folder: The session's.
        stored: The same, read.
    """
    task = stored.task
    record = RunRecord(run_id=str(task.get("id") or folder.name), project=str(task.get("project_name") or ""))
    record.name = str(task.get("name") or record.run_id)
    record.tags = tuple(sorted(task.get("tags") or ()))
    record.status = "completed"  # ClearML's offline mode notes none, and its own import ends every task so
    record.config = _config(task)
    reader = _Reader(record, stored)
    for event in stored.events():
        reader.add_event(event)
    for line in _lines(folder / _LOG):
        reader.add_text("console", line["msg"], line["timestamp"] / 1000)
    begun = _begun(record, folder)
    for artifact in task.get("execution", {}).get("artifacts") or ():
        reader.add_artifact(artifact, begun)
    if comment := task.get("comment"):
        reader.add_text("comment", str(comment), begun)
    return record


def _begun(record: RunRecord, folder: Path) -> float:
    """When it began, or thereabouts."""
    all_series = (record.metrics, record.texts, record.images, record.tables, record.histograms)
    times = (points[0].time for series in all_series for points in series.values())
    return min(times, default=(folder / _TASK).stat().st_mtime)


def _config(task: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters, those of the section General on top, and configuration objects."""
    names = Distinct()
    sections = {section: _section(items) for section, items in task.get("hyperparams", {}).items()}
    config = {names.name((_TOP, key), key): value for key, value in sections.pop(_TOP, {}).items()}
    for section, values in sections.items():
        config[names.name(section, section)] = values
    for name, item in task.get("configuration", {}).items():
        config[names.name(("configuration", name), name)] = item["value"]
    return config


def _section(items: Mapping[str, Any]) -> dict[str, Any]:
    return nest({key: _typed(item) for key, item in items.items()})


def _typed(item: Mapping[str, Any]) -> Any:
    """A parameter as the type that ClearML notes; it keeps texts only."""
    text, kind = item["value"], str(item.get("type") or "")
    try:
        match kind.partition("/")[0]:  # `list/int` is a list of integers
            case "int" | "float" if text.startswith("["):  # an argument that takes several
                return json.loads(text)
            case "int":
                return int(text)
            case "float":
                return float(text)
            case "bool" | "NoneType":
                return _TRUTH[text]
            case "list" | "tuple" | "dict":
                return json.loads(text)
    except (ValueError, KeyError):
        pass
    return text if text or kind else None  # so ClearML reads it


class _Reader:
    """Adds to a record what a task has."""

    def __init__(self, record: RunRecord, stored: Stored) -> None:
        self._record, self._stored = record, stored
        self._series, self._artifacts = Distinct(), Distinct()

    def add_text(self, what: str, text: str, time: float) -> None:
        """A text that is no series' and of no step."""
        self._record.texts.setdefault(self._series.name(what, what), []).append(TextPoint(0, text, time))

    def add_event(self, event: Mapping[str, Any]) -> None:
        record, step, time = self._record, int(event.get("iter") or 0), event["timestamp"] / 1000
        title, series = event.get("metric", ""), event.get("variant", "")
        if event["type"] == "training_stats_scalar" and title == SUMMARY and step == SINGLE_VALUE:
            record.summary[series] = event["value"]
            return
        name = _name(title, series)
        key = self._series.name((title, series), name)
        match event["type"]:
            case "training_stats_scalar":
                record.metrics.setdefault(key, []).append(Point(step, float(event["value"]), time))
            case "plot":
                _add_plot(record, key, step, time, event["plot_str"])
            case "training_debug_image":
                address = str(event.get("url") or event.get("key"))
                path = self._file((title, series), name, address, lambda: self._stored.sample(event), step, time)
                if path is not None and path.suffix.lower() in _PICTURES:
                    record.images.setdefault(key, []).append(ImagePoint(step, Content.of_file(path), time))
                elif path is not None:
                    label = self._artifacts.name((title, series, step), f"{name}/{step}")
                    record.artifacts[label] = ArtifactRecord(label, "file", {path.name: Content.of_file(path)}, step)

    def add_artifact(self, artifact: Mapping[str, Any], begun: float) -> None:
        key, address = artifact["key"], str(artifact.get("uri") or "")
        time = max(begun, artifact.get("timestamp") or begun)  # which is in whole seconds
        path = self._file(("artifact", key), key, address, lambda: self._stored.artifact(address), 0, time)
        if path is None:
            return
        files = files_in_zip(path) if artifact["type"] == "archive" else {path.name: Content.of_file(path)}
        label = self._artifacts.name(key, key)
        about = dict(artifact.get("display_data") or ())
        self._record.artifacts[label] = ArtifactRecord(label, "file", files, None, about)

    def _file(
        self, thing: Hashable, name: str, address: str, find: Callable[[], Path], step: int, time: float
    ) -> Path | None:
        """A file of the session. Of one that is elsewhere, the address is kept as a text; that is said."""
        try:
            path = None if "://" in address else find()
        except ValueError:  # it leads out of the session's folder
            path = None
        if path is not None and path.is_file():
            return path
        key = self._series.name(thing, name)
        logger.warning("the file of %s is left out: it is at %s, which is kept as a text", key, redact_text(address))
        self._record.texts.setdefault(key, []).append(TextPoint(step, address, time))
        return None


def _name(title: str, series: str) -> str:
    return title if title == series else f"{title}/{series}"


def _add_plot(record: RunRecord, key: str, step: int, time: float, text: str) -> None:
    """A Plotly figure: a table, a histogram (ClearML's bars are counts by position), else its JSON as a text."""
    (data, *more) = json.loads(text).get("data") or [{}]
    if not more and (bars := _histogram(data)) is not None:
        record.histograms.setdefault(key, []).append(HistogramPoint(step, *bars, time))
    elif not more and (table := _table(data)) is not None:
        record.tables.setdefault(key, []).append(TablePoint(step, *table, time))
    else:
        record.texts.setdefault(key, []).append(TextPoint(step, text, time))


def _histogram(data: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Counts and edges of bars, unless they have labels or aren't counts."""
    counts, places, widths = data.get("y"), data.get("x"), data.get("width")
    if data.get("type") != "bar" or not counts or not _numbers(counts) or min(counts) < 0:
        return None
    if places is None or places == list(range(len(counts))):
        edges = tuple(float(edge) for edge in range(len(counts) + 1))
    elif _numbers(places) and _numbers(widths) and len(places) == len(widths) == len(counts):
        edges = (places[0] - widths[0] / 2, *(place + width / 2 for place, width in zip(places, widths, strict=True)))
    else:
        return None
    return tuple(map(float, counts)), edges


def _table(data: Any) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]] | None:
    """Columns and rows of a table, or of bars with labels."""
    try:
        if data.get("type") == "table":
            columns = tuple(map(_column, data["header"]["values"]))
            cells = data["cells"]["values"] or [[] for _ in columns]  # a data frame without rows
        elif data.get("type") == "bar":
            columns, cells = ("x", "y"), [data["x"], data["y"]]
        else:
            return None
        rows = tuple(zip(*cells, strict=True))
    except (ValueError, LookupError, TypeError):
        return None
    return (columns, rows) if len(cells) == len(columns) else None


def _column(name: Any) -> str:
    """A column's name: that of a data frame is a list, with a level or several."""
    return "/".join(map(_column, name)) if isinstance(name, list) else str(name)


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found += json.loads(line)
        except ValueError:  # torn
            continue
    return found
