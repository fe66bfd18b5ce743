"""Delivering what is left, and delivering to trackers that a run never knew: ``runcast sync`` and ``runcast replay``.

Both are safe beside a live courier: it holds a lock, and a tracker that is locked is waited for, not delivered to twice.
Reporters are made anew from the registry, by the name and the options that the run folder names; a class path from the
folder is never imported. Secret options were never written down: they come from the tracker's environment variables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from runcast.courier import courier_alive
from runcast.delivery import FINAL_STATES, Delivery, TrackerState, deliveries, states
from runcast.dispatch import Turn, take_turns
from runcast.errors import RunFolderError
from runcast.folder import outline
from runcast.journal import FILE_NAME, Journal
from runcast.registry import ReportTo, resolve_report_to
from runcast.reporter import Reporter

TIMEOUT = 300.0
"""Seconds to wait unless told otherwise."""


class Pending:
    """What the trackers of a run have not got, of all that its journal has at this moment.

    For a run that is delivered this costs a look at the sizes of files: its journal is not read.

    Args:
        run_dir: The run folder.

    Attributes:
        turns: One for each tracker that is behind; for `dispatch.take_turns`.

    Raises:
        RunFolderError: There is no journal in the folder.
        JournalError: The journal is none, or of a newer format.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.turns: list[Turn] = []
        self._failures: dict[str, str] = {}
        found = [state for state in states(run_dir) if state.state != "removed"]
        self._names = [state.name for state in found]
        size = _journal_size(run_dir)
        behind = [state for state in found if not _has_all(state, size)]
        if found and not behind:
            self._total, self._still_written = max(state.events + state.damaged for state in found), False
            return
        self._total, self._still_written = _goal(run_dir)
        for state in behind:
            try:
                (reporter,) = resolve_report_to({state.name: state.options})
            except Exception as error:  # unknown, not installed, other options by now, or a module that can't be loaded
                by = state.reporter or "an unknown class"
                self._failures[state.name] = f"{error} (the run was reported by {by})"
                continue
            turn = Turn(reporter, run_dir, self._total, still_written=self._still_written)
            if not turn.through():
                self.turns.append(turn)

    def deliveries(self) -> list[Delivery]:
        """How far each tracker is now, by name. One that can't be made anew is ``failed``, with the reason."""
        failures = self._failures | {turn.name: turn.error for turn in self.turns if turn.error}
        rows = how_far(self.run_dir, self._names, self._total)
        # A live courier may have delivered more than there was when we looked.
        rows = [msgspec.structs.replace(row, delivered=min(row.delivered, row.total)) for row in rows]
        return [
            replace_state(row, "failed", failures[row.name]) if row.name in failures and not row.done else row
            for row in rows
        ]

    def delivered(self, row: Delivery) -> bool:
        """Whether the tracker of this row has what it has to have."""
        return delivered(row, still_written=self._still_written)


def sync(run_dir: Path, timeout: float = TIMEOUT) -> list[Delivery]:
    """Delivers what is pending to every tracker that the run was reported to. Ctrl-C ends the wait.

    A run that is still being written counts as delivered when its trackers have what the journal had at the call.

    Args:
        run_dir: The run folder.
        timeout: Seconds to wait at most; couriers that are delivering then go on by themselves.

    Returns:
        How far each tracker is, by name. One that can't be made anew is ``failed``, with the reason.

    Raises:
        RunFolderError: There is no journal in the folder.
        JournalError: The journal is none, or of a newer format.
    """
    pending = Pending(run_dir)
    with contextlib.suppress(KeyboardInterrupt):
        take_turns(pending.turns, timeout)
    return pending.deliveries()


def replay(run_dir: Path, report_to: ReportTo, timeout: float = TIMEOUT) -> list[Delivery]:
    """Reports a run, from its first event on, to trackers that need not have known it; one that has it is left alone.

    Args:
        run_dir: The run folder.
        report_to: As for `runcast.start_run`.
        timeout: Seconds to wait at most; couriers that are delivering then go on by themselves. Ctrl-C ends the wait.

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
    failures = deliver(run_dir, reporters, timeout)
    rows = how_far(run_dir, [reporter.name for reporter in reporters])
    return [replace_state(row, "failed", failures[row.name]) if row.name in failures else row for row in rows]


def deliver(run_dir: Path, reporters: Iterable[Reporter], timeout: float) -> dict[str, str]:
    """Runs a courier for each reporter that is behind, in parallel, until all have caught up or time is up.

    Returns:
        Why one could not be started, by name.
    """
    total, still_written = _goal(run_dir)
    turns = [Turn(reporter, run_dir, total, still_written=still_written) for reporter in reporters]
    with contextlib.suppress(KeyboardInterrupt):
        take_turns([turn for turn in turns if not turn.through()], timeout)
    return {turn.name: turn.error for turn in turns if turn.error}


def how_far(run_dir: Path, names: list[str] | None = None, total: int | None = None) -> list[Delivery]:
    """How far each tracker is; what looks like being delivered, but by nobody who is alive, is ``pending``.

    Args:
        names: Only these.
        total: How many events there are to deliver; default: all that the journal has by now.
    """
    return [
        row
        if row.state in (*FINAL_STATES, "pending") or courier_alive(run_dir, row.name)
        else replace_state(row, "pending", row.detail)
        for row in deliveries(run_dir, names, total)
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


def _goal(run_dir: Path) -> tuple[int, bool]:
    """How many events the run has, and whether there will be more."""
    journal = Journal(run_dir / FILE_NAME)
    journal.start()
    return journal.count(), is_open(run_dir)


def _journal_size(run_dir: Path) -> int:
    path = run_dir / FILE_NAME
    try:
        return path.stat().st_size
    except OSError as error:
        raise RunFolderError(error.errno, f"no journal here: {error.strerror}", str(path)) from error


def _has_all(state: TrackerState, size: int) -> bool:
    return state.state == "complete" and state.offset >= size and not state.set_aside
