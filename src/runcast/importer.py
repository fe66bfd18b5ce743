"""Importing: a run folder made of what a tracker stored, for ``replay`` to send on.

Reading a run takes one pass; writing it goes on where an earlier try ended. What is written is the same every time
(`Chronology`), so a journal that was begun is compared, line by line, with what it should be, and is cut where it differs.
``origin.json`` in the run folder says which run of which tracker it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from runcast.chronology import Chronology, count
from runcast.errors import MissingDependencyError, RunFolderError
from runcast.events import Event, encode
from runcast.folder import create_folder
from runcast.journal import FILE_NAME, Journal
from runcast.media import slug
from runcast.process import this_writer
from runcast.record import RunRecord
from runcast.registry import reporter_class
from runcast.reporter import NativeRun, Reporter
from runcast.trust import regular, replace_file

ORIGIN = "origin.json"


class Origin(msgspec.Struct):
    """Where an imported run comes from.

    Attributes:
        tracker: The name of its reporter.
        native: The run as that tracker knows it.
        complete: Whether all of it is here.
    """

    tracker: str
    native: NativeRun
    complete: bool = False


class Imported(msgspec.Struct, frozen=True):
    """A run that was imported.

    Attributes:
        run: Its id here.
        dir: Its run folder.
        already: Whether all of it was here before.
    """

    run: str
    dir: str
    already: bool = False


def importing_reporter(name: str) -> Reporter:
    """The reporter whose reader imports from a tracker; that the tracker could be reported to isn't needed.

    Raises:
        UnknownTrackerError: No tracker is called that.
        MissingDependencyError: It is not installed, or not in a supported version.
    """
    cls = reporter_class(name)
    found = cls.availability()
    if found.status in ("missing", "unsupported", "broken"):
        raise MissingDependencyError(f"tracker {cls.name!r} can't be read: {found.reason}")
    return cls()


def import_run(
    reporter: Reporter, native: NativeRun, parent: Path, progress: Callable[[int, int], None] | None = None
) -> Imported:
    """Makes a run folder of a stored run, or completes the one that an earlier try has begun.

    Args:
        reporter: Reads the run.
        native: One of what its `Reporter.find_runs` has found.
        parent: The folder for the run folder.
        progress: Told how many points and files are done, out of how many.

    Raises:
        RunFolderError: The run folder can't be written, or another process is importing into it.
        Exception: Whatever the reader raises.
    """
    origin = Origin(reporter.name, native)
    run_dir, known = next(
        ((folder, found) for folder, found in _imports(parent) if _same(found, origin)), (None, origin)
    )
    if run_dir is not None and known.complete:
        return Imported(run_dir.name, str(run_dir), already=True)
    record = reporter.read(native)
    if run_dir is None:
        wanted = _run_id(record, origin)
        if (parent / wanted / FILE_NAME).exists() and not (parent / wanted / ORIGIN).exists():
            return Imported(wanted, str((parent / wanted).absolute()), already=True)  # the run itself was written here
        run_dir = create_folder(parent, wanted if not (parent / wanted).exists() else f"{wanted}-{_digest(origin)}")
        _save(run_dir, origin)
    with _locked(run_dir):
        journal = Journal(run_dir / FILE_NAME)
        writer = journal.start().writer if journal.path.exists() and journal.count() else this_writer()
        chronology = Chronology(record, run_dir.name, run_dir, writer)
        total = count(record)
        for _ in _write(journal, chronology):
            if progress is not None:
                progress(chronology.done, total)
        origin.complete = True
        _save(run_dir, origin)
    return Imported(run_dir.name, str(run_dir))


def _write(journal: Journal, story: Iterable[Event]) -> Iterator[None]:
    """Appends what the journal has not yet of the story; what it has instead is cut off."""
    with open(journal.path, "ab+", opener=_private_append) as begun:
        begun.seek(0)
        same, end = True, 0
        for event in story:
            line = encode(event) + b"\n"
            if same and begun.readline() == line:
                end += len(line)
            else:
                if same:
                    same = False
                    begun.truncate(end)
                journal.append(event)
            yield
    journal.close()


def _private_append(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _imports(parent: Path) -> Iterator[tuple[Path, Origin]]:
    for path in sorted(parent.absolute().glob(f"*/{ORIGIN}")):
        with contextlib.suppress(OSError, msgspec.MsgspecError), open(path, "rb", opener=regular) as file:
            yield path.parent, msgspec.json.decode(file.read(), type=Origin)


def _save(run_dir: Path, origin: Origin) -> None:
    replace_file(run_dir / ORIGIN, msgspec.json.encode(origin))


def _same(one: Origin, other: Origin) -> bool:
    return (one.tracker, one.native) == (other.tracker, other.native)


def _run_id(record: RunRecord, origin: Origin) -> str:
    """The run's own id where that can be a folder's name."""
    wanted = record.run_id or origin.native.id
    return wanted if re.fullmatch(r"\w[\w.-]{0,99}", wanted) else f"{slug(wanted)}-{_digest(origin)}"


def _digest(origin: Origin) -> str:
    return hashlib.sha256(msgspec.json.encode([origin.tracker, origin.native])).hexdigest()[:8]


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    descriptor = os.open(run_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RunFolderError(errno.EAGAIN, "another process is importing into it", str(run_dir)) from error
    finally:
        os.close(descriptor)
