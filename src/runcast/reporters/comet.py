"""Comet: an experiment a run, offline without an account, online where an API key is configured.

What goes where: metrics, parameters ("Hyperparameters"), others ("Other"), and assets, each with metadata that says what
it is. The SDK takes a wall time only in its own message class, so metrics are put into its queue as such.

Offline, the SDK's thread writes messages to a folder of random name (`_comet_archives.py`), which is put below the run
folder, so that a killed courier's data is found. Each `open` is a session of its own under the same experiment key, and
Comet merges sessions when they are uploaded. The archive of a session is made here, in one piece, whether it ends in
order or not. An experiment that the user opened is the one session that isn't ours: we add to it and don't end it.
"""

from __future__ import annotations

import configparser
import contextlib
import csv
import errno
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
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from runcast import events
from runcast.errors import RuncastError, SessionLostError
from runcast.events import RunStatus, StoredFile
from runcast.flatten import flatten, to_text
from runcast.record import RunRecord, inside, merge
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
from runcast.reporters._comet_archives import KEY, Place, Session, Written, read_archive, read_sessions, sessions_of
from runcast.reporters._comet_record import REMOVED, RESERVED, Asset, Stored, config_of, own_of, record_of, together
from runcast.reporters._comet_theirs import record_of as their_record
from runcast.reporters._comet_theirs import stored_experiments
from runcast.reporters._versions import requirement
from runcast.trust import replace_file
from runcast.writer import this_writer

_MAX_NAME = 100
_MAX_VALUE = 1000
"""The SDK cuts longer ones, with no more than a warning."""
_PATIENCE = 60.0
"""Seconds that the SDK's own thread may take to write what it was given."""
_ROOM = 1 << 20
"""Bytes that must be free, lest a refusal is put down to a full disk."""
_QUIET = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # else importing it patches every framework it finds
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_LOGGING_CONSOLE": "ERROR",
}
_ours: weakref.WeakSet[Any] = weakref.WeakSet()
"""The experiments that were opened here, and so not by the user."""


