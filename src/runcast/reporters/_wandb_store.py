"""What W&B stored of a run: its own log files, one for each session of the run, or its server's answers; as a `RunRecord`.

A *session* is one folder ``[offline-]run-<time>-<id>``: each time that a run is opened, W&B begins another. The sessions of
an id together are the run, for us as for ``wandb sync``.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import logging
import os
import re
import tempfile
import time as clock
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from runcast.events import pack, unpack
from runcast.flatten import unescape
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
from runcast.reporter import NativeRun
from runcast.reporters._record_log import RecordLog
from runcast.reporters._wandb_items import Summary, nested
from runcast.reporters._wandb_process import imported

logger = logging.getLogger("runcast")

_EMPTY = {"$empty": "dict"}  # no key of the user's is packed so
STEP = "global_step"
NAME = "_name"  # in a row whose column had to be called otherwise
OWNER = "_runcast"  # in a row of a run that is not ours alone: the id of our run
OURS = "runcast"  # in the config, and in an artifact's metadata
MARK = "~"  # escapes
_OF_TABLES = ("run_table", "wandb-run-incremental-table")
_GENERATED = ("job", "code", *_OF_TABLES)  # kinds of artifacts that W&B makes by itself
_MEDIA = "media/"  # where in a session's files W&B has what was logged
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_PATIENCE = 60.0


def own_key(joined: str | None) -> str:
    """Under which key of the config our own data are; in a run that the user opened, there may be those of several runs."""
    return OURS if joined is None else f"{OURS}_{joined}"


def shortened(text: str, limit: int) -> str:
    """`text` itself, or its beginning and a digest where W&B allows only so many characters."""
    if 0 < len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


# -- sessions ----------------------------------------------------------------------------------------------------------


def session_logs(folders: Iterable[Path], run_id: str) -> list[Path]:
    """The log files of a run's sessions, oldest first.

    Args:
        folders: Folders called ``wandb``; the files of a link among theirs are not the run's.
    """
    named = re.compile(rf"(?:offline-)?run-(\d{{8}}_\d{{6}})-{re.escape(run_id)}.*", re.DOTALL)
    found = []
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            log = path / f"run-{run_id}.wandb"
            if (matched := named.fullmatch(path.name)) and not path.is_symlink() and log.is_file():
                found.append((matched[1], path.name, log))
    return [log for *_, log in sorted(found)]


def folders_of(native: NativeRun) -> list[Path]:
    """Where the sessions of a run are."""
    return [Path(folder) for folder in native.data["dirs"]]


def holders(logs: Collection[Path]) -> list[psutil.Process]:
    """W&B's own processes that still have one of these log files open."""
    wanted = {os.path.realpath(log) for log in logs}
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "wandb-core":
            with contextlib.suppress(psutil.Error):
                if any(file.path in wanted for file in process.open_files()):
                    found.append(process)
    return found


def wait_until_final(logs: Collection[Path]) -> None:
    """Waits until nobody writes these log files: W&B's own process outlives a killed parent for a moment.

    Raises:
        TimeoutError: Somebody still does.
    """
    deadline = clock.monotonic() + _PATIENCE
    while writing := holders(logs):
        if clock.monotonic() > deadline:
            raise TimeoutError(f"another process of W&B, {writing[0].pid}, is still writing this run")
        clock.sleep(0.05)


class Log(RecordLog):
    """The file that W&B writes first, online or not."""

    def records(self) -> Iterator[Any]:
        internal = imported("wandb.proto.wandb_internal_pb2")
        for data in self.payloads():
            yield internal.Record.FromString(data)


def stored_runs(source: Path) -> dict[str, list[Path]]:
    """The runs whose log files are at or below a path: W&B's id → the logs of its sessions, oldest first."""
    logs = [source] if source.is_file() else sorted(source.rglob("run-*.wandb"), key=_begun)
    found: dict[str, list[Path]] = {}
    for log in logs:
        if matched := re.fullmatch(r"run-(.+)\.wandb", log.name, re.DOTALL):
            found.setdefault(matched[1], []).append(log)
    return found


def _begun(log: Path) -> str:
    return log.parent.name.removeprefix("offline-")  # then its time comes first


# -- values in the config ----------------------------------------------------------------------------------------------


def packed(value: Any) -> Any:
    """What `pack` gives, with a word for each empty dict: W&B's own process drops them when it writes the config anew."""
    return _with_word(pack(value))


def unpacked(value: Any) -> Any:
    """What `packed` was given."""
    return unpack(_without_word(value))


def _with_word(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_word(item) for key, item in value.items()} or dict(_EMPTY)
    return value


def _without_word(value: Any) -> Any:
    if isinstance(value, dict):
        return {} if value == _EMPTY else {key: _without_word(item) for key, item in value.items()}
    return value


# -- what they amount to -----------------------------------------------------------------------------------------------


