"""Everything that can break, once, with Comet."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.comet import CometReporter
from runcast.testing.fault_contract import FaultContract


class TestCometUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and Comet recovers."""

    def make_reporter(self, folder: Path) -> CometReporter:
        return CometReporter()
