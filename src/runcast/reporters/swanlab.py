"""SwanLab, online where an API key is configured, else in its offline mode.

A run is one folder of SwanLab's, ``run-<time>-<id>``, which ``swanlab sync`` uploads:

    scalars             metrics, with our step and wall time
    text, image         texts and PNG files as they are
    echarts             tables, and histograms as bar charts; the exact values beside them, which the page ignores
    config.yaml         the config, and under ``runcast`` what SwanLab has no exact place for: the run's identity and status,
                        its tags, summary, artifacts
    files/artifacts/    artifacts, linked or copied, and saved as ``swanlab.save`` does it

What is told to SwanLab goes to its core, as its own `Run` does it, but without `Run`, which takes over the process's signals
and exceptions and hands everything to a thread that drops what it can't store. SwanLab keeps the first value of a key at
a step; a further one goes to a key beside it, ``loss (2)``.

A run that goes on does so in the same folder: SwanLab never appends to a log, and uploads of a second one nothing but steps
that are new. So the log is put aside and told to SwanLab's core once more, without its end and whatever a crash has torn.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import shlex
import shutil
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from runcast.errors import SessionLostError
from runcast.events import RunStatus, pack, unpack
from runcast.flatten import escape, to_text
from runcast.media import link_or_copy, slug
from runcast.record import RunRecord, inside, merge
from runcast.redact import redact_text
from runcast.reporter import (
    Availability,
    LocalArtifact,
    NativeRun,
    Reporter,
    Requirement,
    RunInfo,
    offline,
    online,
)
from runcast.reporters._record_log import RecordLog
from runcast.reporters._swanlab_record import (
    BEFORE,
    CONFIG,
    DATA,
    MARK,
    OURS,
    SPAN,
    imported,
    key_of,
    media_folder,
    messages,
    name_of,
    numbered,
    own_record,
    setting_key,
    settings_in,
)
from runcast.reporters._swanlab_settings import MODES, configured, has_key, mode_of
from runcast.reporters._swanlab_theirs import record_of, stored_runs
from runcast.reporters._versions import requirement
from runcast.trust import replace_file

_IN_PROJECT = r"[^0-9A-Za-z_.-]"
_IN_ID = r'[<>:"/\\|?*#%\x00-\x1f\x7f]'
_STATES = {"completed": "FINISHED", "failed": "CRASHED", "crashed": "CRASHED", "killed": "ABORTED"}
_UPLOADED = "uploaded"  # a file beside the log: how many of its messages the server has
_UPLOAD_TIMEOUT = 60.0
_TAGS = 30  # that SwanLab takes


class SwanLabReporter(Reporter):
    """Logs to SwanLab; offline, to ``<run folder>/swanlab``, from where ``swanlab sync`` uploads.

    Args:
        project: Default: ``$SWANLAB_PROJECT_NAME``, ``$SWANLAB_PROJ_NAME``, else the run's project.
        workspace: Whose project it is. Default: ``$SWANLAB_WORKSPACE``, else the account's own.
        mode: ``online`` or ``offline``. Default: ``$SWANLAB_MODE``, else online where an API key is found.
        log_dir: Where runs are kept. Default: ``$SWANLAB_LOG_DIR``, else ``swanlab`` in the run folder.
    """

    name: ClassVar[str] = "swanlab"
    requires: ClassVar[Requirement] = requirement("swanlab")

    def __init__(
        self,
        project: str | None = None,
        workspace: str | None = None,
        mode: str | None = None,
        log_dir: str | None = None,
    ) -> None:
        if mode not in (None, *MODES):
            raise ValueError(f"mode is 'online' or 'offline', not {mode!r}")
        self._project = project
        self._workspace = workspace
        self._mode = mode
        self._log_dir = log_dir
        self._core: Any = None  # SwanLab's, of this run
        self._ended = False
        self._config: dict[str, Any] = {}
        self._own: dict[str, Any] = {}  # what is ours in SwanLab's config

    @classmethod
    def availability(cls) -> Availability:
        found = super().availability()
        mode = mode_of(None)
        if mode == "disabled" and found.status == "ready":
            return replace(found, status="inactive", reason="switched off by $SWANLAB_MODE or `swanlab disabled`")
        if mode == "offline":
            told = configured("mode")
            how = "unset $SWANLAB_MODE, or `swanlab online`" if told else "`swanlab login`, or set $SWANLAB_API_KEY"
            return offline(found, f"offline, to go online: {how}")
        return online(found)

    # -- starting --------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        return self._start(run, mode_of(self._mode) if attach is None else attach.data["mode"], attach)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        """Offline, nobody has seen what is written anew. A server takes no point back."""
        if old.data["mode"] != "offline":
            return None
        return self._start(run, "offline", old, fresh=True)

    def _start(self, run: RunInfo, mode: str, attach: NativeRun | None, *, fresh: bool = False) -> NativeRun:
        if mode not in MODES:
            raise ValueError("SwanLab is switched off: unset SWANLAB_MODE, or `swanlab online`")
        if mode == "online" and not has_key():
            raise ValueError("SwanLab is to run online, but has no API key: `swanlab login`, or set SWANLAB_API_KEY")
        self._let_go()
        home = self._home(attach)
        self._folder = folder = _folder_for(run, home)
        self._online = mode == "online"
        self._read_what_is_there(run)
        if attach is None or fresh:
            shutil.rmtree(folder)
            self._config, self._own = {}, _identity(run)
        self._own |= {"status": "running", "finished": None}
        _make_folders(folder)
        self._write_config()
        log_aside = _put_aside(folder)
        settings = imported("sdk.internal.settings").Settings(mode="online", interactive=False)
        run_id = attach.id if attach is not None else settings.run.id or escape(run.run_id, _IN_ID, MARK)[:256]
        path = self._begin(run, run_id, settings)
        if log_aside is not None:
            self._tell_again(log_aside)
        self._send_config()
        self.flush()
        if log_aside is not None:
            log_aside.unlink()
        if self._online:
            where = redact_text(f"{settings.web_host}{imported('sdk.internal.pkg').helper.fmt_run_path(path)}")
        else:
            where = f"swanlab sync --id {shlex.quote(run_id)} {shlex.quote(str(folder))}"
        return NativeRun(run_id, where, {"dirs": [str(folder)], "home": home and str(home), "mode": mode})

    def _home(self, attach: NativeRun | None) -> Path | None:
        """The folder for the runs; None for a run whose files are in its run folder.

        Raises:
            ValueError: The run began in another. Only the user says where we write.
        """
        wanted = self._log_dir or configured("log_dir")
        now = Path(wanted).absolute() if wanted else None
        if attach is None:
            return now
        began = attach.data.get("home")
        if began is not None and began != str(now):
            raise ValueError(f"the run's files are below {began!r}; to go on there, say so: log_dir=, $SWANLAB_LOG_DIR")
        return now if began else None

    def _read_what_is_there(self, run: RunInfo) -> None:
        found = settings_in(self._folder)
        own = unpack(found.get(OURS))
        if found and (not isinstance(own, dict) or own.get("run_id") != run.run_id):
            raise ValueError(f"what is in {str(self._folder)!r} is not this run")
        self._own = own or _identity(run)
        self._config = {name_of(key): unpack(value) for key, value in found.items() if key != OURS}

    def _begin(self, run: RunInfo, run_id: str, settings: Any) -> str:
        """Has SwanLab's core begin a log; online, its path at the server is returned."""
        requests = imported("proto.swanlab.grpc.core.v1.core_pb2")
        data = imported("proto.swanlab.run.v1.run_pb2")
        project = self._project or settings.project.name or run.project
        project = escape(project, _IN_PROJECT, "+")
        start = data.StartRecord(
            project=project if len(project) <= 100 else f"{project[:83]}-{_digest(project)}",
            workspace=self._workspace or settings.project.workspace,
            public=settings.project.public,
            name=_within(run.name if run.name != run.run_id else settings.experiment.name or run.name),
            description=settings.experiment.description,
            color=settings.experiment.color,
            job_type=settings.experiment.job_type,
            group=_within(run.group or settings.experiment.group),
            tags=_tags((*settings.experiment.tags, *self._own["tags"])),
            id=run_id,
            resume="RESUME_MODE_ALLOW",
            started_at=_timestamp(run.started),
        )
        core_settings = settings.to_core_proto(run_id=run_id, run_dir=self._folder)
        if hasattr(core_settings, "skip_store"):
            core_settings.skip_store = False  # what isn't on disk can't be read back
        if self._online:
            login = imported("sdk.cmd.login").login_raw
            login(settings.api_key, relogin=True, host=settings.api_host, animation=False, print_welcome=False)
        self._core = imported("sdk.internal.core_python").CorePython("online" if self._online else "offline")
        answer = self._core.deliver_run_start(
            requests.DeliverRunStartRequest(start_record=start, core_settings=core_settings)
        )
        if not answer.success:
            if os.strerror(errno.ENOSPC) in answer.message:
                raise OSError(errno.ENOSPC, answer.message)
            raise RuntimeError(answer.message)
        (log,) = self._folder.glob("run-*.swanlab")
        log.chmod(0o600)
        self._log = RecordLog(log)
        self._sent = self._seen = 0
        self._ended = False
        self._next: dict[tuple[str, int], int] = {}
        self._types = imported("proto.swanlab.metric.column.v1.column_pb2").ColumnType
        self._data = imported("proto.swanlab.metric.data.v1.data_pb2")
        self._saves = imported("proto.swanlab.save.v1.save_pb2")
        return str(answer.path)

    def _tell_again(self, log: Path) -> None:
        """What was logged before, in the new log; of that, a server gets what it may not have."""
        for metric in self._core._metrics._metrics.values():
            metric.min_step = -1  # what the server has below it is in our log
        uploaded = _number_in(self._folder / _UPLOADED)
        if self._online:
            self._core._transport_put = len  # uploads nothing
        for message in messages(RecordLog(log)):
            if self._online and self._sent == uploaded:
                self._core.__dict__.pop("_transport_put", None)
            match message.WhichOneof("record_type"):
                case "scalar":
                    self._tell("scalars", [message.scalar])
                case "media":
                    self._tell("media", [message.media])
                case "save" if message.save.type == self._saves.SAVE_TYPE_CUSTOM:
                    self._tell("saves", [message.save])
        self._core.__dict__.pop("_transport_put", None)

    def _let_go(self) -> None:
        """Leaves a log that an earlier `open` has begun, without an end."""
        core, self._core = self._core, None
        if core is not None:
            with contextlib.suppress(Exception):
                core._store.close()
            with contextlib.suppress(Exception):  # only online there is one
                core._heartbeat.stop()

    # -- writing ---------------------------------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        kind, stamp = self._types.COLUMN_TYPE_SCALAR, _timestamp(time)
        scalars = []
        for name, value in metrics.items():
            key, low = self._place(name, step, kind)
            number = self._data.ScalarValue(number=value)
            scalars.append(self._data.ScalarRecord(key=key, step=low, type=kind, timestamp=stamp, value=number))
        self._tell("scalars", scalars)

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._config = merge(self._config, dict(config))
        self._changed = True

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._log_media("TEXT", "txt", text.encode(), key, step, time)

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        self._log_media("IMAGE", "png", image.read_bytes(), key, step, time)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        """As a table of SwanLab's charts (ECharts)."""
        shown = {
            "_swanLab": "table",
            "colDefs": [{"field": column} for column in columns],
            "rowData": [dict(zip(columns, map(_cell, row), strict=True)) for row in rows],
        }
        self._log_chart(shown, {"columns": list(columns), "rows": list(map(list, rows))}, key, step, time)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        """As a bar chart (ECharts)."""
        shown = {
            "tooltip": {},
            "xAxis": [{"type": "category", "data": [f"{a:.4g} … {b:.4g}" for a, b in itertools.pairwise(edges)]}],
            "yAxis": [{"type": "value"}],
            "series": [{"type": "bar", "barCategoryGap": "0%", "data": list(counts)}],
        }
        self._log_chart(shown, {"counts": list(counts), "edges": list(edges)}, key, step, time)

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        """As saved files, `artifacts/<name>`; the manifest is in the config, `runcast`."""
        version = f"artifacts/{slug(artifact.name)}-{_digest(f'{artifact.name} {time!r}')[:8]}"
        folder = inside(self._folder, f"files/{version}")
        saves = []
        for file in artifact.files:
            target = inside(folder, file.path)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # what a courier that died may have left half done
            link_or_copy(artifact.file_path(file), target, link=True)
            name, policy = f"{version}/{file.path}", self._saves.SAVE_POLICY_NOW
            saves.append(self._saves.SaveRecord(name=name, source_path=str(target), policy=policy))
        self._tell("saves", saves)
        self._own["artifacts"][artifact.name] = {
            "kind": artifact.kind,
            "step": step,
            "metadata": dict(artifact.metadata),
            "folder": f"files/{version}",
            "files": [file.path for file in artifact.files],
        }
        self._changed = True

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """In the config, `runcast/summary`."""
        self._own["summary"] |= values
        self._changed = True

    def add_tags(self, tags: Sequence[str]) -> None:
        """Those that the run starts with; all of them in the config, `runcast/tags`."""
        self._own["tags"] = list(dict.fromkeys((*self._own["tags"], *tags)))
        self._changed = True

    def flush(self) -> None:
        """Returns when SwanLab's log has everything, and is on disk; online, when it is uploaded too."""
        core = self._alive()
        if self._changed:
            self._write_config()
            if self._online:
                self._send_config()
        core._store.ensure_flushed()
        self._sync_log()
        if self._online:
            self._wait_for_upload()

    def close(self, status: RunStatus) -> None:
        if self._ended:
            return
        self._own |= {"status": status, "finished": clock.time()}
        self._changed = True
        self.flush()
        requests, data = imported("proto.swanlab.grpc.core.v1.core_pb2"), imported("proto.swanlab.run.v1.run_pb2")
        end = data.FinishRecord(
            state=f"RUN_STATE_{_STATES[status]}",
            error=None if status == "completed" else status,
            finished_at=_timestamp(self._own["finished"]),
        )
        for answer in (
            self._core.deliver_run_finish(requests.DeliverRunFinishRequest(finish_record=end)),
            self._core.confirm_run_finish(),
        ):
            if not answer.success:
                raise RuntimeError(answer.message)
        self._core, self._ended = None, True
        self._sync_log()

    def _place(self, name: str, step: int, kind: int) -> tuple[str, int]:
        """Where SwanLab takes a value of this name and kind: key and step."""
        key, exact = key_of(name)
        if not exact and key not in self._own["names"]:
            self._own["names"][key] = name
            self._write_config()  # before the log has the key
        high, low = divmod(step, SPAN)
        for number in itertools.count(self._next.get((key, step), 1)):
            numbered_key = numbered(key, number, high)
            metric = self._core._metrics.get(numbered_key)
            if metric is None:
                break
            fits = metric.column_type in (kind, self._types.COLUMN_TYPE_UNSPECIFIED)
            if fits and low > metric.min_step and low not in metric.steps:
                break
        if number > 1:
            self._next[key, step] = number
        return numbered_key, low

    def _log_media(self, kind: str, suffix: str, content: bytes, name: str, step: int, time: float) -> None:
        column = self._types.Value(f"COLUMN_TYPE_{kind}")
        key, low = self._place(name, step, column)
        digest = hashlib.sha256(content).hexdigest()
        path = self._folder / "media" / media_folder(column) / f"{low:03d}-{digest[:16]}.{suffix}"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, content)
        item = self._data.MediaItem(filename=path.name, sha256=digest, size=len(content))
        value, stamp = self._data.MediaValue(items=[item]), _timestamp(time)
        self._tell("media", [self._data.MediaRecord(key=key, step=low, type=column, timestamp=stamp, value=value)])

    def _log_chart(self, shown: Mapping[str, Any], exact: Any, key: str, step: int, time: float) -> None:
        content = json.dumps({**shown, OURS: pack(exact)}, ensure_ascii=False).encode()
        self._log_media("ECHARTS", "json", content, key, step, time)

    def _tell(self, what: str, records: Sequence[Any]) -> None:
        """Tells SwanLab's core, which says of no failure but in its own log: `flush` looks what has arrived."""
        getattr(self._alive(), f"upsert_{what}")(records)
        self._sent += len(records)

    def _alive(self) -> Any:
        if self._core is None:
            raise SessionLostError("the run has been ended in SwanLab")
        return self._core

    def _write_config(self) -> None:
        """SwanLab's config file, in one piece: SwanLab itself would write over it."""
        yaml = import_module("yaml")
        values = {**{setting_key(name): pack(value) for name, value in self._config.items()}, OURS: pack(self._own)}
        content = {key: {"value": value, "desc": "", "sort": sort} for sort, (key, value) in enumerate(values.items())}
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        # In ASCII: YAML takes some characters for the ends of lines.
        replace_file(self._folder / CONFIG, yaml.dump(content, Dumper=dumper, sort_keys=False).encode())
        self._changed = False

    def _send_config(self) -> None:
        path, kind = str(self._folder / CONFIG), self._saves.SAVE_TYPE_CONFIG
        self._core.upsert_saves([self._saves.SaveRecord(name="config", source_path=path, type=kind)])

    def _sync_log(self) -> None:
        """Puts the log on disk, and sees to it that it has what SwanLab was told.

        Raises:
            SessionLostError: SwanLab could not write something.
        """
        with self._log.path.open("rb") as file:
            os.fsync(file.fileno())
        self._seen += sum(_is_data(message) for message in messages(self._log))
        if self._seen < self._sent:
            raise SessionLostError(f"SwanLab's log has {self._seen} of {self._sent} values")

    def _wait_for_upload(self) -> None:
        deadline = clock.monotonic() + _UPLOAD_TIMEOUT
        while (stats := self._core.get_operation_stats().stats).uploaded_records < stats.total_records:
            if clock.monotonic() > deadline:
                left = stats.total_records - stats.uploaded_records
                raise TimeoutError(f"SwanLab has {left} records yet to upload")
            clock.sleep(0.05)
        replace_file(self._folder / _UPLOADED, str(self._sent).encode())

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        folders = [Path(folder) for folder in native.data["dirs"]]
        return own_record(folders[-1]) if OURS in settings_in(folders[-1]) else record_of(folders)

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """The runs whose logs (``*.swanlab``) are at or below a path; SwanLab begins a folder each time a run goes on."""
        found = stored_runs(Path(source).absolute())
        if not found:
            raise LookupError(f"no *.swanlab in {source!r}; expected such a file, a run's folder or a folder of runs")
        return [NativeRun(run_id, data={"dirs": list(map(str, folders))}) for run_id, folders in found.items()]