class Fold:
    """Folds what W&B stored of a run, in one session or several, into a `RunRecord`.

    Args:
        joined: The id of our run, in a run that the user opened: what else is there is not ours.

    Attributes:
        own: What this reporter keeps in the config under its own key.
        config: W&B's config as it is, ours included.
        tags: W&B's own.
        run: The last session's description of the run, a message of W&B's protocol.
        descriptions: That of each session that has one.
        steps: W&B's own step, one more than the last.
        rows: How many rows of the history are ours.
        all_rows: Those, or in a run that runcast didn't write all there are, each with what reads its files.
        summary: W&B's own, likewise `artifacts`, of a run that runcast didn't write.
        exit_code: The last session's, if it was ended.
        folders: The sessions' folders with the files of theirs.
        saved: The files that the user saved beside, each with the folder that it is in by that name.
        tables: What the table itself in W&B's files leaves out: its media. By what W&B calls the table's artifact.
    """

    def __init__(self, joined: str | None = None) -> None:
        self.record = RunRecord()
        self.own: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.tags: list[str] = []
        self.run: Any = None
        self.descriptions: list[Any] = []
        self.steps = 0
        self.summary = Summary()
        self.artifacts: dict[str, ArtifactRecord] = {}
        self.exit_code: int | None = None
        self.folders: list[Path] = []
        self.saved: dict[str, Path] = {}
        self.tables: dict[str, Callable[[], dict[str, Content]]] = {}
        self._joined = joined
        self._versions: dict[str, float] = {}
        self.all_rows: list[tuple[dict[str, Any], Callable[[dict[str, Any]], Content]]] = []

    @property
    def rows(self) -> int:
        return len(self.all_rows)

    def add_config(self, values: Mapping[str, Any]) -> None:
        self.config |= {key: value for key, value in values.items() if key != "_wandb"}
        self.own = self.config.get(own_key(self._joined), {})

    def add_row(self, row: dict[str, Any], media: Callable[[dict[str, Any]], Content]) -> None:
        """Adds a row of the history; `media` gives the content of what a value of it points to."""
        self.steps = max(self.steps, int(row.get("_step", -1)) + 1)
        if self._joined is None or row.get(OWNER) == self._joined:
            self.all_rows.append((row, media))

    def add_artifact(
        self, name: str, kind: str, metadata: Mapping[str, Any], files: Callable[[], dict[str, Content]]
    ) -> None:
        own = metadata.get(OURS)
        if own is None and self._joined is None and name and kind not in _GENERATED:
            self.artifacts[name] = ArtifactRecord(name, kind, files(), None, dict(metadata))
        if own is None or own.get("run") != self._joined:  # W&B's own, for a table; or not ours
            return
        free = {unescape(key, MARK): unpack(value) for key, value in metadata.items() if key != OURS}
        if own["time"] >= self._versions.get(own["name"], 0.0):
            self._versions[own["name"]] = own["time"]
            self.record.artifacts[own["name"]] = ArtifactRecord(own["name"], kind, files(), own["step"], free)

    def finished(self) -> RunRecord:
        record, own = self.record, self.own
        record.run_id, record.name, record.project = (own.get(key, "") for key in ("run_id", "name", "project"))
        record.group, record.status = own.get("group"), own.get("status", "running")
        record.started, record.finished = own.get("started"), own.get("finished")
        record.config = self.settings()
        record.summary = {key: unpacked(value) for key, value in own.get("summary", {}).items()}
        record.tags = tuple(sorted(tag for tag in own.get("tags", ()) if shortened(tag, 64) in self.tags))
        for row, media in self.all_rows:
            for column, value in row.items():
                if column != STEP and not column.startswith("_") and STEP in row:
                    key = row.get(NAME) or unescape(column, MARK)
                    try:
                        self._add_value(key, value, int(row[STEP]), row["_timestamp"], media)
                    except (OSError, ValueError) as error:
                        logger.warning("%r at step %s is left out: %s", key, row[STEP], error)
        return record

    def settings(self) -> dict[str, Any]:
        """Our config: W&B's, but for a run that isn't ours alone as we noted it."""
        if self._joined is not None:
            return {key: unpacked(value) for key, value in self.own.get("config", {}).items()}
        return {unescape(key, MARK): unpacked(value) for key, value in self.config.items() if key != OURS}

    def _add_value(
        self, key: str, value: Any, step: int, time: float, media: Callable[[dict[str, Any]], Content]
    ) -> None:
        record = self.record
        kind = value.get("_type", "") if isinstance(value, dict) else type(value).__name__
        if kind == "image-file":
            record.images.setdefault(key, []).append(ImagePoint(step, media(value), time))
        elif kind == "table-file":
            table = json.loads(media(value).read())
            rows = tuple(tuple(unpack(cell) for cell in row) for row in table["data"])
            record.tables.setdefault(key, []).append(TablePoint(step, tuple(table["columns"]), rows, time))
        elif kind == "histogram":
            counts, edges = (tuple(map(float, value[part])) for part in ("values", "bins"))
            record.histograms.setdefault(key, []).append(HistogramPoint(step, counts, edges, time))
        elif kind == "str":
            record.texts.setdefault(key, []).append(TextPoint(step, value, time))
        else:
            record.metrics.setdefault(key, []).append(Point(step, float(value), time))


