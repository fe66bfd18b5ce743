"""Importing: a run folder made of what a tracker stored, for ``replay`` to send on.

Reading a run takes one pass; writing it goes on where an earlier try ended. What is written is the same every time
(`Chronology`), so a journal that is there is compared, line by line, with what it should be, and is cut where it differs: by
what was missing, or what the run has got since. ``origin.json`` in the run folder says which run of which tracker it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from runcast.chronology import Chronology, count
from runcast.delivery import states
from runcast.errors import MissingDependencyError, RunFolderError
from runcast.events import Event, RunResumed, encode
from runcast.folder import create_folder
from runcast.journal import FILE_NAME, Journal
from runcast.media import slug
from runcast.record import RunRecord
from runcast.registry import reporter_class
from runcast.reporter import NativeRun, Reporter
from runcast.trust import regular, replace_file
from runcast.writer import this_writer

ORIGIN = "origin.json"


class Origin(msgspec.Struct):
    """Where an imported run comes from.

    Attributes:
        tracker: The name of its reporter.
        native: The run as that tracker knows it.
    """

    tracker: str
    native: NativeRun


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
    """Makes a run folder of a stored run, or adds to the one that is there what it lacks.

    Args:
        reporter: Reads the run.
        native: One of what its `Reporter.find_runs` has found.
        parent: The folder for the run folder.
        progress: Told how many points and files are done, out of how many.

    Raises:
        RunFolderError: The run folder can't be written, another process is importing into it, or it has been sent on or gone
            on with, and the stored run isn't what it was.
        Exception: Whatever the reader raises.
    """
    origin = Origin(reporter.name, native)
    run_dir, known = next(
        ((folder, found) for folder, found in _imports(parent) if _same(found, origin)), (None, origin)
    )
    origin = Origin(reporter.name, _whole(known.native, native))
    record = reporter.read(origin.native)
    if run_dir is None:
        wanted = _run_id(record, origin)
        if (parent / wanted / FILE_NAME).exists() and not (parent / wanted / ORIGIN).exists():
            return Imported(wanted, str((parent / wanted).absolute()), already=True)  # the run itself was written here
        run_dir = create_folder(parent, wanted if not (parent / wanted).exists() else f"{wanted}-{_digest(origin)}")
    with _locked(run_dir):
        if origin != known or not (run_dir / ORIGIN).exists():
            replace_file(run_dir / ORIGIN, msgspec.json.encode(origin))
        journal = Journal(run_dir / FILE_NAME)
        start = journal.start() if journal.path.exists() and journal.count() else None
        writer, now = (start.writer, start.time) if start else (this_writer(), time.time())
        chronology = Chronology(record, run_dir.name, run_dir, writer, now)
        total = count(record)
        already = True
        for was_there in _write(journal, chronology):
            already = already and was_there
            if progress is not None:
                progress(chronology.done, total)
    return Imported(run_dir.name, str(run_dir), already)


def _write(journal: Journal, story: Iterable[Event]) -> Iterator[bool]:
    """Appends what the journal has not yet of the story; what it has instead is cut off. Tells of each event if it was there."""
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
                    _check_cut(journal, end)
                    begun.truncate(end)
                journal.append(event)
            yield same
    journal.close()


def _check_cut(journal: Journal, end: int) -> None:
    """Fails if somebody relies on what stands behind `end`."""
    run_dir = journal.path.parent
    sent = [state.name for state in states(run_dir) if state.offset > end]
    gone_on = any(journal.read(end, only=RunResumed))
    if sent or gone_on:
        since = "it was gone on with here" if gone_on else f"it was sent on to {', '.join(sent)}"
        raise RunFolderError(
            errno.EEXIST,
            f"the stored run isn't what was imported, and {since}; to import it anew, move the run folder away",
            str(run_dir),
        )


def _private_append(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _imports(parent: Path) -> Iterator[tuple[Path, Origin]]:
    for path in sorted(parent.absolute().glob(f"*/{ORIGIN}")):
        with contextlib.suppress(OSError, msgspec.MsgspecError), open(path, "rb", opener=regular) as file:
            yield path.parent, msgspec.json.decode(file.read(), type=Origin)


def _same(one: Origin, other: Origin) -> bool:
    """Whether it is one run: of a tracker, an id and a store. Where it lies in several files, at least one is the same."""
    ones, others = one.native.data, other.native.data
    return (
        (one.tracker, _place(one.native.id)) == (other.tracker, _place(other.native.id))
        and ones.keys() == others.keys()
        and all(_meet(ones[key], others[key]) for key in ones)
    )


def _meet(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return one == other or not _places(one).isdisjoint(_places(other))
    return _place(one) == _place(other)


def _places(values: list[Any]) -> set[str]:
    return {_place(value) for value in values}


def _place(value: Any) -> str:
    text = str(value)
    return os.path.realpath(text) if Path(text).is_absolute() else text


def _whole(known: NativeRun, found: NativeRun) -> NativeRun:
    """The run with all files of it that were ever found."""
    data = dict(found.data)
    for key, files in known.data.items():
        if isinstance(files, list) and not _places(files) <= _places(data[key]):
            data[key] = [*files, *(file for file in data[key] if _place(file) not in _places(files))]
    return NativeRun(found.id, found.url, data)


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
