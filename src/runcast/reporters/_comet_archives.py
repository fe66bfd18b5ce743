"""Comet's offline archives: where they are, completing one that was left unfinished, clearing them away, reading them.

    <archives>/<key>-<random>.zip   a session of the experiment; empty until the session ends
    comet/live/<name>/              its data until then: messages.json, a line a message, and the files that these name
    comet/live/<name>.json          Comet's description of the experiment, kept whole: a kill may tear Comet's own file

A run folder may come from a stranger: of the paths that it names, only the last part counts where anything is written.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import msgspec

from runcast.errors import RunFolderError
from runcast.events import Writer
from runcast.record import inside
from runcast.reporters._comet_record import Asset, Stored, together
from runcast.trust import own_folder, private, regular
from runcast.writer import is_written, writer_alive

KEY = re.compile(r"[A-Za-z0-9]{32,50}")
"""What Comet takes for the key of an experiment."""
_ARCHIVE = re.compile(rf"{KEY.pattern}(-\w+)?\.zip")
_LIVE = re.compile(r"\w+")
_MESSAGES = "messages.json"
_DESCRIPTION = "experiment.json"


class Session(msgspec.Struct, frozen=True):
    """A session of an offline experiment.

    Attributes:
        archive: Its zip.
        live: The folder that has its data until it ends.
        about: The description.
        process: For a session that the user opened, the process that has it.
    """

    archive: str
    live: str
    about: str
    process: Writer | None = None

    @property
    def in_run_folder(self) -> bool:
        """Whether its archive is where the run's own are, and so moves with the run folder."""
        return Path(self.archive).parent == Path(self.about).parent.parent

    @property
    def ended(self) -> bool:
        """Whether its archive has been written."""
        return _complete(Path(self.archive))


def sessions_of(data: dict[str, Any]) -> list[Session]:
    """The sessions that an earlier `open` noted."""
    return msgspec.convert(data.get("sessions", []), list[Session])


@dataclass(frozen=True)
class Place:
    """Where a run's archives go.

    Attributes:
        archives: The folder of the zips.
        live: The folder of what isn't one yet, in the run folder.
    """

    archives: Path
    live: Path

    @classmethod
    def of(cls, run_dir: Path, directory: str) -> Place:
        """The place of a run: archives go to `directory`, which the user named, else into the run folder."""
        ours = own_folder(run_dir.absolute(), "comet")
        archives = Path(directory).absolute() if directory else ours
        archives.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(archives, own_folder(ours, "live"))

    def session(self, archive: str, live: str, process: Writer | None = None) -> Session:
        """A session that begins."""
        return Session(archive, live, str(self._about(Path(live).name)), process)

    def completed(self, session: Session, run_id: str | None) -> Session:
        """The session with its archive made, if a kill, or an error, left it without.

        Args:
            run_id: Whose a session must be, if it wasn't opened here.

        Raises:
            ConnectionError: The user still has it open, in another process.
        """
        name, live = Path(session.archive).name, Path(session.live).name
        if not (_ARCHIVE.fullmatch(name) and _LIVE.fullmatch(live)):
            raise ValueError(f"{session.archive!r} and {session.live!r} are no archive of Comet's and its folder")
        if session.process is None:
            archive = self._archive(session)
            if session.ended and not archive.exists() and not session.in_run_folder:
                return session  # it went elsewhere then
            if self._about(live).exists() and not _complete(archive):
                _write_archive(archive, self.live / live, self._about(live))
            self._forget(live)
            return self.session(str(archive), str(self.live / live))
        if session.ended or not _left_behind(session, run_id):
            return session
        if is_written(Path(session.live) / _MESSAGES, session.process):
            raise ConnectionError(f"process {session.process.pid} still has the Comet experiment open that it opened")
        # Its process died, and so it will never be an archive: one of a copy of what is left has the user's data too.
        _write_archive(self.archives / name, Path(session.live), self._about(live))
        self._forget(live)
        return self.session(str(self.archives / name), str(self.live / live))

    def removable(self, session: Session) -> bool:
        """Whether nobody will ever see it, once it is cleared away."""
        if session.process is not None:
            return not session.ended and writer_alive(session.process) is False
        return session.in_run_folder or not session.ended or self._archive(session).exists()

    def clear(self, key: str, run_id: str, *, derived: bool, keep: Collection[Session] = ()) -> None:
        """Removes every session of this run but those to `keep`: what is to start anew, what a kill left half begun.

        Args:
            derived: Whether the key is made from the run's id, so that no other run has it.
        """
        kept = {Path(session.archive) for session in keep}
        ours = self.live.parent
        for archive in {*ours.glob("*.zip"), *self.archives.glob(f"{key}*.zip")}:
            of_run = archive.parent == ours or derived or _run_in(archive) == run_id
            if of_run and _ARCHIVE.fullmatch(archive.name) and archive not in kept:
                archive.unlink()
        names = {Path(session.live).name for session in keep}
        for path in self.live.iterdir():
            if path.stem not in names:
                self._forget(path.stem)

    def _archive(self, session: Session) -> Path:
        """Where its archive is now, or will be."""
        return (self.live.parent if session.in_run_folder else self.archives) / Path(session.archive).name

    def _about(self, live: str) -> Path:
        return self.live / f"{live}.json"

    def _forget(self, live: str) -> None:
        self._about(live).unlink(missing_ok=True)
        folder = self.live / live
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)


