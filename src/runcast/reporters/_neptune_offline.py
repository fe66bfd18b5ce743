"""Runs that Neptune's client 1.x kept on disk: its operations, one JSON object a line.

``run__<id>...`` has ``data-<first version>.log``, the files that were made in memory in ``upload_path``, and of newer clients a
``metadata.json``. Other files are told by their paths. Those are read if they are below the folder of ``.neptune``, where the
training ran; what lies elsewhere isn't, since a store may come from a stranger.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import logging
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from runcast.record import Content, RunRecord
from runcast.reporter import NativeRun
from runcast.reporters._neptune_record import Attributes, Entry, content_of, following
from runcast.trust import regular

logger = logging.getLogger("runcast")

_RUN = re.compile(r"run__([^/]+?)(?:__\d+__\w+)?")


def find_offline(root: Path) -> list[NativeRun]:
    """The runs at or below a path; one that several processes wrote is one."""
    logs = [root] if root.is_file() else sorted(root.rglob("data-*.log"))
    folders: dict[str, dict[str, None]] = {}
    for log in logs:
        run = next((found[1] for folder in log.parents if (found := _RUN.fullmatch(folder.name))), None)
        if run is not None and re.fullmatch(r"data-\d+\.log", log.name):
            folders.setdefault(run, {})[str(log.parent)] = None
    return [NativeRun(run, data={"folders": list(paths)}) for run, paths in folders.items()]


def read_offline(native: NativeRun) -> RunRecord:
    """The run that these folders hold."""
    folders = sorted((Path(folder) for folder in native.data["folders"]), key=_created)
    fold = _Fold()
    for folder in folders:
        fold.add_folder(folder)
    project = _place(folders[0]).name
    started = _created(folders[0]) or fold.first
    record = fold.attributes.record(native.id, project, started)
    record.started, record.finished = started, fold.last
    return record


def _created(folder: Path) -> float:
    """Unix seconds; 0 if it isn't known."""
    try:
        created = json.loads((folder / "metadata.json").read_bytes())["createdAt"]
        return dt.datetime.fromisoformat(created).timestamp()
    except (OSError, ValueError, LookupError, TypeError):
        return 0.0


def _place(folder: Path) -> Path:
    """The folder in which the training ran."""
    return next((parent.parent for parent in folder.parents if parent.name == ".neptune"), folder)


