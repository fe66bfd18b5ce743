"""Weights & Biases, online where it is configured, else in its offline mode.

One row of W&B's history an event: `global_step` is our step, and the x-axis of every chart; `_timestamp` is when it was
logged. W&B's own step only counts rows, because it drops rows of earlier steps. What W&B has no exact place for
(the run's identity, its status in our words, the summary) is in the config, under `runcast`.

In a run that the user has open, rows are put beside the user's own without touching W&B's counter of steps, and are marked
with our run's id; settings and results that the user has set stay.
"""

from __future__ import annotations

import configparser
import contextlib
import functools
import hashlib
import netrc
import os
import re
import secrets
import shlex
import shutil
import sys
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from runcast.errors import SessionLostError
from runcast.events import Metrics, RunStatus, pack
from runcast.flatten import escape
from runcast.media import slug
from runcast.record import RunRecord, merge
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
)
from runcast.reporters._record_log import BLOCK
from runcast.reporters._versions import requirement
from runcast.reporters._wandb_items import nested
from runcast.reporters._wandb_process import FLUSH_INTERVAL, FLUSH_SETTING, environment, imported, settings, unhooked
from runcast.reporters._wandb_rows import together
from runcast.reporters._wandb_store import (
    MARK,
    NAME,
    OURS,
    OWNER,
    STEP,
    Fold,
    Log,
    fold_of,
    holders,
    own_key,
    owner_of,
    packed,
    session_logs,
    shortened,
    stored_runs,
    wait_until_final,
)
from runcast.reporters._wandb_theirs import record_of

# The one character that makes a name W&B's or ours: the first of `global_step`, a leading `_`.
_COLUMN = r"\A_|\Ag(?=lobal_step\Z)"
# Likewise in the config, where W&B also strips hyphens.
_SETTING = r"\A-|-\Z|\A_(?=wandb\Z)|\Ar(?=uncast\Z)"
_PROJECT = r"[/\\#?%:]"
_REFUSAL = re.compile(r"permission|denied|unauthori[sz]ed|forbidden|not found|\b40[0134]\b", re.IGNORECASE)
_EXIT_CODES = {"completed": 0, "failed": 1, "killed": 143, "crashed": 137}
_FLUSH_TIMEOUT = 60.0
_PUSHES = 20

_written: dict[str, set[str]] = {}
"""By W&B's id of a run that the user opened: the settings and results in it that are ours, of any run of ours."""


