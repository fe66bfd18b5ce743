"""Comet: an experiment a run, offline without an account, online where an API key is configured.

What goes where: metrics, parameters ("Hyperparameters"), others ("Other"), and assets, each with metadata that says what
it is. The SDK takes a wall time only in its own message class, so metrics are put into its queue as such.

Offline, the SDK writes to a folder of random name, of which it makes a zip at the end. That folder is put below the run
folder, so that a killed courier's data is found. Each `open` writes a segment of its own under the same experiment key;
the reader merges them, and so does Comet when they are uploaded.
"""

from __future__ import annotations

import configparser
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time as clock
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from runcast import events
from runcast.events import RunStatus
from runcast.flatten import flatten, from_text, to_text, unflatten
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
)

_MAX_NAME = 100
_MAX_VALUE = 1000
"""The SDK cuts longer ones, with no more than a warning."""
_RESERVED = frozenset({"process duration", "curr_step"})
"""Names under which the SDK itself logs a metric and a parameter."""
_REMOVED = '{"$removed":true}'
"""The value of a parameter that a later config no longer has: nothing can be deleted. No `to_text` looks like it."""
_PATIENCE = 60.0
"""Seconds that the SDK's own thread may take to write what it was given."""
_QUIET = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # else importing it patches every framework it finds
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_LOGGING_CONSOLE": "ERROR",
}


