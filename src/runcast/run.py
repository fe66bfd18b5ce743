"""The user's handle on a run: turns calls into events of its journal, and starts the couriers.

`Run.log` is the hot path: it checks, encodes, and makes one ``write(2)``. It never waits for a tracker and never
raises because of one; the couriers read the journal on their own.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from runcast import events, media
from runcast.courier import courier_alive, new_state
from runcast.delivery import Delivery, deliveries, load_state, save_state, states
from runcast.errors import DeliveryError, RunFolderError, TrackerStartError
from runcast.events import Event, RunStatus, plain, scalar
from runcast.folder import create_folder, find_run, new_run_id, outline
from runcast.hosts import MODES, Host, Mode, host_for
from runcast.journal import FILE_NAME, Journal
from runcast.probe import Measuring, Probes, default_probes, resolve_probes
from runcast.process import ExitWatch, status_of, world_rank
from runcast.redact import redact, redact_argument, redact_row, redact_text
from runcast.registry import ReportTo, check_reporter, default_report_to, is_named, resolve_report_to, wishes
from runcast.reporter import Reporter
from runcast.writer import this_writer, writer_alive

logger = logging.getLogger("runcast")

ArtifactKind = Literal["file", "model", "checkpoint", "dataset"]
MAX_NAME = 250

_open_runs: list[Run] = []


def current_run() -> Run | None:
    """The innermost open run of this process, or None."""
    return _open_runs[-1] if _open_runs else None


def start_run(
    report_to: ReportTo | None = "default",
    project: str | None = None,
    name: str | None = None,
    group: str | None = None,
    tags: Iterable[str] = (),
    config: Any = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 -- the name that users expect
    resume: str | os.PathLike[str] | None = None,
    resume_step: int | None = None,
    delivery: Mode | None = None,
    finish_timeout: float = 300.0,
    strict: bool = False,
    probes: Probes | None = None,
) -> Run:
    """Starts a run, or goes on with one, and reports it to the trackers. Returns at once: nothing waits for a tracker.

    Args:
        report_to: ``"all"``, ``"none"``, names, a mapping of names to options, reporter classes or instances, or a list
            of these. Default: ``$RUNCAST_REPORT_TO``, else ``"all"``; with `resume`, the trackers that the run has.
        project: What trackers file the run under. Default: ``$RUNCAST_PROJECT``, else ``"runcast"``.
        name: What people call it. Default: its id.
        group: Runs that belong together share it.
        tags: Labels.
        config: Hyper-parameters and settings: a mapping (nested if you like), dataclass or namespace.
        dir: Parent of run folders. Default: ``$RUNCAST_DIR``, else ``./runs``.
        resume: A run id or run folder: append to its journal, re-attach every tracker.
        resume_step: With `resume`, the step of the checkpoint; points after it are superseded.
        delivery: Where couriers run: ``"process"`` (default), ``"thread"``, ``"inline"``; else ``$RUNCAST_DELIVERY``.
        finish_timeout: Seconds that `Run.finish` waits for couriers before it leaves them running; ``math.inf``: as long
            as it takes.
        strict: True: `Run.finish` raises if anything was not delivered.
        probes: What measures beside the training, ``"system"`` or ``"codecarbon"`` say: names, `Probe` classes or
            instances, or a list of these. Default: ``$RUNCAST_PROBES``, else none.

    Returns:
        The run; also a context manager that finishes it. On ranks but the first, and with ``"none"``, a handle whose
        calls do nothing.

    Raises:
        ValueError: `report_to` names an unknown tracker, or has ``"none"`` beside others; `probes` an unknown probe.
        TypeError: `config` holds no settings, `resume_step` is no integer, or `finish_timeout` no number.
        MissingDependencyError: A tracker or probe that was named is not installed.
        RunFolderError: The run folder can't be written, doesn't exist (`resume`), or is being written by another process.
    """
    parent = Path(dir or os.environ.get("RUNCAST_DIR") or "runs")
    project = redact_argument(project or os.environ.get("RUNCAST_PROJECT") or "runcast")
    name, group = (text and redact_argument(text) for text in (name, group))
    if isinstance(report_to, str) and report_to == "default":
        report_to = default_report_to() if resume is None else _trackers_of(find_run(resume, parent))
    mode = _mode(delivery)
    patience = _seconds(finish_timeout)
    reporters = resolve_report_to(report_to)
    measuring = resolve_probes(default_probes() if probes is None else probes)
    if wishes(report_to) in ([], ["none"]) or world_rank() != 0:
        return Run(None, new_run_id(), project, name, strict=strict)
    settings, labels = _config(config), _tags(tags)
    if resume is not None:
        run = _resumed(parent, resume, resume_step)
    else:
        run_id = new_run_id()
        start = events.RunStarted(
            time=time.time(),
            run_id=run_id,
            project=project,
            name=name or run_id,
            group=group,
            tags=labels,
            config=settings,
            writer=this_writer(),
        )
        run = Run(create_folder(parent, run_id), run_id, project, name)
        run._begin(start)
    try:
        run._configure(mode, patience, strict)
        if resume is not None:
            run.update_config(settings)
            run.add_tags(*labels)
        for reporter in reporters:
            run.add_reporter(reporter, named=is_named(report_to, reporter.name))
        _open_runs.append(run)
        _watch.watch()
        run._measuring = Measuring(measuring, run._log_measured, run._summarize_measured)
    except BaseException as error:  # nobody gets the run, so that nobody else can end it
        run._end_journal(*status_of(error))
        raise
    return run


class Run:
    """One run: what you log goes to its journal, and from there to every tracker. Made by `start_run`.

    Any thread may log; a forked child's calls do nothing.

    Attributes:
        id: The run's id.
        dir: The run folder; None for a run that reports nothing.
        project: What trackers file it under.
        name: What people call it.
        status: ``running`` until it is finished.
    """

    def __init__(
        self, folder: Path | None, run_id: str, project: str, name: str | None = None, *, strict: bool = False
    ) -> None:
        self.id = run_id
        self.dir = folder
        self.project = project
        self.name = name or run_id
        self.status: RunStatus = "running"
        self._journal = Journal(folder / FILE_NAME) if folder is not None else None
        self._writing = threading.RLock()  # reentrant: SIGTERM ends the run, also in the middle of a write
        self._step = -1
        self._names: dict[str, str] = {}  # as they were given → without secrets
        self._warned: set[str] = set()
        self._lost = 0
        self._hosts: dict[str, Host] = {}
        self._named: set[str] = set()
        self._inline: list[Host] = []
        self._measuring: Measuring | None = None
        self._configure("process", 300.0, strict)

    def _configure(self, mode: Mode, finish_timeout: float, strict: bool) -> None:
        self._mode = mode
        self._finish_timeout = finish_timeout
        self._strict = strict

    def __repr__(self) -> str:
        return f"<runcast.Run {self.id} {self.status}{f' in {self.dir}' if self.dir else ', disabled'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.finish()
        else:
            self._finish(*status_of(error), strict=False)  # the user's own exception is the one to see

    @property
    def enabled(self) -> bool:
        """Whether this handle writes: not with ``"none"``, on a rank but the first, in a forked child."""
        return self._journal is not None

    # -- logging ---------------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Logs numbers as metrics, and texts as texts.

        Args:
            values: By name, a slash path such as ``train/loss``. Python, numpy and torch scalars are numbers, NaN and
                ±inf included. A value that can't be logged is skipped, with one warning a name.
            step: The x-axis. Default: one more than the last.

        Raises:
            TypeError: `values` is no mapping, a name no string, or the step no integer.
            ValueError: A name is empty, longer than 250 characters, or no path within the run.
        """
        now = time.time()
        journal = self._journal
        if journal is None:
            return
        if type(step) is not int:
            step = self._next_step() if step is None else _integer(step)
        if step > self._step:  # noqa: PLR1730 -- `max` costs a call, here where each counts
            self._step = step
        try:
            items = values.items()
        except AttributeError:
            raise TypeError(f"log takes a mapping of names to values, not {type(values).__name__}") from None
        names = self._names
        metrics: dict[str, float] = {}
        texts: dict[str, str] = {}
        for given, value in items:
            try:
                key = names[given]
            except KeyError:
                key = self._checked(given)
            if type(value) is float:
                metrics[key] = value
            elif isinstance(value, str):
                texts[key] = value
            else:
                self._log_number(metrics, key, value)
        if metrics:
            self._append(events.Metrics(time=now, step=step, values=metrics))
        for key, text in texts.items():
            self._append(events.Text(time=now, step=step, key=key, text=redact_argument(text)))

    def log_text(self, key: str, text: str, step: int | None = None) -> None:
        """Logs a text. `step`, here and below: default the last one."""
        if not self.enabled:
            return
        if not isinstance(text, str):
            raise TypeError(f"log_text takes a text under {key!r}, not {type(text).__name__}")
        key, where = self._checked(key), self._media_step(step)
        self._append(events.Text(time=time.time(), step=where, key=key, text=redact_argument(text)))

    def log_image(self, key: str, image: Any, step: int | None = None) -> None:
        """Logs an image, as PNG.

        Args:
            image: A path, the bytes of an image file, a PIL image, a matplotlib figure, or an array (height, width[,
                channels]): integers 0 to 255 or floats 0 to 1.

        Raises:
            TypeError: It is none of these.
            ValueError: The array or file holds no image.
        """
        if not self.enabled:
            return
        key, where = self._checked(key), self._media_step(step)
        stored = self._store("images", key, where, media.png(image), ".png")
        if stored is not None:
            now = time.time()
            self._append(
                events.Image(time=now, step=where, key=key, path=stored.path, size=stored.size, sha256=stored.sha256)
            )

    def log_figure(self, key: str, figure: Any, step: int | None = None) -> None:
        """Logs a matplotlib figure as an image."""
        if not hasattr(figure, "savefig"):
            raise TypeError(f"log_figure takes a matplotlib figure under {key!r}, not {type(figure).__name__}")
        self.log_image(key, figure, step)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], step: int | None = None
    ) -> None:
        """Logs a table.

        Raises:
            ValueError: A row has not as many cells as there are columns.
        """
        if not self.enabled:
            return
        key, where = self._checked(key), self._media_step(step)
        names = [redact_text(str(column)) for column in columns]
        clean = [redact_row(names, [plain(cell) for cell in row]) if len(row) == len(names) else row for row in rows]
        stored = self._store("tables", key, where, media.table_json(names, clean), ".json")
        if stored is not None:
            now = time.time()
            self._append(
                events.Table(time=now, step=where, key=key, path=stored.path, size=stored.size, sha256=stored.sha256)
            )

    def log_histogram(self, key: str, values: Any, step: int | None = None) -> None:
        """Logs the distribution of numbers: an array, tensor or iterable; what is not finite is left out.

        Raises:
            TypeError: Something in it is no number.
            ValueError: There is no finite value.
        """
        if not self.enabled:
            return
        key, where = self._checked(key), self._media_step(step)
        counts, edges = media.histogram(values)
        self._append(events.Histogram(time=time.time(), step=where, key=key, counts=counts, edges=edges))

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        kind: ArtifactKind = "file",
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Logs a file or folder. It is brought into the run folder, so the original may go.

        Args:
            name: Default: the file's or folder's own name. The same name again is its next version.
            kind: file | model | checkpoint | dataset.
            metadata: Free-form.

        Raises:
            FileNotFoundError: There is no such file or folder.
            ValueError: `kind` is none of these.
        """
        if not self.enabled or self.dir is None:
            return
        if kind not in get_args(ArtifactKind):
            raise ValueError(f"the kind of an artifact is one of {', '.join(get_args(ArtifactKind))}, not {kind!r}")
        source = Path(path)
        label = self._checked(name or source.resolve().name)
        try:
            stored, files = media.store_artifact(self.dir, source, label)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._lose(f"artifact {label!r}", error)
            return
        self._append(
            events.Artifact(
                time=time.time(),
                step=None if step is None else _integer(step),
                name=label,
                kind=kind,
                path=stored,
                files=files,
                metadata=_config(metadata),
            )
        )

    def update_config(self, config: Any) -> None:
        """Merges settings into the config, nested."""
        if self.enabled and (update := _config(config)):
            self._append(events.ConfigUpdated(time=time.time(), config=update))

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """Sets one-off results; the last value of a name counts."""
        if not self.enabled:
            return
        for key in values:
            self._checked(key)
        if values:
            self._append(events.Summary(time=time.time(), values=redact(plain(dict(values)))))

    def add_tags(self, *tags: str) -> None:
        """Adds labels."""
        if self.enabled and (labels := _tags(tags)):
            self._append(events.Tags(time=time.time(), tags=labels))

    # -- trackers --------------------------------------------------------------------------------------------------

    def add_reporter(self, reporter: Reporter, *, named: bool = True) -> None:
        """Reports this run to one more tracker, from its first event on.

        Args:
            named: Whether the user asked for this tracker itself: then its failing start is an error.
        """
        check_reporter(type(reporter))
        if not self.enabled or self.dir is None:
            return
        if reporter.name in self._hosts:
            raise ValueError(f"this run already reports to {reporter.name!r}")
        state = load_state(self.dir, reporter.name) or new_state(reporter)
        if not courier_alive(self.dir, reporter.name):
            state.state, state.error = "starting", None
            save_state(self.dir, state)  # so that `sync` knows of it, whatever becomes of its courier
        host = host_for(reporter, self.dir, self._mode)
        self._hosts[reporter.name] = host
        if named:
            self._named.add(reporter.name)
        if self._mode == "inline":
            self._inline.append(host)
        host.start()

    def remove_reporter(self, name: str) -> bool:
        """Stops reporting to a tracker; what it has got stays there.

        Returns:
            Whether the run reported to it.
        """
        host = self._hosts.pop(name, None)
        if host is None:
            return False
        if host in self._inline:
            self._inline.remove(host)
        self._named.discard(name)
        host.stop()
        if self.dir is not None and (state := load_state(self.dir, name)) is not None:
            state.state = "removed"
            save_state(self.dir, state)
        return True

    def deliveries(self) -> list[Delivery]:
        """How far each tracker is."""
        return deliveries(self.dir, list(self._hosts)) if self.dir is not None else []

    def wait_started(self, timeout: float = 60.0) -> None:
        """Waits until every tracker that was asked for by name has started, or is known to be trying.

        Raises:
            TrackerStartError: One of them can't start, for good. The run goes on without it if you catch this.
        """
        if self.dir is None:
            return
        deadline = time.monotonic() + timeout
        waiting = sorted(self._named & set(self._hosts))
        while waiting and time.monotonic() < deadline:
            for name in list(waiting):
                state = load_state(self.dir, name)
                if state is not None and state.state == "failed" and state.native is None:
                    raise TrackerStartError(
                        f"tracker {name!r} can't start: {state.error}\n"
                        f"Its log: {self.dir / 'trackers' / f'{name}.log'}. Mend its settings, or leave it out of report_to."
                    )
                if state is not None and state.state != "starting":
                    waiting.remove(name)
            if waiting:
                self._hosts[waiting[0]].wait(0.05)

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self, status: RunStatus = "completed") -> None:
        """Ends the run, waits until disk and trackers have it, and prints what became of each. A second call does nothing.

        Waits at most `finish_timeout` seconds; a courier that is not through goes on by itself, and whatever it can't
        deliver ``runcast sync`` delivers later. Ctrl-C ends the wait.

        Raises:
            DeliveryError: With ``strict=True``, if anything was not delivered, or the run folder is gone.
            ValueError: `status` is no final status.
        """
        self._finish(status, None, strict=self._strict)

    def _finish(self, status: RunStatus, reason: str | None, *, strict: bool) -> None:
        if status not in events.FINAL_STATUSES:
            raise ValueError(f"a run ends as one of {', '.join(events.FINAL_STATUSES)}, not {status!r}")
        if self.status != "running":
            return
        if not self.enabled:
            self.status = status
            return
        ended = self._end_journal(status, reason)
        gone: OSError | None = None
        try:
            rows = self._wait(ended)
        except OSError as error:
            gone, rows = error, []
        if gone is not None:
            logger.error(
                "the run folder can't be read any more: %s. If it was deleted, what this run logged is lost, but for what "
                "its trackers have by now",
                gone,
            )
        if rows:
            from runcast.display import delivery_table, stderr, visible  # rich: not before somebody looks

            stderr().print(delivery_table(f"{self.name} · {status} · {self.dir}", rows))
        if self._lost:
            logger.error("%d events of this run could not be written to its journal and are lost", self._lost)
        if not ended:
            logger.error(
                "the end of this run is among them, so trackers will show it as crashed. To mend that, when there is room "
                "and this process has ended: runcast.start_run(resume=%r).finish(%r)",
                str(self.dir),
                status,
            )
        behind = [row for row in rows if not row.done]
        for row in behind:
            detail = visible(row.detail or "")  # an SDK's words
            logger.warning(
                "%s: %s, %d of %d events delivered. %s", row.name, row.state, row.delivered, row.total, detail
            )
        if behind:
            logger.warning("deliver what is left with: runcast sync %s", self.dir)
        if strict and gone is not None:
            raise DeliveryError(f"nobody knows what was delivered: {gone}") from gone
        if strict and behind:
            raise DeliveryError(
                "not everything was delivered: "
                + "; ".join(
                    f"{row.name} {row.state} {row.delivered}/{row.total} {row.detail or ''}".strip() for row in behind
                )
            )

    def _end_journal(self, status: RunStatus, reason: str | None) -> bool:
        """Writes the last event, and says whether it could: all that must happen before the process may die."""
        if self._measuring is not None:
            with contextlib.suppress(KeyboardInterrupt):  # it ends the wait for them
                self._measuring.end()
        with self._writing:  # behind its end nothing is written
            if self.status != "running":  # another thread was faster
                return True
            ended = self._append(
                events.RunFinished(time=time.time(), status=status, reason=reason and redact_argument(reason))
            )
            self.status = status
            if self._journal is not None:
                self._journal.close()
        if self in _open_runs:
            _open_runs.remove(self)
        if not _open_runs:
            _watch.unwatch()
        return ended

    def _wait(self, ended: bool) -> list[Delivery]:
        from runcast.waiting import wait_for

        if ended and self.dir is not None:
            with contextlib.suppress(KeyboardInterrupt):  # before it began to wait
                return wait_for(list(self._hosts.values()), self.dir, self._finish_timeout)
        return self.deliveries()

    # -- probes ----------------------------------------------------------------------------------------------------

    def _log_measured(self, values: Mapping[str, float]) -> None:
        """A probe's numbers, at the latest step, which they don't move."""
        if self.status == "running":  # else the probe is late
            numbers = {self._checked(key): float(value) for key, value in values.items()}
            self._append(events.Metrics(time=time.time(), step=max(self._step, 0), values=numbers))

    def _summarize_measured(self, values: Mapping[str, Any]) -> None:
        if self.status == "running":
            self.set_summary(values)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _begin(self, event: Event) -> None:
        """Writes the event without which the run can't be: what can't even be begun is an error before training starts."""
        assert self._journal is not None
        assert self.dir is not None
        try:
            self._journal.append(event)
        except BaseException as error:
            self._journal.close()
            if isinstance(event, events.RunStarted):
                shutil.rmtree(self.dir, ignore_errors=True)
            if isinstance(error, RunFolderError) or not isinstance(error, OSError):
                raise
            raise RunFolderError(
                error.errno,
                f"can't write the journal ({error.strerror}); make room, or choose another folder with dir= or $RUNCAST_DIR",
                str(self.dir),
            ) from error

    def _append(self, event: Event) -> bool:
        """Writes the event, and says whether it could. A full disk costs the event, not the training."""
        journal = self._journal
        if journal is None:
            return False
        if self.status != "running":  # before the lock as well: in a forked child nobody may be left to give it back
            raise self._over()
        with self._writing:
            if self.status != "running":
                raise self._over()
            try:
                journal.append(event)
            except RunFolderError:
                raise
            except OSError as error:
                self._lose("an event", error)
                return False
        if self._inline:
            for host in self._inline:
                host.poke()
        return True

    def _over(self) -> RuntimeError:
        return RuntimeError(f"run {self.id} is finished: start a new one, or start_run(resume={self.id!r})")

    def _lose(self, what: str, error: OSError) -> None:
        if not self._lost:
            logger.error(
                "%s can't be written to the run folder: %s. Training goes on; losses are counted.", what, error
            )
        self._lost += 1

    def _store(self, kind: str, key: str, step: int, data: bytes, suffix: str) -> events.StoredFile | None:
        if self.dir is None:
            return None
        try:
            return media.store(self.dir, kind, key, step, data, suffix)
        except OSError as error:
            self._lose(f"{kind} {key!r}", error)
            return None

    def _log_number(self, metrics: dict[str, float], key: str, value: Any) -> None:
        number = scalar(value)
        if number is not None:
            try:
                metrics[key] = float(number)
            except OverflowError:  # an integer beyond every float
                number = None
        if number is None and key not in self._warned:
            self._warned.add(key)
            logger.warning(
                "%r can't be logged: a %s is neither a number nor a text; skipped", key, type(value).__name__
            )

    def _checked(self, name: Any) -> str:
        """The name, without what looks like a secret."""
        if not isinstance(name, str):
            raise TypeError(f"a name is a string, not {type(name).__name__} ({name!r})")
        parts = name.split("/")
        if not name or len(name) > MAX_NAME or name.startswith("/") or "." in parts or ".." in parts:
            raise ValueError(
                f"{name[:80]!r} can't be a name: it needs 1 to {MAX_NAME} characters, no leading slash, no part '.' or '..'"
            )
        return self._names.setdefault(name, redact_text(name))

    def _media_step(self, step: int | None) -> int:
        where = max(self._step, 0) if step is None else _integer(step)
        self._step = max(self._step, where)
        return where

    def _next_step(self) -> int:
        return self._step + 1


def _integer(step: Any) -> int:
    if not isinstance(step, bool):
        try:
            return operator.index(step)
        except TypeError:
            pass
    raise TypeError(f"step is an integer, not {type(step).__name__} ({step!r})")


def _seconds(timeout: Any) -> float:
    number = scalar(timeout)
    if number is None:
        raise TypeError(f"finish_timeout is a number of seconds, math.inf for no end, not {type(timeout).__name__}")
    return float(number)


def _config(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    values = plain(config)
    if not isinstance(values, dict):
        raise TypeError(f"a config is a mapping, dataclass or namespace, not {type(config).__name__}")
    return redact(values)  # type: ignore[no-any-return]  # a dict stays one


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        tags = (tags,)
    return tuple(dict.fromkeys(redact_argument(str(tag)) for tag in tags))


def _mode(delivery: str | None) -> Mode:
    mode = delivery or os.environ.get("RUNCAST_DELIVERY") or "process"
    for known in MODES:
        if mode == known:
            return known
    raise ValueError(f"delivery is one of {', '.join(MODES)}, not {mode!r}")


def _trackers_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The trackers that a run is reported to, with their options, as a `report_to`."""
    return {state.name: state.options for state in states(folder) if state.state != "removed"}


