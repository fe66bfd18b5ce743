"""The training process: whether it is the one that writes, and what ends it."""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from runcast.events import RunStatus

if TYPE_CHECKING:
    from multiprocessing.util import Finalize

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
