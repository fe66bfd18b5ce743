"""How far each tracker is: the small state files that couriers write and everybody else reads.

``trackers/<name>.json`` in the run folder is the only channel between a courier and the rest of the world. It is
replaced atomically. A lost or damaged one means delivering again from the start, never a loss.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from runcast.events import RunStatus, Writer
from runcast.journal import FILE_NAME, Journal
from runcast.reporter import NativeRun
from runcast.trust import check_regular, own_folder, private, regular

State: TypeAlias = Literal["starting", "delivering", "retrying", "complete", "failed", "stalled", "removed"]
FINAL_STATES: tuple[State, ...] = ("complete", "failed", "stalled", "removed")
_MOST = 1 << 26
"""Bytes that are read of a state file: more than any of ours has."""


class SetAside(msgspec.Struct, frozen=True):
    """An event that a tracker refused: where it stands in the journal, and why."""

    offset: int
    type: str
    reason: str


class TrackerState(msgspec.Struct):
    """What is known of one reporter's delivery of one run.

    Attributes:
        name: The reporter's name.
        reporter: Its class, as ``module:qualname``; for people, never imported from here.
        options: The options it was given, without secret ones.
        state: Where the courier is. ``complete``: everything was handled and the run was closed. ``failed``: the tracker
            refuses us. ``stalled``: calls of its SDK didn't return, or ended the courier's process, again and again.
        offset: The cursor: bytes of the journal that are durably delivered.
        events: The events before the cursor, those set aside included, damaged lines not.
        native: The tracker's own run.
        set_aside: The first of the events that the tracker refused; `refused` counts all.
        damaged: Journal lines that were no events.
        error: The last error, in words.
        writer: The process that was writing the journal at the cursor.
        last_step: The highest step of what was delivered; -1 if there is none.
        status: How the run was closed in the tracker, until it is gone on with.
        clean: Whether the last courier ended in order, so that nothing behind the cursor can have been delivered.
        mode: online, offline, local.
        version: The SDK's version.
    """

    name: str
    reporter: str = ""
    options: dict[str, Any] = {}
    state: State = "starting"
    offset: int = 0
    events: int = 0
    native: NativeRun | None = None
    set_aside: list[SetAside] = []
    refused: int = 0
    damaged: int = 0
    error: str | None = None
    writer: Writer | None = None
    last_step: int = -1
    status: RunStatus | None = None
    clean: bool = True
    mode: str | None = None
    version: str | None = None


def state_path(run_dir: Path, name: str) -> Path:
    """Where the state of a tracker is kept."""
    return run_dir / "trackers" / f"{name}.json"


def log_path(run_dir: Path, name: str) -> Path:
    """Where the courier's and the SDK's own output goes."""
    return run_dir / "trackers" / f"{name}.log"


def lock_path(run_dir: Path, name: str) -> Path:
    """What a courier locks while it is at work."""
    return run_dir / "trackers" / f"{name}.lock"


def tracker_folder(run_dir: Path) -> Path:
    """The folder of states, locks and logs, made if need be. Whoever writes there calls this first.

    Raises:
        RunFolderError: It is a link, or no folder.
    """
    return own_folder(run_dir, "trackers")


def check_files(run_dir: Path, name: str) -> None:
    """Makes sure that a tracker's state, lock and log are files of the run folder's own, or not there.

    Raises:
        RunFolderError: They are links, pipes, folders, ...
    """
    tracker_folder(run_dir)
    check_regular(state_path(run_dir, name), lock_path(run_dir, name), log_path(run_dir, name))


def load_state(run_dir: Path, name: str) -> TrackerState | None:
    """The state of a tracker; None if there is none, or none that can be read."""
    try:
        with open(state_path(run_dir, name), "rb", opener=regular) as file:
            state = msgspec.json.decode(file.read(_MOST), type=TrackerState)
    except (OSError, msgspec.MsgspecError, RecursionError):  # the last: nesting without end
        return None
    return state if state.name == name else None


def save_state(run_dir: Path, state: TrackerState) -> None:
    """Replaces the state file: written beside it, synced, renamed."""
    path = tracker_folder(run_dir) / f"{state.name}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=private) as file:
            file.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
            file.flush()
            if state.offset:  # of one that has delivered nothing, nothing can be lost, and `start_run` doesn't wait
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def states(run_dir: Path) -> list[TrackerState]:
    """The states of all trackers of a run, by name.

    Raises:
        RunFolderError: The folder that has them is a link, or none.
    """
    if not os.path.lexists(run_dir / "trackers"):
        return []
    names = sorted(path.stem for path in tracker_folder(run_dir).glob("*.json"))
    return [load_state(run_dir, name) or TrackerState(name) for name in names]


class Delivery(msgspec.Struct, frozen=True):
    """What `finish`, `sync` and `show` say of one tracker.

    Attributes:
        state: ``complete``, ``pending``, ``failed``, ``removed``, or where a live courier is.
        delivered: Events that the tracker has.
        total: Events that the journal has.
        refused: Events set aside.
        where: Where to look at the run.
        detail: The last error, or the first reason why events were set aside.
        log: The courier's log.
    """

    name: str
    state: str
    delivered: int
    total: int
    refused: int = 0
    where: str | None = None
    detail: str | None = None
    log: str | None = None

    @property
    def done(self) -> bool:
        """Whether the tracker has everything."""
        return self.state == "complete" and not self.refused


def deliveries(run_dir: Path, names: list[str] | None = None, total: int | None = None) -> list[Delivery]:
    """How far each tracker of the run is.

    Args:
        names: Only these; a name without a state counts as starting.
        total: The number of events in the journal, if the caller knows it.
    """
    found = {state.name: state for state in states(run_dir)}
    if total is None:
        total = Journal(run_dir / FILE_NAME).count()
    chosen = names if names is not None else sorted(found)
    return [_delivery(run_dir, found.get(name) or TrackerState(name), total) for name in chosen]


def _delivery(run_dir: Path, state: TrackerState, total: int) -> Delivery:
    detail = state.error
    if detail is None and state.set_aside:
        detail = f"{state.set_aside[0].type} at byte {state.set_aside[0].offset}: {state.set_aside[0].reason}"
    total -= state.damaged
    behind = state.state == "complete" and state.events < total
    return Delivery(
        name=state.name,
        state="pending" if behind else state.state,
        delivered=state.events - state.refused,
        total=total,
        refused=state.refused,
        where=state.native.url or state.native.id if state.native else None,
        detail=detail,
        log=str(log_path(run_dir, state.name)),
    )