class CometReporter(Reporter):
    """Reports to Comet.

    Args:
        project_name: Default: ``$COMET_PROJECT_NAME``, else the run's project.
        workspace: Default: ``$COMET_WORKSPACE``, else the account's own.
        offline_directory: Where offline archives go. Default: ``$COMET_OFFLINE_DIRECTORY``, else ``comet`` in the run
            folder.
    """

    name: ClassVar[str] = "comet"
    requires: ClassVar[Requirement] = Requirement("comet_ml", "comet_ml", "3.47.6", "3.58.8", "comet")

    def __init__(
        self, project_name: str | None = None, workspace: str | None = None, offline_directory: str | None = None
    ) -> None:
        self._project_name = project_name
        self._workspace = workspace
        self._offline_directory = offline_directory
        self._experiment: Any = None
        self._config: dict[str, Any] = {}
        self._known: set[str] = set()
        self._messages: Path | None = None
        self._described: set[str] | None = None

    @classmethod
    def availability(cls) -> Availability:
        found = super().availability()
        if os.environ.get("COMET_MODE", "").lower() == "disabled" and found.status == "ready":
            return replace(found, status="inactive", reason="switched off by COMET_MODE=disabled")
        if not _has_api_key():
            return offline(found, "no API key, so it writes archives; COMET_API_KEY or `comet login` takes it online")
        if not _start_online():
            return offline(found, "told to by COMET_START_ONLINE or COMET_MODE; unset it to go online")
        return online(found)

    # -- life ------------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        key = attach.id if attach else os.environ.get("COMET_EXPERIMENT_KEY") or experiment_key(run.run_id)
        is_online = bool(attach.data["online"]) if attach else _has_api_key() and _start_online()
        segments: list[dict[str, str]] = list(attach.data["segments"]) if attach else []
        directory = Path(setting(self._offline_directory, "COMET_OFFLINE_DIRECTORY", str(run.dir / "comet"))).absolute()
        live = (run.dir / "comet" / "live").absolute()
        for folder in (directory, live):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for segment in segments:
            _finish_archive(Path(segment["zip"]), Path(segment["live"]))
        if attach and not is_online:
            self._config = self.read(attach).config
        with _undisturbed(live):
            self._experiment = experiment = self._start(run, key, directory, is_online=is_online, again=bool(attach))
        if not experiment.alive:  # Comet has said why, and goes on without
            raise ConnectionError("Comet did not start the experiment: see the log")
        self._log_identity(run)
        if is_online:
            where = experiment.url
        else:
            archive = directory / experiment._get_offline_archive_file_name()
            segments.append({"zip": str(archive), "live": str(experiment.tmpdir)})
            self._messages = Path(experiment.tmpdir) / "messages.json"
            where = f"comet upload {shlex.quote(str(directory))}/{experiment.get_key()}*.zip"
        self.flush()
        return NativeRun(experiment.get_key(), where, {"online": is_online, "segments": segments})

    def _start(self, run: RunInfo, key: str, directory: Path, *, is_online: bool, again: bool) -> Any:
        comet_ml = _sdk("comet_ml")
        # Offline always explicit: `create` would reuse the archive's name, and so overwrite what is there.
        mode = "get_or_create" if not is_online else "get" if again else _start_mode()
        return comet_ml.start(
            workspace=self._workspace,
            project_name=setting(self._project_name, "COMET_PROJECT_NAME", run.project),
            experiment_key=key,
            mode=mode,
            online=is_online,
            experiment_config=comet_ml.ExperimentConfig(
                disabled=False,
                log_code=False,
                log_graph=False,
                parse_args=False,
                display_summary_level=0,
                log_git_metadata=False,
                log_git_patch=False,
                log_env_details=False,
                auto_output_logging=False,
                auto_param_logging=False,
                auto_metric_logging=False,
                auto_log_co2=False,
                offline_directory=str(directory),
                name=run.name,
            ),
        )

    def _log_identity(self, run: RunInfo) -> None:
        self._other("run_id", run.run_id)
        self._other("name", run.name)
        self._other("project", run.project)
        if run.group is not None:
            self._other("group", run.group)
        self._other("started", repr(run.started))
        self._other("status", "running")

    def flush(self) -> None:
        if self._messages is None:
            if not self._experiment.flush():
                raise TimeoutError("Comet has not taken everything yet")
            return
        self._describe()
        last = self._experiment.streamer._counter
        deadline = clock.monotonic() + _PATIENCE
        while _last_message(self._messages) < last:
            if self._experiment.customer_error_reported:
                raise RuntimeError(f"Comet failed to store something: {self._experiment.customer_error_message}")
            if clock.monotonic() > deadline:
                raise RuntimeError(f"Comet's writer has not stored everything within {_PATIENCE:.0f} s")
            clock.sleep(0.002)

    def _describe(self) -> None:
        """Has Comet describe the experiment now, so that the folder is an archive should this process be killed."""
        tags = set(self._experiment.get_tags())
        if tags != self._described:
            self._experiment._write_experiment_meta_file()  # in place, hence the copy
            live = Path(self._experiment.tmpdir)
            temporary = _description(live).with_suffix(".tmp")
            shutil.copyfile(live / "experiment.json", temporary)
            temporary.replace(_description(live))
            self._described = tags

    def close(self, status: RunStatus) -> None:
        experiment, self._experiment = self._experiment, None
        if experiment is None:
            return
        experiment.log_other("status", status)
        experiment.log_other("finished", repr(clock.time()))
        if status != "completed":
            # The only ending but success that Comet knows: "crashed", with these words.
            experiment._report_experiment_error(f"the run {status}", has_crashed=True)
        experiment.end()
        if self._messages is not None:
            _description(self._messages.parent).unlink(missing_ok=True)

    # -- data ------------------------------------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        make_message = _sdk("comet_ml.messages").MetricMessage
        milliseconds = round(time * 1000)
        for name, value in metrics.items():
            message = make_message(timestamp=milliseconds)
            message.set_metric(self._metric_name(name), value, step=step)
            self._experiment._enqueue_message(message)

    def _metric_name(self, name: str) -> str:
        shown = _short(name)
        if shown != name and shown not in self._known:
            self._known.add(shown)
            self._experiment.log_other(f"metric/{shown}", name)
        return shown

    def log_config(self, config: Mapping[str, Any]) -> None:
        old = flatten(self._config)
        self._config = merge(self._config, dict(config))
        new = flatten(self._config)
        for key in old.keys() - new.keys():
            self._parameter(key, _REMOVED)
        for key, value in new.items():
            self._parameter(key, to_text(value))

    def _parameter(self, key: str, text: str) -> None:
        shown, value = self._fitting("parameter", key, text)
        self._experiment.log_parameter(shown, value)  # the SDK leaves out what is the same as before

    def _other(self, key: str, text: str) -> None:
        self._experiment.log_other(*self._fitting("other", key, text))

    def _fitting(self, kind: str, key: str, text: str) -> tuple[str, str]:
        """Name and value that Comet doesn't cut; if they had to be changed, the whole goes into an asset."""
        shown, value = _short(key), text
        if len(text) > _MAX_VALUE:
            value = f"{text[: _MAX_VALUE - 100]}… whole in the asset {_digest(text)}"
        if (shown, value) != (key, text):
            whole = {"kind": kind, "shown": shown, "value": value, "key": key, "text": text}
            name = f"{kind}-{_digest(text)}.json"
            self._stored(self._experiment.log_asset_data(whole, name=name, metadata={"runcast": "whole"}), name)
        return shown, value

    def set_summary(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._other(f"summary/{key}", to_text(value))

    def add_tags(self, tags: Sequence[str]) -> None:
        self._stored(self._experiment.add_tags(list(tags)), f"the tags {', '.join(tags)}")

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        about = _about("text", key, step, time)
        self._stored(self._experiment.log_text(text, step=step, metadata=about), key)

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        about = _about("image", key, step, time)
        self._stored(self._experiment.log_image(str(image), name=key, step=step, metadata=about), key)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows([to_text(cell) for cell in row] for row in rows)
        about = _about("table", key, step, time)
        self._stored(self._experiment.log_asset_data(out.getvalue(), f"{key}.csv", step=step, metadata=about), key)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        # Comet has bins of its own, so its chart is near, and the metadata exact.
        shown = _sdk("comet_ml.data_structure").Histogram()
        shown.add([(low + high) / 2 for low, high in pairwise(edges)], counts=list(counts))
        about = _about("histogram", key, step, time) | {"counts": list(counts), "edges": list(edges)}
        self._stored(self._experiment.log_histogram_3d(shown, name=key, step=step, metadata=about), key)

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        for file in artifact.files:
            path = str(artifact.file_path(file))
            about = _about("file", artifact.name, step, time) | {"path": file.path}
            if artifact.kind in ("model", "checkpoint"):
                answer = self._experiment.log_model(artifact.name, path, file_name=file.path, metadata=about)
            else:
                answer = self._experiment.log_asset(path, f"{artifact.name}/{file.path}", step=step, metadata=about)
            self._stored(answer, path)
        # Last, so that an artifact that reads back is complete.
        manifest = {"kind": artifact.kind, "metadata": events.pack(artifact.metadata)}
        about = _about("artifact", artifact.name, step, time)
        answer = self._experiment.log_asset_data(manifest, f"{artifact.name}.json", step=step, metadata=about)
        self._stored(answer, artifact.name)

    def _stored(self, answer: Any, what: str) -> None:
        if not answer:  # Comet logs what went wrong, calls the experiment crashed, and goes on
            self._experiment.customer_error_reported, self._experiment.customer_error_message = False, None
            raise RuntimeError(f"Comet refused {what}: see the log")

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        if native.data["online"]:
            return _record([_from_api(native.id)])
        return _record([_from_archive(Path(s["zip"]), Path(s["live"])) for s in native.data["segments"]])


def _sdk(module: str) -> Any:
    """A module of the SDK, which is partly typed, imported when it is needed."""
    return import_module(module)


def experiment_key(run_id: str) -> str:
    """The run's id as a Comet key: 32 to 50 letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", run_id)[:18] + hashlib.sha256(run_id.encode()).hexdigest()[:32]


# -- settings ----------------------------------------------------------------------------------------------------------


def _has_api_key() -> bool:
    """Whether Comet is configured, by its variable or one of its files."""
    if os.environ.get("COMET_API_KEY"):
        return True
    with contextlib.suppress(OSError):
        if re.search(r"^\s*COMET_API_KEY\s*=\s*\S", Path(".env").read_text(errors="replace"), re.MULTILINE):
            return True
    override = Path(os.environ.get("COMET_CONFIG") or "~")
    paths = [override / ".comet.config" if override.is_dir() else override, Path(".comet.config")]
    for path in (*paths, Path("~/.comet.config")):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        with contextlib.suppress(OSError, configparser.Error, RuntimeError, UnicodeDecodeError):
            parser.read(path.expanduser())
            if parser.get("comet", "api_key", fallback=""):
                return True
    return False


def _start_online() -> bool:
    if os.environ.get("COMET_MODE", "").lower() == "offline":
        return False
    return os.environ.get("COMET_START_ONLINE", "true").lower() not in ("false", "0", "no", "n", "f", "off")


def _start_mode() -> str | None:
    mode = os.environ.get("COMET_MODE", "").lower()
    return mode if mode in ("get", "get_or_create", "create") else None


@contextlib.contextmanager
def _undisturbed(live: Path) -> Iterator[None]:
    """Keeps Comet's import and start from changing the process, and has it make its folder below `live`."""
    hook, folder = sys.excepthook, tempfile.tempdir
    added = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(added)
    tempfile.tempdir = str(live)
    hidden = {"matplotlib.axes"} - sys.modules.keys()  # importing it takes long and writes to the home directory
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as if it were not installed
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]
        sys.excepthook, tempfile.tempdir = hook, folder
        for name in added:
            del os.environ[name]


