"""Couriers stand back."""

from __future__ import annotations

import sys

import pytest

SHOW = """
import os, pathlib
def show(pid):
    group = pathlib.Path(f"/proc/{pid}/autogroup")
    return (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid) == os.SCHED_IDLE,
            (group.read_text().split() or ["19"])[-1] if group.exists() else "19")
"""
CHILDREN = f"""{SHOW}
import subprocess, sys
from runcast.priority import children_stand_back, stand_back
session = show(os.getpid())[2]
stand_back()
wait = [sys.executable, "-c", "print(flush=True); input()"]
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
children = [subprocess.Popen(wait, start_new_session=own, **pipes) for own in [True] * 8 + [False]]
for child in children:
    child.stdout.readline()
children_stand_back()
*own, shared = [show(child.pid) for child in children]
print(set(own) == {{(19, True, "19")}}, shared == (19, True, session))
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
before = show(os.getpid())
with runcast.start_run("mine") as run:
    run.wait_started(3600)
    def theirs(shared):
        processes = psutil.Process().children(recursive=True)
        return [show(child.pid) for child in processes if (os.getsid(child.pid) == os.getsid(0)) == shared]
    while set(theirs(True)) != {{(19, True, before[2])}} or set(theirs(False)) != {{(19, True, "19")}}:
        time.sleep(0.05)  # the test's own time-out ends the wait
    print("kept" if show(os.getpid()) == before else "lost", len(theirs(True)), len(theirs(False)))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another system's scheduler")


def test_what_an_sdk_starts_in_sessions_of_its_own_stands_back(python):
    """Processes below a courier have its priority, also many at once that left its session, which keeps its own."""
    result = python(CHILDREN)
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_couriers_stand_back_and_training_does_not(python, tmp_path):
    """All that a run starts has the lowest priority, couriers within training's session; training keeps its own."""
    (tmp_path / "mine.py").write_text(REPORTER)
    result = python(RUN)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["kept", "2", "1"]  # supervisor and courier; what the reporter started
