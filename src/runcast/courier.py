"""The courier: read from the cursor, deliver, flush, commit.

    journal ──read──► batch ──deliver──► reporter ──flush──► commit the cursor ──► ...
                        │
                        ├─ transient error     back off, then only what has not arrived
                        ├─ refused event       set aside with its reason, go on behind it
                        ├─ session lost        attach again, find out what has arrived
                        └─ refused altogether  failed: `runcast sync` tries again

One loop, three hosts (`hosts.py`): a process, a thread, or inline. The loop never sleeps; `advance` does what can be
done now and says how long to wait, so that every host decides how. Commit comes after the effect. A crash in between
leaves events of which nobody knows whether they arrived: then the tracker is read back (`arrived.py`) before the courier
goes on, unless repeating changes nothing there.
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
from typing import IO, Protocol, TypeVar

from runcast import events
from runcast.arrived import Arrived
from runcast.delivery import (
    SetAside,
    TrackerState,
    check_files,
    load_state,
    lock_path,
    log_path,
    save_state,
    tracker_folder,
)
from runcast.errors import RuncastError, SessionLostError
from runcast.events import Event
from runcast.journal import FILE_NAME, Damage, Entry, Journal
from runcast.redact import MASK, masked, redact, secrets_in, secrets_of_environment
from runcast.reporter import PROJECTIONS, NativeRun, Reporter, RunInfo, denied, transient
from runcast.superseded import POINTS, Superseded
from runcast.trust import check_links, private
from runcast.writer import is_written

BATCH = 1000
"""Events read, delivered and committed at once."""
KEPT_SET_ASIDE = 1000
"""Refused events that the state file names, and that a later courier tries again; the others are only counted."""
ARTIFACT_RATE = 1 << 20
"""Bytes a second that an artifact may take at least, on top of a call's own time."""
_POLL = 0.1
_POLL_IDLE = 1.0
_REST = 10.0
"""So many times as long as the last round took a courier rests while the run goes on: numbers that come fast are
delivered in fewer, larger batches."""
_BACKOFF = 0.5
_BACKOFF_MAX = 30.0
_LOCK_TRIES = 10
_TRIES = 5
"""How often a flush or an end is tried that fails for a reason that doesn't look like passing."""

T = TypeVar("T")


class Watch(Protocol):
    """Told of every call of the reporter, so that one that never returns is noticed from outside."""

    def begin(self, call: str, offset: int, limit: float) -> None:
        """A call begins, at this place of the journal (-1: of no single event), that may take `limit` seconds."""

    def end(self) -> None:
        """It returned, or raised."""


class _Unwatched:
    def begin(self, call: str, offset: int, limit: float) -> None:
        """Nobody looks."""

    def end(self) -> None:
        """Nobody looks."""


class _Retry(Exception):
    """The same again, after so many seconds (True: back off)."""

    def __init__(self, after: bool | float, error: BaseException) -> None:
        super().__init__(str(error))
        self.after = after
        self.error = error


class _Denied(Exception):
    """The tracker takes nothing from us at all."""


