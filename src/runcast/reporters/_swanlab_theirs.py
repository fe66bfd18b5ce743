"""A run that was logged to SwanLab without runcast: what of it a `RunRecord` can hold."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from runcast.errors import MissingDependencyError
from runcast.events import RunStatus
from runcast.media import png
from runcast.record import ArtifactRecord, Content, ImagePoint, Point, RunRecord, TablePoint, TextPoint, inside
from runcast.reporters._record_log import RecordLog
from runcast.reporters._swanlab_record import IDENT, log_in, media_folder, media_path, messages, seconds, settings_in

logger = logging.getLogger("runcast")

_OLD_LOG = "backup.swanlab"  # before SwanLab 0.8: of JSON
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


def stored_runs(source: Path) -> dict[str, list[Path]]:
    """The runs whose logs are at or below a path: SwanLab's id → the folders of its sessions, oldest first."""
    logs = [source] if source.is_file() else sorted(source.rglob("*.swanlab"), key=lambda log: log.parent.name)
    found: dict[str, list[Path]] = {}
    for log in logs:
        if log.name == _OLD_LOG:
            found[log.parent.name] = [log.parent]
        elif matched := re.fullmatch(r"run-(.+)\.swanlab", log.name, re.DOTALL):
            found.setdefault(matched[1], []).append(log.parent)
    return found


def record_of(folders: Sequence[Path]) -> RunRecord:
    """The record of a run.

    Args:
        folders: Of its sessions, oldest first.
    """
    record = RunRecord()
    for folder in folders:
        record.status, record.finished = "running", None
        old = folder / _OLD_LOG
        if old.exists():
            _add_old_session(record, folder, RecordLog(old))
        else:
            log = RecordLog(log_in(folder))
            log.version(IDENT)
            for message in messages(log):
                _add(record, folder, message)
        record.config |= settings_in(folder)
    return record


def _add(record: RunRecord, folder: Path, message: Any) -> None:
    match message.WhichOneof("record_type"):
        case "start":
            start = message.start
            record.run_id, record.name, record.project = start.id, start.name or start.id, start.project
            record.group = start.group or None
            record.tags = tuple(sorted(set(start.tags) | set(record.tags)))
            record.started = seconds(start.started_at) if record.started is None else record.started
            _describe(record, start.description, start.job_type)
        case "scalar":
            scalar = message.scalar
            point = Point(scalar.step, scalar.value.number, seconds(scalar.timestamp))
            record.metrics.setdefault(scalar.key, []).append(point)
        case "media":
            media = message.media
            for item in media.value.items:
                path = media_path(folder, media, item)
                time = seconds(media.timestamp)
                _add_medium(record, media_folder(media.type), media.key, media.step, time, path, item.caption)
        case "save" if message.save.name != "config":
            _add_saved(record, folder, message.save)
        case "finish":
            record.status = _status(message.finish)
            record.finished = seconds(message.finish.finished_at)


def _describe(record: RunRecord, description: str | None, job_type: str | None) -> None:
    """What the run is about: a text ``description``, a setting ``swanlab.job_type``."""
    if description:
        record.texts.setdefault("description", [TextPoint(0, description, record.started or 0.0)])
    if job_type:
        record.config["swanlab.job_type"] = job_type


def _status(finish: Any) -> RunStatus:
    found = finish.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[finish.state].name
    states: dict[str, RunStatus] = {"FINISHED": "completed", "CRASHED": "failed", "ABORTED": "killed"}
    return states.get(found.removeprefix("RUN_STATE_"), "running")


def _add_medium(record: RunRecord, kind: str, key: str, step: int, time: float, path: Path, caption: str) -> None:
    if not path.is_file():
        logger.warning("%s at step %d is left out: %s is not there", key, step, path)
    elif kind == "text":
        record.texts.setdefault(key, []).append(TextPoint(step, path.read_bytes().decode(errors="replace"), time))
    elif kind == "image" and path.suffix in _PICTURES:
        try:
            content = Content.of_bytes(png(path))
        except (OSError, ValueError, MissingDependencyError) as error:
            logger.warning("the image %r at step %d is left out: %s", key, step, error)
            return
        record.images.setdefault(key, []).append(ImagePoint(step, content, time))
    elif (table := _table(path)) is not None:
        record.tables.setdefault(key, []).append(TablePoint(step, *table, time))
    else:  # sound, video, HTML, charts, ...
        name = f"{key}/{step}"
        about = {"type": kind, **({"caption": caption} if caption else {})}
        stored = ArtifactRecord(name, "file", {path.name: Content.of_file(path)}, step, about)
        if name in record.artifacts:  # several at a step
            stored.files.update(record.artifacts[name].files)
        record.artifacts[name] = stored


def _table(path: Path) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]] | None:
    """Columns and rows, if it is a table of SwanLab's."""
    if path.suffix != ".json":
        return None
    try:
        chart = json.loads(path.read_bytes())
        if not isinstance(chart, dict) or chart.get("_swanLab") != "table":
            return None
        columns = tuple(str(column["field"]) for column in chart["colDefs"])
        return columns, tuple(tuple(row.get(column) for column in columns) for row in chart["rowData"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _add_saved(record: RunRecord, folder: Path, save: Any) -> None:
    """A file that the user saved: offline, SwanLab keeps no more than a link to it."""
    if save.type:  # what SwanLab gathers by itself
        return
    try:
        path = inside(folder / "files", save.name)
    except ValueError:
        logger.warning("%s is left out: it is a link out of SwanLab's folder", save.name)
        return
    if path.is_file():
        record.artifacts[save.name] = ArtifactRecord(save.name, "file", {path.name: Content.of_file(path)})


# -- before SwanLab 0.8 ------------------------------------------------------------------------------------------------


def _add_old_session(record: RunRecord, folder: Path, log: RecordLog) -> None:
    log.version(IDENT)
    for payload in log.payloads():
        message = json.loads(payload)
        _add_old(record, folder, message["model_type"], message["data"])


def _add_old(record: RunRecord, folder: Path, kind: str, data: dict[str, Any]) -> None:
    match kind:
        case "Header":
            record.started = _time(data)
        case "Project":
            record.project = data["name"]
        case "Experiment":
            record.run_id = data.get("id") or folder.name
            record.name, record.tags = data["name"], tuple(sorted(data.get("tags") or ()))
            _describe(record, data.get("description"), data.get("job_type"))
        case "Scalar":
            point = Point(int(data["step"]), float(data["metric"]["data"]), _time(data["metric"]))
            record.metrics.setdefault(data["key"], []).append(point)
        case "Media":
            _add_old_media(record, folder, data)
        case "Footer":
            record.status, record.finished = ("completed" if data["success"] else "failed"), _time(data)


def _add_old_media(record: RunRecord, folder: Path, data: dict[str, Any]) -> None:
    key, step, metric = data["key"], int(data["step"]), data["metric"]
    for name, about in zip(metric["data"], metric.get("more") or itertools.repeat(None), strict=False):
        if data.get("buffers_name") is None:  # a text stands in the log itself
            record.texts.setdefault(key, []).append(TextPoint(step, name, _time(metric)))
            continue
        path = inside(folder, f"media/{data['kid']}/{name}")
        kind = "image" if path.suffix in _PICTURES else "file"
        _add_medium(record, kind, key, step, _time(metric), path, (about or {}).get("caption") or "")


def _time(data: dict[str, Any]) -> float:
    return datetime.fromisoformat(data["create_time"]).timestamp()
