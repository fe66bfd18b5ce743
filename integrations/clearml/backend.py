"""ClearML's offline mode: what it leaves on disk, in ClearML's own terms, and what a run's courier does meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from runcast.delivery import load_state, save_state
from runcast.journal import FILE_NAME
from runcast.record import RunRecord
from runcast.reporter import NativeRun
from runcast.reporters.clearml import ClearMLReporter
from runcast.sync import sync

PATIENCE = 60.0


def native_of(run_dir: Path) -> NativeRun:
    return load_state(run_dir, "clearml").native


def read(run_dir: Path) -> RunRecord:
    return ClearMLReporter().read(native_of(run_dir))


def folders(run_dir: Path) -> list[Path]:
    """The task folders of a run, one each time that it was opened, oldest first."""
    return [Path(session["folder"]) for session in native_of(run_dir).data["sessions"]]


def task(folder: Path) -> dict[str, Any]:
    """What ClearML knows of the task."""
    return json.loads((folder / "task.json").read_text())


def events(folder: Path) -> list[dict[str, Any]]:
    """What `Task.import_offline_session` would report."""
    path = folder / "metrics.jsonl"
    return [event for line in path.read_text().splitlines() for event in json.loads(line)] if path.exists() else []


def points(*folders: Path) -> list[tuple[str, str, int, float]]:
    """Title, series, iteration and value of every scalar, as often as it is there."""
    found = [event for folder in folders for event in events(folder) if event["type"] == "training_stats_scalar"]
    return [(event["metric"], event["variant"], event["iter"], event["value"]) for event in found]


def deliver_again(run_dir: Path) -> None:
    """Starts from the beginning, as after a crash between the delivery and the first commit of the cursor."""
    state = load_state(run_dir, "clearml")
    state.offset, state.events, state.state, state.clean = 0, 0, "delivering", False
    save_state(run_dir, state)
    (row,) = sync(run_dir, timeout=PATIENCE)
    assert row.done, row


def wait_delivered(run_dir: Path) -> None:
    """Waits until the courier has delivered what the journal has by now."""
    size = (run_dir / FILE_NAME).stat().st_size
    deadline = time.monotonic() + PATIENCE
    while (state := load_state(run_dir, "clearml")) is None or state.offset < size:
        assert time.monotonic() < deadline, f"not delivered: {state}"
        time.sleep(0.02)


def courier_of(run_dir: Path) -> psutil.Process:
    """The process of a run's courier: of those that hold the tracker's lock the one that was forked last."""
    lock = str(run_dir / "trackers" / "clearml.lock")
    holders = []
    for process in psutil.process_iter(["create_time"]):
        try:
            if any(os.readlink(link) == lock for link in Path(f"/proc/{process.pid}/fd").iterdir()):
                holders.append(process)
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return max(holders, key=lambda process: process.create_time())


def kill_courier(run_dir: Path) -> None:
    process = courier_of(run_dir)
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own; fails with its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
