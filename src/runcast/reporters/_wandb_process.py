"""What W&B does to the process that it is imported and started in, undone; and what it gathers by itself, switched off."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from runcast.record import inside

Environment: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]

FLUSH_INTERVAL = 0.25
FLUSH_SETTING = "x_transaction_log_flush_interval"


def imported(name: str) -> Any:
    """A module of W&B's, imported without side effects."""
    if name not in sys.modules:
        with unhooked():
            import_module(name)
    return sys.modules[name]


def settings(wandb: Any) -> dict[str, Any]:
    """Everything off that W&B would gather by itself, as far as the installed version knows the switch."""
    wanted = {
        "console": "off",
        "silent": True,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "save_code": False,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
        FLUSH_SETTING: FLUSH_INTERVAL,
    }
    return {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}


def environment(run_dir: Path) -> Environment:
    """For W&B's calls: its caches and staging areas in the run folder unless the user says where; no telemetry.

    Raises:
        ValueError: A link leads them out of the run folder.
    """
    wanted = {
        "WANDB_ARTIFACT_DIR": str(run_dir / "wandb" / "artifacts"),
        "WANDB_CACHE_DIR": str(run_dir / "wandb" / "cache"),
        "WANDB_DATA_DIR": str(run_dir / "wandb" / "data"),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
    }
    for written in ("artifacts", "cache/artifacts/obj", "cache/logs", "data/artifacts/staging"):
        inside(run_dir, f"wandb/{written}")

    @contextlib.contextmanager
    def changed() -> Iterator[None]:
        before = {name: os.environ.get(name) for name in (*wanted, "WANDB_SERVICE")}
        os.environ.update({name: value for name, value in wanted.items() if not before[name]})
        # The process of W&B's that an outer process started ends with that.
        os.environ.pop("WANDB_SERVICE", None)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    return changed


@contextlib.contextmanager
def unhooked(changed: Environment = contextlib.nullcontext) -> Iterator[None]:
    """Undoes what W&B's import and start do to the process: its ways out, its output, its environment."""
    leave, hook = sys.exit, sys.excepthook
    streams = [
        (stream, vars(stream).get("write")) for stream in (sys.stdout, sys.stderr) if hasattr(stream, "__dict__")
    ]
    try:
        with changed():
            yield
    finally:
        sys.exit, sys.excepthook = leave, hook
        for stream, write in streams:
            if write is not None:
                stream.write = write  # type: ignore[method-assign]  # W&B assigned it first
            else:
                vars(stream).pop("write", None)
