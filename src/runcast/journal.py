r"""The journal: a run's append-only file of events, the source of truth.

Format: UTF-8 text, one event a line (`events.encode`), each line ended by ``\n``. The first line is a `RunStarted`
that names the format's version. One process writes; it makes one ``write(2)`` an event, so what `append` returned from
is with the operating system and survives the death of the process (not, between two fsyncs, a power loss).

Reading never raises because of what the file holds:

* bytes after the last newline are *not yet* an event: the writer may be in the middle of it, or have died there;
* a line that is no event is skipped and told to `on_damage`, and reading goes on behind it;
* an event type of a newer version comes out as `Unknown`.

A cursor is a byte offset, always just behind a newline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from runcast.errors import JournalError, RunFolderError
from runcast.events import FORMAT, AnyEvent, Event, RunStarted, Unknown, decode, encode

FILE_NAME = "journal.jsonl"
_CHUNK = 1 << 20


class Entry(NamedTuple):
    """An event and where it stands: `end` is the cursor behind it."""

    event: AnyEvent | Unknown
    start: int
    end: int


class Damage(NamedTuple):
    """Bytes of a journal that are no event."""

    offset: int
    size: int
    reason: str


def _ignore(damage: Damage) -> None:
    pass


class Journal:
    """One run's journal.

    Args:
        path: The file. It is created by the first `append`, private to the user.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd: int | None = None
        self._torn = False

    def open(self) -> int:
        """Opens the file for appending, behind a line that a dead writer may have left unfinished.

        Returns:
            The file descriptor.

        Raises:
            RunFolderError: The file can't be written.
        """
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            size = os.fstat(self._fd).st_size
            self._torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
            return self._fd
        except OSError as error:
            raise RunFolderError(error.errno, f"can't write the journal: {error.strerror}", str(self.path)) from error

    def append(self, event: Event) -> None:
        """Writes the event; when this returns, it survives SIGKILL of this process.

        Raises:
            OSError: The file can't take it (disk full, say). The journal stays usable.
        """
        line = encode(event) + b"\n"
        descriptor = self._fd
        if descriptor is None:
            descriptor = self.open()
        torn = self._torn
        if torn:  # an earlier write was cut short: its rest becomes a damaged line of its own
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written != len(line):
            self._torn = True
            raise OSError(f"only {written} of {len(line)} bytes fitted into {self.path}")
        if torn:
            self._torn = False

    def close(self) -> None:
        """Closes the file; a later `append` opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def read(self, cursor: int = 0, on_damage: Callable[[Damage], None] = _ignore) -> Iterator[Entry]:
        """The events from `cursor` to the last complete line. Memory: a chunk and the longest line.

        Args:
            cursor: Byte offset just behind a newline.
            on_damage: Told of every line that is no event.
        """
        with open(self.path, "rb", buffering=0) as file:
            file.seek(cursor)
            rest = b""
            while chunk := file.read(_CHUNK):
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    start, cursor = cursor, cursor + len(line) + 1
                    if not line:
                        continue
                    try:
                        event = decode(line)
                    except ValueError as error:
                        on_damage(Damage(start, len(line), str(error)))
                        continue
                    yield Entry(event, start, cursor)

    def start(self) -> RunStarted:
        """The journal's first event.

        Raises:
            RunFolderError: There is no such file.
            JournalError: It isn't a journal, or one of a newer format.
        """
        try:
            first = next(self.read(), None)
        except OSError as error:
            raise RunFolderError(error.errno, f"no journal here: {error.strerror}", str(self.path)) from error
        if first is None or not isinstance(first.event, RunStarted):
            raise JournalError(f"{self.path} is not a run's journal: its first event is no run_started")
        if first.event.format > FORMAT:
            raise JournalError(
                f"{self.path} has format {first.event.format}, this version of runcast reads up to {FORMAT}: "
                "pip install -U runcast"
            )
        return first.event

    def torn_bytes(self) -> int:
        """How many bytes stand behind the last newline: an event being written, or one that its writer died in."""
        with open(self.path, "rb") as file:
            position = file.seek(0, os.SEEK_END)
            tail = b""
            while position > 0 and b"\n" not in tail:
                step = min(_CHUNK, position)
                position -= step
                file.seek(position)
                tail = file.read(step) + tail
        return len(tail) - (tail.rfind(b"\n") + 1)

    def count(self) -> int:
        """How many complete lines the file has: the events there are to deliver."""
        total = 0
        with open(self.path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                total += chunk.count(b"\n")
        return total
