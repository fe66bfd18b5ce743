"""Many couriers, so many at once: what ``runcast sync`` and ``runcast replay`` deliver with.

A `Turn` is one tracker's turn to get what it lacks of one run:

    waiting ──a place is free──► at work ──► ended: the tracker has it all, or this is as far as it gets now
      ▲  │                         │
      │  └─another courier has it──┼──► watched ──► ended, or waiting again
      └──nothing but retries───────┘

A place is a courier's process, so their number is bounded. A courier that is not ours takes none; a turn waits until that
one has ended and is then looked at anew, so that two commands at once deliver nothing twice. Turns of different trackers
alternate, and a courier that can't reach its tracker gives its place to a turn that had none yet: one tracker that is
down, or one run that can't be uploaded, keeps nobody else from being delivered.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import psutil

from runcast.courier import courier_alive
from runcast.delivery import FINAL_STATES, TrackerState, deliveries, load_state
from runcast.display import Bar, DeliveryProgress
from runcast.hosts import Host, ProcessHost, host_for
from runcast.reporter import Reporter

MOST_PLACES = 8
"""Couriers at work at once, on a machine of any size: a tracker's server has limits too."""
MEMORY = 512 << 20
"""Bytes that have to be free for a courier: its tracker's SDK takes some hundred megabytes."""
PATIENCE = 10.0
"""Seconds that a courier may retry while others wait for its place."""
_STARTS = 3
"""How often a turn starts a courier that ends without a word."""
_TICK = 0.05
_FAREWELL = 2.0

Phase: TypeAlias = Literal["waiting", "at work", "watched", "ended"]


class Turn:
    """One tracker's turn to get what it lacks of one run.

    Args:
        reporter: The tracker.
        run_dir: The run folder.
        total: How many events the tracker has to have in the end.
        still_written: Whether the run goes on: then having these events is enough.

    Attributes:
        kind: What turns of the same tracker with the same settings have in common.
        phase: Where it is in the drawing above.
        fresh: Whether it has had no place yet.
        error: Why no courier could be started.
    """

    def __init__(self, reporter: Reporter, run_dir: Path, total: int, *, still_written: bool) -> None:
        self.name = reporter.name
        self.run_dir = run_dir
        self.kind = (reporter.name, repr(reporter.options))
        self.phase: Phase = "waiting"
        self.fresh = True
        self.error: str | None = None
        self._reporter = reporter
        self._total = total
        self._still_written = still_written
        self._host: Host | None = None
        self._found = self._state()
        self._starts = 0
        self._retrying_since: float | None = None
        self._leaving: threading.Thread | None = None

    def _state(self) -> TrackerState:
        return load_state(self.run_dir, self.name) or TrackerState(self.name)

    def through(self) -> bool:
        """Whether the tracker has all that it has to have."""
        state = self._state()
        if state.events + state.damaged < self._total:
            return False
        if state.state == "complete":
            return not state.set_aside  # a courier tries those again
        return self._still_written and state.state == "delivering" and courier_alive(self.run_dir, self.name)

    def bar(self) -> Bar:
        """How far it is, for people."""
        (row,) = deliveries(self.run_dir, [self.name], self._total)
        return Bar(f"{self.run_dir.name}  {self.name}", row.delivered, row.total, row.state)

    # -- phases ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Takes a place, if there is anything to do and nobody who does it already."""
        try:
            self.phase = self._next_phase()
            if self.phase == "waiting":
                self._start()
        except OSError as error:
            self._give_up(error)

    def look(self) -> None:
        """Finds out what has become of the courier that has it."""
        try:
            if self._host is None:
                self.phase = self._next_phase()
            elif self._still_written and self.through():
                self.phase = "ended"  # the courier stays with the run
            elif self._host.alive():
                retrying = self._state().state == "retrying"
                self._retrying_since = (self._retrying_since or time.monotonic()) if retrying else None
            else:
                self._host_ended()
        except OSError as error:  # the folder has gone, say
            self._give_up(error)

    def _next_phase(self) -> Phase:
        """The phase of a turn without a courier of its own."""
        if self.through():
            return "ended"
        state = self._state()
        # A run that has just begun has a courier on its way, which may have secret options that ours would lack.
        if (self._still_written and state.state == "starting") or courier_alive(self.run_dir, self.name):
            return "watched"
        return "ended" if state.state in FINAL_STATES and state != self._found else "waiting"

    def _start(self) -> None:
        self.fresh = False
        self._retrying_since = self._leaving = None
        self._host = host_for(self._reporter, self.run_dir, "process")
        self._host.start()
        self._starts += 1
        self.phase = "at work"

    def _host_ended(self) -> None:
        self._host = None
        if self._leaving is not None:
            self._starts -= 1
            self.phase = "waiting"
        elif courier_alive(self.run_dir, self.name):
            self.phase = "watched"  # it took the lock before ours
        else:
            as_far_as_it_gets = self._state().state in FINAL_STATES or self._starts >= _STARTS
            self.phase = "ended" if as_far_as_it_gets else "waiting"

    def _give_up(self, error: OSError) -> None:
        self.error = f"{type(error).__name__}: {error}"
        self._host = None
        self.phase = "ended"

    # -- places ----------------------------------------------------------------------------------------------------

    @property
    def working(self) -> bool:
        """Whether a courier of ours is at it."""
        return self.phase == "at work"

    @property
    def leaving(self) -> bool:
        """Whether that courier was asked to stop."""
        return self.working and self._leaving is not None

    @property
    def goes_on(self) -> bool:
        """Whether that courier will be at it when this process has ended."""
        return self.working and not self.leaving and isinstance(self._host, ProcessHost)

    def retries(self, seconds: float = 0.0) -> bool:
        """Whether that courier has done nothing but retry, for so long."""
        since = self._retrying_since
        return self.working and since is not None and time.monotonic() - since >= seconds

    def give_way(self) -> None:
        """Asks the courier to stop where it is. It keeps its place until it has."""
        if self._host is not None and self._leaving is None:
            self._leaving = threading.Thread(target=self._host.stop, daemon=True)
            self._leaving.start()

    def join(self, seconds: float) -> None:
        """Gives a courier that was asked to stop that much time."""
        if self._leaving is not None:
            self._leaving.join(max(seconds, 0.0))