class _Fold:
    """What the operations amount to.

    Attributes:
        first: Unix seconds of the first one that has a time, if any has; likewise `last`.
    """

    def __init__(self) -> None:
        self.attributes = Attributes()
        self.first: float | None = None
        self.last: float | None = None
        self._ignored: set[str] = set()

    def add_folder(self, folder: Path) -> None:
        self._folder, self._place = folder, _place(folder)
        for number, line in enumerate(_lines(folder)):
            try:
                element = json.loads(line)
                operation, version, at = element["obj"], element["version"], element.get("at")
                if number == 0 and version > 1:
                    logger.warning("the first %d operations of %s had been sent and are gone", version - 1, folder.name)
                self._add(operation, "/".join(operation["path"]))
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
                logger.warning("an operation of %s is left out: %s: %s", folder.name, type(error).__name__, error)
                continue
            for value in operation.get("values", ()):
                self._seen(value.get("ts") if isinstance(value, dict) else None)
            self._seen(at)

    def _seen(self, time: float | None) -> None:
        if time is not None:
            self.first = time if self.first is None else min(self.first, time)
            self.last = time if self.last is None else max(self.last, time)

    def _add(self, operation: dict[str, Any], path: str) -> None:
        attributes = self.attributes
        match operation["type"]:
            case "AssignFloat" | "AssignInt" | "AssignBool" | "AssignString":
                attributes.values[path] = operation["value"]
            case "AssignDatetime":
                moment = dt.datetime.fromtimestamp(operation["value"] / 1000, dt.UTC)
                attributes.values[path] = moment.isoformat()
            case "AssignArtifact":
                attributes.values[path] = operation["hash"]
            case "TrackFilesToArtifact":
                attributes.values[path] = [entry[0] for entry in operation["entries"]]
            case "AddStrings":
                attributes.sets.setdefault(path, set()).update(operation["values"])
            case "RemoveStrings":
                attributes.sets.get(path, set()).difference_update(operation["values"])
            case "ClearStringSet":
                attributes.sets.pop(path, None)
            case "LogFloats":
                self._append(attributes.floats, path, operation, float)
            case "LogStrings":
                self._append(attributes.strings, path, operation, str)
            case "LogImages":
                self._append(attributes.file_series, path, operation, _image)
            case "ClearFloatLog" | "ClearStringLog" | "ClearImageLog" | "DeleteAttribute" | "ClearArtifact":
                attributes.delete(path)
            case "UploadFile" | "UploadFileContent" | "UploadFileSet" | "DeleteFiles":
                self._add_files(operation, path)
            case "ConfigFloatSeries":
                pass  # how a chart looks
            case unknown:
                if unknown not in self._ignored:
                    self._ignored.add(unknown)
                    logger.warning("operations %r of %s can't be imported", unknown, self._folder.name)

    def _append(
        self, kind: dict[str, list[Entry]], path: str, operation: dict[str, Any], read: Callable[[Any], Any]
    ) -> None:
        series = kind.setdefault(path, [])
        for value in operation["values"]:
            given = value.get("step")
            step = following(series) if given is None else Decimal(str(given))
            if not step.is_finite():
                raise ValueError(f"{given!r} is no step")
            series.append(Entry(step, read(value["value"]), value["ts"]))

    def _add_files(self, operation: dict[str, Any], path: str) -> None:
        files = self.attributes.files
        match operation["type"]:
            case "UploadFileContent":
                name = _file_name(path, operation["ext"])
                files[path] = {name: Content.of_bytes(base64.b64decode(operation["file_content"]))}
            case "UploadFile":
                stored = operation.get("tmp_file_name")
                root = self._folder / "upload_path" if stored else self._place
                content = content_of(root, stored or operation["file_path"], path)
                if content is not None:
                    files[path] = {_file_name(path, operation["ext"]): content}
            case "UploadFileSet":
                kept = {} if operation["reset"] != "False" else files.get(path, {})
                if matching := kept | dict(self._matching(operation["file_globs"], path)):
                    files[path] = matching
            case "DeleteFiles":
                for name in operation["file_paths"]:
                    files.get(path, {}).pop(name, None)

    def _matching(self, patterns: list[str], whose: str) -> Iterator[tuple[str, Content]]:
        root = self._place.resolve()
        for pattern in patterns:
            try:
                below = Path(pattern).resolve().relative_to(root)
            except ValueError:
                logger.warning("the files %r of %s are left out: they are not below %s", pattern, whose, root)
                continue
            for found in sorted(root.glob(str(below))):
                for path in sorted(found.rglob("*")) if found.is_dir() else [found]:
                    if path.is_file() and (content := content_of(root, str(path), whose)) is not None:
                        yield path.relative_to(root).as_posix(), content


def _lines(folder: Path) -> Iterator[bytes]:
    """All operations' lines, in order."""
    for log in sorted(folder.glob("data-*.log"), key=lambda path: int(path.stem.removeprefix("data-"))):
        with open(log, "rb", opener=regular) as file:
            yield from (line for line in file if line.strip())


def _image(value: Any) -> Content:
    data = value["data"] if isinstance(value, dict) else value
    try:
        return Content.of_bytes(base64.b64decode(data))
    except binascii.Error as error:
        raise ValueError(f"an image is no base64: {error}") from error


def _file_name(path: str, extension: str) -> str:
    name = path.rpartition("/")[2]
    return name if not extension or name.endswith(f".{extension}") else f"{name}.{extension}"
