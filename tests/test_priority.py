"""Couriers stand back."""

from __future__ import annotations

import os
import sys

import pytest

SHOW = """
import os, pathlib
def lowest(pid):
    group = pathlib.Path(f"/proc/{pid}/autogroup")
    shared = os.getsid(pid) == os.getsid(0) or not group.exists()
    return (os.getpriority(os.PRIO_PROCESS, pid) == 19 and os.sched_getscheduler(pid) == os.SCHED_IDLE
            and (shared or group.read_text().split()[-1:] in ([], ["19"])))
"""
CHILDREN = f"""{SHOW}
import subprocess, sys
from runcast.priority import children_stand_back, stand_back
stand_back()
wait = [sys.executable, "-c", "print(flush=True); input()"]
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
children = [subprocess.Popen(wait, start_new_session=own, **pipes) for own in (True, False, True, True)]
for child in children:
    child.stdout.readline()
children_stand_back()
print(*[lowest(child.pid) for child in children])
for child in children:
    child.communicate(b"\\n")
"""

REPORTER = """
import subprocess, sys, runcast
@runcast.register_reporter
class Mine(runcast.Reporter):
    name = "mine"
    def open(self, run, attach):
        self.helper = subprocess.Popen(["sleep", "3600"], start_new_session=True)
        return runcast.NativeRun(id=run.run_id)
    def log_metrics(self, metrics, step, time): pass
    def close(self, status): self.helper.kill()
"""
RUN = f"""{SHOW}
import time
import mine, psutil, runcast
with runcast.start_run("mine") as run:
    run.wait_started(3600)
    while not all(lowest(child.pid) for child in psutil.Process().children(recursive=True)):
        time.sleep(0.05)  # the test's own time-out ends the wait
    theirs = psutil.Process().children(recursive=True)
    session = os.getsid(theirs[0].pid) == os.getsid(0)
    print(len(theirs), session, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_OTHER)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another system's scheduler")


def test_what_an_sdk_starts_in_a_session_of_its_own_stands_back(python):
    """Processes below a courier have its priority, also where they left its session."""
    result = python(CHILDREN)
    assert result.stdout.split() == ["True"] * 4, result.stderr


def test_couriers_stand_back_and_training_does_not(python, tmp_path):
    """Everything that a run starts has the lowest priority, and the process that trains keeps its own."""
    (tmp_path / "mine.py").write_text(REPORTER)
    result = python(RUN)
    assert result.returncode == 0, result.stderr
    count, same_session, niceness, ordinary = result.stdout.split()
    assert int(count) >= 3  # supervisor, courier, and what the reporter started
    assert (same_session, niceness, ordinary) == ("True", str(os.getpriority(os.PRIO_PROCESS, 0)), "True")