class WandbReporter(Reporter):
    """Logs to Weights & Biases; offline, to ``<run folder>/wandb``, from where ``wandb sync`` uploads.

    A run that is open in the training process (`wandb.run`) is joined: the arguments don't matter then.

    Args:
        project: Default: ``$WANDB_PROJECT``, else the run's project.
        entity: Whose project it is. Default: ``$WANDB_ENTITY``, else the account's own.
        mode: ``online`` or ``offline``. Default: ``$WANDB_MODE``, else online where an API key is found.
    """

    name: ClassVar[str] = "wandb"
    requires: ClassVar[Requirement] = requirement("wandb")

    def __init__(self, project: str | None = None, entity: str | None = None, mode: str | None = None) -> None:
        if mode not in (None, "online", "offline"):
            raise ValueError(f"mode is 'online' or 'offline', not {mode!r}")
        self._project = project
        self._entity = entity
        self._mode = mode
        self._live: Any = None  # W&B's run
        self._guest = False  # whether that is the user's
        self._closing = self._ended = False
        self._gone: Any = None  # a run of the user's whose process at W&B ended

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

    # -- starting --------------------------------------------------------------------------------------------------

    def joins(self) -> bool:
        return _users_run() is not None

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        if attach is not None and self._is_open():
            return self._native
        theirs = _users_run()
        rejoined = attach is not None and attach.data.get("joined") and theirs is not None and attach.id == theirs.id
        if theirs is not None and theirs is not self._gone and (attach is None or rejoined):
            return self._join(run, theirs, attach)
        if attach is None:
            run_id = os.environ.get("WANDB_RUN_ID") or run.run_id
            return self._start(run, run_id, _mode(self._mode), _root(run, None), None)
        return self._start(run, attach.id, attach.data["mode"], _root(run, attach), attach)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        if old.data["mode"] != "offline" or old.data.get("joined"):
            return None
        return self._start(run, old.id, "offline", _root(run, old), None)

    def _is_open(self) -> bool:
        """Whether the last session still takes something: then it is gone on with."""
        return (
            self._live is not None
            and not self._closing
            and not (self._guest and _users_run() is not self._live)
            and bool(holders([self._log.path]))
        )

    def _start(self, run: RunInfo, run_id: str, mode: str, root: Path, attach: NativeRun | None) -> NativeRun:
        """Begins a session of our own: a further one of the run `attach`, or the first, in the place of any before."""
        if mode not in ("online", "offline"):
            raise ValueError("W&B is switched off: unset WANDB_MODE and WANDB_DISABLED")
        if mode == "online" and not _configured():
            raise ValueError("W&B is to run online, but has no API key: `wandb login`, or set WANDB_API_KEY")
        self._let_go()
        self._guest, self._environment = False, environment(run.dir)
        joined = run.run_id if attach is not None and attach.data.get("joined") else None
        folder = _sessions_folder(root)
        folders = [str(folder)] if attach is None or joined is None else [*attach.data["dirs"], str(folder)]
        data: dict[str, Any] = {
            "dirs": list(dict.fromkeys(folders)),
            "home": None if root == run.dir else str(root),
            "mode": mode,
            "path": attach.data.get("path") if attach is not None else None,
            "joined": joined,
        }
        logs = session_logs(map(Path, data["dirs"]), run_id)
        wait_until_final(logs)
        stored = Fold(joined)
        if attach is not None:
            stored = fold_of(NativeRun(run_id, None, data))
            if joined is None and stored.rows and stored.own.get("run_id") != run.run_id:
                raise ValueError(f"W&B's run {run_id!r} is not this one")
        elif mode == "offline":
            for log in logs:
                if root == run.dir or owner_of(log) == run.run_id:
                    shutil.rmtree(log.parent)
        own = stored.own or _identity(run)
        self._wandb = imported("wandb")
        _wait_for_a_new_second(folder, mode, run_id)
        with unhooked(self._environment), self._in_session():
            self._live = live = self._wandb.init(
                mode=mode,
                dir=str(root),
                id=run_id,
                resume="allow" if mode == "online" else None,
                reinit="create_new",
                settings=self._wandb.Settings(**settings(self._wandb)),
                **(self._described(run) if joined is None else _as_described(stored, data["path"])),
                # A further session online gets these from the server; offline, each has to say everything.
                **({} if attach is not None and mode == "online" else _contents(stored, joined, own)),
            )
            if joined is None:
                live.define_metric(STEP, hidden=True)
                live.define_metric("*", step_metric=STEP, step_sync=False)
                live.summary.update(
                    {escape(key, _COLUMN, MARK): value for key, value in own.get("summary", {}).items()}
                )
            # It goes on where the last one ended, so that `wandb sync` can put them together.
            self._first = max(stored.steps, live.step) if attach is not None else None
        log = Path(live.settings.sync_file)
        if log.parent.parent.resolve() != folder.resolve():
            raise PermissionError(f"W&B can't write to {folder}")  # and would write to a temporary folder instead
        log.parent.chmod(0o700)
        if mode == "online":
            data["path"] = "/".join(live.path)
        return self._begin(run, log, own, stored.settings(), data)

    def _join(self, run: RunInfo, theirs: Any, attach: NativeRun | None) -> NativeRun:
        """Takes part in the run that the user has open."""
        self._live, self._guest, self._environment = theirs, True, contextlib.nullcontext
        self._wandb = imported("wandb")
        log = Path(theirs.settings.sync_file)
        folders = [*(attach.data["dirs"] if attach is not None else ()), str(log.parent.parent)]
        data: dict[str, Any] = {
            "dirs": list(dict.fromkeys(folders)),
            "home": None,
            "mode": "offline" if theirs.offline else "online",
            "path": None if theirs.offline else "/".join(theirs.path),
            "joined": run.run_id,
        }
        stored = Fold(run.run_id) if attach is None else fold_of(NativeRun(theirs.id, None, data))
        own = theirs.config.get(own_key(run.run_id)) or stored.own or _identity(run)
        return self._begin(run, log, dict(own), stored.settings(), data)

    def _begin(
        self, run: RunInfo, log: Path, own: dict[str, Any], config: dict[str, Any], data: dict[str, Any]
    ) -> NativeRun:
        self._own = {key: value for key, value in own.items() if key != "filling"}
        self._config, self._log = config, Log(log)
        self._joined = data["joined"]
        self._closing = self._ended = False
        self._sent = self._seen = self._pushes = 0
        self._since = clock.monotonic()
        self._theirs: set[str] = set()
        self._defined: set[str] = set()
        self._last: dict[str, float] = {}
        self._token_on_disk, self._first_token_seen = "", False
        self._put(status="running", finished=None)
        self._first_token = self._token
        if data["mode"] == "online":
            where = redact_text(self._live.url)
        else:
            patterns = [f"{shlex.quote(folder)}/*run-*-{shlex.quote(self._live.id)}" for folder in data["dirs"]]
            where = f"wandb sync {' '.join(patterns)}"
        self._native = NativeRun(self._live.id, where, data)
        return self._native

    def _described(self, run: RunInfo) -> dict[str, Any]:
        project = escape(setting(self._project, "WANDB_PROJECT", run.project), _PROJECT, MARK)
        return {
            "name": _display_name(run),
            "project": shortened(project, 128),
            "entity": self._entity,
            "group": run.group,
        }

    def _let_go(self) -> None:
        """Ends a session of our own that an earlier `open` may have left half closed."""
        live, self._live = self._live, None
        if live is not None and not self._guest:
            with contextlib.suppress(Exception), unhooked(self._environment):
                live.finish()

    @contextlib.contextmanager
    def _in_session(self) -> Iterator[Any]:
        """W&B's run, for calls; what they raise when it can't take them any more is told as what it is."""
        if self._guest and _users_run() is not self._live:
            raise SessionLostError("the run that was joined has ended")
        try:
            yield self._live
        except SessionLostError:
            raise
        except Exception as error:
            kind = type(error).__name__
            if kind == "AlreadyJoinedError" or (kind == "UsageError" and "is finished" in str(error)):
                raise SessionLostError("W&B's run has been ended by somebody else") from error
            if not isinstance(error, ConnectionError) and kind != "MailboxClosedError":
                raise
            self._gone = self._live if self._guest else None
            self._live = None
            with contextlib.suppress(Exception), unhooked(self._environment):  # it says that the process is gone
                self._wandb.teardown()
            raise SessionLostError("W&B's own process ended; what it had not written comes again") from error

    # -- writing ---------------------------------------------------------------------------------------------------

    def log_metrics_batch(self, batch: Sequence[Metrics]) -> None:
        if self._guest:
            super().log_metrics_batch(batch)
            return
        with self._in_session() as live, together(live):
            super().log_metrics_batch(batch)

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        row = {_column(name): value for name, value in metrics.items()}
        if self._joined is not None:
            self._show(row)
        self._row(row, step, time)

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._config = merge(self._config, dict(config))
        shown = {escape(key, _SETTING, MARK): packed(self._config[key]) for key in config}
        with self._in_session() as live:
            live.config.update({k: v for k, v in shown.items() if self._is_ours("config", k)}, allow_val_change=True)
        self._put(**({} if self._joined is None else {"config": packed(self._config)}))

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._row({escape(key, _COLUMN, MARK): text}, step, time)

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        with self._environment():
            self._media_row(key, self._wandb.Image(str(image)), step, time)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        with self._environment(), _room_for(len(rows), self._wandb.Table, "MAX_ROWS", "MAX_ARTIFACT_ROWS"):
            cells = [[pack(cell) for cell in row] for row in rows]
            table = self._wandb.Table(columns=list(columns), data=cells, allow_mixed_types=True)
            self._media_row(key, table, step, time)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        with _room_for(len(counts), self._wandb.Histogram, "MAX_LENGTH"):
            histogram = self._wandb.Histogram(np_histogram=(list(counts), list(edges)))
        self._row({escape(key, _COLUMN, MARK): histogram}, step, time)

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        described = {escape(key, _SETTING, MARK): pack(value) for key, value in artifact.metadata.items()}
        own = {"name": artifact.name, "kind": artifact.kind, "step": step, "time": time}
        described[OURS] = own if self._joined is None else {**own, "run": self._joined}
        with self._environment(), self._in_session() as live:
            native = self._wandb.Artifact(_file_name(artifact.name, ""), type=artifact.kind, metadata=described)
            for file in artifact.files:
                # It lies in the run folder, where nobody changes it: no second copy.
                path = str(artifact.file_path(file).absolute())
                native.add_file(path, name=file.path, policy="immutable", skip_cache=True)
            live.log_artifact(native)
        self._put()

    def set_summary(self, values: Mapping[str, Any]) -> None:
        shown = {key: packed(value) for key, value in values.items()}
        with self._in_session() as live:
            for key, value in shown.items():
                column = escape(key, _COLUMN, MARK)
                if self._is_ours("summary", column):
                    live.summary[column] = value
        self._put(summary={**self._own.get("summary", {}), **shown})

    def add_tags(self, tags: Sequence[str]) -> None:
        with self._in_session() as live:
            live.tags = tuple(dict.fromkeys((*(live.tags or ()), *(shortened(tag, 64) for tag in tags))))
        self._put(tags=list(dict.fromkeys((*self._own.get("tags", ()), *tags))))

    def flush(self) -> None:
        """Waits until W&B's own process has everything in its file on disk; what it uploads, it uploads from there."""
        if self._last and self._guest:
            with self._in_session() as live:
                live.summary.update(self._last)
            self._last = {}
        chosen = self._live.settings
        if getattr(chosen, "x_skip_transaction_log", False):
            return  # the user has switched the file off
        if (getattr(chosen, FLUSH_SETTING, None) or 15.0) > 1.0:
            self._push()
        now = clock.monotonic()
        deadline, look = now + _FLUSH_TIMEOUT, now + 1.0
        while not self._is_on_disk():
            now = clock.monotonic()
            if now > look and not holders([self._log.path]) and not self._is_on_disk():
                raise SessionLostError("W&B's own process ended, or this run in it")
            if now > deadline:
                raise SessionLostError(f"W&B has written {self._seen} of {self._sent} rows after {_FLUSH_TIMEOUT:g} s")
            look = now + 1.0 if now > look else look
            clock.sleep(FLUSH_INTERVAL / 10)

    def close(self, status: RunStatus) -> None:
        """In the config, `runcast/status`; W&B itself keeps an exit code."""
        if self._ended:
            return
        self._put(status=status, finished=clock.time())
        self.flush()  # W&B's `finish` returns a moment before its file has everything
        if self._guest:
            return
        self._closing = True
        with unhooked(self._environment), self._in_session() as live:
            live.finish(exit_code=_EXIT_CODES[status])
        self._ended = True

    def is_transient(self, error: Exception) -> bool | float:
        if type(error).__name__ == "CommError":
            return not _REFUSAL.search(str(error))
        if "is in use" in str(error):  # another run of ours has a further session of the run that both had joined
            return True
        return super().is_transient(error)

    def _is_on_disk(self) -> bool:
        for record in self._log.records():
            token = _token_of(record, own_key(self._joined))
            if token is not None:
                self._token_on_disk = token
                self._first_token_seen = self._first_token_seen or token == self._first_token
            elif record.HasField("history") and self._first_token_seen:
                self._seen += self._joined is None or nested(record.history.item).get(OWNER) == self._joined
        return self._seen >= self._sent and self._token_on_disk == self._token

    def _row(self, values: Mapping[str, Any], step: int, time: float) -> None:
        row = {**values, STEP: step, "_timestamp": time}
        if self._joined is not None:
            row[OWNER] = self._joined
        with self._in_session() as live:
            if self._guest:
                _put_beside(live, row)
            else:
                live.log(row, step=self._first, commit=True)
        self._first = None
        self._sent += 1

    def _media_row(self, key: str, value: Any, step: int, time: float) -> None:
        """A row with something that becomes a file, which is named after its column."""
        column = escape(_file_name(key), _COLUMN, MARK)
        self._row({column: value, **({} if column == key else {NAME: key})}, step, time)

    def _put(self, **values: Any) -> None:
        """Writes what is ours; the token tells `flush` that everything up to here is on disk."""
        self._token = secrets.token_hex(8)
        self._own = {**self._own, **values, "token": self._token}
        with self._in_session() as live:
            live.config.update({own_key(self._joined): self._own}, allow_val_change=True)

    def _push(self) -> None:
        """Fills the block that W&B writes next: else a run of the user's, and any before wandb 0.31, does so every 15 s.

        It costs 32 KiB of W&B's file; so not for each flush of a long run.
        """
        minutes = (clock.monotonic() - self._since) / 60
        if self._pushes < _PUSHES + minutes + self._sent / 100 or self._own["status"] != "running":
            self._pushes += 1
            with self._in_session() as live:
                for filling in ({"filling": "." * BLOCK}, {}):
                    live.config.update({own_key(self._joined): {**self._own, **filling}}, allow_val_change=True)

    def _show(self, row: Mapping[str, float]) -> None:
        """For a run whose charts are the user's: our x-axis for our metrics, and their last values."""
        for column, value in row.items():
            if not self._is_ours("summary", column):
                continue
            self._last[column] = value
            if column not in self._defined and "*" not in column:
                self._defined.add(column)
                with self._in_session() as live:
                    live.define_metric(column, step_metric=STEP, step_sync=False)

    def _is_ours(self, part: str, key: str) -> bool:
        """Whether a setting or a result is ours to write: in a run of the user's, what is there already stays."""
        if self._joined is None:
            return True
        written, name = _written.setdefault(self._live.id, set()), f"{part}/{key}"
        if name not in written and name not in self._theirs:
            with self._in_session() as live:
                there = key in getattr(live, part).keys()  # noqa: SIM118 -- W&B's own kind of mapping
            (self._theirs if there else written).add(name)
        return name in written

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        fold = fold_of(native)
        return fold.finished() if fold.own else record_of(fold)

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """The runs whose ``run-*.wandb`` files are at or below a path."""
        found = stored_runs(Path(source).absolute())
        if not found:
            raise LookupError(f"no run-*.wandb in {source!r}; expected such a file, a run's folder or a folder of runs")
        return [NativeRun(id_, data={"logs": [str(log) for log in logs]}) for id_, logs in found.items()]


