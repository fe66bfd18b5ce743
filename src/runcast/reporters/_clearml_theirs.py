"""A task that was logged to ClearML without runcast, in an offline session: what of it a `RunRecord` can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runcast.flatten import unflatten
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
from runcast.reporters._clearml_record import SINGLE_VALUE, SUMMARY, Stored, files_in_zip

_TASK, _EVENTS, _LOG = "task.json", "metrics.jsonl", "log.jsonl"
_TRUTH = {"True": True, "False": False, "None": None, "": None}


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
    for event in stored.events():
        _add(record, event, stored)
    for event in _lines(folder / _LOG):
        time = event["timestamp"] / 1000
        record.texts.setdefault("console", []).append(TextPoint(0, event["msg"], time))
    for artifact in task.get("execution", {}).get("artifacts") or ():
        path = stored.artifact(artifact["uri"])
        files = files_in_zip(path) if artifact["type"] == "archive" else {path.name: Content.of_file(path)}
        about = dict(artifact.get("display_data") or ())
        record.artifacts[artifact["key"]] = ArtifactRecord(artifact["key"], "file", files, None, about)
    return record


def _config(task: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters, those of the section General on top, and configuration objects."""
    config: dict[str, Any] = {}
    for section, items in task.get("hyperparams", {}).items():
        if section != "properties":
            nested = unflatten({key: _typed(item) for key, item in items.items()})
            config |= nested if section == "General" else {section: nested}
    return config | {name: item["value"] for name, item in task.get("configuration", {}).items()}


def _typed(item: Mapping[str, Any]) -> Any:
    """A parameter as the type that ClearML notes; it keeps texts only."""
    text = item["value"]
    try:
        match item.get("type"):
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
    return text


def _add(record: RunRecord, event: Mapping[str, Any], stored: Stored) -> None:
    step, time = int(event.get("iter") or 0), event["timestamp"] / 1000
    title, series = event.get("metric", ""), event.get("variant", "")
    key = title if title == series else f"{title}/{series}"
    match event["type"]:
        case "training_stats_scalar" if title == SUMMARY and step == SINGLE_VALUE:
            record.summary[series] = event["value"]
        case "training_stats_scalar":
            record.metrics.setdefault(key, []).append(Point(step, float(event["value"]), time))
        case "training_debug_image":
            path = stored.sample(event)
            if path.suffix.lower() in (".png", ".jpeg", ".jpg", ".gif", ".bmp"):
                record.images.setdefault(key, []).append(ImagePoint(step, Content.of_file(path), time))
            else:
                record.artifacts[f"{key}/{step}"] = ArtifactRecord(
                    f"{key}/{step}", "file", {path.name: Content.of_file(path)}, step
                )
        case "plot":
            _add_plot(record, key, step, time, event["plot_str"])


def _add_plot(record: RunRecord, key: str, step: int, time: float, text: str) -> None:
    """A Plotly figure: a table, a histogram (ClearML's bars are counts by position), else its JSON as a text."""
    (data, *more) = json.loads(text).get("data") or [{}]
    if not more and data.get("type") == "table":
        columns = tuple(str(column) for column in data["header"]["values"])
        rows = tuple(zip(*data["cells"]["values"], strict=True))
        record.tables.setdefault(key, []).append(TablePoint(step, columns, rows, time))
    elif not more and data.get("type") == "bar" and _numbers(data.get("y")):
        counts = tuple(float(count) for count in data["y"])
        edges = tuple(float(edge) for edge in range(len(counts) + 1))
        record.histograms.setdefault(key, []).append(HistogramPoint(step, counts, edges, time))
    else:
        record.texts.setdefault(key, []).append(TextPoint(step, text, time))


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