class CometReporter(Reporter):
    """Reports to Comet.

    Args:
        project_name: Default: ``$COMET_PROJECT_NAME``, else the run's project.
        workspace: Default: ``$COMET_WORKSPACE``, else the account's own.
        offline_directory: Where offline archives go. Default: ``$COMET_OFFLINE_DIRECTORY``, else ``comet`` in the run
            folder.
    """

    name: ClassVar[str] = "comet"
    requires: ClassVar[Requirement] = requirement("comet")

    def __init__(
        self, project_name: str | None = None, workspace: str | None = None, offline_directory: str | None = None
    ) -> None:
        self._project_name = project_name
        self._workspace = workspace
        self._offline_directory = offline_directory
        self._experiment: Any = None
        self._theirs = False  # the experiment is the user's, or was to be
        self._of: str | None = None  # the run, if it is not alone in the experiment
        self._own: dict[str, Any] = {}  # what is the run's in there
        self._config: dict[str, Any] = {}
        self._names: set[str] = set()  # metrics whose whole name Comet has
        self._assets: set[str] = set()  # what Comet has of artifacts and of long values
        self._place: Place | None = None
        self._session: Session | None = None  # None: online
        self._written: Written | None = None
        self._missing = 0  # messages that were never written, and are known about
        self._complaint: str | None = None  # the last error of Comet's that is known about
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

    # -- start -----------------------------------------------------------------------------------------------------

    def joins(self) -> bool:
        self._theirs = _opened_by_the_user() is not None
        return self._theirs

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        theirs = _opened_by_the_user()
        if theirs is not None:
            return self._join(run, theirs, attach)
        if self._theirs:
            raise RuncastError(
                "the Comet experiment that the run had joined has ended: `runcast sync` delivers the rest"
            )
        self._leave()
        key = _key_of(run, attach)
        joined = attach.data.get("joined") if attach else None
        if bool(attach.data["online"]) if attach else _has_api_key() and _start_online():
            return self._go_online(run, key, joined, again=attach is not None)
        place = self._place_of(run)
        sessions = [place.completed(session, run.run_id) for session in sessions_of(attach.data)] if attach else []
        return self._go_offline(run, key, place, sessions, joined)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        """The sessions are removed, and one begins under the same key: offline, nobody has seen them."""
        key, theirs = _key_of(run, old), _opened_by_the_user()
        if old.data["online"] or (theirs is not None and theirs.get_key() != key):
            return None
        place = self._place_of(run)
        if not all(place.removable(session) for session in sessions_of(old.data)):
            return None
        self._leave()
        if theirs is None:
            return self._go_offline(run, key, place, [], old.data.get("joined"))
        place.clear(key, run.run_id, derived=False)
        return self._join(run, theirs, None)

    def _place_of(self, run: RunInfo) -> Place:
        return Place.of(run.dir, setting(self._offline_directory, "COMET_OFFLINE_DIRECTORY", ""))

    def _go_online(self, run: RunInfo, key: str, joined: dict[str, Any] | None, *, again: bool) -> NativeRun:
        self._of = run.run_id if joined else None
        live = self._place_of(run).live
        if joined:
            self._remember(_from_api(key))
        self._experiment = experiment = self._start(run, key, joined, live, mode="get" if again else _start_mode())
        self._tell_which(run)
        self.flush()
        return _native(experiment.get_key(), experiment.url, joined)

    def _go_offline(
        self, run: RunInfo, key: str, place: Place, sessions: list[Session], joined: dict[str, Any] | None
    ) -> NativeRun:
        """Begins a session, after those that are kept; what else there is of this run is removed."""
        self._of = run.run_id if joined else None
        place.clear(key, run.run_id, derived=key == experiment_key(run.run_id), keep=sessions)
        self._remember(read_sessions(sessions))
        # `create` would reuse the archive's name, and so overwrite what is there.
        self._experiment = experiment = self._start(run, key, joined, place.live, place.archives, "get_or_create")
        archive = place.archives / experiment._get_offline_archive_file_name()
        session = place.session(str(archive), str(experiment.tmpdir))
        self._begin(place, session)
        self._tell_which(run)
        self.flush()
        where = f"comet upload {shlex.quote(str(place.archives))}/{key}*.zip"
        return _native(key, where, joined, [*sessions, session])

    def _join(self, run: RunInfo, theirs: Any, attach: NativeRun | None) -> NativeRun:
        """Adds to the experiment that is open in this process: there can be but one."""
        key = str(theirs.get_key())
        if attach is not None and attach.id != key:
            raise RuncastError(
                f"Comet experiment {key} is open in this process, but the run is in {attach.id}: open that one "
                "(experiment_key=), or end this one; `runcast sync` delivers too"
            )
        self._experiment, self._theirs, self._of = theirs, True, run.run_id
        joined = {"run": run.run_id, "project": theirs.project_name, "workspace": theirs.workspace}
        if not isinstance(theirs, _sdk("comet_ml").OfflineExperiment):
            self._remember(_from_api(key) if attach else Stored())
            self._tell_which(run)
            self.flush()
            return _native(key, theirs.url, joined)
        place = self._place_of(run)
        archive = Path(theirs.offline_directory).absolute() / theirs._get_offline_archive_file_name()
        session = place.session(str(archive), str(theirs.tmpdir), this_writer())
        earlier = [each for each in sessions_of(attach.data) if each.live != session.live] if attach else []
        sessions = [*(place.completed(each, run.run_id) for each in earlier), session]
        self._remember(read_sessions(sessions) if attach else Stored())
        self._begin(place, session)
        self._tell_which(run)
        self.flush()
        return _native(key, f"comet upload {shlex.quote(str(archive))}", joined, sessions)

    def _start(
        self,
        run: RunInfo,
        key: str,
        joined: dict[str, Any] | None,
        live: Path,
        directory: Path | None = None,
        mode: str | None = None,
    ) -> Any:
        """Has Comet start: offline in `directory`, or online; in a project of ours, or of the user's."""
        ours = {
            "workspace": self._workspace,
            "project": setting(self._project_name, "COMET_PROJECT_NAME", run.project),
        }
        with _undisturbed(live):
            comet_ml = _sdk("comet_ml")
            experiment = comet_ml.start(
                workspace=(joined or ours)["workspace"],
                project_name=(joined or ours)["project"],
                experiment_key=key,
                mode=mode,
                online=directory is None,
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
                    offline_directory=str(directory or live),
                    name=None if joined else run.name,
                ),
            )
        _ours.add(experiment)
        if not experiment.alive:  # Comet has said why, and goes on without
            raise ConnectionError("Comet did not start the experiment: see the log")
        return experiment

    def _begin(self, place: Place, session: Session) -> None:
        self._place, self._session, self._described = place, session, None
        self._written = written = Written(Path(session.live))
        self._missing = written.last - written.lines
        self._complaint = self._experiment.customer_error_message

    def _remember(self, stored: Stored) -> None:
        """Takes note of what Comet has, so that it isn't told so twice."""
        self._config = config_of(stored)
        self._names = {name.removeprefix("metric/") for name in stored.others if name.startswith("metric/")}
        if self._of:
            self._own = own_of(stored, self._of)
            self._config, self._names = self._own["config"], set(self._own["metrics"])
        self._assets = {asset.identity for asset in stored.assets}

    def _tell_which(self, run: RunInfo) -> None:
        self._tell("run_id", run.run_id)
        self._tell("name", run.name)
        self._tell("project", run.project)
        if run.group is not None:
            self._tell("group", run.group)
        self._tell("started", repr(run.started))
        self._tell("status", "running")

    def _tell(self, key: str, text: str) -> None:
        self._other(f"{self._of}/{key}" if self._of else key, text)

    # -- end -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        self._see_that_it_is_open()
        if self._session is None:
            if not self._experiment.flush():
                raise TimeoutError("Comet has not taken everything yet")
            return
        if trouble := self._drain():
            raise SessionLostError(trouble)
        self._describe()

    def _see_that_it_is_open(self) -> None:
        if not self._experiment.alive:
            raise SessionLostError("the Comet experiment has ended")

    def _drain(self) -> str | None:
        """Waits until Comet's own thread has written what it was given; says what went wrong, if something did."""
        experiment, written = self._experiment, self._written
        assert written is not None
        given = experiment.streamer._counter
        deadline = clock.monotonic() + _PATIENCE
        while True:
            try:
                written.look()
            except (OSError, ValueError) as error:
                raise SessionLostError(f"what Comet has written can't be read: {error}") from error
            if experiment.customer_error_message != self._complaint:
                return f"Comet failed to store something: {experiment.customer_error_message}"
            if written.lines + self._missing >= given:
                return None
            if written.last >= given:
                return "Comet has not stored everything"
            if clock.monotonic() > deadline:
                return f"Comet's writer has not stored everything within {_PATIENCE:.0f} s"
            clock.sleep(0.002)

    def _describe(self) -> None:
        """Has Comet describe the experiment now, so that the folder can become an archive should this process be killed."""
        assert self._session is not None
        tags = set(self._experiment.get_tags())
        if tags != self._described:
            self._experiment._write_experiment_meta_file()  # in place, hence the copy
            replace_file(Path(self._session.about), (Path(self._session.live) / "experiment.json").read_bytes())
            self._described = tags

    def close(self, status: RunStatus) -> None:
        """Under Other, `status`; Comet itself knows success and crash."""
        experiment = self._experiment
        if experiment is None:
            return
        self._tell("status", status)
        self._tell("finished", repr(clock.time()))
        self.flush()
        if self._theirs:
            self._experiment = None
            return
        if status != "completed":
            # The only ending but success that Comet knows: "crashed", with these words.
            experiment._report_experiment_error(f"the run {status}", has_crashed=True)
        if self._session is not None and self._place is not None:
            self._described = None
            self._describe()
            self._leave()
            self._place.completed(self._session, None)
        self._leave()

    def _leave(self) -> None:
        """Ends a session of ours. Offline, what is written is written, and the archive is made elsewhere."""
        experiment, self._experiment = self._experiment, None
        if experiment is None or self._theirs:
            return
        if self._session is not None:
            streamer = experiment.streamer
            streamer.close()
            streamer.messages.put(_sdk("comet_ml.messages").CloseMessage())  # what makes its thread end
            streamer.join(_PATIENCE)
            experiment.alive = False  # else its end would write the archive too, and not in one piece
        experiment.end()

    # -- data ------------------------------------------------------------------------------------------------------

    def log_metrics_batch(self, batch: Sequence[events.Metrics]) -> None:
        names = {name: _short(name) for event in batch for name in event.values}
        self._introduce(names)
        make_message, enqueue = _sdk("comet_ml.messages").MetricMessage, self._experiment._enqueue_message
        for event in batch:
            milliseconds = round(event.time * 1000)
            for name, value in event.values.items():
                message = make_message(timestamp=milliseconds)
                message.set_metric(names[name], value, step=event.step)
                enqueue(message)

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self.log_metrics_batch([events.Metrics(time=time, step=step, values=dict(metrics))])

    def _introduce(self, names: Mapping[str, str]) -> None:
        """Tells Comet what it can't tell by itself: long names, and in an experiment of the user's which are ours."""
        news = {shown: name for name, shown in names.items() if shown not in self._names}
        self._names |= news.keys()
        if news and self._of:
            self._own["metrics"] |= news
            self._note()
            return
        for shown, name in news.items():
            if shown != name:
                self._experiment.log_other(f"metric/{shown}", name)

    def _note(self) -> None:
        """Has Comet keep, in place of what it had, what of the experiment is ours; else the user's and ours are one."""
        if self._of:
            name, about, own = f"runcast-{self._of}.json", {"runcast": "own", "run": self._of}, events.pack(self._own)
            self._asset(name, lambda to: to.log_asset_data(own, name, overwrite=True, metadata=about))

    def log_config(self, config: Mapping[str, Any]) -> None:
        old = {key: to_text(value) for key, value in flatten(self._config).items()}
        merged = merge(self._config, dict(config))
        new = {key: to_text(value) for key, value in flatten(merged).items()}
        for key in {**old, **new}:
            if new.get(key) != old.get(key):
                self._experiment.log_parameter(*self._fitting("parameter", key, new.get(key, REMOVED)))
        self._config = self._own["config"] = merged
        self._note()

    def _other(self, key: str, text: str) -> None:
        self._experiment.log_other(*self._fitting("other", key, text))

    def _fitting(self, kind: str, key: str, text: str) -> tuple[str, str]:
        """Name and value that Comet doesn't cut; if they had to be changed, the whole goes into an asset."""
        shown, value = _short(key), text
        digest = _digest(f"{kind}\0{key}\0{text}")
        if len(text) > _MAX_VALUE:
            value = f"{text[: _MAX_VALUE - 100]}… whole in the asset {digest}"
        if (shown, value) != (key, text):
            whole = {"kind": kind, "shown": shown, "value": value, "key": key, "text": text}
            name, about = f"{kind}-{digest}.json", {"runcast": "whole", "of": digest}
            self._asset_once(name, about, lambda to: to.log_asset_data(whole, name=name, metadata=about))
        return shown, value

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """Under Other, `summary/<name>`."""
        for key, value in values.items():
            self._other(f"summary/{key}", to_text(value))
        self._own["summary"] = {**self._own.get("summary", {}), **values}
        self._note()

    def add_tags(self, tags: Sequence[str]) -> None:
        added = self._experiment.add_tags(list(tags))
        self._see_that_it_is_open()
        if not added:
            raise RuntimeError(f"Comet refused the tags {', '.join(tags)}: see the log")
        self._own["tags"] = sorted({*self._own.get("tags", ()), *tags})
        self._note()

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        about = self._about("text", key, step, time)
        self._asset(key, lambda to: to.log_text(text, step=step, metadata=about))

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        about = self._about("image", key, step, time)
        self._asset(key, lambda to: to.log_image(str(image), name=key, step=step, metadata=about))

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        """As a CSV asset."""
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows([to_text(cell) for cell in row] for row in rows)
        about = self._about("table", key, step, time)
        self._asset(key, lambda to: to.log_asset_data(out.getvalue(), f"{key}.csv", step=step, metadata=about))

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        # Comet has bins of its own, so its chart is near, and the metadata exact.
        shown = _sdk("comet_ml.data_structure").Histogram()
        shown.add([(low + high) / 2 for low, high in pairwise(edges)], counts=list(counts))
        about = self._about("histogram", key, step, time) | {"counts": list(counts), "edges": list(edges)}
        self._asset(key, lambda to: to.log_histogram_3d(shown, name=key, step=step, metadata=about))

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        """As assets `<name>/<path>`, or a model's files."""
        for file in artifact.files:
            name = f"{artifact.name}/{file.path}"
            inside(Path("/artifacts"), name)  # nobody who downloads it is led elsewhere
            about = self._about("file", artifact.name, step, time) | {"path": file.path}
            self._asset_once(name, about, _file_logger(artifact, file, name, about, step))
        # Last, so that an artifact that reads back is complete.
        manifest = {"kind": artifact.kind, "metadata": events.pack(artifact.metadata)}
        name, about = f"{artifact.name}.json", self._about("artifact", artifact.name, step, time)
        self._asset_once(name, about, lambda to: to.log_asset_data(manifest, name, step=step, metadata=about))

    def _about(self, kind: str, key: str, step: int | None, time: float) -> dict[str, Any]:
        """The metadata of an asset, which says what it is."""
        whose = {"run": self._of} if self._of else {}
        return {"runcast": kind, "key": key, "step": step, "time": time, **whose}

    def _asset_once(self, name: str, about: dict[str, Any], log: Callable[[Any], Any]) -> None:
        """For what is no point in a series, and so may come again after a crash."""
        identity = Asset(about, io.BytesIO).identity
        if identity not in self._assets:
            self._asset(name, log)
            self._assets.add(identity)

    def _asset(self, name: str, log: Callable[[Any], Any]) -> None:
        """Has Comet store a file. If it doesn't, it only says so, by its answer or its thread, and calls the run failed."""
        experiment, session = self._experiment, self._session
        known = experiment.customer_error_reported, experiment.customer_error_message
        step = experiment.curr_step
        trouble = None if log(experiment) else "see the log"
        if self._theirs:
            experiment.curr_step = step  # what the user logs without a step goes there
        self._see_that_it_is_open()
        if trouble is None and session is not None:
            trouble = self._drain()
            if trouble is not None:
                assert self._written is not None
                self._missing += 1
                if self._written.lines + self._missing != experiment.streamer._counter or _disk_full(trouble, session):
                    raise SessionLostError(trouble)
        if trouble is None:
            return
        experiment.customer_error_reported, experiment.customer_error_message = known
        if session is not None and _disk_full(trouble, session):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise RuntimeError(f"Comet refused {name}: {trouble}")

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        if "archives" in native.data:
            return _found(native.data["archives"])
        stored = _from_api(native.id) if native.data["online"] else read_sessions(sessions_of(native.data))
        joined = native.data.get("joined")
        return record_of(stored, joined["run"] if joined else None)

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """The experiments whose offline archives are at or below a path."""
        found = stored_experiments(Path(source).absolute())
        if not found:
            raise LookupError(f"no archive of Comet's in {source!r}; expected such a .zip, or a folder of them")
        return [
            NativeRun(key, data={"online": False, "archives": [str(path) for path in archives]})
            for key, archives in found.items()
        ]