def take_turns(turns: Sequence[Turn], timeout: float) -> None:
    """Gives every turn a place, as places get free, until all have ended or time is up; with progress.

    When time is up, couriers that are delivering go on by themselves; those that can't reach their tracker are stopped,
    so that a command that is run again and again doesn't pile them up.

    Args:
        timeout: Seconds to wait at most.

    Raises:
        KeyboardInterrupt: Ctrl-C. All couriers that are at work go on by themselves.
    """
    deadline = time.monotonic() + timeout
    most = places()
    with DeliveryProgress() as progress:
        while (left := [turn for turn in turns if turn.phase != "ended"]) and time.monotonic() < deadline:
            for turn in left:
                if turn.phase != "waiting":
                    turn.look()
            _fill(left, most)
            if progress.shown:
                ended = sum(turn.phase == "ended" for turn in turns)
                bars = [turn.bar() for turn in left if turn.phase in ("at work", "watched")]
                progress.update([Bar("all", ended, len(turns), ""), *bars])
            time.sleep(_TICK)
    stuck = [turn for turn in turns if turn.retries()]
    for turn in stuck:
        turn.give_way()
    farewell = time.monotonic() + _FAREWELL
    for turn in stuck:
        turn.join(farewell - time.monotonic())


def places() -> int:
    """How many couriers may be at work at once: two a processor, as they mostly wait, and what fits the memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(max(1, min(MOST_PLACES, 2 * cores, psutil.virtual_memory().available // MEMORY)))


def _fill(turns: Sequence[Turn], most: int) -> None:
    """Gives away what places are free: to turns that had none first, and to the kind that has the fewest."""
    at_work = [turn for turn in turns if turn.working]
    waiting: dict[tuple[str, str], deque[Turn]] = {}
    for turn in sorted((turn for turn in turns if turn.phase == "waiting"), key=lambda turn: not turn.fresh):
        waiting.setdefault(turn.kind, deque()).append(turn)
    places_of = Counter(turn.kind for turn in at_work)
    free = most - len(at_work)
    while free > 0 and waiting:
        kind = min(waiting, key=lambda kind: (not waiting[kind][0].fresh, places_of[kind]))
        turn = waiting[kind].popleft()
        if not waiting[kind]:
            del waiting[kind]
        turn.begin()
        places_of[kind] += turn.working
        free -= turn.working
    others = sum(turn.fresh for queue in waiting.values() for turn in queue) - sum(turn.leaving for turn in at_work)
    stuck = [turn for turn in at_work if turn.retries(PATIENCE) and not turn.leaving]
    for turn in stuck[: max(others, 0)]:
        turn.give_way()