# -- names -------------------------------------------------------------------------------------------------------------


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(name: str) -> str:
    """`name` if Comet takes it, else its beginning and a digest of it."""
    if 0 < len(name) <= _MAX_NAME and name.isprintable() and name not in _RESERVED:
        return name
    return "".join(c if c.isprintable() else "?" for c in name[:70]) + "~" + _digest(name)


def _about(kind: str, key: str, step: int | None, time: float) -> dict[str, Any]:
    """The metadata of an asset, which says what it is."""
    return {"runcast": kind, "key": key, "step": step, "time": time}


# -- archives ----------------------------------------------------------------------------------------------------------


def _last_message(path: Path) -> int:
    """The number of the last message that is wholly written."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for reach in (1 << 12, 1 << 20, size):
            file.seek(max(0, size - reach))
            lines = file.read().split(b"\n")
            if len(lines) > 2:
                return int(json.loads(lines[-2])["payload"]["message_id"])
        return int(json.loads(lines[0])["payload"]["message_id"]) if len(lines) == 2 else 0


def _description(live: Path) -> Path:
    """Where the experiment's description is kept whole while it is running: beside its folder."""
    return live.with_suffix(".json")


def _complete(archive: Path) -> bool:
    """Whether the zip has been written; it is empty until the experiment ends."""
    try:
        with zipfile.ZipFile(archive) as found:
            return "messages.json" in found.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _finish_archive(archive: Path, live: Path) -> None:
    """Makes the archive that a killed courier could not make, so that `comet upload` takes it."""
    if _complete(archive):
        _description(live).unlink(missing_ok=True)
    if not _description(live).exists():
        return
    shutil.copyfile(_description(live), live / "experiment.json")
    messages = live / "messages.json"
    os.truncate(messages, messages.read_bytes().rfind(b"\n") + 1)  # the last line may be torn
    temporary = archive.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", allowZip64=True) as out:
        for path in sorted(live.iterdir()):
            out.write(path, path.name)
    temporary.replace(archive)
    _description(live).unlink()
    shutil.rmtree(live)


