"""The courier: read from the cursor, deliver, flush, commit.

    journal ──read──► batch ──deliver──► reporter ──flush──► commit the cursor ──► ...
                        │
                        ├─ transient error   back off, then the same events again
                        ├─ refused event     set aside with its reason, go on behind it
                        └─ start refused     failed: `runcast sync` tries again

One loop, three hosts (`hosts.py`): a process, a thread, or inline. The loop never sleeps; `advance` does what can be
done now and says how long to wait, so that every host decides how. Commit comes after the effect: what a crash in
between repeats can be told apart by its step and time, what a commit before the effect loses can't be called back.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import psutil

from runcast import events
from runcast.delivery import SetAside, TrackerState, load_state, log_path, save_state
from runcast.errors import RuncastError
from runcast.events import RunStatus, Writer
from runcast.journal import FILE_NAME, Damage, Entry, Journal
from runcast.redact import redact, redact_text
from runcast.reporter import PROJECTIONS, Reporter, RunInfo

BATCH = 1000
"""Events read, delivered and committed at once."""
KEPT_SET_ASIDE = 100
"""Refused events that the state file names; the others are only counted."""
_POLL = 0.1
_POLL_IDLE = 1.0
_BACKOFF = 0.5
_BACKOFF_MAX = 30.0

T = TypeVar("T")


def writer_alive(writer: Writer) -> bool:
    """Whether the process that wrote the journal still runs (on another machine nobody can tell: then yes)."""
    if writer.host != os.uname().nodename:
        return True
    try:
        process = psutil.Process(writer.pid)
        # A pid is reused, a pid with a start time is not; a zombie has ended.
        return bool(abs(process.create_time() - writer.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


class _Retry(Exception):
    """The same again, after so many seconds (True: back off)."""

    def __init__(self, after: bool | float, error: BaseException) -> None:
        super().__init__(str(error))
        self.after = after
        self.error = error


class Courier:
    """Delivers one run to one tracker.

    Args:
        run_dir: The run folder.
        reporter: Where to.
        log: Where errors are told in full; default: ``trackers/<name>.log``.
    """

    def __init__(self, run_dir: Path, reporter: Reporter, log: IO[str] | None = None) -> None:
        self.run_dir = run_dir
        self.reporter = reporter
        self.journal = Journal(run_dir / FILE_NAME)
        self.state = load_state(run_dir, reporter.name) or new_state(reporter)
        self._log = log
        self._lock: int | None = None
        self._damage: list[Damage] = []
        self._opened = False
        self._failures = 0
        self._pause = _POLL

    # -- what hosts call -------------------------------------------------------------------------------------------

    def advance(self) -> float | None:
        """Does what can be done now.

        Returns:
            Seconds until there may be more to do (0: at once), or None when the courier is through.
        """
        if not self._locked():
            return None
        try:
            if not self._opened:
                self._open()
            pause = self._deliver()
        except _Retry as retry:
            pause = self._back_off(retry)
        except (Exception, SystemExit) as error:
            self._fail(error)
            pause = None
        if pause is None:
            self._unlock()
        return pause

    def abandon(self) -> None:
        """Ends the delivery without ending the run in the tracker; the cursor stays."""
        self._unlock()

    # -- one round -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        start = self.journal.start()
        info = RunInfo(
            run_id=start.run_id,
            name=start.name,
            project=start.project,
            group=start.group,
            dir=self.run_dir,
            started=start.time,
            config=start.config,
            tags=start.tags,
        )
        state, fresh = self.state, new_state(self.reporter)
        found = type(self.reporter).availability()
        state.reporter, state.options = fresh.reporter, fresh.options
        state.mode, state.version = found.mode, found.version
        state.writer = state.writer or start.writer
        native = self._guarded(lambda: self.reporter.open(info, state.native))
        state.native = native
        state.state, state.error = "delivering", None
        self._opened = True
        self._failures = 0
        self._commit()

    def _deliver(self) -> float | None:
        self._damage.clear()
        batch = list(itertools.islice(self.journal.read(self.state.offset, self._damage.append), BATCH))
        if not batch:
            return self._at_the_end()
        last = batch[-1]
        if isinstance(last.event, events.RunFinished):
            if len(batch) == 1:
                self._close(last.event.status, last.end)
                return None
            batch.pop()  # what ends the run is delivered last, by closing it
        done = self._deliver_batch(batch)
        self._failures = 0
        self._pause = _POLL
        self.state.state, self.state.error = "delivering", None
        self._flush_and_commit(done)
        return 0.0

    def _deliver_batch(self, batch: list[Entry]) -> tuple[int, int]:
        """Delivers, and returns the offset and number of events that are delivered or set aside."""
        offset, count = self.state.offset, 0
        for group in _groups(batch):
            try:
                self._deliver_group(group)
            except _Retry:
                if count:  # so that only what failed comes again
                    self._flush_and_commit((offset, count))
                raise
            offset, count = group[-1].end, count + len(group)
        return offset, count

    def _deliver_group(self, group: list[Entry]) -> None:
        try:
            if isinstance(group[0].event, events.Metrics):
                metrics = [entry.event for entry in group]
                self._guarded(lambda: self.reporter.log_metrics_batch(metrics))  # type: ignore[arg-type]  # all Metrics
            else:
                self._deliver_one(group[0])
        except _Retry:
            raise
        except (Exception, SystemExit) as error:
            if len(group) > 1:  # find the culprit, so that it alone is set aside
                for entry in group:
                    self._deliver_group([entry])
            else:
                self._set_aside(group[0], error)

    def _deliver_one(self, entry: Entry) -> None:
        event = entry.event
        if isinstance(event, events.RunStarted | events.RunResumed):
            self.state.writer = event.writer
        if project := PROJECTIONS.get(type(event)):  # type: ignore[arg-type]  # Unknown has none
            self._guarded(lambda: project(self.reporter, event, self.run_dir))

    def _at_the_end(self) -> float | None:
        """Waits for more, if anybody is still there to write it."""
        if self.state.writer is not None and not writer_alive(self.state.writer):
            if next(self.journal.read(self.state.offset), None) is not None:
                return 0.0  # its last events came between our read and its end
            passed = max((damage.offset + damage.size + 1 for damage in self._damage), default=None)
            self._close("crashed", passed, count=0)
            return None
        self._pause = min(self._pause * 1.2, _POLL_IDLE)
        return self._pause

    def _close(self, status: RunStatus, end: int | None = None, count: int = 1) -> None:
        self._guarded(lambda: self.reporter.close(status))
        self.state.state, self.state.error = "complete", None
        self._move(self.state.offset if end is None else end, count)
        self._commit()

    # -- errors ----------------------------------------------------------------------------------------------------

    def _guarded(self, call: Callable[[], T]) -> T:
        """The call's result; a transient error becomes `_Retry`."""
        try:
            return call()
        except RuncastError:
            raise
        except Exception as error:
            if after := self.reporter.is_transient(error):
                raise _Retry(after, error) from error
            raise

    def _back_off(self, retry: _Retry) -> float:
        self._tell(retry.error)
        self.state.state, self.state.error = "retrying", _words(retry.error)
        self._commit()
        wait: float = min(_BACKOFF * 2.0**self._failures, _BACKOFF_MAX) * random.Random().uniform(0.5, 1.0)
        self._failures += 1
        return wait if retry.after is True else max(wait, float(retry.after))

    def _fail(self, error: BaseException) -> None:
        self._tell(error)
        self.state.state, self.state.error = "failed", _words(error)
        if self._opened:
            with contextlib.suppress(Exception, SystemExit):  # the first error is the one to report
                self.reporter.close("failed")
        self._commit()

    def _set_aside(self, entry: Entry, error: BaseException) -> None:
        self._tell(error)
        self.state.refused += 1
        if len(self.state.set_aside) < KEPT_SET_ASIDE:
            kind = str(type(entry.event).__struct_config__.tag)
            self.state.set_aside = [*self.state.set_aside, SetAside(entry.start, kind, _words(error))]

    def _move(self, offset: int, count: int) -> None:
        """Moves the cursor over `count` events, and counts the damaged lines that it passes."""
        self.state.events += count
        for damage in self._damage:
            if self.state.offset <= damage.offset < offset:
                self.state.damaged += 1
                self._write(f"skipped a damaged line of {damage.size} bytes at byte {damage.offset}: {damage.reason}")
        self.state.offset = offset

    def _tell(self, error: BaseException) -> None:
        self._write(redact_text("".join(traceback.format_exception(error))))

    def _write(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text.rstrip()}\n"
        if self._log is not None:
            self._log.write(line)
            self._log.flush()
            return
        path = log_path(self.run_dir, self.state.name)
        with open(path, "a", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(line)

    # -- the state file --------------------------------------------------------------------------------------------

    def _flush_and_commit(self, done: tuple[int, int]) -> None:
        self._guarded(self.reporter.flush)
        self._move(*done)
        self._commit()

    def _commit(self) -> None:
        save_state(self.run_dir, self.state)

    def _locked(self) -> bool:
        """Takes the lock that keeps a second courier away from this tracker's run."""
        if self._lock is None:
            path = log_path(self.run_dir, self.state.name).with_suffix(".lock")
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing alone would leave it with a forked child
            os.close(self._lock)
            self._lock = None


def new_state(reporter: Reporter) -> TrackerState:
    """The state of a reporter that has delivered nothing yet."""
    cls = type(reporter)
    return TrackerState(reporter.name, f"{cls.__module__}:{cls.__qualname__}", _public(reporter.options))


def courier_alive(run_dir: Path, name: str) -> bool:
    """Whether a courier holds this tracker's lock."""
    try:
        descriptor = os.open(log_path(run_dir, name).with_suffix(".lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _groups(batch: list[Entry]) -> Iterator[list[Entry]]:
    """Runs of numbers together, everything else alone."""
    for numbers, entries in itertools.groupby(batch, key=lambda entry: isinstance(entry.event, events.Metrics)):
        if numbers:
            yield list(entries)
        else:
            for entry in entries:
                yield [entry]


def _public(options: dict[str, object]) -> dict[str, object]:
    """Options that may be written down: JSON values that are no secret."""
    shown = events.plain(options)
    return {key: value for key, value in shown.items() if redact({key: value}) == {key: value}}


def _words(error: BaseException) -> str:
    text = redact_text(str(error)).strip() or "no message"
    return f"{type(error).__name__}: {text}"[:2000]
