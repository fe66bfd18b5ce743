"""Everything that can break, once, with DVCLive."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.dvclive import DVCLiveReporter
from runcast.testing.fault_contract import FaultContract


class TestDVCLiveUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and DVCLive recovers."""

    def make_reporter(self, folder: Path) -> DVCLiveReporter:
        return DVCLiveReporter()
