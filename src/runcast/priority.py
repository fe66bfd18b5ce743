"""Couriers stand back: training has the first call on the processor.

Niceness alone does not do it. Linux may share the processor out among sessions before it looks at processes (autogroups,
which most distributions switch on): there a courier, whose session is its own, would get as much as the whole training,
and its niceness would count only within it. The session has a niceness of its own, in ``/proc/<pid>/autogroup``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time

import psutil

LOWEST = 19
_TRIES = 50
_PAUSE = 0.1


def stand_back() -> None:
    """Gives this process, and those that it will start, the lowest priority of ordinary work; needs no privilege."""
    os.nice(LOWEST)
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # never preempts training when it wakes up
    _lower_session(os.getpid())


def children_stand_back() -> None:
    """The same for what an SDK has started in sessions of their own; their niceness is inherited, their session's isn't."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) != os.getsid(0):
                _lower_session(process.pid)


def _lower_session(pid: int) -> None:
    """Where sessions have no priority, there is no such file, and nothing to do."""
    for _ in range(_TRIES):
        try:
            with open(f"/proc/{pid}/autogroup", "w") as file:
                file.write(str(LOWEST))
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return
            time.sleep(_PAUSE * random.uniform(1.0, 2.0))  # the kernel takes ten a second, from all users together
        else:
            return