# -- a run's folder ----------------------------------------------------------------------------------------------------


def _folder_for(run: RunInfo, home: Path | None) -> Path:
    """SwanLab's folder of a run.

    Raises:
        ValueError: A link leads elsewhere.
    """
    parent = run.dir / "swanlab" if home is None else home
    folder = parent / f"run-{clock.strftime('%Y%m%d_%H%M%S', clock.gmtime(run.started))}-{slug(run.run_id)}"
    for path in (folder,) if home else (parent, folder):
        if path.is_symlink():
            raise ValueError(f"{path} is a link: SwanLab's files are not written through links")
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _make_folders(folder: Path) -> None:
    for path in (folder, folder / "files", folder / "media"):
        path.mkdir(mode=0o700, exist_ok=True)


def _put_aside(folder: Path) -> Path | None:
    """The log so far, under another name; what a crash left of the one that was to take its place is removed."""
    logs = sorted(folder.glob("run-*.swanlab"))
    aside = next(folder.glob(f"run-*.swanlab{BEFORE}"), None)
    if aside is not None:
        for log in logs:
            log.unlink()
    elif logs:
        aside = logs[0].rename(f"{logs[0]}{BEFORE}")
    return aside


def _number_in(path: Path) -> int:
    return int(path.read_text()) if path.exists() else 0


