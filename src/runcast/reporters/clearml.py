"""ClearML: a task a run, offline without an account, online where a server is configured.

What goes where: metrics and summary numbers ("Scalars"), tables and histograms ("Plots", with the exact data in the
layout's ``meta``), texts and images ("Debug samples"), config ("Hyperparameters", and typed in a configuration object),
artifacts, tags, and user properties for what ClearML has no field for, such as the exact status.

Events are handed to the SDK's own writer rather than to its queue: only so do they keep their wall time, and only so is
it known that they are stored. Offline, a task can't be gone on with without moving its iterations, so each `open` makes
a segment of its own, a task folder, as `Task.import_offline_session(..., previous_task_id=...)` expects them; the reader
merges them.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
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
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, cast

from runcast import events
from runcast.events import RunStatus
from runcast.flatten import flatten, to_text
from runcast.record import (
    ArtifactRecord,
    Content,
    HistogramPoint,
    ImagePoint,
    Point,
    RunRecord,
    TablePoint,
    TextPoint,
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
    transient,
)

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
_SECTION = "config"
_SINGLE_VALUE = -(2**31)
"""The iteration of ClearML's single values."""
_MAX_FOLDER = 200
"""Bytes of a name that becomes a folder's."""


class ClearMLReporter(Reporter):
    """Reports to ClearML.

    Args:
        project_name: Default: ``$CLEARML_PROJECT``, else the run's project.
        task_name: Default: ``$CLEARML_TASK``, else the run's name.
    """

    name: ClassVar[str] = "clearml"
    requires: ClassVar[Requirement] = Requirement("clearml", "clearml", "1.16.5", "2.1.12", "clearml")

    def __init__(self, project_name: str | None = None, task_name: str | None = None) -> None:
        self._project_name = project_name
        self._task_name = task_name
        self._task: Any = None
        self._online = False
        self._scratch = Path(tempfile.gettempdir())
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    @classmethod
    def availability(cls) -> Availability:
        found = super().availability()
        if _told_offline():
            return offline(found, "told to by CLEARML_OFFLINE_MODE; unset it to go online")
        if not _has_server():
            return offline(found, "no server configured, so it writes task folders; `clearml-init` takes it online")
        return online(found)

    # -- life ------------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        self._online = bool(attach.data["online"]) if attach else _has_server() and not _told_offline()
        segments: list[str] = list(attach.data["segments"]) if attach else []
        folder = (run.dir / "clearml").absolute()
        self._scratch = folder / "tmp"
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        for segment in segments:
            _mend(Path(segment))
        if attach:
            before = _segments(attach)
            self._config, self._summary, self._names = (
                _latest(before, name) for name in ("config", "summary", "names")
            )
        environ = {"CLEARML_SUPPRESS_UPDATE_MESSAGE": "1"}
        if not self._online:
            environ |= {"CLEARML_OFFLINE_MODE": "1"}
            environ |= {"CLEARML_CACHE_DIR": os.environ.get("CLEARML_CACHE_DIR") or str(folder)}
        with _undisturbed(self._scratch, environ):
            self._task = task = self._init(run, attach.id if attach and self._online else None)
        task.set_user_properties(
            run_id=run.run_id,
            run_name=run.name,
            run_project=run.project,
            started=repr(run.started),
            status="running",
            **({"group": run.group} if run.group is not None else {}),
        )
        if self._online:
            return NativeRun(task.id, task.get_output_log_web_page(), {"online": True, "segments": []})
        self.flush()
        segments.append(str(task.get_offline_mode_folder()))
        shown = f"Task.import_offline_session({segments[0]!r})"
        if len(segments) > 1:
            shown += f" and {len(segments) - 1} more"
        return NativeRun(attach.id if attach else task.id, shown, {"online": False, "segments": segments})

    def _init(self, run: RunInfo, task_id: str | None) -> Any:
        task_class = _sdk("clearml").Task
        if self._online:
            _ask_server()
        task_class.set_offline(offline_mode=not self._online)
        # Else it forks this process for a writer of its own, and remembers the task in the home directory.
        task_class._report_subprocess_enabled = False
        _sdk("clearml.config.cache").SessionCache.SESSION_CACHE_FOLDER = str(self._scratch)
        task = task_class.init(
            project_name=setting(self._project_name, "CLEARML_PROJECT", run.project),
            task_name=setting(self._task_name, "CLEARML_TASK", run.name),
            reuse_last_task_id=False,
            continue_last_task=task_id or False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=dict.fromkeys(_FRAMEWORKS, False),
            auto_resource_monitoring=False,
            auto_connect_streams=False,
        )
        if task_id:
            task.set_initial_iteration(0)  # else every step is moved behind the last
        return task

    def close(self, status: RunStatus) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        with _undisturbed(self._scratch):
            task.set_user_properties(status=status, finished=repr(clock.time()))
            task.close()
            if self._online and status != "completed":
                closed = _sdk("clearml").Task.get_task(task_id=task.id)
                mark = closed.mark_stopped if status == "killed" else closed.mark_failed
                mark(force=True, status_message=f"the run {status}")

    def is_transient(self, error: Exception) -> bool | float:
        code = getattr(getattr(getattr(error, "result", None), "meta", None), "result_code", None)
        if isinstance(code, int):  # the SDK's SendError
            return code in (0, 408, 429) or code >= 500
        return transient(error)

    # -- events ----------------------------------------------------------------------------------------------------

    def _write(self, batch: list[Any]) -> None:
        """Returns when the events are stored: in the task's folder, or by the server."""
        wanted = list(batch)
        storage = self._task.get_logger().get_default_upload_destination()
        result = self._task.metrics_manager.write_events(batch, async_enable=False, storage_uri=storage)
        for event in wanted:
            if event.upload_exception is not None:
                raise event.upload_exception
        if len(batch) < len(wanted):  # the SDK warns, and goes on without
            raise RuntimeError(f"ClearML refused {len(wanted) - len(batch)} of {len(wanted)} events: see the log")
        if result is not None and not result.ok():
            refused = _sdk("clearml.backend_interface.session").SendError
            raise refused(result, f"ClearML's server refused events: {result.meta.result_msg}")

    def log_metrics_batch(self, batch: Sequence[events.Metrics]) -> None:
        make, points = _sdk(_EVENTS).ScalarEvent, []
        for event in batch:
            milliseconds = round(event.time * 1000)
            for name, value in event.values.items():
                title, series, shown = *_title_and_series(name), value
                if not math.isfinite(value):  # the SDK would write 0, as would the server
                    series, shown = f"%{events.float_name(value)} {series}", 0.0
                points.append(make(title, series, shown, event.step, timestamp=milliseconds))
        for start in range(0, len(points), _REQUEST):
            self._write(points[start : start + _REQUEST])

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self.log_metrics_batch([events.Metrics(time=time, step=step, values=dict(metrics))])

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        content = text.encode()
        self._write(
            [_event("MediaEvent", stream=io.BytesIO(content), **self._sample(key, content, ".txt", step, time))]
        )

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        sample = self._sample(key, image.read_bytes(), ".png", step, time)
        self._write([_event("ImageEvent", image_data=None, local_image_path=str(image), **sample)])

    def _sample(self, key: str, content: bytes, suffix: str, step: int, time: float) -> dict[str, Any]:
        title, series = _title_and_series(self._foldable(key))
        return {
            "metric": title,
            "variant": series,
            "iter": step,
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
        title, series = _title_and_series(key)
        figure = json.dumps({"data": [drawing], "layout": {"title": key, "meta": {"runcast": meta}}})
        self._write([_event("PlotEvent", title, series, figure, iter=step, timestamp=round(time * 1000))])

    # -- the task's own fields -------------------------------------------------------------------------------------

    def log_config(self, config: Mapping[str, Any]) -> None:
        before = flatten(self._config)
        self._config = merge(self._config, dict(config))
        after = flatten(self._config)
        shown = {key: to_text(value) for key, value in after.items()}
        gone = dict.fromkeys(before.keys() - after.keys(), "(removed)")  # deleting one takes a server
        self._task.update_parameters({f"{_SECTION}/{key}": text for key, text in {**shown, **gone}.items()})
        self._set_object("config", self._config)

    def set_summary(self, values: Mapping[str, Any]) -> None:
        self._summary |= values
        self._set_object("summary", self._summary)
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        self._write(
            [
                _event("ScalarEvent", "Summary", key, float(value), iter=_SINGLE_VALUE)
                for key, value in numbers.items()
                if math.isfinite(value)
            ]
        )

    def _set_object(self, name: str, value: Mapping[str, Any]) -> None:
        self._task.set_configuration_object(name, config_text=json.dumps(events.pack(value), indent=1))

    def add_tags(self, tags: Sequence[str]) -> None:
        self._task.add_tags(list(tags))

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        about = {
            "kind": artifact.kind,
            "step": json.dumps(step),
            "file": artifact.path.name,
            "metadata": json.dumps(events.pack(artifact.metadata)),
        }
        with _undisturbed(self._scratch):
            stored = self._task.upload_artifact(
                self._foldable(artifact.name), artifact.path, metadata=about, wait_on_upload=True
            )
        if not stored:
            raise RuntimeError(f"ClearML refused the artifact {artifact.name!r}: see the log")

    def _foldable(self, name: str) -> str:
        """`name` if a folder can have it, else a short one; the task keeps which stands for which."""
        if len(name.encode()) <= _MAX_FOLDER and name.isprintable():
            return name
        short = f"long names/{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        if short not in self._names:
            self._names[short] = name
            self._set_object("names", self._names)
        return short

    def flush(self) -> None:
        """Events are stored when their call returns. The task's file is written in place: keep one that is whole."""
        if not self._online:
            _save(self._task.get_offline_mode_folder() / "task.json")

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        return _record(_segments(native))


def _sdk(module: str) -> Any:
    """A module of the SDK, which is partly typed, imported when it is needed."""
    return import_module(module)


def _event(kind: str, *args: Any, **kwargs: Any) -> Any:
    """An event of the SDK: only its classes, not its public calls, take a time."""
    return getattr(_sdk(_EVENTS), kind)(*args, **kwargs)


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


# -- a folder whose writer may be killed -------------------------------------------------------------------------------


def _saved(task_file: Path) -> Path:
    return task_file.parent.with_suffix(".json")  # beside the folder, which is the SDK's


def _save(task_file: Path) -> None:
    """Copies the task's file beside its folder, atomically."""
    text = task_file.read_text()
    if not _saved(task_file).exists() or _saved(task_file).read_text() != text:
        temporary = _saved(task_file).with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(_saved(task_file))


def _whole(task_file: Path) -> dict[str, Any]:
    """The task, as it was at the last flush if a kill tore its file."""
    try:
        return cast("dict[str, Any]", json.loads(task_file.read_text()))
    except ValueError:
        return cast("dict[str, Any]", json.loads(_saved(task_file).read_text()))


def _mend(folder: Path) -> None:
    """Replaces a torn task file, so that ClearML can import the folder."""
    task_file = folder / "task.json"
    try:
        json.loads(task_file.read_text())
    except ValueError:
        shutil.copyfile(_saved(task_file), task_file)


# -- names -------------------------------------------------------------------------------------------------------------


def _title_and_series(name: str) -> tuple[str, str]:
    """A metric's name as ClearML's two: title and series. No two names get the same; `_name` is the inverse."""
    title, slash, series = name.partition("/")
    if not slash:
        return title, "value"
    return title, f"%{series}" if series in ("", "value") or series.startswith("%") else series


def _name(title: str, series: str) -> str:
    return title if series == "value" else f"{title}/{series.removeprefix('%')}"


_NOT_FINITE = re.compile(r"%(NaN|-?Infinity) (.*)", re.DOTALL)


# -- the reader --------------------------------------------------------------------------------------------------------


@dataclass
class _Segment:
    """What ClearML has: the task, its events, and how to get at its files."""

    task: Mapping[str, Any]
    events: Iterable[Mapping[str, Any]]
    artifact: Callable[[str], Path]  # from its address
    sample: Callable[[Mapping[str, Any]], Path]  # from its event

    def properties(self) -> dict[str, str]:
        return {key: item["value"] for key, item in self.task.get("hyperparams", {}).get("properties", {}).items()}

    def object(self, name: str) -> dict[str, Any] | None:
        found = self.task.get("configuration", {}).get(name)
        return events.unpack(json.loads(found["value"])) if found else None


def _segments(native: NativeRun) -> list[_Segment]:
    if native.data["online"]:
        return [_from_server(native.id)]
    return [_from_folder(Path(path)) for path in native.data["segments"]]


def _latest(segments: Sequence[_Segment], name: str) -> dict[str, Any]:
    """A configuration object as the last segment that has it knows it: each starts with what was known before."""
    found = (segment.object(name) for segment in reversed(segments))
    return next((value for value in found if value is not None), {})


def _from_folder(folder: Path) -> _Segment:
    task = _whole(folder / "task.json")

    def moved(address: str) -> Path:
        return folder / os.path.relpath(address, task["offline_folder"])

    return _Segment(task, _stored_events(folder / "metrics.jsonl"), moved, lambda event: folder / "data" / event["key"])


def _stored_events(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.exists():
        return
    with path.open() as file:
        for line in file:
            if not line.endswith("\n"):
                return  # torn by a kill
            yield from json.loads(line)


def _from_server(task_id: str) -> _Segment:
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
    found = (event for kind in kinds for event in stored(kind))
    return _Segment(task.export_task(), found, local, lambda event: local(event["url"]))


def _record(segments: Sequence[_Segment]) -> RunRecord:
    record = RunRecord()
    properties: dict[str, str] = {}
    for segment in segments:
        properties |= segment.properties()
    record.config, record.summary, names = (_latest(segments, name) for name in ("config", "summary", "names"))
    record.run_id, record.name = properties["run_id"], properties["run_name"]
    record.project, record.group = properties["run_project"], properties.get("group")
    record.status = cast("RunStatus", properties["status"])
    record.started = float(properties["started"])
    record.finished = float(properties["finished"]) if record.status != "running" else None
    record.tags = tuple(sorted({tag for segment in segments for tag in segment.task.get("tags") or ()}))

    series = {
        "metric": record.metrics,
        "text": record.texts,
        "image": record.images,
        "table": record.tables,
        "histogram": record.histograms,
    }
    seen: Counter[tuple[str, str, str]] = Counter()
    for segment in segments:
        here: Counter[tuple[str, str, str]] = Counter()
        for event in segment.events:
            for kind, key, point in _points(segment, event, names):
                # What an earlier segment has too was only delivered again.
                identity = (kind, key, repr(point))
                here[identity] += 1
                if here[identity] > seen[identity]:
                    seen[identity] += 1
                    cast("dict[str, list[Any]]", series[kind]).setdefault(key, []).append(point)
        for artifact in segment.task.get("execution", {}).get("artifacts") or ():
            stored = _artifact(artifact, segment.artifact(artifact["uri"]), names)
            record.artifacts[stored.name] = stored
    return record


def _points(
    segment: _Segment, event: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[tuple[str, str, Point | TextPoint | ImagePoint | TablePoint | HistogramPoint]]:
    """What an event says: kind, key, point."""
    step, time = event.get("iter", 0), event["timestamp"] / 1000
    title, series = event.get("metric", ""), event.get("variant", "")
    key = _name(title, series)
    match event["type"]:
        case "training_stats_scalar":
            if title == "Summary" and step == _SINGLE_VALUE:
                return  # the summary object has it, typed
            value = float(event["value"])
            if special := _NOT_FINITE.fullmatch(series):
                value, key = float(special[1]), _name(title, special[2])
            yield "metric", key, Point(step, value, time)
        case "training_debug_image":
            key, path = names.get(key, key), segment.sample(event)
            if path.suffix == ".txt":
                yield "text", key, TextPoint(step, path.read_bytes().decode(), time)
            else:
                yield "image", key, ImagePoint(step, Content.of_file(path), time)
        case "plot":
            meta = json.loads(event["plot_str"])["layout"]["meta"]["runcast"]
            if "edges" in meta:
                yield "histogram", key, HistogramPoint(step, tuple(meta["counts"]), tuple(meta["edges"]), time)
            else:
                rows = tuple(tuple(row) for row in events.unpack(meta["rows"]))
                yield "table", key, TablePoint(step, tuple(meta["columns"]), rows, time)


def _artifact(stored: Mapping[str, Any], path: Path, names: Mapping[str, str]) -> ArtifactRecord:
    about = dict(stored["display_data"])
    name = names.get(stored["key"], stored["key"])
    files = _in_zip(path) if stored["type"] == "archive" else {about["file"]: Content.of_file(path)}
    return ArtifactRecord(
        name, about["kind"], files, json.loads(about["step"]), events.unpack(json.loads(about["metadata"]))
    )


def _in_zip(path: Path) -> dict[str, Content]:
    with zipfile.ZipFile(path) as archive:
        return {name: _member(path, archive, name) for name in archive.namelist() if not name.endswith("/")}


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Content:
    def read() -> bytes:
        with zipfile.ZipFile(path) as again:
            return again.read(name)

    digest = hashlib.sha256()
    with archive.open(name) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return Content(archive.getinfo(name).file_size, digest.hexdigest(), read)
