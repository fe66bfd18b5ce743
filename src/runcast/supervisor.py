"""The process of one courier: a supervisor that forks the courier proper, watches it, and starts it again.

    supervisor ──fork──► courier ──► reporter ──► SDK
        │  ▲                │
        │  └── a mark in shared memory: which call, since when, how long it may take
        └── ended or hanging: again from the cursor, a bounded number of times, then ``stalled``

An SDK may crash, or hang with the interpreter's lock held, so only another process can tell and end it. The supervisor
imports no SDK and sleeps until its child ends or a look at the mark is due.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import random
import select
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from runcast.courier import Courier, release_lock, take_lock
from runcast.delivery import load_state, save_state
from runcast.folder import outline
from runcast.hosts import reporter_of
from runcast.journal import FILE_NAME, Journal
from runcast.masking import mask_output
from runcast.priority import children_stand_back, stand_back

RESTARTS = 3
"""How often a courier that hangs or dies is started again without having come any further."""
GIVE_UP_AFTER = 3600.0
"""Seconds that a courier goes on trying to reach its tracker when nobody writes the run any more."""
_LOOK = 2.0
_LEAVE = 60.0
"""Seconds that an SDK has for its own end, once everything is delivered."""
_AGAIN = 75
_ONE_OF_MANY = -1
_OF_NO_EVENT = ("open", "replace", "flush", "read", "close", "the end")
_DUMP = signal.SIGUSR2


class _Call(NamedTuple):
    """The call that a courier is in: its name, place in the journal (-1: of no single event), start and limit."""

    name: str
    offset: int
    since: float
    limit: float


class _Mark:
    """What the courier is doing, in memory that supervisor and courier share. A `runcast.courier.Watch`."""

    _FORMAT = struct.Struct("<ddq40s")  # since (0: in no call), limit, offset, name

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def begin(self, call: str, offset: int, limit: float) -> None:
        self._FORMAT.pack_into(self._memory, 0, time.monotonic(), limit, offset, call.encode()[:40])

    def end(self) -> None:
        self._memory[:8] = bytes(8)

    def call(self) -> _Call | None:
        """The call that has not returned, if there is one."""
        since, limit, offset, name = self._FORMAT.unpack_from(self._memory)
        return _Call(name.rstrip(b"\0").decode(), offset, since, limit) if since else None


def courier_process(spec: dict[str, Any]) -> None:
    """The main function of a courier's process."""
    # Prompts find an empty input rather than our pipe, and training has the first call on the processor.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.umask(0o077)  # also what SDKs write is the user's alone
    stand_back()
    if spec["secrets"]:
        mask_output(spec["secrets"])
    _Supervisor(spec).run()