# -- values ------------------------------------------------------------------------------------------------------------


def _identity(run: RunInfo) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "project": run.project,
        "group": run.group,
        "started": run.started,
        "tags": list(run.tags),
        "summary": {},
        "artifacts": {},
        "names": {},
    }


def _is_data(message: Any) -> bool:
    kind = message.WhichOneof("record_type")
    return kind in DATA and not (kind == "save" and message.save.type)


def _timestamp(time: float) -> Any:
    """Unix seconds as SwanLab's, to the nanosecond: read back, the same floating-point number."""
    whole = math.floor(time)
    nanos = min(round((time - whole) * 1e9), 999_999_999)
    return import_module("google.protobuf.timestamp_pb2").Timestamp(seconds=whole, nanos=nanos)


def _within(text: str | None) -> str | None:
    """A name within SwanLab's limit."""
    return text if text is None or len(text) <= 512 else f"{text[:490]}-{_digest(text)}"


def _tags(tags: Sequence[str]) -> list[str]:
    return list(filter(None, dict.fromkeys(map(_within, tags))))[:_TAGS]


def _cell(value: Any) -> Any:
    """A table's cell as the page shows it: JSON knows neither NaN nor infinities."""
    return to_text(value) if isinstance(value, float) and not math.isfinite(value) else value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
