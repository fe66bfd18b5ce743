"""runcast sends a training run to every experiment tracker: written once to its journal, projected into each.

Names are loaded when they are first used, so that ``import runcast`` costs next to nothing and imports neither a
tracker nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runcast.delivery import Delivery
    from runcast.errors import (
        DeliveryError,
        JournalError,
        MissingDependencyError,
        RuncastError,
        RunFolderError,
        TrackerStartError,
        UnknownTrackerError,
    )
    from runcast.folder import read_run
    from runcast.probe import Probe
    from runcast.record import Point, RunRecord
    from runcast.registry import available_reporters, register_reporter, resolve_report_to
    from runcast.reporter import Availability, NativeRun, Reporter, Requirement, RunInfo
    from runcast.run import Run, current_run, start_run

__version__ = "0.1.0"

_MODULE_OF = {
    "Delivery": "delivery",
    "DeliveryError": "errors",
    "JournalError": "errors",
    "MissingDependencyError": "errors",
    "RunFolderError": "errors",
    "RuncastError": "errors",
    "TrackerStartError": "errors",
    "UnknownTrackerError": "errors",
    "Probe": "probe",
    "Point": "record",
    "RunRecord": "record",
    "available_reporters": "registry",
    "register_reporter": "registry",
    "resolve_report_to": "registry",
    "Availability": "reporter",
    "NativeRun": "reporter",
    "Reporter": "reporter",
    "Requirement": "reporter",
    "RunInfo": "reporter",
    "Run": "run",
    "current_run": "run",
    "read_run": "folder",
    "start_run": "run",
}

__all__ = [
    "Availability",
    "Delivery",
    "DeliveryError",
    "JournalError",
    "MissingDependencyError",
    "NativeRun",
    "Point",
    "Probe",
    "Reporter",
    "Requirement",
    "Run",
    "RunFolderError",
    "RunInfo",
    "RunRecord",
    "RuncastError",
    "TrackerStartError",
    "UnknownTrackerError",
    "available_reporters",
    "current_run",
    "read_run",
    "register_reporter",
    "resolve_report_to",
    "start_run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'runcast' has no attribute {name!r}")
    value = getattr(import_module(f"runcast.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
