"""What the benchmarks share: rows measured in processes and folders of their own, and nothing left behind."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil

_SUBREAPER = 36  # prctl(2)
_SETTINGS = ("RUNCAST_", "TENSORBOARD_", "WANDB_", "MLFLOW_", "COMET_", "CLEARML_")


def offline(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which every tracker is local or offline and keeps its files in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return {
        **kept,
        "RUNCAST_DIR": str(folder / "runs"),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(folder / "comet"),
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_CACHE_DIR": str(folder / "clearml"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        **more,
    }


def measured(script: str, *arguments: str, **variables: str) -> Any:
    """What ``script --child arguments`` hands to `give` in a process and folder of its own; else the end of this one.

    Args:
        variables: Of its environment.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        errors = folder / "errors.txt"
        with errors.open("w") as stderr, subprocess.Popen(
            [sys.executable, script, "--child", *arguments], cwd=folder, env=offline(folder, **variables),
            stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):  # SDKs leave processes behind
                    os.killpg(process.pid, signal.SIGKILL)
        result = folder / "result.json"
        if not result.exists():
            sys.exit(f"{' '.join(arguments)}: exit code {process.returncode}\n{errors.read_text()[-3000:]}")
        return json.loads(result.read_text())


def give(result: Any) -> None:
    """Hands the result of a child over, and ends it: with several SDKs in it, the interpreter's end may never come."""
    Path("result.json").write_text(json.dumps(result))
    os._exit(0)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Ends whatever was started within, also on SIGTERM, the orphans of dead processes included (on Linux)."""
    before = set(psutil.Process().children(recursive=True))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        for process in set(psutil.Process().children(recursive=True)) - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def mlflow_server(folder: Path) -> AbstractContextManager[str]:
    """MLflow's real server, with its SQLite file in `folder`: the one that the integration's tests use."""
    path = Path(__file__).parents[1] / "integrations" / "mlflow" / "backend.py"
    spec = importlib.util.spec_from_file_location("mlflow_backend", path)
    assert spec is not None
    assert spec.loader is not None
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    server: AbstractContextManager[str] = backend.server(folder / "server.db", folder / "server")
    return server


def say(what: str) -> None:
    """Progress."""
    print(what, file=sys.stderr, flush=True)
