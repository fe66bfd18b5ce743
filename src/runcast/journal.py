r"""The journal: a run's append-only file of events, the source of truth.

Format: UTF-8 text, one event a line (`events.encode`), each line ended by ``\n``. The first line is a `RunStarted`
that names the format's version. One process writes; it makes one ``write(2)`` an event, so what `append` returned from
is with the operating system and survives the death of the process. `close` syncs the file, so that a finished run also
survives a power loss; what was appended since the last `close` may not.

Reading never raises because of what the file holds:

* bytes after the last newline are *not yet* an event: the writer may be in the middle of it, or have died there;
* a line that is no event is skipped and told to `on_damage`, and reading goes on behind it;
* an event type of a newer version comes out as `Unknown`.

So each newline ends one event or one damaged line. A cursor is a byte offset, always just behind a newline.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from runcast.errors import JournalError, RunFolderError
from runcast.events import FORMAT, AnyEvent, Event, RunStarted, Unknown, Writer, decode, encode
from runcast.trust import regular

FILE_NAME = "journal.jsonl"
_CHUNK = 1 << 20
_REASON = 500  # characters: an error's text may quote a whole line


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
    """One run's journal. Threads that write to it take turns: `Run` sees to that.

    Args:
        path: The file. It is created by the first `append`, private to the user.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd: int | None = None
        self._before = b""  # what has to end a line that was cut short, before the next one

    def open(self) -> int:
        """Opens the file for appending, behind a line that a dead writer may have left unfinished.

        Returns:
            The file descriptor.

        Raises:
            RunFolderError: The file can't be written, or is a link.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.path, flags, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise RunFolderError(error.errno, f"can't write the journal: {reason}", str(self.path)) from error
        self._before = b"\n" if torn else b""
        self._fd = descriptor
        return descriptor

    def append(self, event: Event) -> None:
        """Writes the event; when this returns, it survives SIGKILL of this process.

        Raises:
            OSError: The file can't take it (disk full, say). The event is lost, the journal stays usable.
        """
        line = encode(event) + b"\n"
        descriptor = self._fd
        if descriptor is None:
            descriptor = self.open()
        before = self._before
        if before:  # what was cut short becomes a damaged line of its own
            line = before + line
        written = os.write(descriptor, line)
        if written != len(line):
            # No JSON ends so: should only the newline be missing, the event that is lost by what we say stays so.
            self._before = b"\0\n"
            raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes fitted", str(self.path))
        if before:
            self._before = b""

    def close(self) -> None:
        """Syncs and closes the file; a later `append` opens it again."""
        if self._fd is not None:
            with contextlib.suppress(OSError):  # a file system that can't; the events are with it all the same
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = None

    def read(
        self, cursor: int = 0, on_damage: Callable[[Damage], None] = _ignore, only: type[Event] | None = None
    ) -> Iterator[Entry]:
        """The events from `cursor` to the last complete line. Memory: a chunk and the longest line.

        Args:
            cursor: Byte offset just behind a newline.
            on_damage: Told of every line that is no event.
            only: Just the events of this type; the others are not even decoded.
        """
        head = b"" if only is None else b'{"type":"%s"' % str(only.__struct_config__.tag).encode()
        with open(self.path, "rb", buffering=0, opener=regular) as file:
            file.seek(cursor)
            rest: list[bytes] = []  # the beginning of a line whose end is yet to come
            while chunk := file.read(_CHUNK):
                rest.append(chunk)
                if b"\n" not in chunk:
                    continue
                lines = b"".join(rest).split(b"\n")
                rest = [lines.pop()]
                for line in lines:
                    start, cursor = cursor, cursor + len(line) + 1
                    if not line.startswith(head):
                        continue
                    try:
                        event = decode(line)
                    except ValueError as error:
                        on_damage(Damage(start, len(line), str(error)[:_REASON]))
                        continue
                    yield Entry(event, start, cursor)

    def start(self) -> RunStarted:
        """The journal's first event. If its line is damaged, one that stands in for it: the run's folder names the run.

        Raises:
            RunFolderError: There is no such file.
            JournalError: It isn't a journal, or one of a newer format.
        """
        damage: list[Damage] = []
        try:
            for entry in self.read(on_damage=damage.append):
                if isinstance(entry.event, RunStarted):
                    return self._readable(entry.event)
                if not damage:
                    break  # an intact line, but of something else
                if not isinstance(entry.event, Unknown):
                    return self._stand_in(entry.event.time)
        except RunFolderError:
            raise
        except OSError as error:
            raise RunFolderError(error.errno, f"no journal here: {error.strerror}", str(self.path)) from error
        raise JournalError(f"{self.path} is not a run's journal: its first event is no run_started")

    def _readable(self, start: RunStarted) -> RunStarted:
        if start.run_id in ("", ".", "..") or {"/", "\0"} & set(start.run_id):  # trackers name folders by it
            raise JournalError(f"{self.path} has a run id that is no folder's name: {start.run_id[:80]!r}")
        if start.format > FORMAT:
            raise JournalError(
                f"{self.path} has format {start.format}, this version of runcast reads up to {FORMAT}: "
                "pip install -U runcast"
            )
        return start

    def _stand_in(self, time: float) -> RunStarted:
        name = self.path.absolute().parent.name
        nobody = Writer(pid=2**31 - 1, started=0.0, host=os.uname().nodename)
        return RunStarted(time=time, run_id=name, project="runcast", name=name, writer=nobody)

    def torn_bytes(self) -> int:
        """How many bytes stand behind the last newline: an event being written, or one that its writer died in."""
        with open(self.path, "rb", buffering=0, opener=regular) as file:
            position = end = file.seek(0, os.SEEK_END)
            while position > 0:
                step = min(_CHUNK, position)
                position -= step
                file.seek(position)
                newline = file.read(step).rfind(b"\n")
                if newline >= 0:
                    return end - (position + newline + 1)
        return end

    def count(self) -> int:
        """How many complete lines the file has: the events there are to deliver."""
        total = 0
        with open(self.path, "rb", buffering=0, opener=regular) as file:
            while chunk := file.read(_CHUNK):
                total += chunk.count(b"\n")
        return total
