"""What a test does to a run's courier: wait for it, kill it, let it deliver again; and reading back what it left.

Also what a tracker's tests need beside it: an environment without settings, and Python in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from runcast.delivery import TrackerState, load_state, save_state
from runcast.journal import FILE_NAME
from runcast.record import RunRecord
from runcast.registry import reporter_class
from runcast.reporter import NativeRun
from runcast.sync import sync

PATIENCE = 240.0
"""Seconds after which a courier that doesn't come to an end is a failure; no test depends on how fast it is."""


def native_of(run_dir: Path, name: str) -> NativeRun:
    """The run as its tracker knows it."""
    native = _state(run_dir, name).native
    assert native is not None, f"nothing of {run_dir.name} was delivered to {name}"
    return native


def read(run_dir: Path, name: str) -> RunRecord:
    """What the tracker stored, read in this process with the options that the run was reported with."""
    return reporter_class(name)(**_state(run_dir, name).options).read(native_of(run_dir, name))


def deliver_again(run_dir: Path, name: str) -> None:
    """Starts from the beginning, as after a crash between the delivery and the first commit of the cursor."""
    state = _state(run_dir, name)
    state.offset, state.events, state.state, state.clean = 0, 0, "delivering", False
    save_state(run_dir, state)
    (row,) = [row for row in sync(run_dir, timeout=PATIENCE) if row.name == name]
    assert row.done, row


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for other processes; their not coming to it is the failure."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def wait_delivered(run_dir: Path, name: str) -> None:
    """Waits until the courier has delivered what the journal has by now."""
    size = (run_dir / FILE_NAME).stat().st_size
    deadline = time.monotonic() + PATIENCE
    while (state := load_state(run_dir, name)) is None or state.offset < size:
        assert time.monotonic() < deadline, f"not delivered: {state}"
        time.sleep(0.02)


def courier_of(run_dir: Path, name: str) -> psutil.Process:
    """The courier's process: of those that hold the tracker's lock the one that was forked last."""
    lock = str(run_dir / "trackers" / f"{name}.lock")
    holders = []
    for process in psutil.process_iter(["create_time"]):
        try:
            if any(str(link.readlink()) == lock for link in Path(f"/proc/{process.pid}/fd").iterdir()):
                holders.append(process)
        except OSError:  # ended meanwhile, or somebody else's
            continue
    assert holders, f"no courier of {run_dir.name} is at work on {name}"
    return max(holders, key=lambda process: process.create_time())


def kill_courier(run_dir: Path, name: str) -> None:
    """SIGKILLs the courier's process, and waits until it is gone."""
    process = courier_of(run_dir, name)
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"{process} doesn't die"
            time.sleep(0.01)


@contextlib.contextmanager
def unconfigured(home: Path, *prefixes: str) -> Iterator[None]:
    """An environment in which no tracker is configured, and nobody has an account.

    Args:
        home: An empty home directory.
        prefixes: How the tracker's own variables begin; runcast's go too.
    """
    before = dict(os.environ)
    for variable in before:
        if variable.startswith(("RUNCAST_", *prefixes)):
            del os.environ[variable]
    os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs code in a Python process of its own; fails with its output."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _state(run_dir: Path, name: str) -> TrackerState:
    state = load_state(run_dir, name)
    assert state is not None, f"{run_dir.name} was not reported to {name}"
    return state