class _Supervisor:
    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._run_dir = Path(spec["run_dir"])
        self._name = str(spec["name"])
        self._mark = _Mark()
        self._culprits: dict[int, str] = {}
        self._suspect: int | None = None  # the event, or one of those, that ended the courier before
        self._stopping = False
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes us
        signal.signal(signal.SIGTERM, self._terminated)

    def _terminated(self, *_: object) -> None:
        self._stopping = True

    def run(self) -> None:
        """Keeps a courier at work until it is through, and others away, also while it is started again."""
        while (lock := take_lock(self._run_dir, self._name)) is not None:
            try:
                self._keep_at_work(lock)
            finally:
                release_lock(lock)
            if self._stopping or not self._gone_on():
                return

    def _keep_at_work(self, lock: int) -> None:
        deaths, before = 0, (-1, 0)
        while not self._stopping:
            self._mark.end()
            pid = os.fork()
            if pid == 0:
                _be_the_courier(self._spec, self._mark, self._culprits, careful=self._suspect is not None, lock=lock)
            code, hung = self._watched(pid)
            if code == 0 or self._stopping or self._complete():
                return
            if code == _AGAIN:
                continue
            state = load_state(self._run_dir, self._name)
            reason = self._learn(code, hung, {item.offset for item in state.set_aside} if state else set())
            _say(reason)
            here = state.offset if state else 0, len(self._culprits)
            deaths = 1 if here > before else deaths + 1
            before = here
            if deaths > RESTARTS:
                self._stall(reason, deaths)
                return
            self._sleep(min(0.5 * 2.0**deaths, 10.0) * random.Random().uniform(0.5, 1.0))

    def _watched(self, pid: int) -> tuple[int, _Call | None]:
        """Waits for the courier's end.

        Returns:
            Its exit code, or minus the signal; and the call that it was ended in because that didn't return.
        """
        told = False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), None
            call = self._mark.call()
            if self._stopping and not told:
                told = True
                os.kill(pid, signal.SIGTERM)
                self._sleep(5.0)
            elif self._stopping or (call is not None and time.monotonic() - call.since > call.limit):
                os.kill(pid, _DUMP)  # its stack, into the log
                self._sleep(0.5)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return -signal.SIGKILL, call
            else:
                left = _LOOK if call is None else call.since + call.limit - time.monotonic()
                self._sleep(min(max(left, 0.05), _LOOK))

    def _sleep(self, seconds: float) -> None:
        """Sleeps, until a signal comes at the latest."""
        select.select([self._wake], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 1024)

    def _complete(self) -> bool:
        state = load_state(self._run_dir, self._name)
        size = (self._run_dir / FILE_NAME).stat().st_size
        return state is not None and state.state == "complete" and state.offset >= size

    def _gone_on(self) -> bool:
        """Whether somebody went on with the run while it was being closed: their own courier found ours at work, and left."""
        state = load_state(self._run_dir, self._name)
        if state is None or state.state != "complete":
            return False
        return next(Journal(self._run_dir / FILE_NAME).read(state.offset), None) is not None

    def _learn(self, code: int, hung: _Call | None, aside: set[int]) -> str:
        """What happened, in words; and of which event it is to be laid at the door: one that was set aside needs no proof."""
        call = self._mark.call()
        if hung is not None:
            return f"{hung.name} did not return within {hung.limit:g} s"
        ended = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if call is None:
            return f"the courier ended with {ended}"
        reason = f"the tracker's SDK ended the courier with {ended} in {call.name}"
        if call.name not in _OF_NO_EVENT:
            if call.offset >= 0 and (self._suspect in (call.offset, _ONE_OF_MANY) or call.offset in aside):
                self._culprits[call.offset] = reason
            self._suspect = call.offset
        return reason

    def _stall(self, reason: str, deaths: int) -> None:
        state = load_state(self._run_dir, self._name)
        if state is not None:
            state.state = "stalled"
            state.error = f"{reason}, {deaths} times; see the log, and try again with: runcast sync {self._run_dir}"
            save_state(self._run_dir, state)


def _say(reason: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {reason}\n")
    sys.stderr.flush()


def _be_the_courier(spec: dict[str, Any], mark: _Mark, culprits: dict[int, str], *, careful: bool, lock: int) -> None:
    """What the forked child does; it never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    faulthandler.enable()
    faulthandler.register(_DUMP)
    code = 1
    try:
        code = _deliver(spec, mark, stop, culprits, careful=careful, lock=lock)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    state = load_state(Path(spec["run_dir"]), str(spec["name"]))
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0 and state is not None and state.state == "complete":
        mark.begin("the end", -1, _LEAVE)
        sys.exit(0)  # so that the SDK can clean up
    os._exit(code)  # else the SDK would end the run in its own way


def _deliver(
    spec: dict[str, Any], mark: _Mark, stop: threading.Event, culprits: dict[int, str], *, careful: bool, lock: int
) -> int:
    run_dir, reporter = Path(spec["run_dir"]), reporter_of(spec)
    courier = Courier(run_dir, reporter, sys.stderr, mark, culprits, careful=careful, lock=lock)
    retrying_since: float | None = None
    alone = True
    while (pause := courier.advance()) is not None:
        if alone and courier.opened:
            alone = False
            children_stand_back()
        now = time.monotonic()
        retrying_since = (retrying_since or now) if courier.state.state == "retrying" else None
        given_up = retrying_since is not None and now - retrying_since > GIVE_UP_AFTER
        if given_up and outline(run_dir).status == "running":
            given_up, retrying_since = False, now
        if given_up or stop.wait(pause):
            courier.abandon()
            return 0
    return _AGAIN if courier.again else 0
