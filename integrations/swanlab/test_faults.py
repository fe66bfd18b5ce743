"""Everything that can break, once, with SwanLab."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.swanlab import SwanLabReporter
from runcast.testing.fault_contract import FaultContract


class TestSwanLabUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and SwanLab recovers."""

    def make_reporter(self, folder: Path) -> SwanLabReporter:
        return SwanLabReporter(mode="offline")
