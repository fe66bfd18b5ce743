"""MLflow's backends for the tests: an empty SQLite database, and the real server on loopback."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 120.0
"""Seconds after which a server that doesn't answer is a failure."""


@functools.cache
def _empty_database() -> bytes:
    """A database as MLflow makes it, which takes it seconds."""
    with tempfile.TemporaryDirectory() as folder:
        body = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{folder}/mlflow.db')"
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        subprocess.run([sys.executable, "-c", body], cwd=folder, env=environment, check=True, capture_output=True)
        return Path(folder, "mlflow.db").read_bytes()


def prepare(runs: Path) -> Path:
    """Puts an empty database where `MlflowReporter` would make it for run folders in `runs`."""
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / "mlflow.db"
    if not path.exists():
        path.write_bytes(_empty_database())
    return path


@contextmanager
def server(database: Path, folder: Path, artifact_root: str | None = None) -> Iterator[str]:
    """Runs ``mlflow server`` on a database, and gives its address.

    Args:
        database: A SQLite file.
        folder: Where it keeps the artifacts that are sent to it, in ``stored/``, and its log.
        artifact_root: Where clients are told to send them. Default: to itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = _serve(database, folder, port, artifact_root)
    try:
        _wait(f"http://127.0.0.1:{port}", process, folder)
        yield f"http://127.0.0.1:{port}"
    finally:
        _stop(process)


def _serve(database: Path, folder: Path, port: int, artifact_root: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", f"{folder}/stored"]
    if artifact_root is not None:
        command += ["--default-artifact-root", artifact_root]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else it starts job runners, which outlive it
    }
    environment.pop("PYTEST_CURRENT_TEST", None)  # MLflow behaves differently under its own tests
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _wait(address: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"mlflow server at {address} doesn't answer:\n{(folder / 'server.log').read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and all that it started: they share a session that is theirs alone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
