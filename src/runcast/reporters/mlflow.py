"""MLflow: a server, or a SQLite file beside the run folders that ``mlflow ui`` shows; through `MlflowClient` alone.

    metrics      metrics, every point; numbers of the summary in the end also as ``summary/<name>``, to compare runs by
    params       the config, flat; MLflow never changes one, so what is changed later is the tag ``config.<name>``
    tags         ``tag.<label>``, ``summary.<name>``, and under ``runcast.`` the run itself
    artifacts    ``images/`` as MLflow's own image charts want them, ``texts/``, ``tables/`` and ``histograms/`` by the
                 same pattern, ``artifacts/<name>/`` with what each consists of in ``manifests/<name>.json``

A tag's value is text or JSON (`to_text`); one that is too long is marked as such and stands in tags ``piece.<n>.<tag>``.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import re
import sys
import tempfile
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from runcast import events
from runcast.errors import RunFolderError
from runcast.events import RunStatus, pack, unpack
from runcast.flatten import escape, flatten, from_text, to_text, unescape, unflatten
from runcast.journal import FILE_NAME, Journal
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
from runcast.reporters._mlflow_moments import Moments, milliseconds
from runcast.reporters._mlflow_store import (
    absolute,
    addressed,
    asking,
    connect,
    database_beside,
    is_local,
    keeps_repeats,
    one_creates,
    sqlite_file,
    trusted,
    where,
)
from runcast.reporters._versions import requirement

_NATIVE: dict[RunStatus, str] = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
    "crashed": "FAILED",  # the nearest that MLflow has; the tag `runcast.status` has our word
}
_WORDS: dict[str, RunStatus] = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "killed"}

# What MLflow says of a database or server that is busy or away; the other codes are about the request itself.
_TRANSIENT_CODES = frozenset(
    {"TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}
)

# Limits of MLflow. A name has up to 250 characters: ours leave room for the prefixes. A request has up to a thousand
# entries, a hundred of them params or tags, and up to a megabyte, of which JSON may use twelve bytes a character.
_NAME, _FILE_NAME = 220, 140
_VALUE = 5000
_ENTRIES, _CHARACTERS = 100, 75_000
_METRICS = 1000

# Names: word characters, ``_-. :/``, and as a path they must be their own normal form.
_NO_NAME = r"[^\w\-. :/]|\A/|(?<=/)/|/\Z|\A\.(?=\.)|(?<![^/])\.(?=\.?(?:/|\Z))"
_NO_FILE_NAME = r"[^A-Za-z0-9_.\- /]|\A\.(?=\.?\Z)|(?<=\A\.)\.\Z"  # nor is it . or ..

# No value that `to_text` gives: there a key that begins with $ has two of them.
_REMOVED = '{"$removed": true}'
_PIECES = re.compile(r'\{"\$pieces": (\d+)\}')

_MEDIA = re.compile(
    r"(?P<code>[^+/]*)\+step\+(?P<step>-?\d+)\+timestamp\+(?P<ms>\d+)\+[0-9a-f-]+\.(?:png|txt|json|svg)"
)


class _Active(NamedTuple):
    """The run that the user has open in this process."""

    run_id: str
    tracking_uri: str


class MlflowReporter(Reporter):
    """Writes to ``$MLFLOW_TRACKING_URI``, else to ``mlflow.db`` and ``mlartifacts/`` beside the run folders.

    Args:
        tracking_uri: Default: ``$MLFLOW_TRACKING_URI``, else the SQLite file.
        experiment_name: Default: ``$MLFLOW_EXPERIMENT_NAME``, else the run's project.
    """

    name: ClassVar[str] = "mlflow"
    requires: ClassVar[Requirement] = requirement("mlflow")
    idempotent: bool = True

    def __init__(self, tracking_uri: str | None = None, experiment_name: str | None = None) -> None:
        self._tracking_uri = tracking_uri
        self._experiment_name = experiment_name
        self._active: _Active | None = None

    @classmethod
    def availability(cls) -> Availability:
        found = super().availability()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            reason = "mlflow.db beside the run folders; set MLFLOW_TRACKING_URI for a server"
            return offline(found, reason, mode="local")
        if is_local(uri):
            return offline(found, f"in {redact_text(uri)}, as MLFLOW_TRACKING_URI says", mode="local")
        return online(found)

    def is_transient(self, error: Exception) -> bool | float:
        if getattr(error, "error_code", None) in _TRANSIENT_CODES:
            return True
        seen: BaseException | None = error
        while seen is not None:
            kind = type(seen).__name__
            # A server answered 429 or 5xx to every try of a transfer; SQLite had no turn for us.
            if kind == "RetryError" or (kind == "OperationalError" and "locked" in str(seen)):
                return True
            seen = seen.__cause__ or seen.__context__
        return transient(error)

    # -- start and end ---------------------------------------------------------------------------------------------

    def joins(self) -> bool:
        """MLflow's active run is its thread's alone, and a courier has another: so it is remembered here."""
        self._active = None
        mlflow: Any = sys.modules.get("mlflow")
        active = mlflow.active_run() if hasattr(mlflow, "active_run") else None
        if active is None:
            return False
        uri = absolute(mlflow.get_tracking_uri())
        if self._tracking_uri and absolute(self._tracking_uri) != uri:
            return False
        self._active = _Active(active.info.run_id, uri)
        return True

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        active = self._active if attach is None or (self._active and self._active.run_id == attach.id) else None
        if active is not None:
            uri = active.tracking_uri
        elif attach is not None:
            uri = self._uri_of(attach, run.dir.parent)
        else:
            uri = self._configured or database_beside(run.dir.parent)
        with one_creates(uri), asking(uri):
            client = self._connect(uri)
            known = active.run_id if active is not None else attach.id if attach is not None else None
            run_id = known or self._find_or_create(client, run)
        return self._begin(run, client, run_id, again=attach is not None, joined=active is not None)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        """A new run, and the old one deleted: MLflow takes no point back, and chooses ids itself.

        Only a run that we made is deleted, and only for the run that it was made for.
        """
        if self._active is not None or os.environ.get("MLFLOW_RUN_ID"):
            return None
        uri = self._uri_of(old, run.dir.parent)
        with one_creates(uri), asking(uri):
            client = self._connect(uri)
            before = _run_of(client, old.id)
            if before is not None:
                tags = before.data.tags
                ours = "runcast.created" in tags and "runcast.joined" not in tags
                if not ours or tags.get("runcast.run_id") != to_text(run.run_id):
                    return None
            new = self._find_or_create(client, run, before.info.experiment_id if before else None, besides=old.id)
            if before is not None and before.info.lifecycle_stage == "active":
                client.delete_run(old.id)
        return self._begin(run, client, new)

    def _begin(self, run: RunInfo, client: Any, run_id: str, *, again: bool = False, joined: bool = False) -> NativeRun:
        uri = client.tracking_uri
        self._client, self._id = client, run_id
        with asking(uri):
            stored = self._load()
            path = sqlite_file(uri)
            if path is not None and not joined and uri != self._configured:
                _refuse_artifacts_elsewhere(stored.folder, path.parent)
            self._joined = joined or "runcast.joined" in self._tags
            if not self._joined and stored.info.status != "RUNNING":
                client.update_run(run_id, status="RUNNING")
            told = {
                "run_id": run.run_id,
                "name": run.name,
                "project": run.project,
                "group": run.group,
                "status": "running",
                "joined": self._joined or None,
            }
            self._send_tags({f"runcast.{key}": to_text(value) for key, value in told.items() if value is not None})
        self._codes: dict[str, str] = {}
        self._moments = Moments()
        if again and (run.dir / FILE_NAME).exists():
            self._moments.learn(Journal(run.dir / FILE_NAME))
        self.idempotent = not keeps_repeats(uri, stored.info.experiment_id)
        shown = redact_text(uri)
        return NativeRun(run_id, where(shown, stored.info.experiment_id, run_id), {"tracking_uri": shown})

    def _connect(self, uri: str) -> Any:
        return connect(uri, in_training=self._active is not None)

    def _load(self) -> _Stored:
        """Reads what the run has beside its points, which others may change too."""
        stored = _Stored(self._client, self._id)
        self._tags, self._params, self._folder = stored.tags, stored.params, stored.folder
        self._flat, self._config = stored.flat, stored.config()
        return stored

    def flush(self) -> None:
        """Everything is sent at once, so nothing is left to send."""
        self._moments.flushed()

    def close(self, status: RunStatus) -> None:
        with asking(self._client.tracking_uri):
            self._send_tags({"runcast.status": status})
            self._send_summary()
            if not self._joined:
                self._client.set_terminated(self._id, _NATIVE[status], end_time=milliseconds(clock.time()))

    @property
    def _configured(self) -> str:
        """The store that the settings name, if they do."""
        return absolute(setting(self._tracking_uri, "MLFLOW_TRACKING_URI", ""))

    def _uri_of(self, native: NativeRun, folder: Path | None = None) -> str:
        """Where the run is; with the password that is in our settings, but not in what we wrote down.

        Args:
            folder: The parent of the run folder, where the database is that needs no settings.
        """
        stored = str(native.data.get("tracking_uri", ""))
        ours = [self._configured]
        if self._active is not None:
            ours.append(self._active.tracking_uri)
        if folder is not None and sqlite_file(stored) == folder.absolute() / "mlflow.db":
            ours.append(database_beside(folder))
        return trusted(stored, native.id, ours)

    def _find_or_create(self, client: Any, run: RunInfo, experiment: str | None = None, besides: str = "") -> str:
        """The run that MLFLOW_RUN_ID names, or that a courier which died made, or a new one.

        Args:
            experiment: Default: the one for the run's project.
            besides: A run that it isn't.
        """
        if named := os.environ.get("MLFLOW_RUN_ID"):
            return named
        experiment = experiment or self._experiment(client, run.project)
        if "'" not in run.run_id:
            for found in client.search_runs([experiment], f"tags.`runcast.run_id` = '{to_text(run.run_id)}'"):
                if found.info.run_id != besides:
                    return str(found.info.run_id)
        ours = {"runcast.run_id": to_text(run.run_id), "runcast.created": "true"}
        created = client.create_run(
            experiment,
            start_time=milliseconds(run.started),
            run_name=run.name[:250],
            tags={**json.loads(os.environ.get("MLFLOW_TAGS") or "{}"), **ours},
        )
        return str(created.info.run_id)

    def _experiment(self, client: Any, project: str) -> str:
        chosen = self._experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        theirs = absolute(os.environ.get("MLFLOW_TRACKING_URI", ""))  # MLflow itself sets it along with the id
        if not chosen and theirs in ("", client.tracking_uri) and (known := os.environ.get("MLFLOW_EXPERIMENT_ID")):
            return known
        name = chosen or project
        found = client.get_experiment_by_name(name)
        if found is None:
            location = None
            if path := sqlite_file(client.tracking_uri):  # MLflow would put the artifacts into the working directory
                artifacts = path.parent / "mlartifacts"
                artifacts.mkdir(mode=0o700, exist_ok=True)
                location = artifacts.as_uri()
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except Exception as error:
                if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)  # another run was faster
        return str(found.experiment_id)

    # -- what is logged --------------------------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self.log_metrics_batch([events.Metrics(time=time, step=step, values=dict(metrics))])

    def log_metrics_batch(self, batch: Sequence[events.Metrics]) -> None:
        from mlflow.entities import Metric

        points = []
        tags: dict[str, str] = {}
        for event in batch:
            for name, value in event.values.items():
                code = self._codes.get(name) or self._metric_code(name)
                ms = self._moments.of(name, event.step, event.time, value)
                points.append(Metric(code, value, ms, event.step))
                if abs(value) == sys.float_info.max:
                    tags[_finite_tag(code, event.step, ms, value)] = ""
        if tags:
            self._send_tags(tags)
        self._send_points(points)

    def log_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        if self._joined:
            self._load()
        merged = merge(self._config, dict(config))
        flat = {key: to_text(value) for key, value in flatten(merged).items()}
        most = os.environ.get("MLFLOW_MAX_LOG_PARAMS", "")
        room = int(most) - len(self._params) if most.isdecimal() else sys.maxsize
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        for key in {**self._flat, **flat}:
            text = flat.get(key, _REMOVED)
            if text == self._flat.get(key):
                continue
            code = self._code(key)
            fresh = code not in self._params and len(params) < room
            if fresh:
                params[code] = text if len(text) <= _VALUE else f"{text[:_VALUE]}…"
            if not fresh or len(text) > _VALUE:
                tags |= _pieces(f"config.{code}", text)
        self._send("params", [Param(*item) for item in params.items()], _ENTRIES)
        self._params |= params
        self._send_tags(tags)
        self._flat, self._config = flat, merged

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._store("texts", {self._media_name(key, step, time, text.encode(), "txt"): text.encode()})

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        data = image.read_bytes()
        name = self._media_name(key, step, time, data, "png")
        self._store("images", {name: image, f"{name.removesuffix('.png')}+compressed.webp": _preview(data)})
        self._send_tags({"mlflow.loggedImages": "True"})

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        data = _json({"columns": list(columns), "data": [list(row) for row in rows]})
        name = self._media_name(key, step, time, data, "json")
        self._store("tables", {name: data})
        if self._joined:
            self._load()
        # MLflow's list of what its table page and `load_table` find; the latest must do when it is too long for a tag.
        tables = json.loads(self._tags.get("mlflow.loggedArtifacts", "[]"))
        if (entry := {"path": f"tables/{name}", "type": "table"}) not in tables:
            tables.append(entry)
        while len(text := json.dumps(tables)) > _VALUE:
            tables.pop(0)
        self._send_tags({"mlflow.loggedArtifacts": text})

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        data = _histogram_svg(counts, edges)
        self._store("histograms", {self._media_name(key, step, time, data, "svg"): data})

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        code = self._file_code(artifact.name)
        stored = {file.path: "/".join(_file_part(part) for part in file.path.split("/")) for file in artifact.files}
        self._store(f"artifacts/{code}", {stored[file.path]: artifact.file_path(file) for file in artifact.files})
        manifest = {
            "name": artifact.name,
            "kind": artifact.kind,
            "step": step,
            "metadata": dict(artifact.metadata),
            "folder": f"artifacts/{code}",
            "files": [[path, name] for path, name in stored.items()],
        }
        self._store("manifests", {f"{code}.json": _json(manifest)})

    def set_summary(self, values: Mapping[str, Any]) -> None:
        tags: dict[str, str] = {}
        for name, value in values.items():
            tags |= _pieces(f"summary.{self._code(name)}", to_text(value))
        self._send_tags(tags)

    def add_tags(self, tags: Sequence[str]) -> None:
        sent: dict[str, str] = {}
        for tag in tags:
            sent |= _pieces(f"tag.{self._code(tag)}", to_text(tag))
        self._send_tags(sent)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _send(self, what: str, entries: Sequence[Any], most: int) -> None:
        with asking(self._client.tracking_uri):
            for part in _requests(entries, most):
                self._client.log_batch(self._id, **{what: part}, synchronous=True)

    def _send_points(self, points: Sequence[Any]) -> None:
        try:
            self._send("metrics", points, _METRICS)
        except Exception as error:
            # Unlike other points that come again, older versions refuse a NaN that they have.
            keys = {point.key for point in points if math.isnan(point.value)}
            if getattr(error, "error_code", None) != "BAD_REQUEST" or not keys:
                raise
            histories = [self._client.get_metric_history(self._id, key) for key in keys]
            held = {(old.key, old.timestamp, old.step) for old in itertools.chain(*histories) if math.isnan(old.value)}
            new = [p for p in points if not (math.isnan(p.value) and (p.key, p.timestamp, p.step) in held)]
            if len(new) == len(points):
                raise
            self._send("metrics", new, _METRICS)

    def _send_summary(self) -> None:
        """Makes a metric of each number of the summary, once it is final: MLflow would keep every value it had."""
        from mlflow.entities import Metric

        shown = self._client.get_run(self._id).data.metrics
        points = []
        for key in [key for key in self._tags if key.startswith("summary.")]:
            name, number = f"summary/{key.removeprefix('summary.')}", _finite(from_text(self._tags[key]))
            if number is None or shown.get(name) == number:
                continue
            ms = milliseconds(clock.time())
            if name in shown:  # the latest is what MLflow shows, and clocks may go back
                ms = max(ms, *(old.timestamp + 1 for old in self._client.get_metric_history(self._id, name)))
            points.append(Metric(name, number, ms, 0))
        self._send("metrics", points, _METRICS)

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._send("tags", [RunTag(*item) for item in tags.items()], _ENTRIES)
        self._tags.update(tags)

    def _code(self, name: str) -> str:
        """The name as MLflow takes it; `_Stored.name` reads it."""
        code = _encode(name, _NO_NAME, ":", _NAME)
        self._remember(name, code, ":")
        return code

    def _metric_code(self, name: str) -> str:
        code = self._code(name)
        if code.startswith("summary/"):  # ours
            code = f":73:{code[1:]}"
        self._codes[name] = code
        return code

    def _file_code(self, name: str) -> str:
        code = _encode(name, _NO_FILE_NAME, "=", _FILE_NAME).replace("/", "~")
        self._remember(name, code, "=")
        return code

    def _remember(self, name: str, code: str, mark: str) -> None:
        """Keeps a name that was too long; for files the same name has another code, and the same tag."""
        if (digest := _digest_in(code, mark)) and f"runcast.name.{digest}" not in self._tags:
            self._send_tags(_pieces(f"runcast.name.{digest}", to_text(name)))

    def _media_name(self, key: str, step: int, time: float, data: bytes, suffix: str) -> str:
        """A file name by the pattern of MLflow's own images; the same again is the same file."""
        digest = hashlib.sha256(data).hexdigest()[:16]
        return f"{self._file_code(key)}+step+{step}+timestamp+{milliseconds(time)}+{digest}.{suffix}"

    def _store(self, folder: str, files: Mapping[str, bytes | Path]) -> None:
        """Uploads files, by their path below `folder`."""
        if self._folder is not None:
            for name in files:
                inside(self._folder, f"{folder}/{name}")
        with tempfile.TemporaryDirectory(prefix="runcast-") as staging:
            for name, content in files.items():
                target = Path(staging, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    target.write_bytes(content)
                else:
                    target.symlink_to(content.resolve())
            with addressed(self._client), asking(self._client.tracking_uri):
                self._client.log_artifacts(self._id, staging, folder)

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        uri = self._uri_of(native)
        with asking(uri):
            return _Stored(self._connect(uri), native.id).record()


class _Stored:
    """What MLflow has of a run.

    Attributes:
        params: Code to text, as MLflow has them; likewise `tags`.
        flat: The flat config: name to text, as it is now.
        folder: Where its artifacts are, if they are on this machine.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        run = client.get_run(run_id)
        self.info = run.info
        self.params: dict[str, str] = dict(run.data.params)
        self.tags: dict[str, str] = dict(run.data.tags)
        self._metrics = sorted(run.data.metrics)
        self._client = client
        location = urlsplit(run.info.artifact_uri)
        self.folder = Path(url2pathname(location.path)) if location.scheme in ("", "file") else None
        changed = {key.removeprefix("config.") for key in self.tags if key.startswith("config.")}
        texts = {
            code: self._tag(f"config.{code}", self.params.get(code))
            for code in {**self.params, **dict.fromkeys(changed)}
        }
        self.flat = {self.name(code): text for code, text in texts.items() if text not in (None, _REMOVED)}

    def record(self) -> RunRecord:
        """All of it."""
        status, ended = self._status(), self.info.end_time
        return RunRecord(
            run_id=self._told("run_id", self.info.run_id),
            name=self._told("name", self.info.run_name or ""),
            project=self._told("project", None) or self._client.get_experiment(self.info.experiment_id).name,
            group=self._told("group", None),
            status=status,
            config=self.config(),
            metrics={self.name(code): self._points(code) for code in self._metrics if not code.startswith("summary/")},
            texts=self._media("texts", lambda step, path, time: TextPoint(step, self._bytes(path).decode(), time)),
            images=self._media("images", lambda step, path, time: ImagePoint(step, self._content(path), time)),
            tables=self._media("tables", self._table),
            histograms=self._media("histograms", self._histogram),
            artifacts={artifact.name: artifact for artifact in self._artifacts()},
            tags=tuple(sorted(self._values("tag.").values())),
            summary=self._values("summary."),
            started=self.info.start_time / 1000,
            finished=ended / 1000 if ended and status != "running" else None,
        )

    def config(self) -> dict[str, Any]:
        """The config, nested."""
        return unflatten({key: from_text(text) for key, text in self.flat.items()})

    def name(self, code: str, mark: str = ":") -> str:
        """The name that became this code."""
        if digest := _digest_in(code, mark):
            return str(from_text(self._tag(f"runcast.name.{digest}", to_text(code)) or code))
        return "" if code == mark * 2 else unescape(code, mark)

    def _status(self) -> RunStatus:
        """Our word for the status, if it still means what MLflow says; or if the run's end is not ours to tell MLflow."""
        if "runcast.joined" in self.tags:
            return cast("RunStatus", self._told("status", "running"))
        for word, native in _NATIVE.items():
            if native == self.info.status and word == self._told("status", ""):
                return word
        return _WORDS.get(self.info.status, "running")

    def _told(self, key: str, default: Any) -> Any:
        text = self._tag(f"runcast.{key}")
        return default if text is None else from_text(text)

    def _tag(self, key: str, default: str | None = None) -> str | None:
        """A tag's text, put together if it is in pieces."""
        text = self.tags.get(key, default)
        if text is not None and (pieces := _PIECES.fullmatch(text)):
            return "".join(self.tags.get(f"piece.{number}.{key}", "") for number in range(int(pieces[1])))
        return text

    def _values(self, prefix: str) -> dict[str, Any]:
        codes = [key.removeprefix(prefix) for key in self.tags if key.startswith(prefix)]
        return {self.name(code): from_text(self._tag(f"{prefix}{code}") or "") for code in codes}

    def _points(self, code: str) -> list[Point]:
        """A metric's points in the order of their times; old file stores keep repeats, so each counts once."""
        found = {}
        for point in self._client.get_metric_history(self.info.run_id, code):
            value = point.value
            # SQL stores have no infinity, and put the greatest number for it.
            if (
                abs(value) == sys.float_info.max
                and _finite_tag(code, point.step, point.timestamp, value) not in self.tags
            ):
                value = math.copysign(math.inf, value)
            found[point.timestamp, point.step, repr(value)] = Point(point.step, value, point.timestamp / 1000)
        return [point for _, point in sorted(found.items(), key=lambda item: item[0][:2])]

    def _media(self, folder: str, point: Callable[[int, str, float], Any]) -> dict[str, list[Any]]:
        series: dict[str, list[Any]] = {}
        for path in self._listed(folder):
            if match := _MEDIA.fullmatch(path.rpartition("/")[2]):
                name = self.name(match["code"].replace("~", "/"), "=")
                series.setdefault(name, []).append(point(int(match["step"]), path, int(match["ms"]) / 1000))
        for points in series.values():
            points.sort(key=lambda each: (each.time, each.step))
        return series

    def _table(self, step: int, path: str, time: float) -> TablePoint:
        data = unpack(json.loads(self._bytes(path)))
        return TablePoint(step, tuple(data["columns"]), tuple(tuple(row) for row in data["data"]), time)

    def _histogram(self, step: int, path: str, time: float) -> HistogramPoint:
        data = json.loads(re.findall(r"<metadata>(.*)</metadata>", self._bytes(path).decode())[0])
        return HistogramPoint(step, tuple(data["counts"]), tuple(data["edges"]), time)

    def _artifacts(self) -> Iterator[ArtifactRecord]:
        for path in self._listed("manifests"):
            data = unpack(json.loads(self._bytes(path)))
            files = {name: self._content(f"{data['folder']}/{stored}") for name, stored in data["files"]}
            yield ArtifactRecord(data["name"], data["kind"], files, data["step"], data["metadata"])

    def _listed(self, folder: str) -> list[str]:
        with addressed(self._client):
            return [str(file.path) for file in self._client.list_artifacts(self.info.run_id, folder) if not file.is_dir]

    def _content(self, path: str) -> Content:
        with self._file(path) as file:
            return replace(Content.of_file(file), read=lambda: self._bytes(path))

    def _bytes(self, path: str) -> bytes:
        with self._file(path) as file:
            return file.read_bytes()

    @contextmanager
    def _file(self, path: str) -> Iterator[Path]:
        """A stored file: itself if it is on this machine, else a copy."""
        if self.folder is not None:
            yield inside(self.folder, path)
            return
        with tempfile.TemporaryDirectory(prefix="runcast-") as folder, addressed(self._client):
            yield Path(self._client.download_artifacts(self.info.run_id, path, folder))


# -- runs ----------------------------------------------------------------------------------------------------------


def _run_of(client: Any, run_id: str) -> Any:
    """A run, also one that was deleted; None if there is none any more."""
    try:
        return client.get_run(run_id)
    except Exception as error:
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _refuse_artifacts_elsewhere(stored: Path | None, folder: Path) -> None:
    """A database that no setting names may come from a stranger, and says itself where the files of its runs go."""
    places = [(folder / name).resolve() for name in ("mlartifacts", "mlruns")]
    if stored is not None and not any(stored.resolve().is_relative_to(place) for place in places):
        raise RunFolderError(
            f"MLflow would keep the files of this run in {str(stored)!r}, outside of {str(places[0])!r}: take another "
            "project name, or name the database with MLFLOW_TRACKING_URI if it is yours"
        )


# -- values and names ----------------------------------------------------------------------------------------------


def _json(value: Any) -> bytes:
    return json.dumps(pack(value), ensure_ascii=False).encode()


def _finite(value: Any) -> float | None:
    """A number that a metric can hold as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond every float
        return None


def _pieces(key: str, text: str) -> dict[str, str]:
    """A text as tags: one, or a mark and as many as it needs."""
    if len(text) <= _VALUE:
        return {key: text}
    starts = range(0, len(text), _VALUE)
    parts = {f"piece.{number}.{key}": text[start : start + _VALUE] for number, start in enumerate(starts)}
    return {**parts, key: json.dumps({"$pieces": len(parts)})}  # last, so that it never marks what isn't there


def _requests(entries: Iterable[Any], most: int) -> Iterator[list[Any]]:
    """The entries in as many lists as there must be requests."""
    part: list[Any] = []
    size = 0
    for entry in entries:
        length = len(entry.key) + len(entry.value) if isinstance(entry.value, str) else len(entry.key)
        if len(part) == most or size + length > _CHARACTERS:
            yield part
            part, size = [], 0
        part.append(entry)
        size += length
    if part:
        yield part


def _finite_tag(code: str, step: int, ms: int, value: float) -> str:
    """The tag that tells the greatest number of all from the infinity that SQL stores write as it."""
    point = f"{code} {step} {ms} {math.copysign(1, value)}"
    return f"runcast.finite.{hashlib.sha256(point.encode()).hexdigest()[:32]}"


def _encode(name: str, forbidden: str, mark: str, limit: int) -> str:
    """`escape`, with ``mark mark`` for the empty name, and ``beginning mark digest`` for one that is too long.

    In all other codes marks come in pairs with something between them, so that no two names have the same code.
    """
    code = escape(name, forbidden, mark) or mark * 2
    if len(code) <= limit:
        return code
    digest = hashlib.sha256(name.encode()).hexdigest()[:20]
    return f"{re.sub(f'{mark}[0-9a-f]*{mark}?', '-', code[: limit - 21]).rstrip('/')}{mark}{digest}"


def _digest_in(code: str, mark: str) -> str | None:
    head, found, digest = code.rpartition(mark)
    return digest if found and mark not in head and len(digest) == 20 else None


def _file_part(part: str) -> str:
    return _encode(part, _NO_FILE_NAME, "=", _FILE_NAME)


# -- pictures ------------------------------------------------------------------------------------------------------


def _preview(png: bytes) -> bytes:
    """The small picture that MLflow's charts show first."""
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    small = image.convert("L" if image.mode.startswith("I") else "RGBA")
    small.thumbnail((256, 256))
    out = io.BytesIO()
    small.save(out, format="WEBP")
    return out.getvalue()


def _histogram_svg(counts: Sequence[float], edges: Sequence[float]) -> bytes:
    """A bar chart to look at, with its numbers inside to read."""
    numbers = json.dumps({"counts": list(counts), "edges": list(edges)})
    low, half = edges[0] / 2, (edges[-1] / 2 - edges[0] / 2) or 1.0  # halves: the whole may be beyond every float
    highest = max(counts, default=0.0) or 1.0
    x = [600 * ((edge / 2 - low) / half) for edge in edges]
    bars = "".join(
        f'<rect x="{left:.2f}" y="{200 - 200 * (count / highest):.2f}" width="{right - left:.2f}" '
        f'height="{200 * (count / highest):.2f}"/>'
        for count, (left, right) in zip(counts, itertools.pairwise(x), strict=True)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-20 -20 640 260" width="640" height="260">'
        f"<metadata>{numbers}</metadata>"
        f'<g fill="#4878d0" stroke="white" stroke-width="0.5">{bars}</g>'
        '<path d="M0 200H600" stroke="black"/><g font-family="sans-serif" font-size="14">'
        f'<text y="220">{edges[0]:.6g}</text><text x="600" y="220" text-anchor="end">{edges[-1]:.6g}</text>'
        f'<text y="-5">{max(counts, default=0.0):.6g}</text></g></svg>'
    ).encode()
