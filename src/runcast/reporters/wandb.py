"""Weights & Biases, online where it is configured, else in its offline mode.

One row of W&B's history an event: `global_step` is our step, and the x-axis of every chart; `_timestamp` is when it was
logged. W&B's own step only counts rows, because it drops rows of earlier steps. What W&B has no exact place for
(the run's identity, its status in our words, the summary) is in the config, under `runcast`.
"""

from __future__ import annotations

import configparser
import contextlib
import functools
import gzip
import hashlib
import json
import netrc
import os
import re
import shlex
import struct
import sys
import time as clock
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from runcast.events import RunStatus, pack, unpack
from runcast.flatten import escape, unescape
from runcast.media import slug
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
    merge,
)
from runcast.reporter import (
    Availability,
    LocalArtifact,
    NativeRun,
    Reporter,
    Requirement,
    RunInfo,
    offline,
    online,
    setting,
)

_STEP = "global_step"
_NAME = "_name"  # in a row whose column had to be called otherwise
_OURS = "runcast"
_MARK = "~"
# The one character that makes a name W&B's or ours: the first of `global_step`, a leading `_`.
_COLUMN = r"\A_|\Ag(?=lobal_step\Z)"
# Likewise in the config, where W&B also strips hyphens.
_SETTING = r"\A-|-\Z|\A_(?=wandb\Z)|\Ar(?=uncast\Z)"
_PROJECT = r"[/\\#?%:]"
_REFUSAL = re.compile(r"permission|denied|unauthori[sz]ed|forbidden|not found|\b40[0134]\b", re.IGNORECASE)
_EXIT_CODES = {"completed": 0, "failed": 1, "killed": 143, "crashed": 137}
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_FLUSH_INTERVAL = 0.05
_FLUSH_TIMEOUT = 30.0

Environment: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]


