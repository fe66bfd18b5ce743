"""Everything that can break, once, with ClearML."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.clearml import ClearMLReporter
from runcast.testing.fault_contract import FaultContract


class TestClearMLUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and ClearML recovers."""

    def make_reporter(self, folder: Path) -> ClearMLReporter:
        return ClearMLReporter()
