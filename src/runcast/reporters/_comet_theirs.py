"""An experiment that was logged to Comet without runcast, in offline archives: what of it a `RunRecord` can hold."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runcast.flatten import unflatten
from runcast.record import ArtifactRecord, Content, ImagePoint, Point, RunRecord, TablePoint, TextPoint

_DESCRIPTION, _MESSAGES = "experiment.json", "messages.json"
_OWN = frozenset({"offline_experiment", "Created from", "Name"})
"""What the SDK notes by itself under Other, and the name, which has a place of its own."""


def stored_experiments(source: Path) -> dict[str, list[Path]]:
    """The experiments whose archives are at or below a path: key → archives, oldest first."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in [source] if source.is_file() else sorted(source.rglob("*.zip")):
        about = _description(path)
        if about is not None:
            found.setdefault(str(about["offline_id"]), []).append((about.get("start_time") or 0, path))
    return {key: [path for _, path in sorted(archives)] for key, archives in found.items()}


def _description(archive: Path) -> dict[str, Any] | None:
    """What an archive says of its experiment; None if it is none of Comet's, or not finished."""
    try:
        with zipfile.ZipFile(archive) as found:
            about = json.loads(found.read(_DESCRIPTION))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return about if isinstance(about, dict) and "offline_id" in about else None


def record_of(archives: Sequence[Path]) -> RunRecord:
    """The record of an experiment, of one or several archives."""
    abouts = [_description(path) or {} for path in archives]
    about = abouts[-1]
    record = RunRecord(run_id=str(about.get("offline_id", "")), project=about.get("project_name") or "general")
    record.tags = tuple(sorted({tag for one in abouts for tag in one.get("tags") or ()}))
    record.started = _seconds(abouts[0].get("start_time"))
    record.finished = _seconds(about.get("stop_time"))
    failed = any(one.get("customer_error_reported") for one in abouts)
    record.status = "failed" if failed else "running" if record.finished is None else "completed"
    config: dict[str, Any] = {}
    for archive in archives:
        for kind, payload in _messages(archive):
            _add(record, config, archive, kind, payload)
    record.config = unflatten(config, "|")
    record.name = str(record.summary.pop("Name", None) or record.run_id)
    record.summary = {key: value for key, value in record.summary.items() if key not in _OWN}
    return record


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _messages(archive: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with zipfile.ZipFile(archive) as found, found.open(_MESSAGES) as lines:
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:  # torn
                continue
            yield message["type"], message["payload"]


def _add(record: RunRecord, config: dict[str, Any], archive: Path, kind: str, payload: dict[str, Any]) -> None:
    time = payload.get("local_timestamp", 0) / 1000
    if kind == "metric_msg":
        metric = payload["metric"]
        _add_metric(record, metric["metricName"], metric["metricValue"], int(metric["step"] or 0), time)
    elif kind == "parameter_msg":
        parameter = payload.get("param") or payload.get("params")  # a list comes under the plural
        if parameter and parameter.get("source") != "auto-logged":
            config[parameter["paramName"]] = parameter["paramValue"]
    elif kind == "log_other":
        record.summary[payload["key"]] = payload["value"]
    elif kind == "file_upload":
        about = payload["additional_params"] or {}
        _add_file(record, payload["upload_type"], about, _content(archive, payload["file_path"]), time)


def _add_metric(record: RunRecord, name: str, value: Any, step: int, time: float) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):  # Comet takes words for metrics
        record.texts.setdefault(name, []).append(TextPoint(step, str(value), time))
    else:
        record.metrics.setdefault(name, []).append(Point(step, number, time))


def _add_file(record: RunRecord, kind: str, about: dict[str, Any], content: Content, time: float) -> None:
    step = about.get("step")
    name = str(about.get("figName") or about.get("fileName") or kind)
    if kind == "visualization" and about.get("extension") != "svg":
        record.images.setdefault(name, []).append(ImagePoint(int(step or 0), content, time))
    elif kind == "text-sample":
        record.texts.setdefault("text", []).append(TextPoint(int(step or 0), content.read().decode(), time))
    elif kind == "asset" and name.endswith(".csv") and (rows := _csv(content)):
        record.tables.setdefault(name, []).append(TablePoint(int(step or 0), rows[0], tuple(rows[1:]), time))
    else:  # assets, models, histograms of Comet's own shape
        group = about.get("groupingName")
        label, kind = (str(group), "model") if kind == "model-element" and group else (name, "file")
        files = record.artifacts[label].files if label in record.artifacts and kind == "model" else {}
        path = name if kind == "model" else name.rsplit("/", 1)[-1]
        record.artifacts[label] = ArtifactRecord(label, kind, {**files, path: content}, step)


def _csv(content: Content) -> list[tuple[str, ...]]:
    """Rows of one width; none if it is no such table."""
    try:
        rows = [tuple(row) for row in csv.reader(io.StringIO(content.read().decode(), newline="")) if row]
    except (UnicodeDecodeError, csv.Error):
        return []
    return rows if len(_widths(rows)) == 1 else []


def _widths(rows: Iterable[tuple[str, ...]]) -> set[int]:
    return {len(row) for row in rows}


def _content(archive: Path, name: str) -> Content:
    with zipfile.ZipFile(archive) as found:
        whole = Content.of_bytes(found.read(name))

    def read() -> bytes:
        with zipfile.ZipFile(archive) as again:
            return again.read(name)

    return Content(whole.size, whole.sha256, read)
