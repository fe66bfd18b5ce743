"""Couriers stand back: training has the first call on the processor.

On Linux they are idle-class work, which runs when a core has nothing else to do, and makes way at once for whatever
wakes up there. That counts among the processes of one session, and so couriers stay in that of training: Linux may share
the processor out among sessions before it looks at processes (autogroups, which most distributions switch on). What
an SDK starts in a session of its own is lowered there, in ``/proc/<pid>/autogroup``.
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
    """Gives this process, and those that it will start, the lowest priority; needs no privilege, there is no way back."""
    os.nice(LOWEST)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def children_stand_back() -> None:
    """Lowers the sessions that an SDK has started below this process; what counts within them is inherited."""
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
