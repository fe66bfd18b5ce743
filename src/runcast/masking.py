"""Masks what a courier's SDK prints: its output is its log, and it may quote the secrets that it was given.

    courier, SDK, their children ──1, 2──► pipe ──► this process ──► trackers/<name>.log

A process, because whatever is in the courier's own may hang, die or be ended, and what it has printed must be in the log
all the same, as far as the disk has room. It ends when the last of those who can write into the pipe has.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence

from runcast.redact import masked

_CHUNK = 1 << 16
_LONGEST = 1 << 20
"""Bytes of a line after which it is written before it ends."""


def mask_output(secrets: Sequence[str]) -> None:
    """Masks these in everything that this process and its children print from now on."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        try:
            _mask(reading, secrets)
        finally:
            os._exit(0)
    os.close(reading)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(writing)


def _mask(reading: int, secrets: Sequence[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    rest = b""
    while chunk := os.read(reading, _CHUNK):
        lines, newline, rest = (rest + chunk).rpartition(b"\n")
        if len(rest) > _LONGEST:
            lines, newline, rest = lines + newline + rest, b"", b""
        _write(lines + newline, secrets)
    _write(rest, secrets)


def _write(content: bytes, secrets: Sequence[str]) -> None:
    text = masked(content.decode(errors="surrogateescape"), secrets)
    content = text.encode(errors="surrogateescape")
    with contextlib.suppress(OSError):  # a full disk: what doesn't fit is lost, but no print may fail because of us
        while content:
            content = content[os.write(1, content) :]
