"""The contract, proven on SwanLab's offline logs."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.swanlab import SwanLabReporter
from runcast.testing.contract import ReporterContract


class TestSwanLab(ReporterContract):
    """Every promise of the contract holds for SwanLab."""

    def make_reporter(self, folder: Path) -> SwanLabReporter:
        return SwanLabReporter(mode="offline")