# -- runs and their places ---------------------------------------------------------------------------------------------


def _users_run() -> Any:
    """The run that the user has open in this process, if there is one; told without importing W&B."""
    run = getattr(sys.modules.get("wandb"), "run", None)
    return None if run is None or getattr(run, "disabled", False) else run


def _root(run: RunInfo, attach: NativeRun | None) -> Path:
    """The folder above that of the sessions which we begin.

    Raises:
        ValueError: The run began elsewhere, or a link leads elsewhere. Only the user says where we write.
    """
    wanted = os.environ.get("WANDB_DIR")
    now = Path(wanted).absolute() if wanted else None
    home = attach.data.get("home") if attach is not None else now and str(now)
    if home is not None and home != str(now):
        raise ValueError(f"the run's W&B files are below {home!r}; to go on there, say so: WANDB_DIR")
    if home is None or now is None:
        for folder in (run.dir / "wandb", run.dir / ".wandb"):
            if folder.is_symlink():
                raise ValueError(f"{folder} is a link: W&B's files are not written through links")
        return run.dir
    now.mkdir(mode=0o700, parents=True, exist_ok=True)
    return now


def _sessions_folder(root: Path) -> Path:
    """The folder of the sessions, as W&B chooses it."""
    folder = root / (".wandb" if (root / ".wandb").exists() else "wandb")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _wait_for_a_new_second(folder: Path, mode: str, run_id: str) -> None:
    """W&B names a session's folder by the second: another within one would write over its forerunner."""
    kind = "run" if mode == "online" else "offline-run"
    while (folder / f"{kind}-{clock.strftime('%Y%m%d_%H%M%S')}-{run_id}").exists():
        clock.sleep(0.05)