# -- the reader --------------------------------------------------------------------------------------------------------


@dataclass
class _Asset:
    about: dict[str, Any]
    open: Callable[[], IO[bytes]]

    def content(self) -> Content:
        with self.open() as file:
            digest = hashlib.sha256()
            size = 0
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
        return Content(size, digest.hexdigest(), self.read)

    def read(self) -> bytes:
        with self.open() as file:
            return file.read()


@dataclass
class _Segment:
    """What Comet has, in its own terms."""

    metrics: list[tuple[str, int, float, int]] = field(default_factory=list)  # name, step, value, milliseconds
    parameters: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    assets: list[_Asset] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)


def _from_archive(archive: Path, live: Path) -> _Segment:
    whole = _complete(archive)
    opener = _in_zip(archive) if whole else _in_folder(live)
    segment = _Segment()
    try:
        with opener("experiment.json")() if whole else _description(live).open("rb") as file:
            segment.tags.update(json.load(file)["tags"])
    except FileNotFoundError:  # killed before its first flush
        return segment
    with opener("messages.json")() as file:
        for line in file:
            if not line.endswith(b"\n"):
                break  # torn by a kill
            message = json.loads(line)
            payload = message["payload"]
            match message["type"]:
                case "metric_msg":
                    metric = payload["metric"]
                    point = (metric["metricName"], metric["step"], float(metric["metricValue"]))
                    segment.metrics.append((*point, payload["local_timestamp"]))
                case "parameter_msg":
                    parameter = payload["param"]
                    segment.parameters[parameter["paramName"]] = parameter["paramValue"]
                case "log_other":
                    segment.others[payload["key"]] = payload["value"]
                case "file_upload":
                    about = payload["metadata"]
                    about = json.loads(about) if isinstance(about, str) else about
                    segment.assets.append(_Asset(about or {}, opener(payload["file_path"])))
    return segment


_Opener = Callable[[str], Callable[[], IO[bytes]]]


def _in_folder(folder: Path) -> _Opener:
    return lambda name: lambda: (folder / name).open("rb")


def _in_zip(archive: Path) -> _Opener:
    def opened(name: str) -> IO[bytes]:
        with zipfile.ZipFile(archive) as found:
            return found.open(name)  # stays open when the archive is closed

    return lambda name: lambda: opened(name)


