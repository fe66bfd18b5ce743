"""Trackio: a folder of SQLite databases, one a project, that ``trackio show`` makes a dashboard of.

    metrics            rows of numbers, with step and wall time (microseconds)
    reports            texts
    media and tables   images (the PNG files as they are), tables
    histograms         counts and edges
    artifacts          artifacts: versions of files, by content
    config             the config, and under ``runcast/`` what Trackio has no place for: status, tags, summary

Rows are written by Trackio's own storage, and not by its `Run`: that stamps them with the time at which a thread of its own
comes to write them, and passes over what it can't write.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sqlite3
import time as clock
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runcast.events import Metrics, RunStatus
from runcast.media import slug
from runcast.record import RunRecord, merge
from runcast.reporter import (
    Availability,
    LocalArtifact,
    NativeRun,
    Reporter,
    Requirement,
    RunInfo,
    offline,
    setting,
    transient,
)
from runcast.reporters import _trackio_theirs as theirs
from runcast.reporters import _trackio_values as encode
from runcast.reporters._trackio_record import OWN, config_of, record_of, without_series
from runcast.reporters._trackio_store import Known, Row, Store, new_project
from runcast.reporters._versions import requirement
from runcast.trust import check_links

_PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
)


class TrackioReporter(Reporter):
    """Writes to the folder ``trackio`` beside the run folders, or to ``$TRACKIO_DIR``.

    Args:
        dir: Another Trackio folder. Default: ``$TRACKIO_DIR``, else beside the run folders.
        project: Default: the run's project.
    """

    name: ClassVar[str] = "trackio"
    requires: ClassVar[Requirement] = requirement("trackio")

    def __init__(self, dir: str | None = None, project: str | None = None) -> None:  # noqa: A002 -- as TRACKIO_DIR
        self._dir = dir
        self._project = project

    @classmethod
    def availability(cls) -> Availability:
        folder = os.environ.get("TRACKIO_DIR")
        reason = f"files in {folder}" if folder else "files beside the run folders"
        elsewhere = [name for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL") if os.environ.get(name)]
        if elsewhere:
            reason += f", not where {' and '.join(elsewhere)} says"
        return offline(super().availability(), f"{reason}: trackio show", mode="local")

    # -- starting --------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        return self._start(run, attach, fresh=attach is None)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        return self._start(run, old, fresh=True)

    def _start(self, run: RunInfo, attach: NativeRun | None, *, fresh: bool) -> NativeRun:
        home = self._home_of(attach)
        folder = home or run.dir.absolute().parent / "trackio"
        if home is None and folder.exists():
            check_links(folder)
        project = new_project(self._project or run.project)
        if attach is not None and attach.data.get("project") != project:
            raise ValueError(
                f"the run is in Trackio's project {attach.data.get('project')!r}; to go on there, say so: project="
            )
        self._store = Store(folder, project)
        self._store.prepare(run.run_id)
        known = self._store.run(run.run_id)
        if known is not None:
            self._check_owner(run)
        elif not fresh:
            raise LookupError(f"Trackio has no run {run.run_id!r} in {folder} any more, project {project!r}")
        if fresh and known is not None:
            self._store.forget(known)
            known = None
        self._run = known or Known(run.run_id, run.name)
        self._read_what_is_there(run)
        self._record.status, self._record.finished = "running", None
        self._changed = True
        self.flush()
        where = f"TRACKIO_DIR={shlex.quote(str(folder))} trackio show --project {shlex.quote(project)}"
        return NativeRun(run.run_id, where, {"dir": str(folder), "project": project, "home": home and str(home)})

    def _home_of(self, attach: NativeRun | None) -> Path | None:
        """The Trackio folder that the settings name; None for the one beside the run folders.

        Raises:
            ValueError: The run began in another. Only the user says where we write.
        """
        wanted = setting(self._dir, "TRACKIO_DIR", "")
        now = Path(wanted).resolve() if wanted else None
        if attach is None:
            return now
        began = attach.data.get("home")
        if began is not None and began != str(now):
            raise ValueError(f"the run is in the Trackio folder {began!r}; to go on there, say so: dir=, $TRACKIO_DIR")
        return now if began else None

    def _check_owner(self, run: RunInfo) -> None:
        """Makes sure that the run that Trackio has is this one.

        Raises:
            ValueError: It isn't. A run folder may come from a stranger, and call itself anything.
        """
        own = (self._store.config(run.run_id) or {}).get(OWN)
        if not own or own.get("started") != run.started:
            raise ValueError(f"Trackio has another run with the id {run.run_id!r} in {self._store.folder}")

    def _read_what_is_there(self, run: RunInfo) -> None:
        config = self._store.config(run.run_id)
        if config:
            self._record = without_series(config, self._run.name)
            self._artifacts: dict[str, Any] = config[OWN]["artifacts"]
        else:
            self._record = RunRecord(run.run_id, run.name, run.project, run.group, started=run.started)
            self._artifacts = {}

    # -- writing ---------------------------------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self.log_metrics_batch([Metrics(values=dict(metrics), step=step, time=time)])

    def log_metrics_batch(self, batch: Sequence[Metrics]) -> None:
        self._store.write(self._run, [_row(encode.numbers(event.values), event.step, event.time) for event in batch])

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._record.config = merge(self._record.config, dict(config))
        self._changed = True

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        """As a report."""
        self._write(key, encode.text(text), step, time)

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        data = image.read_bytes()
        name = f"{slug(key)}-{hashlib.sha256(data).hexdigest()[:16]}.png"
        path = self._store.add_image(self._run.id, encode.checked_step(step), name, data)
        self._write(key, encode.image(path), step, time)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        self._write(key, encode.table(columns, rows), step, time)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        self._write(key, encode.histogram(counts, edges), step, time)

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        metadata = encode.exact(dict(artifact.metadata))
        version = self._store.add_artifact(self._run, _artifact_name(artifact.name), artifact, metadata)
        self._artifacts[artifact.name] = {**version, "kind": artifact.kind, "step": step, "metadata": metadata}
        self._changed = True

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """In the config, `runcast/summary`."""
        self._record.summary = {**self._record.summary, **values}
        self._changed = True

    def add_tags(self, tags: Sequence[str]) -> None:
        """In the config, `runcast/tags`."""
        self._record.tags = tuple(sorted({*self._record.tags, *tags}))
        self._changed = True

    def flush(self) -> None:
        if self._changed:
            # Trackio writes a config with a row, and tells runs by their rows: this one is empty, and there but once.
            began = Row({}, 0, encode.moment(self._record.started or 0.0), f"{self._run.id}:start")
            self._store.write(self._run, [began], config_of(self._record, self._artifacts))
            self._changed = False
        self._store.flush()

    def close(self, status: RunStatus) -> None:
        """In the config, `runcast/status`."""
        self._record.status, self._record.finished = status, clock.time()
        self._changed = True
        self.flush()

    def _write(self, key: str, value: dict[str, Any], step: int, time: float) -> None:
        self._store.write(self._run, [_row({encode.key_of(key): value}, step, time)])

    def is_transient(self, error: Exception) -> bool | float:
        if isinstance(error, sqlite3.OperationalError):
            return getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING  # the lowest byte is the kind of error
        if type(error) is OSError and error.errno is None and "lock" in str(error):
            return True  # Trackio's own, when others keep its lock
        return transient(error)

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        store = Store(Path(native.data["dir"]), native.data["project"])
        known = store.run(native.id)
        if known is None:
            raise LookupError(f"Trackio has no run {native.id!r} in {store.folder}, project {store.project!r}")
        config = store.config(native.id) or {}
        return record_of(store, *known, config) if OWN in config else theirs.record_of(store, known, config)

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """The runs of a database, of a Trackio folder (or one beside or below a path), of a project, or ``project/run``."""
        found = theirs.find(source, setting(self._dir, "TRACKIO_DIR", ""))
        if not found:
            raise LookupError(
                f"no runs of Trackio's at {source!r}; expected a database (*.db), a Trackio folder, a project, or "
                "project/run by name or id, in the folder that TRACKIO_DIR names"
            )
        return [
            NativeRun(known.id, data={"dir": str(store.folder), "project": store.project}) for store, known in found
        ]


def _row(content: dict[str, Any], step: int, time: float) -> Row:
    return Row(content, encode.checked_step(step), encode.moment(time), uuid.uuid4().hex)


def _artifact_name(name: str) -> str:
    """What Trackio calls an artifact; a name that it refuses becomes one that is like it, and no other's."""
    if re.fullmatch(r"[A-Za-z0-9._-]+", name):
        return name
    return f"{slug(name)}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
