"""The training process: whether it is the one that writes, whether it still does, and what ends it."""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from runcast.events import RunStatus, Writer

if TYPE_CHECKING:
    from multiprocessing.util import Finalize

QUIET = 1800.0
"""Seconds without a write after which a run has ended, if nobody here can see whether its process still runs."""

_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_KILLED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""What a handler of these exits with, by the shells' custom."""


def world_rank() -> int:
    """The process's rank among all of the job: torch.distributed's, else the launcher's, else 0."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    for variable in _RANK_VARIABLES:
        if (value := os.environ.get(variable, "")).isdigit():
            return int(value)
    return 0


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


def _place() -> tuple[str | None, int | None]:
    """Where this process's id means this process: the boot of the machine, and the pid namespace.

    The machine's name tells neither: it changes with the network, containers share it with the machine or with each other.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None, None


def status_of(error: BaseException) -> tuple[RunStatus, str | None]:
    """The status that a run gets which this exception ends, and the reason in words."""
    code = error.code if isinstance(error, SystemExit) else 1
    if code in (None, 0):
        return "completed", None
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    return "killed" if isinstance(error, KeyboardInterrupt) or code in _KILLED else "failed", reason


class ExitWatch:
    """Calls back when the process ends or is told to (SIGTERM), so that its open runs get their status.

    Args:
        at_exit: Called when the interpreter ends, with the status of its runs and the reason.
        at_sigterm: Called on SIGTERM, before the process dies of it as it would have.
    """

    def __init__(self, at_exit: Callable[[RunStatus, str | None], None], at_sigterm: Callable[[], None]) -> None:
        self._at_sigterm = at_sigterm
        self._at_exit = at_exit
        self._finalizer: Finalize | None = None
        self._code: Any = None  # what `sys.exit` was called with
        self._theirs = sys.exit
        self._ours: Callable[..., NoReturn] | None = None

    def watch(self) -> None:
        """Starts watching. A handler of SIGTERM that somebody else set stays."""
        atexit.unregister(self._ended)
        atexit.register(self._ended)
        multiprocessing = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            self._watch_child()
        if sys.exit is not self._ours:
            self._watch_code()
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._terminated)

    def unwatch(self) -> None:
        """Gives `sys.exit` and SIGTERM back."""
        self._code = None
        if sys.exit is self._ours:
            sys.exit = self._theirs
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) == self._terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _watch_child(self) -> None:
        """A child of `multiprocessing` ends without `atexit`, or runs it when its exception is forgotten."""
        from multiprocessing.util import Finalize

        if self._finalizer is None or not self._finalizer.still_active():
            self._finalizer = Finalize(None, self._ended, exitpriority=0)

    def _watch_code(self) -> None:
        """The interpreter tells nobody the exit code that it ends with, so that `sys.exit` has to."""
        theirs = sys.exit

        @functools.wraps(theirs)
        def ours(status: Any = None, /) -> NoReturn:
            if _in_main_thread():  # it ends no more than the thread elsewhere
                self._code = status
            theirs(status)

        self._theirs, self._ours = theirs, ours
        sys.exit = ours

    def _ended(self) -> None:
        error = sys.exception()  # in a child of `multiprocessing`
        if error is None and not hasattr(sys, "ps1"):  # at a prompt, an old mistake is no failure of the run
            error = getattr(sys, "last_value", None)  # has just been printed
        self._at_exit(*status_of(SystemExit(self._code) if error is None else error))

    def _terminated(self, _number: int, _frame: FrameType | None) -> None:
        self._at_sigterm()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
