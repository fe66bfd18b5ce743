"""Couriers stand back."""

from __future__ import annotations

import subprocess
import sys

import pytest

SHOW = """
import os, pathlib
def show(pid):
    group = pathlib.Path(f"/proc/{pid}/autogroup")
    return (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid) == os.SCHED_BATCH,
            (group.read_text().split() or ["19"])[-1] if group.exists() else "19")
"""
STAND_BACK = f"""{SHOW}
from runcast.priority import stand_back
stand_back()
print(*show(os.getpid()))
"""
CHILDREN = f"""{SHOW}
import subprocess, sys
from runcast.priority import children_stand_back, stand_back
stand_back()
wait = [sys.executable, "-c", "print(flush=True); input()"]
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
children = [subprocess.Popen(wait, start_new_session=own, **pipes) for own in (True, False)]
for child in children:
    child.stdout.readline()
children_stand_back()
print(*[word for child in children for word in show(child.pid)])
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
    lowest = (19, True, "19")
    while any(show(child.pid) != lowest for child in psutil.Process().children(recursive=True)):
        time.sleep(0.05)  # the test's own time-out ends the wait
    print("kept" if show(os.getpid()) == before else "lost")
    for child in psutil.Process().children(recursive=True):
        print(*show(child.pid))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another system's scheduler")


def test_processes_stand_back_all_at_once():
    """Many couriers that start together all end at the lowest priority, their sessions included."""
    start = [sys.executable, "-c", STAND_BACK]
    processes = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True, start_new_session=True) for _ in range(8)]
    assert [process.communicate()[0].split() for process in processes] == [["19", "True", "19"]] * 8


def test_what_an_sdk_starts_in_a_session_of_its_own_stands_back(python):
    """Processes below a courier have its priority, also where they left its session."""
    result = python(CHILDREN)
    assert result.stdout.split() == ["19", "True", "19"] * 2, result.stderr


def test_couriers_stand_back_and_training_does_not(python, tmp_path):
    """Everything that a run starts has the lowest priority, and the process that trains keeps its own."""
    (tmp_path / "mine.py").write_text(REPORTER)
    result = python(RUN)
    assert result.returncode == 0, result.stderr
    ours, *theirs = result.stdout.splitlines()
    assert ours == "kept"
    assert len(theirs) >= 2
    assert set(theirs) == {"19 True 19"}