class WandbReporter(Reporter):
    """Logs to Weights & Biases; offline, to ``<run folder>/wandb``, from where ``wandb sync`` uploads.

    Args:
        project: Default: ``$WANDB_PROJECT``, else the run's project.
        entity: Whose project it is. Default: ``$WANDB_ENTITY``, else the account's own.
        mode: ``online`` or ``offline``. Default: ``$WANDB_MODE``, else online where an API key is found.
    """

    name: ClassVar[str] = "wandb"
    requires: ClassVar[Requirement] = Requirement("wandb", "wandb", "0.19.10", "0.31.0", "wandb")

    def __init__(self, project: str | None = None, entity: str | None = None, mode: str | None = None) -> None:
        if mode not in (None, "online", "offline"):
            raise ValueError(f"mode is 'online' or 'offline', not {mode!r}")
        self._project = project
        self._entity = entity
        self._mode = mode
        self._gone = False

    @classmethod
    def availability(cls) -> Availability:
        found = super().availability()
        mode = _mode(None)
        if mode == "disabled":
            return replace(found, status="inactive", reason="switched off by $WANDB_MODE or $WANDB_DISABLED")
        if mode == "offline":
            how = "unset $WANDB_MODE" if os.environ.get("WANDB_MODE") else "wandb login, or set $WANDB_API_KEY"
            return offline(found, f"offline, to go online: {how}")
        return online(found)

    # -- writing ---------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        mode = attach.data["mode"] if attach else _mode(self._mode)
        if mode == "disabled":
            raise ValueError("W&B is switched off: unset WANDB_MODE and WANDB_DISABLED")
        if mode == "online" and not _configured():
            raise ValueError("W&B is to run online, but has no API key: `wandb login`, or set WANDB_API_KEY")
        self._environment = _environment(run.dir)
        root = Path(attach.data["dir"]) if attach else Path(setting(None, "WANDB_DIR", str(run.dir))).absolute()
        root.mkdir(parents=True, exist_ok=True)
        stored = _fold(attach) if attach else _Fold()
        self._own = stored.own or {
            "run_id": run.run_id,
            "name": run.name,
            "project": run.project,
            "group": run.group,
            "started": run.started,
        }
        self._config = stored.record.config
        run_id = attach.id if attach else os.environ.get("WANDB_RUN_ID") or run.run_id
        with _unhooked(self._environment):
            import wandb

            self._wandb: Any = wandb
            _wait_for_a_new_second(root, run_id)
            self._live: Any = self._wandb.init(
                mode=mode,
                dir=str(root),
                id=run_id,
                resume="allow" if mode == "online" else None,
                name=_display_name(run),
                project=_shortened(escape(setting(self._project, "WANDB_PROJECT", run.project), _PROJECT, _MARK), 128),
                entity=self._entity,
                group=run.group,
                reinit="create_new",
                settings=wandb.Settings(**_settings(wandb)),
            )
            self._gone = False
            self._run.define_metric(_STEP, hidden=True)
            self._run.define_metric("*", step_metric=_STEP, step_sync=False)
        self._log = _Log(Path(self._run.settings.sync_file))
        # A further offline file goes on where the last one ended, so that `wandb sync` can put them together.
        self._first = max(stored.rows, self._run.step) if attach else None
        self._sent = self._seen = 0
        self._revision = self._stored_revision = 0
        self._put(status="running", finished=None)
        where = self._run.url if mode == "online" else f"wandb sync {shlex.quote(str(root / 'wandb'))}/*run-*-{run_id}"
        data = {"dir": str(root), "mode": mode, "path": "/".join(self._run.path) if mode == "online" else None}
        self._opened = run, NativeRun(run_id, where, data)
        return self._opened[1]

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self._row({escape(name, _COLUMN, _MARK): value for name, value in metrics.items()}, step, time)

    def log_config(self, config: Mapping[str, Any]) -> None:
        native = self._run.config
        self._config = merge(self._config, dict(config))
        native.update({escape(key, _SETTING, _MARK): pack(self._config[key]) for key in config}, allow_val_change=True)
        self._put()

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._row({escape(key, _COLUMN, _MARK): text}, step, time)

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        with self._environment():
            self._media_row(key, self._wandb.Image(str(image)), step, time)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        with self._environment(), _room_for(len(rows), self._wandb.Table):
            cells = [[pack(cell) for cell in row] for row in rows]
            table = self._wandb.Table(columns=list(columns), data=cells, allow_mixed_types=True)
            self._media_row(key, table, step, time)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        histogram = self._wandb.Histogram(np_histogram=(list(counts), list(edges)))
        self._row({escape(key, _COLUMN, _MARK): histogram}, step, time)

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        described = {escape(key, _SETTING, _MARK): pack(value) for key, value in artifact.metadata.items()}
        described[_OURS] = {"name": artifact.name, "kind": artifact.kind, "step": step, "time": time}
        with self._environment():
            native = self._wandb.Artifact(_file_name(artifact.name, ""), type=artifact.kind, metadata=described)
            for file in artifact.files:
                # It lies in the run folder, where nobody changes it: no second copy.
                path = str(artifact.file_path(file).absolute())
                native.add_file(path, name=file.path, policy="immutable", skip_cache=True)
            self._run.log_artifact(native)
        self._put()

    def set_summary(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._run.summary[escape(key, _COLUMN, _MARK)] = pack(value)
        self._put(summary={**self._own.get("summary", {}), **{key: pack(value) for key, value in values.items()}})

    def add_tags(self, tags: Sequence[str]) -> None:
        known = dict.fromkeys((*(self._run.tags or ()), *(_shortened(tag, 64) for tag in tags)))
        self._run.tags = tuple(known)
        self._put(tags=list(dict.fromkeys((*self._own.get("tags", ()), *tags))))

    def flush(self) -> None:
        """Waits until W&B's own process has everything in its file on disk; what it uploads, it uploads from there."""
        if self._gone:
            raise ConnectionError("W&B's own process ended; what it had not written comes again")
        if "x_transaction_log_flush_interval" not in type(self._live.settings).model_fields:
            return  # before wandb 0.31 that took up to 15 s, and nothing can hasten it
        deadline = clock.monotonic() + _FLUSH_TIMEOUT
        while True:
            for record in self._log.records():
                self._seen += record.HasField("history")
                self._stored_revision = max(self._stored_revision, _revision(record))
            if self._seen >= self._sent and self._stored_revision >= self._revision:
                return
            if clock.monotonic() > deadline:
                raise TimeoutError(f"W&B has written {self._seen} of {self._sent} rows after {_FLUSH_TIMEOUT} s")
            clock.sleep(_FLUSH_INTERVAL / 5)

    def close(self, status: RunStatus) -> None:
        with _unhooked(self._environment):
            self._put(status=status, finished=clock.time())
            self._run.finish(exit_code=_EXIT_CODES[status])

    def is_transient(self, error: Exception) -> bool | float:
        kind = type(error).__name__
        if isinstance(error, ConnectionError) or kind == "MailboxClosedError":
            self._gone = True  # W&B's own process on this machine, and not its server
            return True
        if kind == "CommError":
            return not _REFUSAL.search(str(error))
        return super().is_transient(error)

    @property
    def _run(self) -> Any:
        """W&B's run; opened again if W&B's own process ended, in a further file."""
        if self._gone:
            with _unhooked(self._environment), contextlib.suppress(Exception):  # it says that the process is gone
                self._wandb.teardown()
            self.open(*self._opened)
        return self._live

    def _row(self, values: Mapping[str, Any], step: int, time: float) -> None:
        self._run.log({**values, _STEP: step, "_timestamp": time}, step=self._first, commit=True)
        self._first = None
        self._sent += 1

    def _put(self, **values: Any) -> None:
        """Writes what is ours; the revision tells `flush` that everything up to here is on disk."""
        native = self._run.config
        self._revision += 1
        self._own = {**self._own, **values, "revision": self._revision}
        native.update({_OURS: self._own}, allow_val_change=True)

    def _media_row(self, key: str, value: Any, step: int, time: float) -> None:
        """A row with something that becomes a file, which is named after its column."""
        column = escape(_file_name(key), _COLUMN, _MARK)
        self._row({column: value, **({} if column == key else {_NAME: key})}, step, time)

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        return _fold(native).finished()


# -- what decides between online and offline -------------------------------------------------------------------------


def _mode(option: str | None) -> str:
    """``online``, ``offline`` or ``disabled``, as W&B itself would decide, but that it never asks for a key."""
    switched_off = os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on")
    asked = option or (switched_off and "disabled") or os.environ.get("WANDB_MODE") or _from_settings("mode")
    if asked == "disabled":
        return "disabled"
    if asked in ("offline", "dryrun"):
        return "offline"
    if asked in ("online", "run", "shared"):
        return "online"
    return "online" if _configured() else "offline"


def _configured() -> bool:
    """Whether W&B would find a key, told without importing it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    url = os.environ.get("WANDB_BASE_URL") or _from_settings("base_url")
    # Without a URL: the default of wandb 0.31, and the one before.
    hosts = [url.split("://")[-1].split("/")[0].split(":")[0]] if url else ["api.forge.coreweave.com", "api.wandb.ai"]
    given = os.environ.get("NETRC")
    for path in [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            return any(host in netrc.netrc(path).hosts for host in hosts)
    return False


def _from_settings(name: str) -> str | None:
    """A setting from W&B's settings files: that of the folder, else that of the user."""
    user = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
    folder = os.environ.get("WANDB_DIR") or "."
    parser = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        parser.read([Path(user) / "settings", Path(folder) / "wandb" / "settings"])
    return parser.get("default", name, fallback=None)


# -- starting without side effects -----------------------------------------------------------------------------------


def _settings(wandb: Any) -> dict[str, Any]:
    """Everything off that W&B would gather by itself, as far as the installed version knows the switch."""
    wanted = {
        "console": "off",
        "silent": True,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "save_code": False,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
        "x_transaction_log_flush_interval": _FLUSH_INTERVAL,
    }
    return {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}


def _environment(run_dir: Path) -> Environment:
    """For W&B's calls: its caches and staging areas in the run folder unless the user says where; no telemetry."""
    folder = run_dir / "wandb"
    wanted = {
        "WANDB_ARTIFACT_DIR": str(folder / "artifacts"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }

    @contextlib.contextmanager
    def environment() -> Iterator[None]:
        before = {name: os.environ.get(name) for name in (*wanted, "WANDB_SERVICE")}
        os.environ.update({name: value for name, value in wanted.items() if not before[name]})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    return environment


@contextlib.contextmanager
def _unhooked(environment: Environment = contextlib.nullcontext) -> Iterator[None]:
    """Undoes what W&B's import and start do to the process: its ways out, its output, its environment."""
    leave, hook = sys.exit, sys.excepthook
    streams = [
        (stream, vars(stream).get("write")) for stream in (sys.stdout, sys.stderr) if hasattr(stream, "__dict__")
    ]
    try:
        with environment():
            yield
    finally:
        sys.exit, sys.excepthook = leave, hook
        for stream, write in streams:
            if write is not None:
                stream.write = write  # type: ignore[method-assign]  # W&B assigned it first
            else:
                vars(stream).pop("write", None)


def _wait_for_a_new_second(root: Path, run_id: str) -> None:
    """W&B names a run's folder by the second: a restart within one would write over its forerunner."""
    while list((root / "wandb").glob(f"*run-{clock.strftime('%Y%m%d_%H%M%S')}-{run_id}")):
        clock.sleep(0.05)


@contextlib.contextmanager
def _room_for(rows: int, table: Any) -> Iterator[None]:
    """W&B cuts tables at a limit, which is there to be raised."""
    limits = table.MAX_ROWS, table.MAX_ARTIFACT_ROWS
    table.MAX_ROWS, table.MAX_ARTIFACT_ROWS = (max(limit, rows) for limit in limits)
    try:
        yield
    finally:
        table.MAX_ROWS, table.MAX_ARTIFACT_ROWS = limits


# -- names -----------------------------------------------------------------------------------------------------------


def _display_name(run: RunInfo) -> str:
    named = run.name if run.name != run.run_id else setting(None, "WANDB_NAME", run.name)
    return _shortened(named, 128)


def _shortened(text: str, limit: int) -> str:
    """`text` itself, or its beginning and a digest where W&B allows only so many characters."""
    if 0 < len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _file_name(name: str, separator: str = "/") -> str:
    """A path of at most 100 characters, all of them safe in files; another name, another result."""
    if re.fullmatch(rf"\w[\w.{separator}-]{{0,99}}", name, re.ASCII) and "//" not in name:
        return name
    return f"{slug(name)}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


# -- reading ---------------------------------------------------------------------------------------------------------


class _Log:
    """The file that W&B writes first, online or not: LevelDB's record log, but with plain CRC-32 checksums.

    It may be read while W&B writes it: `records` gives what has become complete since the last call.
    """

    _BLOCK = 32768

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 7  # behind the file's header
        self._begun = b""

    def records(self) -> Iterator[Any]:
        with _unhooked():
            from wandb.proto import wandb_internal_pb2
        internal: Any = wandb_internal_pb2
        for data in self._payloads():
            yield internal.Record.FromString(data)

    def _payloads(self) -> Iterator[bytes]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            while True:
                room = self._BLOCK - self._position % self._BLOCK
                if room < 7:  # padding
                    self._position += room
                    continue
                file.seek(self._position)
                header = file.read(7)
                if len(header) < 7:
                    return
                checksum, size, kind = struct.unpack("<IHB", header)
                if checksum == size == kind == 0:
                    if not self._block_is_over(file):
                        return
                    self._position += room
                    continue
                data = file.read(size)
                if len(data) < size or zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
                    return
                self._position += 7 + size
                self._begun = data if kind in (1, 2) else self._begun + data
                if kind in (1, 4):  # whole, or the last piece
                    yield self._begun

    def _block_is_over(self, file: Any) -> bool:
        """Whether zeros are padding, and not a part of the file that is still to be written."""
        end = self._position - self._position % self._BLOCK + self._BLOCK
        return bool(file.seek(0, os.SEEK_END) > end)


class _Fold:
    """Folds what W&B stored of a run, in one file or several, into a `RunRecord`.

    Attributes:
        own: What this reporter keeps under `runcast` in the config.
        rows: W&B's own step, one more than the last.
    """

    def __init__(self) -> None:
        self.record = RunRecord()
        self.own: dict[str, Any] = {}
        self.rows = 0
        self._tags: set[str] = set()
        self._versions: dict[str, float] = {}
        self._rows: list[tuple[dict[str, Any], Callable[[dict[str, Any]], Content]]] = []

    def add_config(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if key == _OURS:
                self.own = value
            elif key != "_wandb":
                self.record.config[unescape(key, _MARK)] = unpack(value)

    def add_tags(self, tags: Iterable[str]) -> None:
        self._tags = set(tags)

    def add_row(self, row: dict[str, Any], media: Callable[[dict[str, Any]], Content]) -> None:
        """Adds a row of the history; `media` gives the content of what a value of it points to."""
        self._rows.append((row, media))
        self.rows = max(self.rows, int(row.get("_step", -1)) + 1)

    def add_artifact(self, kind: str, metadata: Mapping[str, Any], files: Callable[[], dict[str, Content]]) -> None:
        own = metadata.get(_OURS)
        if own is None:  # W&B's own, for a table
            return
        free = {unescape(key, _MARK): unpack(value) for key, value in metadata.items() if key != _OURS}
        if own["time"] >= self._versions.get(own["name"], 0.0):
            self._versions[own["name"]] = own["time"]
            self.record.artifacts[own["name"]] = ArtifactRecord(own["name"], kind, files(), own["step"], free)

    def finished(self) -> RunRecord:
        record, own = self.record, self.own
        record.run_id, record.name, record.project = (own.get(key, "") for key in ("run_id", "name", "project"))
        record.group, record.status = own.get("group"), own.get("status", "running")
        record.started, record.finished = own.get("started"), own.get("finished")
        record.summary = {key: unpack(value) for key, value in own.get("summary", {}).items()}
        record.tags = tuple(sorted(tag for tag in own.get("tags", ()) if _shortened(tag, 64) in self._tags))
        seen: set[tuple[str, str, int, float]] = set()
        for row, media in self._rows:
            for column, value in row.items():
                if column != _STEP and not column.startswith("_") and _STEP in row:
                    key = row.get(_NAME) or unescape(column, _MARK)
                    self._add_value(key, value, int(row[_STEP]), row["_timestamp"], media, seen)
        return record

    def _add_value(
        self,
        key: str,
        value: Any,
        step: int,
        time: float,
        media: Callable[[dict[str, Any]], Content],
        seen: set[tuple[str, str, int, float]],
    ) -> None:
        record = self.record
        kind = value.get("_type", "") if isinstance(value, dict) else type(value).__name__
        mark = (kind, key, step, time)
        if mark in seen:  # a courier that was started again may have written it before
            return
        seen.add(mark)
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


def _fold(native: NativeRun) -> _Fold:
    return _fold_server(native) if native.data.get("mode") == "online" else _fold_files(native)


def _fold_files(native: NativeRun) -> _Fold:
    """From the files of the offline mode: one folder each time that the run was opened."""
    fold = _Fold()
    paths = Path(native.data["dir"], "wandb").glob(f"*run-*-{native.id}*/run-{native.id}.wandb")
    for path in sorted(paths, key=lambda path: path.parent.name):
        folder = path.parent / "files"
        for record in _Log(path).records():
            _fold_record(fold, record, folder)
    return fold


def _fold_record(fold: _Fold, record: Any, folder: Path) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        fold.add_tags(record.run.tags)
    if kind in ("run", "config"):
        config = record.run.config if kind == "run" else record.config
        fold.add_config(_nested(config.update))
    elif kind == "history":
        fold.add_row(_nested(record.history.item), lambda value: Content.of_file(inside(folder, value["path"])))
    elif kind == "artifact":
        metadata = json.loads(record.artifact.metadata or "{}")
        fold.add_artifact(record.artifact.type, metadata, lambda: _local_files(record.artifact.manifest))


def _nested(items: Iterable[Any]) -> dict[str, Any]:
    """Values as they were logged: W&B takes the dict of an image, say, apart."""
    values: dict[str, Any] = {}
    for item in items:
        *parents, last = item.nested_key or [item.key]
        level = values
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = json.loads(item.value_json)
    return values


def _local_files(manifest: Any) -> dict[str, Content]:
    entries = {entry.path: entry.local_path for entry in manifest.contents}
    if manifest.manifest_file_path:  # a long one has a file of its own
        with gzip.open(manifest.manifest_file_path, "rt", encoding="utf-8") as lines:
            entries = {entry["path"]: entry["local_path"] for entry in map(json.loads, lines)}
    return {path: Content.of_file(Path(local)) for path, local in entries.items()}


def _revision(record: Any) -> int:
    for item in record.config.update:
        if item.key == _OURS:
            return int(json.loads(item.value_json).get("revision", 0))
    return 0


def _fold_server(native: NativeRun) -> _Fold:
    """From W&B's server, through its public API."""
    with _unhooked():
        import wandb

    fold = _Fold()
    run = wandb.Api().run(native.data["path"])
    cache = Path(native.data["dir"], "wandb", "read-back")
    fold.add_config(run.config)
    fold.add_tags(run.tags)
    for stored in run.scan_history():
        # The server has no JSON number for what isn't finite.
        row = {column: float(value) if value in _NOT_FINITE else value for column, value in stored.items()}
        fold.add_row(row, lambda value: _downloaded(run, value["path"], cache))
    for artifact in run.logged_artifacts():
        root = cache / str(artifact.id)
        fold.add_artifact(artifact.type, artifact.metadata, functools.partial(_downloaded_files, artifact, root))
    return fold


def _downloaded(run: Any, path: str, cache: Path) -> Content:
    run.file(path).download(root=str(cache), replace=True)
    return Content.of_file(inside(cache, path))


def _downloaded_files(artifact: Any, root: Path) -> dict[str, Content]:
    artifact.download(root=str(root))
    return {path: Content.of_file(inside(root, path)) for path in artifact.manifest.entries}
