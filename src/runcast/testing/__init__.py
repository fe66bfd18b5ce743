"""For authors of reporters: prove that a reporter keeps what it is given. Needs pytest, numpy and pillow.

`ReporterContract` is a test class to subclass, and `FaultContract` its sibling under which everything breaks once.
Names are loaded when they are first used: pytest loads this package in everybody's test runs, for its plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runcast.testing.contract import ReporterContract
    from runcast.testing.fault_contract import FaultContract

_MODULE_OF = {"FaultContract": "fault_contract", "ReporterContract": "contract"}

__all__ = ["FaultContract", "ReporterContract"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
