"""The end of a run: bounded, interruptible, and nothing that is left is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import runcast
from runcast.courier import courier_alive
from runcast.delivery import load_state
from runcast.sync import deliver
from runcast.testing.contract import PATIENCE
from runcast.testing.faults import Fault, inject, strikes
from runcast.testing.lines import LinesReporter
from runcast.verify import verify

FOREVER = 100_000.0


def let_go(run_dir: Path) -> None:
    """Ends the hanging courier, as an administrator would, and delivers what is left."""
    for process in psutil.process_iter():
        if process.pid in couriers_of(run_dir):
            process.kill()
    while courier_alive(run_dir, "lines"):
        time.sleep(0.05)
    deliver(run_dir, [LinesReporter()], PATIENCE)
    (result,) = verify(run_dir)
    assert result.matches, result


def couriers_of(run_dir: Path) -> set[int]:
    """The processes that write the courier's log."""
    found = set()
    for process in psutil.process_iter():
        try:
            if os.path.samefile(f"/proc/{process.pid}/fd/2", run_dir / "trackers" / "lines.log"):
                found.add(process.pid)
        except OSError:
            continue
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds processes by /proc")


@needs_proc
def test_finish_returns_while_a_tracker_hangs(tmp_path):
    """A courier that hangs for longer than `finish_timeout` is left alone, said to be behind, and delivered later."""
    reporter = inject(LinesReporter(), Fault("log", "hang", nth=4), ledger=tmp_path / "ledger", call_timeout=FOREVER)
    run = runcast.start_run(reporter, dir=tmp_path / "runs", delivery="process", finish_timeout=1.0)
    for step in range(10):
        run.log({"loss": float(step)}, step=step)
    while not strikes(tmp_path / "ledger"):
        time.sleep(0.05)
    run.finish()
    (row,) = run.deliveries()
    assert not row.done
    assert courier_alive(run.dir, "lines")
    let_go(run.dir)


@needs_proc
def test_strict_finish_says_what_is_missing(tmp_path):
    """With `strict=True` the same is an error that names tracker and counts."""
    reporter = inject(LinesReporter(), Fault("log", "hang", nth=2), ledger=tmp_path / "ledger", call_timeout=FOREVER)
    run = runcast.start_run(reporter, dir=tmp_path / "runs", delivery="process", finish_timeout=0.5, strict=True)
    run.log({"loss": 1.0}, step=0)
    run.log({"loss": 1.0}, step=1)
    while not strikes(tmp_path / "ledger"):
        time.sleep(0.05)
    with pytest.raises(runcast.DeliveryError, match=r"lines \w+ \d/4"):
        run.finish()
    let_go(run.dir)


@needs_proc
def test_second_ctrl_c_ends_the_wait_at_once(tmp_path):
    """The first ends the training, and the run waits for its trackers; the second ends the process, not the couriers."""
    code = (
        "import os, signal, sys, runcast\n"
        "from runcast.testing.faults import Fault, inject\n"
        "from runcast.testing.lines import LinesReporter\n"
        "reporter = inject(LinesReporter(), Fault('log', 'hang', nth=3), ledger=sys.argv[2], call_timeout=100000.0)\n"
        "with runcast.start_run(reporter, dir=sys.argv[1], delivery='process', finish_timeout=100000.0) as run:\n"
        "    print(run.dir, flush=True)\n"
        "    for step in range(10): run.log({'loss': float(step)}, step=step)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runs"), str(tmp_path / "ledger")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run_dir = Path(process.stdout.readline().strip())
        while runcast.read_run(run_dir).status != "killed" or not strikes(tmp_path / "ledger"):
            assert process.poll() is None
            time.sleep(0.05)
        assert process.poll() is None, "it waits for its trackers"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert f"runcast sync {run_dir}" in errors
    assert courier_alive(run_dir, "lines")
    let_go(run_dir)
    assert runcast.read_run(run_dir).status == "killed"


def test_tracker_that_refuses_to_start_is_not_waited_for(tmp_path):
    """A state that nothing will change is not waited on: `finish` returns although its patience is endless."""
    reporter = inject(LinesReporter(), Fault("open", "refuse", times=0), ledger=tmp_path / "ledger")
    with runcast.start_run(reporter, dir=tmp_path / "runs", delivery="process", finish_timeout=FOREVER) as run:
        run.log({"loss": 1.0}, step=0)
    assert load_state(run.dir, "lines").state == "failed"
    deliver(run.dir, [LinesReporter()], PATIENCE)
    (result,) = verify(run.dir)
    assert result.matches, result


@needs_proc
def test_removed_reporter_that_hangs_is_ended(tmp_path):
    """Taking a tracker out of a run ends its courier, also one that hears nothing any more."""
    reporter = inject(LinesReporter(), Fault("log", "hang", nth=1), ledger=tmp_path / "ledger", call_timeout=FOREVER)
    with runcast.start_run(reporter, dir=tmp_path / "runs", delivery="process", finish_timeout=PATIENCE) as run:
        run.log({"loss": 1.0}, step=0)
        while not strikes(tmp_path / "ledger"):
            time.sleep(0.05)
        assert couriers_of(run.dir)
        assert run.remove_reporter("lines")
        assert not couriers_of(run.dir)
        assert load_state(run.dir, "lines").state == "removed"
