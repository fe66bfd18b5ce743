"""Reporters for the benchmarks, in a module that couriers can import."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil

from runcast import register_reporter
from runcast.events import RunStatus
from runcast.reporter import NativeRun, Reporter, RunInfo
from runcast.reporters.clearml import ClearMLReporter
from runcast.reporters.comet import CometReporter
from runcast.reporters.mlflow import MlflowReporter
from runcast.reporters.tensorboard import TensorBoardReporter
from runcast.reporters.wandb import WandbReporter

MARKS = "marks.json"


@register_reporter
class Mlflow2(MlflowReporter):
    """A further courier to an MLflow server."""

    name = "mlflow_2"


@register_reporter
class Mlflow3(MlflowReporter):
    """A further courier to an MLflow server."""

    name = "mlflow_3"


@register_reporter
class Mlflow4(MlflowReporter):
    """A further courier to an MLflow server."""

    name = "mlflow_4"


class _Marked(Reporter):
    """Notes, in the run folder, what its courier had used when the run was open, and when it was closed."""

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        native = super().open(run, attach)
        self._marks, self._opened = run.dir / MARKS, used()
        return native

    def close(self, status: RunStatus) -> None:
        before = used()  # while the SDK's own processes are there
        super().close(status)
        after = used()
        self._marks.write_text(
            json.dumps(
                {
                    "seconds": after["time"] - self._opened["time"],
                    "cpu": max(before["cpu"], after["cpu"]) - self._opened["cpu"],
                    "memory": max(before["memory"], after["memory"]),
                }
            )
        )


@register_reporter
class MarkedTensorBoard(_Marked, TensorBoardReporter):
    name = "marked_tensorboard"


@register_reporter
class MarkedWandb(_Marked, WandbReporter):
    name = "marked_wandb"


@register_reporter
class MarkedMlflow(_Marked, MlflowReporter):
    name = "marked_mlflow"


@register_reporter
class MarkedComet(_Marked, CometReporter):
    name = "marked_comet"


@register_reporter
class MarkedClearML(_Marked, ClearMLReporter):
    name = "marked_clearml"


def used() -> dict[str, Any]:
    """The time, and what this process and those below it have used: CPU seconds, and bytes of memory at their peak."""
    me = psutil.Process()
    family = [me, *me.children(recursive=True)]
    return {
        "time": time.monotonic(),
        "cpu": cpu_seconds(family),
        "memory": sum(_peak(process.pid) for process in family),
    }


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU seconds that the processes, and those of their children that have ended, have used."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
