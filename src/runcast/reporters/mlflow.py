"""MLflow: a server, or a SQLite file beside the run folders that ``mlflow ui`` shows; through `MlflowClient` alone.

    metrics      metrics, every point; numbers of the summary in the end also as ``summary/<name>``, to compare runs by
    params       the config, flat; MLflow never changes one, so what is changed later is the tag ``config.<name>``
    tags         ``tag.<label>``, ``summary.<name>``, and under ``runcast.`` the run itself
    artifacts    ``images/`` as MLflow's own image charts want them, ``texts/``, ``tables/`` and ``histograms/`` by the
                 same pattern, ``artifacts/<name>/`` with what each consists of in ``manifests/<name>.json``

A tag's value is text or JSON (`to_text`); one that is too long is marked as such and stands in tags ``piece.<n>.<tag>``.
Runs of other writers are read too (`_mlflow_theirs.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from runcast import events
from runcast.errors import RunFolderError
from runcast.events import RunStatus
from runcast.flatten import flatten, from_text, to_text
from runcast.journal import FILE_NAME, Journal
from runcast.record import RunRecord, inside, merge
from runcast.redact import redact_text
from runcast.reporter import (
    Availability,
    AvailabilityStatus,
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
from runcast.reporters._mlflow_find import Shown, all_runs, find, shown_at
from runcast.reporters._mlflow_moments import Moments, milliseconds
from runcast.reporters._mlflow_names import (
    NATIVE,
    REMOVED,
    VALUE,
    digest_in,
    encode_file_name,
    encode_name,
    finite,
    finite_tag,
    pieces,
    requests,
    to_json,
)
from runcast.reporters._mlflow_pictures import histogram_svg, preview
from runcast.reporters._mlflow_record import OurRun, Stored
from runcast.reporters._mlflow_store import (
    absolute,
    addressed,
    asking,
    connect,
    database_beside,
    is_local,
    one_creates,
    sqlite_file,
    takes_repeats,
    trusted,
    where,
    whose,
)
from runcast.reporters._mlflow_theirs import their_record
from runcast.reporters._versions import requirement

# What MLflow says of a database or server that is busy or away; the other codes are about the request itself.
_TRANSIENT_CODES = frozenset(
    {"TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}
)
_ENTRIES = 100
"""Params or tags that a request may have."""


class Limits(NamedTuple):
    """What a server takes.

    Attributes:
        metrics: In one request.
        params: Of one run.
        param: Characters of a param's value.
        tag: Characters of a tag's value.
    """

    metrics: int = 1000
    params: int = sys.maxsize
    param: int = VALUE
    tag: int = VALUE


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
    limits: ClassVar[Limits] = Limits()

    def __init__(self, tracking_uri: str | None = None, experiment_name: str | None = None) -> None:
        self._tracking_uri = tracking_uri
        self._experiment_name = experiment_name
        self._active: _Active | None = None
        self._shown: dict[str, Shown] = {}

    @classmethod
    def availability(cls) -> Availability:
        found = super().availability()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            reason = "mlflow.db beside the run folders; set MLFLOW_TRACKING_URI for a server"
            return offline(found, reason, mode="local")
        if (other := whose(uri)) and found.status == "ready":
            # Else "all" would report the run there twice. Azure ML has limits, and a login, that only its reporter knows.
            status: AvailabilityStatus = "inactive" if other == "azureml" else "on request"
            return replace(found, status=status, reason=f"MLFLOW_TRACKING_URI names a server that `{other}` reports to")
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
            uri = self._configured or self._default(run)
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
        self._client, self._id, self._joined = client, run_id, joined
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
                "started": run.started if self._joined else None,
            }
            self._send_tags({f"runcast.{key}": to_text(value) for key, value in told.items() if value is not None})
            self.idempotent = takes_repeats(client, stored.info.experiment_id)
        self._codes: dict[str, str] = {}
        self._moments = Moments()
        if again and (run.dir / FILE_NAME).exists():
            self._moments.learn(Journal(run.dir / FILE_NAME))
        shown = redact_text(uri)
        return NativeRun(run_id, where(shown, stored.info.experiment_id, run_id), {"tracking_uri": shown})

    def _connect(self, uri: str) -> Any:
        return connect(uri, in_training=self._active is not None)

    def _load(self) -> Stored:
        """Reads what the run has beside its points, which others may change too."""
        stored = Stored(self._client, self._id)
        ours = OurRun(stored)
        self._tags, self._params, self._folder = stored.tags, stored.params, stored.folder
        self._flat, self._config = ours.flat, ours.config()
        return stored

    def flush(self) -> None:
        """Everything is sent at once, so nothing is left to send."""
        self._moments.flushed()

    def close(self, status: RunStatus) -> None:
        with asking(self._client.tracking_uri):
            self._send_tags({"runcast.status": status})
            self._send_summary()
            if not self._joined:
                self._client.set_terminated(self._id, NATIVE[status], end_time=milliseconds(clock.time()))

    def _default(self, run: RunInfo) -> str:
        """The store of a run for which no settings name one."""
        return database_beside(run.dir.parent)

    @property
    def _configured(self) -> str:
        """The store that the settings name, if they do."""
        uri = setting(self._tracking_uri, "MLFLOW_TRACKING_URI", "")
        theirs = os.environ.get("MLFLOW_TRACKING_URI", "")
        return absolute(
            theirs if redact_text(theirs) == uri else uri
        )  # an option that was written down has no password

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
        """The run that MLFLOW_RUN_ID names, or one of our own."""
        return os.environ.get("MLFLOW_RUN_ID") or self._own_run(client, run, experiment, besides)

    def _own_run(
        self, client: Any, run: RunInfo, experiment: str | None = None, besides: str = "", parent: str | None = None
    ) -> str:
        """The run that a courier which died made, or a new one.

        Args:
            experiment: Default: the one for the run's project.
            besides: A run that it isn't.
            parent: The run that it belongs to.
        """
        experiment = experiment or self._experiment(client, run.project)
        if "'" not in run.run_id:
            for found in client.search_runs([experiment], f"tags.`runcast.run_id` = '{to_text(run.run_id)}'"):
                if found.info.run_id != besides:
                    return str(found.info.run_id)
        tags = {"runcast.run_id": to_text(run.run_id), "runcast.created": "true"}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        created = client.create_run(
            experiment,
            start_time=milliseconds(run.started),
            run_name=run.name[:250],
            tags={**json.loads(os.environ.get("MLFLOW_TAGS") or "{}"), **tags},
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
                    tags[finite_tag(code, event.step, ms, value)] = ""
        if tags:
            self._send_tags(tags)
        self._send("metrics", points, self.limits.metrics)

    def log_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        if self._joined:
            self._load()
        merged = merge(self._config, dict(config))
        flat = {key: to_text(value) for key, value in flatten(merged).items()}
        most = os.environ.get("MLFLOW_MAX_LOG_PARAMS", "")
        limits = self.limits
        room = min(limits.params, int(most) if most.isdecimal() else sys.maxsize) - len(self._params)
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        for key in {**self._flat, **flat}:
            text = flat.get(key, REMOVED)
            if text == self._flat.get(key):
                continue
            code = self._code(key)
            fresh = code not in self._params and len(params) < room
            if fresh:
                params[code] = text if len(text) <= limits.param else f"{text[: limits.param - 1]}…"
            if not fresh or len(text) > limits.param:
                tags |= pieces(f"config.{code}", text)
        self._send("params", [Param(*item) for item in params.items()], _ENTRIES)
        self._params |= params
        self._send_tags(tags)
        self._flat, self._config = flat, merged

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._store("texts", {self._media_name(key, step, time, text.encode(), "txt"): text.encode()})

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        data = image.read_bytes()
        name = self._media_name(key, step, time, data, "png")
        self._store("images", {name: image, f"{name.removesuffix('.png')}+compressed.webp": preview(data)})
        self._send_tags({"mlflow.loggedImages": "True"})

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        data = to_json({"columns": list(columns), "data": [list(row) for row in rows]})
        name = self._media_name(key, step, time, data, "json")
        self._store("tables", {name: data})
        if self._joined:
            self._load()
        # MLflow's list of what its table page and `load_table` find; the latest must do when it is too long for a tag.
        tables = json.loads(self._tags.get("mlflow.loggedArtifacts", "[]"))
        if (entry := {"path": f"tables/{name}", "type": "table"}) not in tables:
            tables.append(entry)
        while len(text := json.dumps(tables)) > self.limits.tag:
            tables.pop(0)
        self._send_tags({"mlflow.loggedArtifacts": text})

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        """As a picture in ``histograms/``, with the exact numbers in it."""
        data = histogram_svg(counts, edges)
        self._store("histograms", {self._media_name(key, step, time, data, "svg"): data})

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        code, fresh = self._file_code(artifact.name), self._fresh()
        folder = f"artifacts/{code}{fresh}"
        stored = {
            file.path: "/".join(encode_file_name(part) for part in file.path.split("/")) for file in artifact.files
        }
        self._store(folder, {stored[file.path]: artifact.file_path(file) for file in artifact.files})
        manifest = {
            "name": artifact.name,
            "kind": artifact.kind,
            "step": step,
            "time": time,
            "metadata": dict(artifact.metadata),
            "folder": folder,
            "files": [[path, name] for path, name in stored.items()],
        }
        self._store("manifests", {f"{code}{fresh}.json": to_json(manifest)})

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """As tags; numbers, once they are final, also as metrics ``summary/<name>``."""
        tags: dict[str, str] = {}
        for name, value in values.items():
            tags |= pieces(f"summary.{self._code(name)}", to_text(value))
        self._send_tags(tags)

    def add_tags(self, tags: Sequence[str]) -> None:
        sent: dict[str, str] = {}
        for tag in tags:
            sent |= pieces(f"tag.{self._code(tag)}", to_text(tag))
        self._send_tags(sent)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _send(self, what: str, entries: Sequence[Any], most: int) -> None:
        with asking(self._client.tracking_uri):
            for part in requests(entries, most):
                self._client.log_batch(self._id, **{what: part}, synchronous=True)

    def _send_summary(self) -> None:
        """Makes a metric of each number of the summary, once it is final: MLflow would keep every value it had."""
        from mlflow.entities import Metric

        shown = self._client.get_run(self._id).data.metrics
        points = []
        for key in [key for key in self._tags if key.startswith("summary.")]:
            name, number = f"summary/{key.removeprefix('summary.')}", finite(from_text(self._tags[key]))
            if number is None or shown.get(name) == number:
                continue
            ms = milliseconds(clock.time())
            if name in shown:  # the latest is what MLflow shows, and clocks may go back
                ms = max(ms, *(old.timestamp + 1 for old in self._client.get_metric_history(self._id, name)))
            points.append(Metric(name, number, ms, 0))
        self._send("metrics", points, self.limits.metrics)

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._send("tags", [RunTag(*item) for item in tags.items()], _ENTRIES)
        self._tags.update(tags)

    def _code(self, name: str) -> str:
        """The name as MLflow takes it; `Stored.name` reads it."""
        code = encode_name(name)
        self._remember(name, code, ":")
        return code

    def _metric_code(self, name: str) -> str:
        code = self._code(name)
        if code.startswith("summary/"):  # ours
            code = f":73:{code[1:]}"
        self._codes[name] = code
        return code

    def _file_code(self, name: str) -> str:
        code = encode_file_name(name).replace("/", "~")
        self._remember(name, code, "=")
        return code

    def _remember(self, name: str, code: str, mark: str) -> None:
        """Keeps a name that was too long; for files the same name has another code, and the same tag."""
        if (digest := digest_in(code, mark)) and f"runcast.name.{digest}" not in self._tags:
            self._send_tags(pieces(f"runcast.name.{digest}", to_text(name)))

    def _media_name(self, key: str, step: int, time: float, data: bytes, suffix: str) -> str:
        """A file name by the pattern of MLflow's own images; the same again is the same file."""
        digest = hashlib.sha256(data).hexdigest()[:16]
        return f"{self._file_code(key)}+step+{step}+timestamp+{milliseconds(time)}+{digest}{self._fresh()}.{suffix}"

    def _fresh(self) -> str:
        """What makes a file's name a new one each time, where no file can be written over."""
        return ""

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
        shown = self._shown.get(str(native.data.get("tracking_uri")))
        uri = self._uri_of(native) if shown is None else shown.uri
        with asking(uri):
            stored = Stored(self._connect(uri), native.id) if shown is None else shown.stored(native.id)
            return OurRun(stored).record() if stored.ours else their_record(stored)

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """The runs at a path (a database, a folder ``mlruns``, ``PATH#RUN_ID``), or in the store that our settings name.

        There, `source` is a run's id, ``runs:/ID``, the URL of a run's or an experiment's page, or an experiment's name or id.
        """
        shown = shown_at(source)
        if shown is not None and shown.uri != self._configured:
            self._shown[shown.uri] = shown
            uri, found = shown.uri, shown.runs()
        elif uri := self._configured:
            with asking(uri):
                client = self._connect(uri)
                wanted = source if shown is None else shown.wanted
                found = find(client, wanted) if wanted else all_runs(client)
        else:
            raise LookupError(
                f"there is no store of MLflow's at {source!r}, and no settings say on which server to look for it: "
                "expected the path of a database or of a folder mlruns; or set MLFLOW_TRACKING_URI"
            )
        return [NativeRun(run_id, redact_text(uri), {"tracking_uri": redact_text(uri)}) for run_id in found]


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
