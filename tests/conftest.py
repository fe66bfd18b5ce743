"""What all tests of the core share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from runcast.cli import main

# The same examples each time, however slow the machine.
settings.register_profile(
    "runcast", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("runcast")


def pytest_configure() -> None:
    """Processes that are begun in the background may have SIGINT ignored, which what they begin would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the JSON that it must be, the whole of it."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on standard error, without the program's name."""
        (line,) = self.err.splitlines()
        return line.removeprefix("runcast: ")


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a runs folder of its own, and no settings from outside."""
    for variable in list(os.environ):
        if variable.startswith(("RUNCAST_", "WANDB_", "MLFLOW_", "COMET_", "CLEARML_", "TENSORBOARD_")):
            monkeypatch.delenv(variable)
    monkeypatch.delenv("COLUMNS", raising=False)  # as wide as in a file
    monkeypatch.setenv("RUNCAST_DIR", str(tmp_path / "runs"))


@pytest.fixture(autouse=True)
def _no_open_runs():
    """A run that a test leaves open must not become another test's current run."""
    yield
    from runcast import run

    run._open_runs.clear()
    run._watch.unwatch()


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


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Calls the command line and captures what it prints."""

    def call(*args: object) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Result(code, *capsys.readouterr())

    return call