def _found(archives: Sequence[str]) -> RunRecord:
    """The record of archives that `find_runs` has found."""
    paths = [Path(archive) for archive in archives]
    stored = together([read_archive(path) for path in paths])
    return record_of(stored) if "run_id" in stored.others else their_record(paths)


def _sdk(module: str) -> Any:
    """A module of the SDK, which is partly typed, imported when it is needed."""
    return import_module(module)


def _opened_by_the_user() -> Any:
    """The experiment that is open in this process, if the user opened it."""
    running = getattr(sys.modules.get("comet_ml"), "get_running_experiment", None)
    experiment = running() if running is not None else None
    if experiment is None or not experiment.alive or experiment in _ours:
        return None
    return experiment


def _native(key: str, where: str, joined: dict[str, Any] | None, sessions: Sequence[Session] = ()) -> NativeRun:
    data = {"online": not sessions, "joined": joined, "sessions": msgspec.to_builtins(sessions)}
    return NativeRun(key, where, data)


def _key_of(run: RunInfo, attach: NativeRun | None) -> str:
    key = attach.id if attach else os.environ.get("COMET_EXPERIMENT_KEY") or experiment_key(run.run_id)
    if not KEY.fullmatch(key):
        raise ValueError(f"an experiment key of Comet's has 32 to 50 letters and digits, not {key!r}")
    return key