def _identity(run: RunInfo) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "project": run.project,
        "group": run.group,
        "started": run.started,
    }


def _as_described(stored: Fold, path: str | None) -> dict[str, Any]:
    """How the user described a run that was joined."""
    if path is not None:
        entity, project, _ = path.split("/", 2)
        return {"entity": entity, "project": project}
    if stored.run is None:
        return {}
    run = stored.run
    described = {"name": run.display_name, "project": run.project, "entity": run.entity, "group": run.run_group}
    return {key: value or None for key, value in described.items()}


def _contents(stored: Fold, joined: str | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """What a session has from its beginning on; W&B takes each offline session for the whole run."""
    return {"config": {**stored.config, own_key(joined): own}, "tags": stored.tags or None}


def _put_beside(live: Any, row: Mapping[str, Any]) -> None:
    """Adds a row to the history of a run as it is.

    `log` would add it to the row that the user may be filling, end that, and move the step on: what the user then logged
    for a step that had passed would be dropped.
    """
    step = live.step
    history = imported("wandb.proto.wandb_internal_pb2").HistoryRecord()
    history.step.num = step
    plain = imported("wandb.sdk.data_types.utils").history_dict_to_json(live, {**row, "_step": step}, step=step)
    for key, value in plain.items():
        item = history.item.add()
        item.key = key
        item.value_json = imported("wandb.util").json_dumps_safer_history(value)
    interface = live._interface if hasattr(live, "_interface") else live._backend.interface  # before wandb 0.28
    interface._publish_history(history)


def _token_of(record: Any, key: str) -> str | None:
    if record.HasField("config"):
        for item in record.config.update:
            if item.key == key:
                return str(nested([item])[key].get("token"))
    return None


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


@contextlib.contextmanager
def _room_for(count: int, kind: Any, *limits: str) -> Iterator[None]:
    """W&B cuts tables at a limit, and refuses histograms beyond one; which are there to be raised."""
    before = {limit: getattr(kind, limit) for limit in limits}
    for limit, at_most in before.items():
        setattr(kind, limit, max(at_most, count))
    try:
        yield
    finally:
        for limit, at_most in before.items():
            setattr(kind, limit, at_most)


# -- names -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(10_000)
def _column(name: str) -> str:
    return escape(name, _COLUMN, MARK)


def _display_name(run: RunInfo) -> str:
    named = run.name if run.name != run.run_id else setting(None, "WANDB_NAME", run.name)
    return shortened(named, 128)


def _file_name(name: str, separator: str = "/") -> str:
    """A path of at most 100 characters, all of them safe in files; another name, another result."""
    if re.fullmatch(rf"\w[\w.{separator}-]{{0,99}}", name, re.ASCII) and "//" not in name:
        return name
    return f"{slug(name)}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
