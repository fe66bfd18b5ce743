"""What all tests of the core share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a runs folder of its own, and no settings from outside."""
    for variable in list(os.environ):
        if variable.startswith(("RUNCAST_", "WANDB_", "MLFLOW_", "COMET_", "CLEARML_", "TENSORBOARD_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("RUNCAST_DIR", str(tmp_path / "runs"))


@pytest.fixture(autouse=True)
def _no_open_runs():
    """A run that a test leaves open must not become another test's current run."""
    yield
    from runcast import run

    run._open_runs.clear()


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python code in a process of its own, without input."""

    def call(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return call
