"""ClearML: a task a run, offline without an account, online where a server is configured.

What goes where: metrics and summary numbers ("Scalars"), tables and histograms ("Plots", with the exact data in the
layout's ``meta``), texts and images ("Debug samples"), config ("Hyperparameters", and typed in a configuration object),
artifacts, tags, and user properties for what ClearML has no field for, such as the exact status.

Events are handed to the SDK's own writer rather than to its queue: only so do they keep their wall time, and only so is
it known that they are stored. Offline, a task can't be gone on with without moving its iterations, so each `open` makes
a session of its own, a task folder (`_clearml_folders.py`), as `Task.import_offline_session(..., previous_task_id=...)`
expects them. A task that the user opened is the one that isn't ours: we add to it and don't close it.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time as clock
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from runcast import events
from runcast.errors import RuncastError, SessionLostError
from runcast.events import RunStatus
from runcast.flatten import flatten, to_text
from runcast.media import link_or_copy
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
    setting,
    transient,
)
from runcast.reporters._clearml_folders import (
    Place,
    Session,
    cut_events,
    finish,
    read_session,
    save_task,
    sessions_of,
    size_of_events,
)
from runcast.reporters._clearml_record import SINGLE_VALUE, SUMMARY, Stored, latest, record_of, title_and_series
from runcast.reporters._clearml_theirs import record_of as their_record
from runcast.reporters._clearml_theirs import stored_sessions
from runcast.reporters._versions import requirement

_FRAMEWORKS = (
    "detect_repository",  # a scan of the source code
    "hydra",
    "scikit",
    "joblib",
    "matplotlib",
    "tensorflow",
    "tensorboard",
    "tfdefines",
    "pytorch",
    "megengine",
    "xgboost",
    "catboost",
    "fastai",
    "lightgbm",
    "gradio",
)
"""What `Task.init` connects to unless told not to, one by one."""
_EVENTS = "clearml.backend_interface.metrics.events"
_REQUEST = 1000
"""Events in one request: a server takes only so many bytes."""
_MAX_FOLDER = 200
"""Bytes of a name that becomes a folder's."""
_ROOM = 1 << 20
"""Bytes that must be free, lest a refusal is put down to a full disk."""
_ours: weakref.WeakSet[Any] = weakref.WeakSet()
"""The tasks that were opened here, and so not by the user."""


