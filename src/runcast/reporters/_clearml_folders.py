"""ClearML's offline task folders: where they are, mending one that was left unfinished, clearing them away, reading them.

    <cache>/offline/<id>/         a session: task.json, rewritten in place; metrics.jsonl, a line a batch of events; files
    <cache>/offline/<id>.zip      the same, if the session ended in order
    clearml/<id>.json             its task.json, kept whole, in the run folder: a kill may tear ClearML's own file

A run folder may come from a stranger: of the paths that it names, only the last part counts where anything is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from runcast.errors import RunFolderError
from runcast.record import inside
from runcast.reporters._clearml_record import Stored
from runcast.trust import own_folder, private, regular, replace_file

_NAME = re.compile(r"offline-[0-9a-f]{32}")
_TASK = "task.json"
_EVENTS = "metrics.jsonl"


class Session(msgspec.Struct, frozen=True):
    """A task folder.

    Attributes:
        folder: Where it is.
        saved: Its task.json, kept whole.
        theirs: Whether the user opened it.
    """

    folder: str
    saved: str
    theirs: bool = False

    @property
    def in_run_folder(self) -> bool:
        """Whether it is where the run's own are, and so moves with the run folder."""
        return Path(self.folder).parent.parent == Path(self.saved).parent


def sessions_of(data: dict[str, Any]) -> list[Session]:
    """The sessions that an earlier `open` noted."""
    return msgspec.convert(data.get("sessions", []), list[Session])


@dataclass(frozen=True)
class Place:
    """Where a run's task folders go.

    Attributes:
        cache: What ClearML takes for its cache: the user's, if one is named, else ours in the run folder.
        ours: Our folder in the run folder.
        scratch: For files that are wanted only for a while.
    """

    cache: Path
    ours: Path
    scratch: Path

    @classmethod
    def of(cls, run_dir: Path, cache: str) -> Place:
        """The place of a run, with `cache` named by the user, or not."""
        ours = own_folder(run_dir.absolute(), "clearml")
        own_folder(ours, "offline")
        return cls(Path(cache).absolute() if cache else ours, ours, own_folder(ours, "tmp"))

    def session(self, folder: Path, *, theirs: bool = False) -> Session:
        """A session that begins."""
        return Session(str(folder), str(self.ours / f"{folder.name}.json"), theirs)

    def mended(self, session: Session, run_id: str) -> Session:
        """The session, such that ClearML can import it, whatever a kill left of it."""
        recorded = Path(session.folder)
        if session.theirs:
            return session
        if not _NAME.fullmatch(recorded.name):
            raise ValueError(f"{session.folder!r} is no task folder of ClearML's")
        folder = self._folder(session)
        if not folder.exists():
            return session  # it went elsewhere then
        if folder.is_symlink():
            raise RunFolderError(f"{folder} is a link: what is behind it is no task of this run")
        if not (session.in_run_folder or self._is_of(run_id, folder)):
            return session
        mended = self.session(folder)
        _mend_task(folder / _TASK, Path(mended.saved))
        _mend_events(folder / _EVENTS)
        _drop_torn_zip(folder)
        return mended

    def removable(self, session: Session, run_id: str) -> bool:
        """Whether it is of this run, and nobody will see it once it is removed."""
        here = self._folder(session)
        if session.theirs or session.in_run_folder or not here.exists():
            return not session.theirs and (session.in_run_folder or not Path(session.folder).exists())
        return self._is_of(run_id, here)

    def _is_of(self, run_id: str, folder: Path) -> bool:
        return read_session(self.session(folder)).properties().get("run_id") == run_id

    def _folder(self, session: Session) -> Path:
        """Where it is now."""
        return (self.ours if session.in_run_folder else self.cache) / "offline" / Path(session.folder).name

    def clear(self, removed: Collection[Session], keep: Collection[Session] = ()) -> None:
        """Removes sessions, and, in the run folder, every other but those to `keep`: what a kill left half begun."""
        ours = self.ours / "offline"
        there = {path.with_name(path.name.partition(".")[0]) for path in ours.iterdir()}
        there -= {Path(session.folder) for session in keep}
        for folder in {*(self._folder(session) for session in removed), *there}:
            if not _NAME.fullmatch(folder.name):
                continue
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
            for file in (
                folder.with_suffix(".zip"),
                self.ours / f"{folder.name}.json",
            ):  # what it was is known to the last
                file.unlink(missing_ok=True)


def save_task(session: Session) -> None:
    """Copies the task's file, atomically. Nobody may be writing it."""
    saved, task = Path(session.saved), (Path(session.folder) / _TASK).read_bytes()
    if not saved.exists() or saved.read_bytes() != task:
        replace_file(saved, task)


def finish(session: Session) -> None:
    """Makes what ClearML left private, where the folder isn't."""
    folder = Path(session.folder)
    _drop_torn_zip(folder)
    with contextlib.suppress(FileNotFoundError):
        folder.with_suffix(".zip").chmod(0o600)


def size_of_events(session: Session) -> int:
    """How long the file of events is, whose end may have to be taken back."""
    path = Path(session.folder) / _EVENTS
    return path.stat().st_size if path.exists() else 0


def cut_events(session: Session, size: int) -> None:
    """Takes back what a full disk has torn: ClearML's import would send the line before once more."""
    path = Path(session.folder) / _EVENTS
    if path.exists():
        os.truncate(path, size)


def _mend_task(task: Path, saved: Path) -> None:
    try:
        _json(task)
    except (ValueError, FileNotFoundError):
        replace_file(task, json.dumps(_json(saved)).encode())


def _mend_events(path: Path) -> None:
    if path.exists():
        with open(path, "r+b", opener=private) as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _drop_torn_zip(folder: Path) -> None:
    archive = folder.with_suffix(".zip")
    if archive.exists() and not zipfile.is_zipfile(archive):
        archive.unlink()


# -- reading -----------------------------------------------------------------------------------------------------------


def read_session(session: Session) -> Stored:
    """What a session has, whether it has ended or not."""
    folder = Path(session.folder)
    try:
        task = _json(folder / _TASK)
    except (ValueError, FileNotFoundError):  # torn, just being written, or half removed
        task = _json(Path(session.saved))

    def moved(address: str) -> Path:
        return inside(folder, os.path.relpath(address, task["offline_folder"]))

    events = partial(_events_of, folder / _EVENTS)
    return Stored(task, events, moved, lambda event: inside(folder / "data", event["key"]))


def _json(path: Path) -> dict[str, Any]:
    with open(path, "rb", opener=regular) as file:
        return dict(json.load(file))


def _events_of(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.exists():
        return
    with open(path, "rb", opener=regular) as file:
        for line in file:
            with contextlib.suppress(ValueError):  # torn by a kill, or by a full disk
                if line.endswith(b"\n"):
                    yield from json.loads(line)
