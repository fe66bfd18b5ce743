"""Run folders: making, finding and reading them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from runcast import events
from runcast.errors import RunFolderError
from runcast.events import RunStarted, RunStatus, Writer
from runcast.journal import FILE_NAME, Damage, Journal
from runcast.record import RecordBuilder, RunRecord
from runcast.writer import is_written

logger = logging.getLogger("runcast")


class Outline(NamedTuple):
    """What a journal says of its run, its data left aside.

    Attributes:
        start: Its first event.
        writer: Who wrote it last.
        status: ``crashed`` if it has no end and is not written any more.
        last_step: The highest step of its metrics; -1 if there are none.
    """

    start: RunStarted
    writer: Writer
    status: RunStatus
    last_step: int


def outline(folder: Path) -> Outline:
    """Reads a journal for what `Outline` holds.

    Raises:
        RunFolderError: There is no journal in the folder.
        JournalError: The journal is none, or of a newer format.
    """
    journal = Journal(folder / FILE_NAME)
    start = journal.start()
    writer, last_step = start.writer, -1
    status: RunStatus = "running"
    for entry in journal.read():
        match entry.event:
            case events.Metrics(step=step):
                last_step = max(last_step, step)
            case events.RunResumed():
                writer, status = entry.event.writer, "running"
            case events.RunFinished():
                status = entry.event.status
    if status == "running" and not is_written(journal.path, writer):
        status = "crashed"
    return Outline(start, writer, status, last_step)


def read_run(run_dir: str | os.PathLike[str]) -> RunRecord:
    """The journal of a run folder as a record. A run whose process vanished reads as ``crashed``.

    What is damaged is left out, and a warning says what.

    Raises:
        RunFolderError: There is no journal in it.
        JournalError: The journal is none, or of a newer format.
    """
    folder = Path(run_dir)
    journal = Journal(folder / FILE_NAME)
    start = journal.start()
    writer = start.writer
    damage: list[Damage] = []
    builder = RecordBuilder(folder)
    builder.add(start)  # which stands in for a damaged first line
    for entry in journal.read(on_damage=damage.append):
        builder.add(entry.event)
        if isinstance(entry.event, events.RunResumed):
            writer = entry.event.writer
    if builder.record.status == "running" and not is_written(journal.path, writer):
        builder.record.status = "crashed"
    if damage:
        first = damage[0]
        logger.warning(
            "%r has damaged lines, which are left out: %d; the first at byte %d, of %d bytes: %s",
            str(journal.path),
            len(damage),
            first.offset,
            first.size,
            first.reason,
        )
    if builder.record.status != "running" and (torn := journal.torn_bytes()):
        logger.warning("%r ends in the middle of an event, which is left out: %d bytes", str(journal.path), torn)
    return builder.record


def new_run_id() -> str:
    """An id that sorts by time and that no other run has."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def create_folder(parent: Path, run_id: str) -> Path:
    """Makes a run's folder, private to the user.

    Raises:
        RunFolderError: It can't be made.
    """
    folder = parent.absolute() / run_id
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise RunFolderError(
            error.errno,
            f"can't create a run folder ({error.strerror}); choose another with dir= or $RUNCAST_DIR",
            str(folder),
        ) from error
    return folder


def sync_folder(folder: Path, deadline: float) -> None:
    """Makes a run folder's entries, and what training stored beside the journal, survive a power loss.

    Args:
        deadline: When not to begin with one more file (`time.monotonic`): large ones take a disk their time.
    """
    stored = folder / "artifacts"
    for path in (folder.parent, folder, stored, *stored.rglob("*")):
        if time.monotonic() > deadline:
            return
        with contextlib.suppress(OSError):  # it can't be done here, or is no file of ours
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def find_run(run: str | os.PathLike[str], parent: Path | None = None) -> Path:
    """The folder of a run, given as a folder, an id, or the beginning of one that no other run's has.

    Raises:
        RunFolderError: There is none, or several begin so.
    """
    folder = Path(run)
    if (folder / FILE_NAME).is_file():
        return folder.absolute()
    parent = parent or Path(os.environ.get("RUNCAST_DIR") or "runs")
    if re.fullmatch(r"[\w.-]+", str(run)):
        if (parent / run / FILE_NAME).is_file():
            return (parent / run).absolute()
        found = sorted(path.parent for path in parent.glob(f"{run}*/{FILE_NAME}"))
        if len(found) == 1:
            return found[0].absolute()
        if found:
            raise RunFolderError(
                f"several runs in {parent} begin with {str(run)!r}: {', '.join(p.name for p in found)}"
            )
    raise RunFolderError(f"no run {str(run)!r}: neither a run folder nor the id of one in {parent.absolute()}")