class Courier:
    """Delivers one run to one tracker.

    Args:
        run_dir: The run folder.
        reporter: Where to.
        log: Where errors are told in full; default: ``trackers/<name>.log``.
        watch: Who is told of the reporter's calls.
        culprits: Offset → reason: events that ended the courier's process, and so are set aside unseen.
        careful: The first events one at a time, each committed, because one of them ended the courier's process.
        lock: The lock of this tracker's run, if it is taken already; then it is not given back.

    Attributes:
        opened: The run is open in the tracker.
        again: It is through because the run has to start anew in the tracker, which a new courier does.
    """

    def __init__(
        self,
        run_dir: Path,
        reporter: Reporter,
        log: IO[str] | None = None,
        watch: Watch | None = None,
        culprits: dict[int, str] | None = None,
        *,
        careful: bool = False,
        lock: int | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.reporter = reporter
        self.journal = Journal(run_dir / FILE_NAME)
        self.state = load_state(run_dir, reporter.name) or new_state(reporter)
        self.again = False
        self._log = log
        self._watch = watch or _Unwatched()
        self._culprits = culprits or {}
        self._careful = BATCH if careful else 0  # how many events yet
        self._lock = lock
        self._lock_is_ours = lock is None
        if lock is not None:
            _kept.add(lock)
        self._damage: list[Damage] = []
        self._superseded = Superseded()
        self._arrived: Arrived | None = None
        self._uncertain = False
        self._ahead: tuple[int, int] | None = None  # offset and number of events that are delivered, but not committed
        self._aside: list[
            int
        ] = []  # where events are that were set aside before, to be tried once more after all others
        self.opened = False
        self._failures = 0
        self._odd_failures = 0  # those in a row of flushes and ends that don't look like passing
        self._pause = _POLL
        self._secrets = [*secrets_in(events.plain(reporter.options)), *secrets_of_environment()]

    # -- what hosts call -------------------------------------------------------------------------------------------

    def advance(self) -> float | None:
        """Does what can be done now.

        Returns:
            Seconds until there may be more to do (0: at once), or None when the courier is through.
        """
        try:
            if not self._locked():
                return None
            if not self.opened and self._nothing_left():
                self._unlock()
                return None
            if not self.opened:
                self._open()
            pause = self._deliver()
        except _Retry as retry:
            pause = self._back_off(retry)
        except (Exception, SystemExit) as error:
            if isinstance(error, OSError) and transient(error):  # the run folder's disk is full
                pause = self._back_off(_Retry(True, error))
            else:
                self._fail(error.__cause__ if isinstance(error, _Denied) and error.__cause__ else error)
                pause = None
        if pause is None:
            self._unlock()
        return pause

    def abandon(self) -> None:
        """Ends the delivery without ending the run in the tracker; the cursor stays."""
        if self._lock is not None and self.opened and self._settled:
            self.state.clean = True
            with contextlib.suppress(OSError):  # then the next courier reads back once more than it must
                self._commit()
        self._unlock()

    # -- start -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        check_links(self.run_dir)
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
        self._superseded = Superseded.of(self.journal)
        attach = state.native
        native = self._replaced(info, attach)
        if native is None:
            native = self._guarded("open", lambda: self.reporter.open(info, attach))
        self._uncertain = attach is not None and not state.clean and self._can_settle
        state.native, state.clean = native, False
        state.state, state.error = "delivering", None
        self.opened = True
        self._ahead = None
        self._commit()
        self._aside = [item.offset for item in state.set_aside]

    def _replaced(self, info: RunInfo, attach: NativeRun | None) -> NativeRun | None:
        """The run begun anew, if the tracker has points that a resume took back, and if it can be."""
        state = self.state
        step = self._superseded.first_step(state.offset)
        if attach is None or step is None:
            return None
        if not state.clean:  # of the next batch nobody knows how far it came
            doubtful = itertools.islice(self.journal.read(state.offset), BATCH)
            steps = [entry.event.step for entry in doubtful if isinstance(entry.event, POINTS)]
            state.last_step = max([state.last_step, *steps])
        if state.last_step <= step:
            return None
        native = self._guarded("replace", lambda: self.reporter.replace(info, attach))
        if native is None:
            self._write(f"the tracker can't take back the points after step {step}: they stay beside the new ones")
            state.last_step = step
            return None
        state.offset = state.events = state.damaged = state.refused = 0
        state.last_step, state.set_aside, state.status, state.writer = -1, [], None, None
        state.clean = True
        return native  # of what it held nothing is left, and everything comes again

    # -- one round -------------------------------------------------------------------------------------------------

    def _deliver(self) -> float | None:
        start, more = time.monotonic(), True
        if self._ahead is None:
            if self._uncertain:
                self._settle()
            self._damage.clear()
            most = 1 if self._careful else BATCH
            batch = list(itertools.islice(self.journal.read(self.state.offset, self._damage.append), most))
            if not batch and self._aside:
                self._retry_set_aside()
                return 0.0
            if not batch:
                return self._at_the_end()
            self._deliver_batch(batch)
            more = len(batch) == most
        if self._ahead is not None:
            self._flush_and_commit()
        if self.again:
            self.state.clean = True
            self._commit()
            return None
        if more or self.state.status is not None:
            return 0.0
        return min(max(_POLL, _REST * (time.monotonic() - start)), _POLL_IDLE)

    def _deliver_batch(self, batch: list[Entry]) -> None:
        """Delivers, and notes what is delivered or set aside."""
        count = 0
        together = self.reporter.supports("log_metrics_batch")
        for group in _groups(batch, together=together):
            if self._needs_new_start(group[0]):
                self.again = True
                return
            try:
                self._deliver_group(group)
            except (_Retry, _Denied):
                self._uncertain = self._can_settle
                if self._ahead is not None and self.opened:
                    self._flush_and_commit()  # so that only what failed comes again
                raise
            count += len(group)
            self._ahead = group[-1].end, count

    def _needs_new_start(self, entry: Entry) -> bool:
        """Whether the run was resumed while this courier was at it, and from before what it has delivered."""
        event = entry.event
        if not isinstance(event, events.RunResumed) or event.step is None or self.state.last_step <= event.step:
            return False
        return entry.start not in self._superseded.known  # of those that it knew when it opened it took care

    def _deliver_group(self, group: list[Entry]) -> None:
        try:
            if len(group) > 1 or isinstance(group[0].event, events.Metrics):
                self._deliver_metrics(group)
            else:
                self._deliver_one(group[0])
        except (_Retry, _Denied):
            raise
        except (Exception, SystemExit) as error:
            if len(group) > 1:  # find the culprit, so that it alone is set aside
                if self._can_settle:
                    self._settle()
                for entry in group:
                    self._deliver_group([entry])
            else:
                self._set_aside(group[0], error)
        else:
            self._accepted(group)

    def _deliver_metrics(self, group: list[Entry]) -> None:
        wanted: list[events.Metrics] = []
        for entry in group:
            if (event := self._wanted(entry)) is not None:
                assert isinstance(event, events.Metrics)
                wanted.append(event)
        if wanted:
            where = group[0].start if len(group) == 1 else -1
            self._guarded("log_metrics_batch", lambda: self.reporter.log_metrics_batch(wanted), where)

    def _deliver_one(self, entry: Entry) -> None:
        if isinstance(entry.event, events.RunStarted | events.RunResumed):
            self.state.writer, self.state.status = entry.event.writer, None
        elif isinstance(entry.event, events.RunFinished):
            self.state.status = entry.event.status  # what ends the run in the tracker is closing it, at the end
        event = self._wanted(entry)
        if event is None or isinstance(event, events.Unknown) or (project := PROJECTIONS.get(type(event))) is None:
            return
        limit = self.reporter.call_timeout
        if isinstance(event, events.Artifact):
            limit += sum(file.size for file in event.files) / ARTIFACT_RATE
        name = str(type(event).__struct_config__.tag)
        self._guarded(name, lambda: project(self.reporter, event, self.run_dir), entry.start, limit)

    def _wanted(self, entry: Entry) -> Event | events.Unknown | None:
        """The event, or what of it has not arrived; None if nothing of it is to be delivered."""
        if entry.start in self._culprits:
            raise RuntimeError(self._culprits[entry.start])
        if self._superseded.covers(entry):
            return None
        if isinstance(entry.event, POINTS):  # also one that has arrived already
            self.state.last_step = max(self.state.last_step, entry.event.step)
        return entry.event if self._arrived is None else self._arrived.rest(entry)

    def _at_the_end(self) -> float | None:
        """Closes the run if it has ended, else waits for more, if anybody is still there to write it."""
        status, writer = self.state.status, self.state.writer
        if status is None and writer is not None and not is_written(self.journal.path, writer):
            if next(self.journal.read(self.state.offset), None) is not None:
                return 0.0  # its last events came between our read and its end
            status = "crashed"
        if status is None:
            self._failures = 0
            self._pause = min(self._pause * 1.2, _POLL_IDLE)
            return self._pause
        self.opened = False  # whatever becomes of it: what is half closed is opened again
        self._guarded_session("close", lambda: self.reporter.close(status))
        self.state.state, self.state.error, self.state.status, self.state.clean = "complete", None, status, True
        self._move(max([self.state.offset, *(damage.offset + damage.size + 1 for damage in self._damage)]), 0)
        self._commit()
        return None

    # -- what may have arrived already -----------------------------------------------------------------------------

    @property
    def _can_settle(self) -> bool:
        return not self.reporter.idempotent and self.reporter.supports("read")

    @property
    def _settled(self) -> bool:
        return self._ahead is None and not self._uncertain

    def _settle(self) -> None:
        """Reads the tracker back, to learn what of the events behind the cursor it has."""
        native = self.state.native
        assert native is not None
        self._guarded_session("flush", self.reporter.flush)
        try:
            record = self._guarded("read", lambda: self.reporter.read(native), limit=self.reporter.call_timeout * 10)
        except (_Retry, _Denied):
            raise
        except Exception as error:  # better twice than never
            self._write("what the tracker already has can't be read, so that some of it may come twice")
            self._tell(error)
        else:
            known = self.state.offset if self._ahead is None else self._ahead[0]
            aside = {*self._aside, *(item.offset for item in self.state.set_aside)}
            self._arrived = Arrived(record, self.journal, known, self._superseded, BATCH, aside)
        self._uncertain = False

    # -- errors ----------------------------------------------------------------------------------------------------

    def _guarded(self, name: str, call: Callable[[], T], offset: int = -1, limit: float | None = None) -> T:
        """The call's result; a transient error becomes `_Retry`, one that concerns all calls `_Denied`."""
        self._watch.begin(name, offset, self.reporter.call_timeout if limit is None else limit)
        try:
            return call()
        except SessionLostError as error:
            self.opened, self._ahead, self._uncertain = False, None, self._can_settle
            raise _Retry(True, error) from error
        except RuncastError:
            raise
        except Exception as error:
            if after := self.reporter.is_transient(error):
                raise _Retry(after, error) from error
            if denied(error):
                raise _Denied from error
            raise
        finally:
            self._watch.end()

    def _guarded_session(self, name: str, call: Callable[[], T]) -> T:
        """The same for what concerns no single event: some tries for any error."""
        try:
            return self._guarded(name, call)
        except (_Retry, _Denied):
            raise
        except (Exception, SystemExit) as error:
            self._odd_failures += 1
            if self._odd_failures < _TRIES:
                raise _Retry(True, error) from error
            raise

    def _back_off(self, retry: _Retry) -> float:
        self._tell(retry.error)
        self.state.state, self.state.error = "retrying", self._words(retry.error)
        self._try_to_commit()
        wait: float = min(_BACKOFF * 2.0**self._failures, _BACKOFF_MAX) * random.Random().uniform(0.5, 1.0)
        self._failures += 1
        return wait if retry.after is True else max(wait, float(retry.after))

    def _fail(self, error: BaseException) -> None:
        """Gives up. The run isn't closed in the tracker: no status but the run's own is right."""
        self._tell(error)
        self.state.state, self.state.error = "failed", self._words(error)
        self.state.clean = self.state.clean or self._settled
        self._try_to_commit()

    def _try_to_commit(self) -> None:
        try:
            self._commit()
        except OSError as error:  # a full disk, say: the state on disk is older, and that is safe
            self._tell(error)

    def _set_aside(self, entry: Entry, error: BaseException) -> None:
        self._tell(error)
        if any(item.offset == entry.start for item in self.state.set_aside):
            return  # in a batch that came again
        self.state.refused += 1
        if len(self.state.set_aside) < KEPT_SET_ASIDE:
            kind = str(type(entry.event).__struct_config__.tag)
            self.state.set_aside = [*self.state.set_aside, SetAside(entry.start, kind, self._words(error)[:500])]

    def _accepted(self, group: list[Entry]) -> None:
        """Takes what the tracker has now from the list of what it refused before."""
        state, starts = self.state, {entry.start for entry in group}
        left = [item for item in state.set_aside if item.offset not in starts]
        state.refused -= len(state.set_aside) - len(left)
        state.set_aside = left

    def _retry_set_aside(self) -> None:
        """Tries once more one of what was set aside: the SDK, its server or our version may be another by now."""
        state = self.state
        before = state.set_aside, state.refused
        entry = next(self.journal.read(self._aside[0]), None)
        try:
            if entry is not None and entry.start == self._aside[0]:
                self._deliver_group([entry])
            if accepted := state.refused < before[1]:
                self._guarded_session("flush", self.reporter.flush)
        except (Exception, SystemExit):
            state.set_aside, state.refused = before
            self._uncertain = self._can_settle
            raise
        del self._aside[0]
        if accepted:
            self._commit()
            self._failures = self._odd_failures = 0

    def _move(self, offset: int, count: int) -> None:
        """Moves the cursor over `count` events, and counts the damaged lines that it passes."""
        self.state.events += count
        for damage in self._damage:
            if self.state.offset <= damage.offset < offset:
                self.state.damaged += 1
                self._write(f"skipped a damaged line of {damage.size} bytes at byte {damage.offset}: {damage.reason}")
        self.state.offset = offset

    def _words(self, error: BaseException) -> str:
        text = self._masked(str(error)).strip() or "no message"
        return f"{type(error).__name__}: {text}"[:2000]

    def _masked(self, text: str) -> str:
        return masked(text, self._secrets)

    def _tell(self, error: BaseException) -> None:
        self._write("".join(traceback.format_exception(error)))

    def _write(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {self._masked(text).rstrip()}\n"
        with contextlib.suppress(OSError):  # a full disk
            if self._log is not None:
                self._log.write(line)
                self._log.flush()
            else:
                tracker_folder(self.run_dir)
                with open(log_path(self.run_dir, self.state.name), "a", opener=private) as file:
                    file.write(line)

    # -- the state file --------------------------------------------------------------------------------------------

    def _flush_and_commit(self) -> None:
        assert self._ahead is not None
        self._guarded_session("flush", self.reporter.flush)
        self._move(*self._ahead)
        self._ahead = None
        if self._arrived is not None and self.state.offset >= self._arrived.end and not self._aside:
            self._arrived = None
        self.state.state, self.state.error = "delivering", None
        self._commit()
        self._failures = self._odd_failures = 0
        self._careful = max(self._careful - 1, 0)
        self._pause = _POLL

    def _commit(self) -> None:
        save_state(self.run_dir, self.state)

    def _locked(self) -> bool:
        """Takes the lock that keeps a second courier away from this tracker's run."""
        if self._lock is None:
            self._lock = take_lock(self.run_dir, self.state.name)
            if self._lock is None:
                return False
            _kept.add(self._lock)
            # Another courier may have been at it since this one was made.
            self.state = load_state(self.run_dir, self.reporter.name) or self.state
        return True

    def _nothing_left(self) -> bool:
        """Whether another courier has done it all before this one had the lock: a run isn't closed twice."""
        state = self.state
        return state.state == "complete" and not state.set_aside and state.offset >= self.journal.path.stat().st_size

    def _unlock(self) -> None:
        if self._lock is not None and self._lock_is_ours:
            _kept.discard(self._lock)
            release_lock(self._lock)
            self._lock = None


_kept: set[int] = set()
"""The locks of this process's couriers."""


def _leave_locks() -> None:
    """Closes them in a forked child, an SDK's helper say, which would keep them locked when the courier has died."""
    for descriptor in _kept:
        os.close(descriptor)
    _kept.clear()


os.register_at_fork(after_in_child=_leave_locks)


def take_lock(run_dir: Path, name: str) -> int | None:
    """Takes the lock of a tracker's run; None if another courier has it."""
    check_files(run_dir, name)
    descriptor = private(str(lock_path(run_dir, name)), os.O_RDWR | os.O_CREAT)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)  # `courier_alive` takes it for a moment, too
        else:
            return descriptor
    os.close(descriptor)
    return None


def release_lock(descriptor: int) -> None:
    """Gives a lock back."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it with a forked child
    os.close(descriptor)


def new_state(reporter: Reporter) -> TrackerState:
    """The state of a reporter that has delivered nothing yet."""
    cls = type(reporter)
    return TrackerState(reporter.name, f"{cls.__module__}:{cls.__qualname__}", _public(reporter.options))


def courier_alive(run_dir: Path, name: str) -> bool:
    """Whether a courier holds this tracker's lock."""
    try:
        descriptor = private(str(lock_path(run_dir, name)), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return True
    release_lock(descriptor)
    return False


def _groups(batch: list[Entry], *, together: bool) -> Iterator[list[Entry]]:
    """Runs of numbers together, if the reporter takes them so, everything else alone."""
    if not together:
        yield from ([entry] for entry in batch)
        return
    for numbers, entries in itertools.groupby(batch, key=lambda entry: isinstance(entry.event, events.Metrics)):
        if numbers:
            yield list(entries)
        else:
            for entry in entries:
                yield [entry]


def _public(options: dict[str, object]) -> dict[str, object]:
    """Options that may be written down: JSON values that are no secret. A URL without its userinfo is still one."""
    shown = redact(events.plain(options))
    return {key: value for key, value in shown.items() if MASK not in str(value)}