def experiment_key(run_id: str) -> str:
    """The run's id as a Comet key: 32 to 50 letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", run_id)[:18] + hashlib.sha256(run_id.encode()).hexdigest()[:32]


def _disk_full(trouble: str, session: Session) -> bool:
    """Whether that is why Comet failed to store something: then the event is not at fault."""
    said = any(os.strerror(code) in trouble for code in (errno.ENOSPC, errno.EDQUOT))
    return said or shutil.disk_usage(session.live).free < _ROOM


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
    if 0 < len(name) <= _MAX_NAME and name.isprintable() and name not in RESERVED:
        return name
    return "".join(c if c.isprintable() else "?" for c in name[:70]) + "~" + _digest(name)


def _file_logger(
    artifact: LocalArtifact, file: StoredFile, name: str, about: dict[str, Any], step: int | None
) -> Callable[[Any], Any]:
    """What logs one of the files of an artifact to an experiment."""
    path = str(artifact.file_path(file))
    if artifact.kind in ("model", "checkpoint"):
        return lambda to: to.log_model(artifact.name, path, file_name=file.path, metadata=about)
    return lambda to: to.log_asset(path, name, step=step, metadata=about)


# -- online ------------------------------------------------------------------------------------------------------------


def _from_api(key: str) -> Stored:
    experiment = _sdk("comet_ml").APIExperiment(previous_experiment=key)
    points = [
        (point["metricName"], int(point["step"] or 0), float(point["metricValue"]), int(point["timestamp"]))
        for point in experiment.get_metrics() or ()
    ]

    def asset(found: Mapping[str, Any]) -> Asset:
        about = found["metadata"]
        about = json.loads(about) if isinstance(about, str) else about
        return Asset(about or {}, lambda: io.BytesIO(experiment.get_asset(found["assetId"])))

    return Stored(
        metrics=sorted(points, key=lambda point: point[3]),
        parameters={p["name"]: p["valueCurrent"] for p in experiment.get_parameters_summary() or ()},
        others={other["name"]: other["valueCurrent"] for other in experiment.get_others_summary() or ()},
        assets=[asset(found) for found in experiment.get_asset_list()],
        tags=set(experiment.get_tags() or ()),
    )