def _resumed(parent: Path, resume: str | os.PathLike[str], step: int | None) -> Run:
    folder = find_run(resume, parent)
    found = outline(folder)
    if found.status == "running":
        where = f"process {found.writer.pid} on {found.writer.host}"
        if writer_alive(found.writer):
            raise RunFolderError(f"run {found.start.run_id} is being written by {where}: finish it first")
        logger.warning(
            "run %s was last written by %s, and nobody here can see whether that still runs; the run goes on here. "
            "If it goes on there as well, it gets the points of both",
            found.start.run_id,
            where,
        )
    run = Run(folder, found.start.run_id, found.start.project, found.start.name)
    run._step = found.last_step if step is None else min(found.last_step, _integer(step))
    run._begin(events.RunResumed(time=time.time(), writer=this_writer(), step=step))
    return run


def _finish_at_exit(status: RunStatus, reason: str | None) -> None:
    for run in reversed(_open_runs.copy()):
        if run.enabled:
            run._finish(status, reason, strict=False)


def _end_at_sigterm() -> None:
    for run in reversed(_open_runs.copy()):
        if run.enabled:
            run._end_journal("killed", "SIGTERM")


def _disable_in_child() -> None:
    """A forked child (a data loader's worker) never writes: its handles become ones that do nothing."""
    for run in _open_runs:
        run._journal = None
    _open_runs.clear()
    _watch.unwatch()


_watch = ExitWatch(_finish_at_exit, _end_at_sigterm)
os.register_at_fork(after_in_child=_disable_in_child)