def _from_api(key: str) -> _Segment:
    experiment = _sdk("comet_ml").APIExperiment(previous_experiment=key)
    points = [
        (point["metricName"], int(point["step"]), float(point["metricValue"]), int(point["timestamp"]))
        for point in experiment.get_metrics() or ()
    ]

    def asset(found: Mapping[str, Any]) -> _Asset:
        about = found["metadata"]
        about = json.loads(about) if isinstance(about, str) else about
        return _Asset(about or {}, lambda: io.BytesIO(experiment.get_asset(found["assetId"])))

    return _Segment(
        metrics=list(dict.fromkeys(sorted(points, key=lambda point: point[3]))),
        parameters={p["name"]: p["valueCurrent"] for p in experiment.get_parameters_summary() or ()},
        others={other["name"]: other["valueCurrent"] for other in experiment.get_others_summary() or ()},
        assets=[asset(found) for found in experiment.get_asset_list()],
        tags=set(experiment.get_tags() or ()),
    )


def _record(segments: Sequence[_Segment]) -> RunRecord:
    record = RunRecord()
    assets = _each_once([asset for segment in segments for asset in segment.assets if "runcast" in asset.about])
    parameters = {n: value for segment in segments for n, value in segment.parameters.items() if n not in _RESERVED}
    others = {name: value for segment in segments for name, value in segment.others.items()}
    wholes = [json.loads(asset.read()) for asset in assets if asset.about["runcast"] == "whole"]
    whole = {(w["kind"], w["shown"], w["value"]): (w["key"], w["text"]) for w in wholes}
    parameters = dict(whole.get(("parameter", *item), item) for item in parameters.items())
    others = dict(whole.get(("other", *item), item) for item in others.items() if isinstance(item[1], str))

    record.run_id, record.name, record.project = others["run_id"], others["name"], others["project"]
    record.group = others.get("group")
    record.status = cast("RunStatus", others["status"])
    record.started = float(others["started"])
    record.finished = float(others["finished"]) if "finished" in others and record.status != "running" else None
    record.tags = tuple(sorted({tag for segment in segments for tag in segment.tags}))
    record.config = unflatten({key: from_text(text) for key, text in parameters.items() if text != _REMOVED})
    for name, text in others.items():
        if name.startswith("summary/"):
            record.summary[name.removeprefix("summary/")] = from_text(text)
    for name, step, value, milliseconds in _merged([segment.metrics for segment in segments]):
        if name not in _RESERVED:
            series = record.metrics.setdefault(others.get(f"metric/{name}", name), [])
            series.append(Point(step, value, milliseconds / 1000))
    _add_assets(record, assets)
    return record


def _merged(series: Sequence[Sequence[tuple[str, int, float, int]]]) -> Iterator[tuple[str, int, float, int]]:
    """The points of all segments, without those that a later one only repeats."""
    seen: Counter[tuple[str, int, str, int]] = Counter()
    for points in series:
        here: Counter[tuple[str, int, str, int]] = Counter()
        for point in points:
            identity = (*point[:2], repr(point[2]), point[3])  # as text, NaN equals NaN
            here[identity] += 1
            if here[identity] > seen[identity]:
                seen[identity] += 1
                yield point


def _each_once(assets: Sequence[_Asset]) -> list[_Asset]:
    """Without repeats: an asset's time is exact, so what agrees in everything is the same event."""
    return list({json.dumps(a.about, sort_keys=True) if "key" in a.about else id(a): a for a in assets}.values())


def _add_assets(record: RunRecord, assets: Sequence[_Asset]) -> None:
    files: dict[tuple[str, float], dict[str, Content]] = {}
    for asset in assets:
        kind = asset.about["runcast"]
        if kind == "whole":
            continue
        key, step, time = asset.about["key"], asset.about["step"], asset.about["time"]
        match kind:
            case "text":
                record.texts.setdefault(key, []).append(TextPoint(step, asset.read().decode(), time))
            case "image":
                record.images.setdefault(key, []).append(ImagePoint(step, asset.content(), time))
            case "table":
                columns, *rows = csv.reader(io.StringIO(asset.read().decode(), newline=""))
                cells = tuple(tuple(from_text(cell) for cell in row) for row in rows)
                record.tables.setdefault(key, []).append(TablePoint(step, tuple(columns), cells, time))
            case "histogram":
                point = HistogramPoint(step, tuple(asset.about["counts"]), tuple(asset.about["edges"]), time)
                record.histograms.setdefault(key, []).append(point)
            case "file":
                files.setdefault((key, time), {})[asset.about["path"]] = asset.content()
            case "artifact":
                manifest = json.loads(asset.read())
                content = files.get((key, time), {})
                metadata = events.unpack(manifest["metadata"])
                record.artifacts[key] = ArtifactRecord(key, manifest["kind"], content, step, metadata)