class ClearMLReporter(Reporter):
    """Reports to ClearML.

    Args:
        project_name: Default: ``$CLEARML_PROJECT``, else the run's project.
        task_name: Default: ``$CLEARML_TASK``, else the run's name.
    """

    name: ClassVar[str] = "clearml"
    requires: ClassVar[Requirement] = requirement("clearml")

    def __init__(self, project_name: str | None = None, task_name: str | None = None) -> None:
        self._project_name = project_name
        self._task_name = task_name
        self._task: Any = None
        self._theirs = False  # the task is the user's, or was to be
        self._of: str | None = None  # the run, if it is not alone in the task
        self._own: dict[str, list[str]] = {}  # what is the run's in there
        self._place: Place | None = None
        self._session: Session | None = None  # None: online
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._singles: dict[str, float] = {}  # what ClearML has of the summary's numbers

    @classmethod
    def availability(cls) -> Availability:
        found = super().availability()
        if _told_offline():
            return offline(found, "told to by CLEARML_OFFLINE_MODE; unset it to go online")
        if not _has_server():
            return offline(found, "no server configured, so it writes task folders; `clearml-init` takes it online")
        return online(found)

    # -- start -----------------------------------------------------------------------------------------------------

    def joins(self) -> bool:
        self._theirs = _opened_by_the_user() is not None
        return self._theirs

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        theirs = _opened_by_the_user()
        if theirs is not None:
            return self._join(run, theirs, attach)
        if self._theirs:
            raise RuncastError("the ClearML task that the run had joined is closed: `runcast sync` delivers the rest")
        self._leave()
        self._place = place = self._place_of(run)
        joined = attach.data.get("joined") if attach else None
        if bool(attach.data["online"]) if attach else _has_server() and not _told_offline():
            return self._go_online(run, attach.id if attach else None, joined)
        sessions = [place.mended(session, run.run_id) for session in sessions_of(attach.data)] if attach else []
        place.clear((), keep=sessions)
        return self._go_offline(run, attach.id if attach else None, sessions, joined)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        """The task folders are removed, and another begins: offline, nobody has seen them."""
        if old.data["online"] or _opened_by_the_user() is not None:
            return None
        self._place = place = self._place_of(run)
        sessions = sessions_of(old.data)
        if not all(place.removable(session, run.run_id) for session in sessions):
            return None
        self._leave()
        place.clear(sessions)
        return self._go_offline(run, None, [], None)

    def _place_of(self, run: RunInfo) -> Place:
        return Place.of(run.dir, os.environ.get("CLEARML_CACHE_DIR", ""))

    def _go_online(self, run: RunInfo, task_id: str | None, joined: dict[str, Any] | None) -> NativeRun:
        self._task = task = self._init(run, joined, {}, online=True, task_id=task_id)
        self._tell_which(run)
        return NativeRun(task.id, redact_text(task.get_output_log_web_page()), _data(joined))

    def _go_offline(
        self, run: RunInfo, task_id: str | None, sessions: list[Session], joined: dict[str, Any] | None
    ) -> NativeRun:
        """Begins a session after those that there are; the first one's id is the run's."""
        assert self._place is not None
        environ = {"CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": str(self._place.cache)}
        self._task = task = self._init(run, joined, environ, online=False)
        self._remember([read_session(session) for session in sessions])
        folder = Path(task.get_offline_mode_folder())
        folder.chmod(0o700)
        self._session = self._place.session(folder)
        self._tell_which(run)
        self.flush()
        return NativeRun(task_id or task.id, *_offline([*sessions, self._session], joined))

    def _join(self, run: RunInfo, theirs: Any, attach: NativeRun | None) -> NativeRun:
        """Adds to the task that is open in this process: there can be but one."""
        if attach is not None and attach.id != theirs.id:
            raise RuncastError(
                f"ClearML task {theirs.id} is open in this process, but the run is in {attach.id}: open that one "
                "(continue_last_task=), or close this one; `runcast sync` delivers too"
            )
        self._task, self._theirs, self._place = theirs, True, self._place_of(run)
        joined = {"run": run.run_id, "project": theirs.get_project_name(), "task": theirs.name}
        self._of = run.run_id
        folder = theirs.get_offline_mode_folder()
        if folder is None:
            self._tell_which(run)
            return NativeRun(theirs.id, redact_text(theirs.get_output_log_web_page()), _data(joined))
        session = self._place.session(Path(folder), theirs=True)
        earlier = [each for each in sessions_of(attach.data) if each.folder != session.folder] if attach else []
        sessions = [*(self._place.mended(each, run.run_id) for each in earlier), session]
        self._remember([read_session(each) for each in sessions] if attach else [])
        self._session = session
        self._tell_which(run)
        self.flush()
        return NativeRun(theirs.id, *_offline(sessions, joined))

    def _init(
        self,
        run: RunInfo,
        joined: dict[str, Any] | None,
        environ: Mapping[str, str],
        *,
        online: bool,
        task_id: str | None = None,
    ) -> Any:
        """Has ClearML make a task: of a name of ours, or of the user's."""
        assert self._place is not None
        self._session = None
        self._of = run.run_id if joined else None
        project = joined["project"] if joined else setting(self._project_name, "CLEARML_PROJECT", run.project)
        name = joined["task"] if joined else setting(self._task_name, "CLEARML_TASK", run.name)
        if ".." in f"{project}/{name}".split("/"):
            raise ValueError(f"a task of ClearML's is filed under its names, and {project!r}, {name!r} lead elsewhere")
        with _undisturbed(self._place.scratch, {"CLEARML_SUPPRESS_UPDATE_MESSAGE": "1", **environ}):
            task_class = _sdk("clearml").Task
            if online:
                _ask_server()
            task_class.set_offline(offline_mode=not online)
            # Else it forks this process for a writer of its own, and remembers the task in the home directory.
            task_class._report_subprocess_enabled = False
            _sdk("clearml.config.cache").SessionCache.SESSION_CACHE_FOLDER = str(self._place.scratch)
            task = task_class.init(
                project_name=project,
                task_name=name,
                reuse_last_task_id=False,
                continue_last_task=task_id or False,
                auto_connect_arg_parser=False,
                auto_connect_frameworks=dict.fromkeys(_FRAMEWORKS, False),
                auto_resource_monitoring=False,
                auto_connect_streams=False,
            )
            if task_id:
                task.set_initial_iteration(0)  # else every step is moved behind the last
        _ours.add(task)
        return task

    def _remember(self, before: Sequence[Stored]) -> None:
        """Takes note of what ClearML has, so that it is added to, and not told so twice."""
        known = (latest(before, self._named(name)) for name in ("config", "summary", "names", "own"))
        self._config, self._summary, self._names, self._own = known
        self._singles = {}
        for session in before:
            self._singles |= session.singles()

    def _tell_which(self, run: RunInfo) -> None:
        group = {"group": run.group} if run.group is not None else {}
        self._tell(
            run_id=run.run_id,
            run_name=run.name,
            run_project=run.project,
            started=repr(run.started),
            status="running",
            **group,
        )

    def _tell(self, **properties: str) -> None:
        self._task.set_user_properties(**{self._named(key): value for key, value in properties.items()})

    def _named(self, key: str) -> str:
        """The name of what we tell ClearML beside the data itself: in a task of the user's, apart from theirs."""
        return f"{self._of}/{key}" if self._of else key

    def _note(self, kind: str, news: Iterable[str]) -> None:
        """Has ClearML keep what of these is ours; else the user's and ours are one."""
        known = self._own.setdefault(kind, [])
        if self._of and (fresh := [name for name in dict.fromkeys(news) if name not in known]):
            known += fresh
            self._set_object("own", self._own)

    # -- end -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Events are stored when their call returns. The task's file is written in place: keep one that is whole."""
        self._see_that_it_is_open()
        if self._session is not None:
            with self._task._edit_lock:
                save_task(self._session)

    def _see_that_it_is_open(self) -> None:
        if self._theirs and _opened_by_the_user() is not self._task:
            raise SessionLostError("the ClearML task is closed")

    def close(self, status: RunStatus) -> None:
        """As the user property `status`; offline, ClearML itself keeps none."""
        if self._task is None:
            return
        self._tell(status=status, finished=repr(clock.time()))
        self.flush()
        task_id, is_online = self._task.id, self._session is None
        self._leave()
        if is_online and not self._theirs and status != "completed":
            with self._alone():
                closed = _sdk("clearml").Task.get_task(task_id=task_id)
                mark = closed.mark_stopped if status == "killed" else closed.mark_failed
                mark(force=True, status_message=f"the run {status}")

    def _leave(self) -> None:
        """Closes a task of ours."""
        task, self._task = self._task, None
        if task is None or self._theirs:
            return
        with self._alone():
            task.close()
        if self._session is not None:
            finish(self._session)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """For calls in which ClearML changes the process. Where the user's task is, that is as the user has it."""
        assert self._place is not None
        return contextlib.nullcontext() if self._theirs else _undisturbed(self._place.scratch)

    def is_transient(self, error: Exception) -> bool | float:
        code = getattr(getattr(getattr(error, "result", None), "meta", None), "result_code", None)
        if isinstance(code, int):  # the SDK's SendError
            return code in (0, 408, 429) or code >= 500
        return transient(error)

    # -- events ----------------------------------------------------------------------------------------------------

    def _write(self, batch: list[Any]) -> None:
        """Returns when the events are stored: in the task's folder, or by the server."""
        self._see_that_it_is_open()
        wanted = list(batch)
        storage = self._task.get_logger().get_default_upload_destination()
        with self._whole_or_not_at_all():
            result = self._task.metrics_manager.write_events(batch, async_enable=False, storage_uri=storage)
        for event in wanted:
            if event.upload_exception is not None:
                raise event.upload_exception
        if len(batch) < len(wanted):  # the SDK warns, and goes on without
            raise self._refusal(f"{len(wanted) - len(batch)} of {len(wanted)} events")
        if result is not None and not result.ok():
            refused = _sdk("clearml.backend_interface.session").SendError
            raise refused(result, f"ClearML's server refused events: {result.meta.result_msg}")

    @contextlib.contextmanager
    def _whole_or_not_at_all(self) -> Iterator[None]:
        session = None if self._theirs else self._session  # to the user's, others write too
        size = size_of_events(session) if session else 0
        try:
            yield
        except OSError:
            if session:
                cut_events(session, size)
            raise

    def _refusal(self, what: str) -> Exception:
        """Why ClearML, which only logs it, refused something."""
        assert self._place is not None
        if shutil.disk_usage(self._place.ours).free < _ROOM:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return RuntimeError(f"ClearML refused {what}: see the log")

    def _iteration(self, step: int) -> int:
        """What ClearML makes `step` of: a task of the user's may move all iterations."""
        return step - int(self._task.metrics_manager.get_iteration_offset())

    def log_metrics_batch(self, batch: Sequence[events.Metrics]) -> None:
        self._note("metrics", (name for event in batch for name in event.values))
        make, offset, points = _sdk(_EVENTS).ScalarEvent, -self._iteration(0), []
        for event in batch:
            milliseconds, step = round(event.time * 1000), event.step - offset
            for name, value in event.values.items():
                title, series, shown = *title_and_series(name), value
                if not math.isfinite(value):  # the SDK would write 0, as would the server
                    series, shown = f"%{events.float_name(value)} {series}", 0.0
                points.append(make(title, series, shown, step, timestamp=milliseconds))
        for start in range(0, len(points), _REQUEST):
            self._write(points[start : start + _REQUEST])

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self.log_metrics_batch([events.Metrics(time=time, step=step, values=dict(metrics))])

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        """As a debug sample, a text file."""
        content = text.encode()
        self._write(
            [_event("MediaEvent", stream=io.BytesIO(content), **self._sample(key, content, ".txt", step, time))]
        )

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        sample = self._sample(key, image.read_bytes(), ".png", step, time)
        self._write([_event("ImageEvent", image_data=None, local_image_path=str(image), **sample)])

    def _sample(self, key: str, content: bytes, suffix: str, step: int, time: float) -> dict[str, Any]:
        title, series = title_and_series(self._foldable(key))
        return {
            "metric": title,
            "variant": series,
            "iter": self._iteration(step),
            "timestamp": round(time * 1000),
            "override_filename": f"{step}-{hashlib.sha256(content).hexdigest()[:12]}",  # else the sixth replaces the first
            "override_filename_ext": suffix,
        }

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        cells = [[to_text(row[number]) for row in rows] for number in range(len(columns))]
        drawing = {"type": "table", "header": {"values": list(columns)}, "cells": {"values": cells}}
        self._plot(key, drawing, {"columns": list(columns), "rows": events.pack(rows)}, step, time)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        centres = [(low + high) / 2 for low, high in pairwise(edges)]
        widths = [high - low for low, high in pairwise(edges)]
        drawing = {"type": "bar", "x": centres, "y": list(counts), "width": widths}
        self._plot(key, drawing, {"counts": list(counts), "edges": list(edges)}, step, time)

    def _plot(self, key: str, drawing: dict[str, Any], meta: dict[str, Any], step: int, time: float) -> None:
        title, series = title_and_series(key)
        figure = json.dumps({"data": [drawing], "layout": {"title": key, "meta": {"runcast": meta}}})
        self._write(
            [_event("PlotEvent", title, series, figure, iter=self._iteration(step), timestamp=round(time * 1000))]
        )

    # -- the task's own fields -------------------------------------------------------------------------------------

    def log_config(self, config: Mapping[str, Any]) -> None:
        before = flatten(self._config)
        self._config = merge(self._config, dict(config))
        after = flatten(self._config)
        shown = {key: to_text(value) for key, value in after.items()}
        gone = dict.fromkeys(before.keys() - after.keys(), "(removed)")  # deleting one takes a server
        section = "runcast" if self._of else "config"
        self._task.update_parameters({f"{section}/{key}": text for key, text in {**shown, **gone}.items()})
        self._set_object("config", self._config)

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """As single values, and in the configuration object `summary`."""
        self._summary |= values
        self._set_object("summary", self._summary)
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        news = {
            key: value for key, value in numbers.items() if math.isfinite(value) and self._singles.get(key) != value
        }
        at = self._iteration(SINGLE_VALUE)
        self._write([_event("ScalarEvent", SUMMARY, key, value, iter=at) for key, value in news.items()])
        self._singles |= news

    def _set_object(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(events.pack(value), indent=1)
        self._task.set_configuration_object(self._named(name), config_text=text)

    def add_tags(self, tags: Sequence[str]) -> None:
        self._note("tags", tags)
        self._task.add_tags(list(tags))

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        about = {
            "kind": artifact.kind,
            "step": json.dumps(step),
            "file": artifact.path.name,
            "metadata": json.dumps(events.pack(artifact.metadata)),
            **({"run": self._of} if self._of else {}),
        }
        with self._alone(), self._only_its_files(artifact) as path:
            stored = self._task.upload_artifact(
                self._foldable(artifact.name), path, metadata=about, wait_on_upload=True
            )
        if not stored:
            raise self._refusal(f"the artifact {artifact.name!r}")

    @contextlib.contextmanager
    def _only_its_files(self, artifact: LocalArtifact) -> Iterator[Path]:
        """The artifact's path. ClearML takes all that is in a folder, and what links lead to, so it gets another folder."""
        if not artifact.path.is_dir():
            yield artifact.path
            return
        assert self._place is not None
        with tempfile.TemporaryDirectory(dir=self._place.scratch) as folder:
            root = Path(folder) / artifact.path.name
            root.mkdir()
            for file in artifact.files:
                target = inside(root, file.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(artifact.file_path(file), target, link=True)
            yield root

    def _foldable(self, name: str) -> str:
        """`name` if a folder can have it, else a short one; the task keeps which stands for which."""
        leads_elsewhere = not {"", ".", ".."}.isdisjoint(name.split("/"))
        if len(name.encode()) <= _MAX_FOLDER and name.isprintable() and not leads_elsewhere:
            return name
        short = f"long names/{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        if short not in self._names:
            self._names[short] = name
            self._set_object("names", self._names)
        return short

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        joined = (native.data.get("joined") or {}).get("run")
        if native.data["online"]:
            return record_of([_from_server(native.id)], joined)
        if "folders" in native.data:
            return _found(native.data["folders"])
        return record_of([read_session(session) for session in sessions_of(native.data)], joined)

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """The tasks whose offline sessions, as folders, are at or below a path."""
        folders = stored_sessions(Path(source).absolute())
        if not folders:
            raise LookupError(
                f"no offline session of ClearML in {source!r}; expected the folder of one (unpack a zip that is alone) or a "
                "folder of them"
            )
        runs: dict[str, list[str]] = {}
        for folder in folders:  # the sessions of a run of ours are one run
            task = read_session(Session(str(folder), ""))
            runs.setdefault(task.properties().get("run_id", folder.name), []).append(str(folder))
        return [NativeRun(run, data={"online": False, "folders": found}) for run, found in runs.items()]


def _found(folders: Sequence[str]) -> RunRecord:
    """The record of sessions that `find_runs` has found."""
    sessions = {Path(folder): read_session(Session(folder, "")) for folder in folders}
    first, stored = next(iter(sessions.items()))
    if "run_id" in stored.properties():
        return record_of([sessions[folder] for folder in sorted(sessions, key=lambda f: _begun(f, sessions[f]))])
    return their_record(first, stored)


def _begun(folder: Path, session: Stored) -> float:
    """When a session began, or thereabouts: milliseconds."""
    first = next(iter(session.events()), None)
    return float(first["timestamp"]) if first else folder.stat().st_mtime * 1000


def _sdk(module: str) -> Any:
    """A module of the SDK, which is partly typed, imported when it is needed."""
    return import_module(module)


def _event(kind: str, *args: Any, **kwargs: Any) -> Any:
    """An event of the SDK: only its classes, not its public calls, take a time."""
    return getattr(_sdk(_EVENTS), kind)(*args, **kwargs)


def _opened_by_the_user() -> Any:
    """The task that is open in this process, if the user opened it."""
    task_class = getattr(sys.modules.get("clearml"), "Task", None)
    # Asked without need, `current_task` makes one in a process whose parent has one.
    if task_class is None or not task_class._has_current_task_obj():
        return None
    task = task_class.current_task()
    return None if task in _ours else task


def _data(joined: dict[str, Any] | None, sessions: Sequence[Session] = ()) -> dict[str, Any]:
    return {"online": not sessions, "joined": joined, "sessions": msgspec.to_builtins(sessions)}


def _offline(sessions: Sequence[Session], joined: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """How people get the sessions to a server, and the data."""
    shown = f"Task.import_offline_session({sessions[0].folder!r})"
    if len(sessions) > 1:
        shown += f" and {len(sessions) - 1} more"
    return shown, _data(joined, sessions)


# -- settings ----------------------------------------------------------------------------------------------------------


def _told_offline() -> bool:
    return os.environ.get("CLEARML_OFFLINE_MODE", "").lower() in ("1", "true", "yes", "y", "on")


def _has_server() -> bool:
    """Whether ClearML is configured, by its variables or its file."""
    found = os.environ.get
    if found("CLEARML_API_HOST") and (found("CLEARML_API_ACCESS_KEY") or found("CLEARML_AUTH_TOKEN")):
        return True
    for path in (found("CLEARML_CONFIG_FILE"), "~/clearml.conf", "~/trains.conf"):
        with contextlib.suppress(OSError, RuntimeError):
            if path and re.search(r"access_key|auth_token", Path(path).expanduser().read_text(errors="replace")):
                return True
    return False


def _ask_server() -> None:
    """Fails where the SDK would wait for hours, without a word: any answer will do, no answer is an error."""
    host = _sdk("clearml.backend_api").Session.get_api_server_host()
    _sdk("requests").get(f"{host}/debug.ping", timeout=10.0, verify=False)  # nothing secret is sent


_INHERITED = ("CLEARML_PROC_MASTER_ID", "TRAINS_PROC_MASTER_ID", "LOCAL_RANK", "RANK")
"""Says that this process belongs to another one's task or is one of many; a courier is neither."""


@contextlib.contextmanager
def _undisturbed(scratch: Path, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """Keeps ClearML from changing the process: its hooks, signal handlers, environment; its temporary files in `scratch`.

    Args:
        environ: Variables to set for ClearML.
    """
    parse_args, importer = argparse.ArgumentParser.parse_args, builtins.__import__
    leave, hook, folder, before = sys.exit, sys.excepthook, tempfile.tempdir, dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    for name in _INHERITED:
        os.environ.pop(name, None)
    os.environ.update(environ or {})
    tempfile.tempdir = str(scratch)
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]  # as it was
        builtins.__import__ = importer
        sys.exit, sys.excepthook, tempfile.tempdir = leave, hook, folder
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


# -- online ------------------------------------------------------------------------------------------------------------


def _from_server(task_id: str) -> Stored:
    clearml = _sdk("clearml")
    task = clearml.Task.get_task(task_id=task_id)

    def stored(kind: str) -> Iterator[Mapping[str, Any]]:
        scroll: str | None = None
        while True:
            query = {"task": task_id, "event_type": kind, "order": "asc", "batch_size": 1000, "scroll_id": scroll}
            answer = task.session.send_request("events", "get_task_events", json=query).json()["data"]
            if not answer["events"]:
                return
            yield from answer["events"]
            scroll = answer["scroll_id"]

    def local(address: str) -> Path:
        return Path(clearml.StorageManager.get_local_copy(address, extract_archive=False))

    kinds = ("training_stats_scalar", "training_debug_image", "plot")
    return Stored(
        task.export_task(),
        lambda: (event for kind in kinds for event in stored(kind)),
        local,
        lambda event: local(event["url"]),
    )