def _complete(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as found:
            return _MESSAGES in found.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _left_behind(session: Session, run_id: str | None) -> bool:
    """Whether the temporary folder that Comet made for the user is still there: one that has to do with this run."""
    live = Path(session.live)
    if live.is_symlink() or not (live / _MESSAGES).is_file() or live.stat().st_uid != os.geteuid():
        return False
    return run_id is not None and _read_session(session).others.get(f"{run_id}/run_id") == run_id


def _write_archive(archive: Path, folder: Path, about: Path) -> None:
    """The archive of a folder, without the lines that a kill or a full disk has torn: `comet upload` stops there."""
    if folder.is_symlink():
        raise RunFolderError(f"{folder} is a link: what is behind it is no experiment of this run")
    files = {path.name: path for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
    messages = files.pop(_MESSAGES)
    files.pop(_DESCRIPTION, None)
    temporary = archive.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb", opener=private) as file, zipfile.ZipFile(file, "w") as out:
        with open(about, "rb", opener=regular) as description:
            out.writestr(_DESCRIPTION, description.read())
        with messages.open("rb") as lines, out.open(_MESSAGES, "w", force_zip64=True) as kept:
            for line, _ in _whole_lines(lines):
                kept.write(line)
        for name, path in sorted(files.items()):
            out.write(path, name)
    temporary.replace(archive)


def _whole_lines(file: IO[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for line in file:
        try:
            if line.endswith(b"\n"):
                yield line, json.loads(line)
        except ValueError:  # torn
            continue


def _run_in(archive: Path) -> str | None:
    """The id of the run that an archive says it is of."""
    return read_archive(archive).others.get("run_id") if _complete(archive) else None


# -- reading -----------------------------------------------------------------------------------------------------------


def read_sessions(sessions: Collection[Session]) -> Stored:
    """What all sessions of an experiment have, wherever each is by now."""
    return together([_read_session(session) for session in sessions])


def _read_session(session: Session) -> Stored:
    if session.ended:
        return read_archive(Path(session.archive))
    live = Path(session.live)
    try:
        with open(session.about, "rb", opener=regular) as about:
            return _read(about.read(), lambda name: open(inside(live, name), "rb", opener=regular))
    except FileNotFoundError:
        return read_archive(Path(session.archive)) if session.ended else Stored()  # it ended meanwhile, or is gone


def read_archive(archive: Path) -> Stored:
    """What an archive has."""

    def opened(name: str) -> IO[bytes]:
        with zipfile.ZipFile(archive) as found:
            return found.open(name)  # stays open when the archive is closed

    with opened(_DESCRIPTION) as file:
        return _read(file.read(), opened)


def _read(description: bytes, opened: Callable[[str], IO[bytes]]) -> Stored:
    stored = Stored(tags=set(json.loads(description).get("tags") or ()))
    with opened(_MESSAGES) as file:
        for _, message in _whole_lines(file):
            match message:  # the user's values may be anything, ours are texts
                case {"type": "metric_msg", "payload": payload}:
                    _add_metric(stored, payload)
                case {"type": "parameter_msg", "payload": {"param": {"paramName": name, "paramValue": str(value)}}}:
                    stored.parameters[name] = value
                case {"type": "log_other", "payload": {"key": name, "value": str(value)}}:
                    stored.others[name] = value
                case {"type": "file_upload", "payload": {"file_path": name, "metadata": about}}:
                    about = json.loads(about) if isinstance(about, str) else about
                    stored.assets.append(Asset(about or {}, partial(opened, name)))
    return stored


def _add_metric(stored: Stored, payload: dict[str, Any]) -> None:
    metric = payload["metric"]
    try:
        point = (metric["metricName"], int(metric["step"] or 0), float(metric["metricValue"]))
    except ValueError:  # a text, which the user logged
        return
    stored.metrics.append((*point, payload["local_timestamp"]))


# -- writing -----------------------------------------------------------------------------------------------------------


class Written:
    """How much of what an experiment was given its own thread has written to its messages.

    Attributes:
        lines: The messages that are there, from the first one on.
        last: The number of the last one.
    """

    def __init__(self, live: Path) -> None:
        self._path = live / _MESSAGES
        self._position = 0
        self.lines = 0
        self.last = 0
        self.look()

    def look(self) -> None:
        """Looks for more.

        Raises:
            ValueError: There is a line that is no message.
        """
        line = b""
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in itertools.takewhile(lambda line: line.endswith(b"\n"), file):
                self._position += len(line)
                self.lines += 1
        if line:
            self.last = int(json.loads(line)["payload"]["message_id"])
