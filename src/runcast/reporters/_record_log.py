"""The files that W&B and SwanLab write first: LevelDB's record log, but with plain CRC-32 checksums."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BLOCK = 32768  # bytes
HEADER = 7  # bytes: of the file, and of each record


class RecordLog:
    """Reads a log, also while it is written: `payloads` gives what has become complete since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = HEADER
        self._begun = b""

    def version(self, ident: bytes) -> int:
        """The version of its format.

        Raises:
            ValueError: It is no log of the program whose files begin with `ident`.
        """
        with self.path.open("rb") as file:
            header = file.read(HEADER)
        if len(header) < HEADER or not header.startswith(ident):
            raise ValueError(f"{str(self.path)!r} doesn't begin with {ident!r}")
        return header[-1]

    def payloads(self) -> Iterator[bytes]:
        """Whole records, in order; ends at a torn or damaged one."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            while True:
                room = BLOCK - self._position % BLOCK
                if room < HEADER:  # padding
                    self._position += room
                    continue
                file.seek(self._position)
                header = file.read(HEADER)
                if len(header) < HEADER:
                    return
                checksum, size, kind = struct.unpack("<IHB", header)
                if checksum == size == kind == 0:
                    if not self._block_is_over(file):
                        return
                    self._position += room
                    continue
                data = file.read(size)
                if len(data) < size or zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
                    return
                self._position += HEADER + size
                self._begun = data if kind in (1, 2) else self._begun + data
                if kind in (1, 4):  # whole, or the last piece
                    yield self._begun

    def _block_is_over(self, file: IO[bytes]) -> bool:
        """Whether zeros are padding, and not a part of the file that is still to be written."""
        end = self._position - self._position % BLOCK + BLOCK
        return file.seek(0, os.SEEK_END) > end