def fold_of(native: NativeRun) -> Fold:
    """What W&B has of a run."""
    fold = Fold(native.data.get("joined"))
    if native.data.get("mode") == "online":
        _add_from_server(fold, native)
    else:
        logs = [Path(log) for log in native.data.get("logs", ())]
        for log in logs or session_logs(folders_of(native), native.id):
            add_session(fold, log)
    return fold


def add_session(fold: Fold, log: Path) -> None:
    """Adds what the log of a session has."""
    fold.run, fold.exit_code, before = None, None, fold.run
    fold.folders.append(log.parent / "files")
    for record in Log(log).records():
        _add_record(fold, record, fold.folders[-1])
    if fold.run is None:
        fold.run = before
    else:
        fold.descriptions.append(fold.run)


def owner_of(log: Path) -> str | None:
    """The id of our run that a session is of."""
    fold = Fold()
    for record in Log(log).records():
        if record.HasField("run") or record.HasField("config"):
            fold.add_config(nested((record.run.config if record.HasField("run") else record.config).update))
    return fold.own.get("run_id")


def _add_record(fold: Fold, record: Any, folder: Path) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        fold.run, fold.tags = record.run, list(record.run.tags)
    if kind in ("run", "config"):
        config = record.run.config if kind == "run" else record.config
        fold.add_config(nested(config.update))
    elif kind == "history":
        row = nested(record.history.item)
        fold.add_row(row, lambda value: Content.of_file(inside(folder, value["path"])))
    elif kind == "summary":
        fold.summary.add(record.summary)
    elif kind == "exit":
        fold.exit_code = record.exit.exit_code
    elif kind == "files":
        for file in record.files.files:
            if not _is_of_wandb(file):
                fold.saved[file.path] = folder
    elif kind == "artifact":
        artifact, manifest = record.artifact, record.artifact.manifest
        metadata = json.loads(artifact.metadata or "{}")
        if artifact.description:
            metadata.setdefault("description", artifact.description)
        fold.add_artifact(artifact.name, artifact.type, metadata, lambda: _local_files(manifest))
        if artifact.type in _OF_TABLES and (len(manifest.contents) > 1 or manifest.manifest_file_path):
            fold.tables[artifact.client_id] = lambda: _local_files(manifest)


def _is_of_wandb(file: Any) -> bool:
    """Whether W&B wrote a file by itself: its own, or a medium's, for which it gives no policy."""
    return bool(file.type != file.OTHER or (file.path.startswith(_MEDIA) and file.policy == file.NOW))


def _local_files(manifest: Any) -> dict[str, Content]:
    entries = {entry.path: entry.local_path for entry in manifest.contents}
    if manifest.manifest_file_path:  # a long one has a file of its own
        try:
            with gzip.open(manifest.manifest_file_path, "rt", encoding="utf-8") as lines:
                entries = {entry["path"]: entry.get("local_path", "") for entry in map(json.loads, lines)}
        except (OSError, EOFError, ValueError) as error:
            logger.warning("the files of an artifact are left out, W&B's list of them can't be read: %s", error)
    there, gone = {}, []
    for path, local in entries.items():
        try:
            if not Path(local).is_file():
                raise FileNotFoundError(local)
            there[path] = Content.of_file(Path(local))
        except OSError:
            gone.append(path)
    if gone:  # before wandb 0.20, some were in a temporary folder
        logger.warning(
            "files of an artifact are gone from where W&B had them, and left out: %s", ", ".join(sorted(gone))
        )
    return there


# -- from the server ---------------------------------------------------------------------------------------------------


def _add_from_server(fold: Fold, native: NativeRun) -> None:
    """Through W&B's public API."""
    run = imported("wandb").Api().run(native.data["path"])
    cache = Path(_read_back().name)
    fold.add_config(run.config)
    fold.tags = list(run.tags)
    for stored in run.scan_history():
        # The server has no JSON number for what isn't finite.
        row = {column: float(value) if value in _NOT_FINITE else value for column, value in stored.items()}
        fold.add_row(row, lambda value: _downloaded(run, value["path"], cache))
    for artifact in run.logged_artifacts():
        root = inside(cache, str(artifact.id))
        fold.add_artifact(
            artifact.name, artifact.type, artifact.metadata, functools.partial(_downloaded_files, artifact, root)
        )


@functools.cache
def _read_back() -> tempfile.TemporaryDirectory[str]:
    """Where downloads are until this process ends."""
    return tempfile.TemporaryDirectory(prefix="runcast-wandb-")


def _downloaded(run: Any, path: str, cache: Path) -> Content:
    run.file(path).download(root=str(cache), replace=True)
    return Content.of_file(inside(cache, path))


def _downloaded_files(artifact: Any, root: Path) -> dict[str, Content]:
    artifact.download(root=str(root))
    return {path: Content.of_file(inside(root, path)) for path in artifact.manifest.entries}
