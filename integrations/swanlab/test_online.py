"""What SwanLab's client uploads, online and by `swanlab sync`: to a server on this machine, over HTTP."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.record import Content
from runcast.reporter import RunInfo
from runcast.reporters.swanlab import SwanLabReporter
from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import kill_courier, native_of, wait_delivered
from runcast.verify import verify

from .backend import Uploads, folder_of, server


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    """The server, which nobody knows of yet."""
    with server() as running:
        yield running


@pytest.fixture
def online(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    """The server, with SwanLab configured for it."""
    monkeypatch.setenv("SWANLAB_API_KEY", "k")
    monkeypatch.setenv("SWANLAB_API_HOST", uploads.url)
    return uploads


def log_a_run(folder: Path) -> runcast.Run:
    """A run with a bit of everything, with a value that comes twice and steps out of order."""
    with runcast.start_run(
        "swanlab", dir=folder / "runs", project="p", config={"lr": 0.1, "x": float("nan")}, finish_timeout=PATIENCE
    ) as run:
        for step in (*range(20), 5, 30, 25):
            run.log({"loss": step / 7}, step=step)
        run.log_text("note", "hello", step=3)
        run.log_image("picture", np.zeros((2, 2)), step=1)
        run.log_histogram("weights", [1.0, 2.0], step=2)
        run.log_artifact(Path(__file__), name="code")
    return run


def assert_all_is_there(uploads: Uploads, run: runcast.Run) -> None:
    """Fails if the server has not everything of `log_a_run`, once."""
    expected = [("loss", step, step / 7) for step in (*range(20), 30, 25)]
    assert sorted(uploads.numbers) == sorted([*expected, ("loss (2)", 5, 5 / 7)])
    assert sorted((key, step) for key, step, _ in uploads.media) == [("note", 3), ("picture", 1), ("weights", 2)]
    (text,) = [path for _, _, path in uploads.media if path.endswith(".txt")]
    assert uploads.files[text] == b"hello"
    (picture,) = [path for _, _, path in uploads.media if path.endswith(".png")]
    assert Content.of_bytes(uploads.files[picture]) == runcast.read_run(run.dir).images["picture"][0].image
    (code,) = [path for path in uploads.files if path.startswith("artifacts/")]
    assert uploads.files[code] == Path(__file__).read_bytes()
    assert uploads.config["lr"]["value"] == 0.1
    assert uploads.config["runcast"]["value"]["status"] == "completed"
    assert uploads.states == ["FINISHED"]
    assert {start["cuid"] for start in uploads.start} == {run.id}


def test_online_run_is_uploaded(online: Uploads, tmp_path: Path) -> None:
    """Everything is at the server when the run has been delivered, and reads back from the log on this machine."""
    run = log_a_run(tmp_path)
    assert_all_is_there(online, run)
    assert native_of(run.dir, "swanlab").url == f"{online.url}/@me/p/runs/{run.id}"
    (result,) = verify(run.dir)
    assert result.matches, result


def test_sync_uploads_an_offline_run(uploads: Uploads, tmp_path: Path) -> None:
    """The command that runcast names uploads everything, also of a run that was gone on with."""
    run = log_a_run(tmp_path)
    with runcast.start_run("swanlab", resume=run.dir, finish_timeout=PATIENCE) as again:
        again.log({"later": 1.0}, step=0)
    assert uploads.start == []
    swanlab, command, *arguments = native_of(run.dir, "swanlab").url.split()
    assert (swanlab, command) == ("swanlab", "sync")
    program = "from swanlab.cli import cli; cli()"
    done = subprocess.run(
        [sys.executable, "-c", program, "sync", "--host", uploads.url, "--api-key", "k", *arguments],
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert uploads.numbers.pop(uploads.numbers.index(("later", 0, 1.0)))
    assert_all_is_there(uploads, run)


def test_killed_courier_uploads_what_is_missing(online: Uploads, tmp_path: Path) -> None:
    """After SIGKILL the same experiment goes on: nothing is missing at the server, and nothing is there under other names."""
    run = runcast.start_run("swanlab", dir=tmp_path, finish_timeout=PATIENCE)
    for step in range(30):
        run.log({"loss": step / 7}, step=step)
    wait_delivered(run.dir, "swanlab")
    kill_courier(run.dir, "swanlab")
    for step in (*range(30, 40), 29):
        run.log({"loss": step / 7}, step=step)
    run.finish()
    expected = {("loss", step, step / 7) for step in range(40)} | {("loss (2)", 29, 29 / 7)}
    assert set(online.numbers) == expected
    assert len(online.numbers) == len(expected)
    assert len(online.start) == 2
    assert {start["cuid"] for start in online.start} == {run.id}
    (result,) = verify(run.dir)
    assert result.matches, result


def test_what_was_not_uploaded_comes_again(online: Uploads, tmp_path: Path) -> None:
    """Of a log whose end nobody knows to be uploaded, that end is uploaded when the run goes on, and nothing else."""
    info = RunInfo("id", "n", "p", None, tmp_path, time.time())
    reporter = SwanLabReporter()
    native = reporter.open(info, None)
    for step in range(10):
        reporter.log_metrics({"loss": float(step)}, step, 1.0)
        if step == 4:
            reporter.flush()
    reporter._core._store.ensure_flushed()
    reporter._core._transport.finish()
    online.numbers.clear()
    again = SwanLabReporter()
    again.open(info, native)
    again.close("completed")
    assert [step for _, step, _ in online.numbers] == [5, 6, 7, 8, 9]
    assert [point.step for point in again.read(native).metrics["loss"]] == list(range(10))


def test_outage_is_waited_for(online: Uploads, tmp_path: Path) -> None:
    """While the server is down nothing counts as delivered; afterwards everything arrives."""
    run = runcast.start_run("swanlab", dir=tmp_path, finish_timeout=PATIENCE)
    run.log({"loss": 1.0}, step=0)
    wait_delivered(run.dir, "swanlab")
    online.down = True
    for step in range(1, 5):
        run.log({"loss": 1.0}, step=step)
    time.sleep(2.0)
    (row,) = run.deliveries()
    assert row.delivered < row.total
    online.down = False
    run.finish()
    assert [step for _, step, _ in online.numbers] == list(range(5))
    assert run.deliveries()[0].done


def test_the_key_is_written_nowhere(online: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the run folder nor SwanLab's folder of settings has the key."""
    key = secrets.token_hex(12)
    monkeypatch.setenv("SWANLAB_API_KEY", key)
    run = log_a_run(tmp_path)
    files = [path for folder in (run.dir, Path.home()) for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if key.encode() in path.read_bytes()] == []
    assert json.loads((run.dir / "trackers" / "swanlab.json").read_text())["mode"] == "online"
    assert folder_of(run.dir).is_relative_to(run.dir)
