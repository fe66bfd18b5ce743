"""Who writes a run's journal, and whether that process still does."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

import psutil

from runcast.events import Writer

QUIET = 1800.0
"""Seconds without a write after which a run has ended, if nobody here can see whether its process still runs."""


def this_writer() -> Writer:
    """The current process, as a journal names its writer."""
    boot, namespace = _place()
    host = os.uname().nodename
    return Writer(os.getpid(), psutil.Process().create_time(), host, boot, namespace)


def writer_alive(writer: Writer) -> bool | None:
    """Whether this process still runs. None: it is on another machine or in another container, and nobody here can tell."""
    boot, namespace = _place()
    on_this_host = writer.host == os.uname().nodename
    if writer.boot is None or boot is None:
        if not on_this_host:
            return None
    elif writer.boot != boot:
        return False if on_this_host else None  # what ran before this machine was booted has ended
    elif writer.namespace != namespace:
        return None
    try:
        process = psutil.Process(writer.pid)
        # A pid is reused, a pid with a start time is not; a zombie has ended.
        return bool(abs(process.create_time() - writer.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def is_written(journal: Path, writer: Writer) -> bool:
    """Whether somebody still writes this journal, as far as one can know.

    Args:
        journal: The file.
        writer: Who wrote it last. If nobody here can see that process, how long the file has been quiet decides.
    """
    alive = writer_alive(writer)
    return time.time() - journal.stat().st_mtime < QUIET if alive is None else alive


@functools.cache  # couriers ask at every look
def _place() -> tuple[str | None, int | None]:
    """Where this process's id means this process: the boot of the machine, and the pid namespace.

    The machine's name tells neither: it changes with the network, containers share it with the machine or with each other.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None, None
