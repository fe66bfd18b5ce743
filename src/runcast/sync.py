"""Delivering what is left, and delivering to trackers that a run never knew: ``runcast sync`` and ``runcast replay``.

Both are safe beside a live courier: it holds a lock, and a tracker that is locked is waited for, not delivered to twice.
Reporters are made anew from the registry, by the name and the options that the run folder names; a class path from the
folder is never imported. Secret options were never written down: they come from the tracker's environment variables.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from runcast.courier import courier_alive
from runcast.delivery import FINAL_STATES, Delivery, TrackerState, deliveries, load_state, states
from runcast.errors import RuncastError
from runcast.folder import outline
from runcast.hosts import Host, host_for
from runcast.journal import FILE_NAME, Journal
from runcast.registry import ReportTo, resolve_report_to
from runcast.reporter import Reporter
from runcast.waiting import wait_for

TIMEOUT = 300.0
"""Seconds to wait unless told otherwise."""


def sync(run_dir: Path, timeout: float = TIMEOUT) -> list[Delivery]:
    """Delivers what is pending to every tracker that the run was reported to.

    A run that is still being written counts as delivered when its trackers have what the journal had at the call.

    Args:
        run_dir: The run folder.
        timeout: Seconds to wait at most; couriers that are not through go on by themselves.

    Returns:
        How far each tracker is, by name. One that can't be made anew is ``failed``, with the reason.

    Raises:
        RunFolderError: There is no journal in the folder.
        JournalError: The journal is none, or of a newer format.
    """
    Journal(run_dir / FILE_NAME).start()
    reporters: list[Reporter] = []
    failures: dict[str, str] = {}
    for state in states(run_dir):
        if state.state == "removed":
            continue
        try:
            reporters += resolve_report_to({state.name: state.options})
        except (RuncastError, ValueError, TypeError) as error:
            failures[state.name] = f"{error} (the run was reported by {state.reporter or 'an unknown class'})"
    deliver(run_dir, reporters, timeout)
    return [
        replace_state(row, "failed", failures[row.name]) if row.name in failures and not row.done else row
        for row in how_far(run_dir)
        if row.state != "removed"
    ]


def replay(run_dir: Path, report_to: ReportTo, timeout: float = TIMEOUT) -> list[Delivery]:
    """Reports a run, from its first event on, to trackers that need not have known it; one that has it is left alone.

    Args:
        run_dir: The run folder.
        report_to: As for `runcast.start_run`.
        timeout: Seconds to wait at most; couriers that are not through go on by themselves.

    Returns:
        How far each of these trackers is.

    Raises:
        ValueError: `report_to` names an unknown tracker, or nobody.
        MissingDependencyError: A tracker is not installed.
        RunFolderError: There is no journal in the folder.
        JournalError: The journal is none, or of a newer format.
    """
    Journal(run_dir / FILE_NAME).start()
    reporters = resolve_report_to(report_to)
    if not reporters:
        raise ValueError(f"nothing to replay to: {report_to!r} names no tracker")
    deliver(run_dir, reporters, timeout)
    return how_far(run_dir, [reporter.name for reporter in reporters])


def deliver(run_dir: Path, reporters: Iterable[Reporter], timeout: float) -> None:
    """Runs a courier for each reporter that is behind, in parallel, until all have caught up or time is up."""
    total = Journal(run_dir / FILE_NAME).count()
    still_written = is_open(run_dir)
    turns = [_Turn(reporter, run_dir, total, still_written) for reporter in reporters]
    wait_for([turn for turn in turns if not turn.through()], run_dir, timeout)


def how_far(run_dir: Path, names: list[str] | None = None) -> list[Delivery]:
    """How far each tracker is; what looks like being delivered, but by nobody who is alive, is ``pending``."""
    return [
        row
        if row.state in (*FINAL_STATES, "pending") or courier_alive(run_dir, row.name)
        else replace_state(row, "pending", row.detail)
        for row in deliveries(run_dir, names)
    ]


def delivered(row: Delivery, *, still_written: bool) -> bool:
    """Whether the tracker has all there is: of a run that is still being written, all that there is so far."""
    caught_up = row.state == "delivering" and row.delivered >= row.total and not row.refused
    return row.done or (still_written and caught_up)


def is_open(run_dir: Path) -> bool:
    """Whether a process is still writing the run."""
    return outline(run_dir).status == "running"


def replace_state(row: Delivery, state: str, detail: str | None) -> Delivery:
    """The same delivery with another state and detail."""
    return msgspec.structs.replace(row, state=state, detail=detail)


class _Turn:
    """A courier that waits while another one holds the tracker's lock, and then delivers what that one left."""

    def __init__(self, reporter: Reporter, run_dir: Path, total: int, still_written: bool) -> None:
        self.name = reporter.name
        self._reporter = reporter
        self._run_dir = run_dir
        self._total = total
        self._still_written = still_written
        self._host: Host | None = None

    def through(self) -> bool:
        """Whether the tracker has everything that the journal had in the beginning."""
        state = load_state(self._run_dir, self.name) or TrackerState(self.name)
        has_all = state.events + state.damaged >= self._total
        return has_all and (state.state == "complete" or (self._still_written and state.state == "delivering"))

    def start(self) -> None:
        if not courier_alive(self._run_dir, self.name):
            self._host = host_for(self._reporter, self._run_dir, "process")
            self._host.start()

    def poke(self) -> None:
        """Couriers in processes and threads watch the journal by themselves."""

    def wait(self, seconds: float) -> None:
        if self._host is not None:
            self._host.wait(seconds)
        else:
            time.sleep(seconds)

    def alive(self) -> bool:
        if self.through():
            return False
        if self._host is None:
            self.start()
            return True
        if self._host.alive():
            return True
        if courier_alive(self._run_dir, self.name):  # somebody else's took the lock before ours
            self._host = None
            return True
        return False

    def stop(self) -> None:
        if self._host is not None:
            self._host.stop()
