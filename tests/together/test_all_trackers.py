"""One run in all trackers at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import runcast
from runcast.delivery import load_state
from runcast.testing import canonical
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.reporters import _versions
from runcast.verify import verify

from .trackers import TOGETHER


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with something of everything, reported to `"all"`."""
    folder = tmp_path_factory.mktemp("everything")
    with runcast.start_run(
        "all", project="together", config=canonical.CONFIG, dir=folder / "runs", finish_timeout=PATIENCE, strict=True
    ) as run:
        canonical.log_everything(run, folder / "files")
        canonical.log_odd_names(run)
    assert run.dir is not None
    return run.dir


def test_all_means_all(everything: Path) -> None:
    """`"all"` took every installed tracker, without an account, a prompt or a network."""
    assert sorted(path.stem for path in (everything / "trackers").glob("*.json")) == TOGETHER


@pytest.mark.parametrize("name", TOGETHER)
def test_every_tracker_has_what_the_journal_has(everything: Path, name: str) -> None:
    """The comparison, value by value, finds no difference."""
    (result,) = verify(everything, [name])
    assert result.error is None
    assert result.differences == []
    assert all(tally.matched == tally.total for tally in result.compared.values())


def test_no_tracker_is_imported_where_training_runs() -> None:
    """After a run in all trackers none of their SDKs is loaded here."""
    assert not {*(_versions.requirement(name).module for name in TOGETHER), "torch"} & set(sys.modules)


def test_sigkill_at_step_50_leaves_50_points_everywhere(tmp_path: Path) -> None:
    """The journal has all 50, and then every tracker, each with its status for a crashed run."""
    code = (
        "import os, signal, runcast\n"
        "run = runcast.start_run('all', project='killed')\n"
        "print(run.dir, flush=True)\n"
        "for step in range(1, 51):\n"
        "    run.log({'train/loss': 1 / step}, step=step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RUNCAST_DIR": str(tmp_path / "runs")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    run_dir = Path(process.stdout.strip())
    record = runcast.read_run(run_dir)
    assert [point.step for point in record.metrics["train/loss"]] == list(range(1, 51))
    assert record.status == "crashed"
    for name in TOGETHER:
        wait_until_through(run_dir, name)
    results = verify(run_dir)
    assert [result.name for result in results] == TOGETHER
    for result in results:
        assert result.matches, (result.name, result.error, result.differences)
        assert result.compared["metrics"].matched == 50
        assert result.compared["status"].matched == 1
    assert all(load_state(run_dir, name).state == "complete" for name in TOGETHER)


def test_detection_tells_mode_and_reason_of_each(tmp_path: Path) -> None:
    """Without any account each tracker is ready, offline or local, and says so in a line."""
    code = "import json, runcast; print(json.dumps([[a.name, a.status, a.mode, a.reason] for a in runcast.available_reporters()]))"
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "COMET", "CLEARML", "MLFLOW"))
    }
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HOME": str(tmp_path)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name: (status, mode, reason) for name, status, mode, reason in json.loads(process.stdout)}
    for name in TOGETHER:
        status, mode, reason = found[name]
        assert (status, mode in ("offline", "local")) == ("ready", True), found[name]
        assert "\n" not in reason
    assert list(tmp_path.iterdir()) == []
