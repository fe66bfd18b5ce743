"""Everything that can break, once, with Aim."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.aim import AimReporter
from runcast.testing.fault_contract import FaultContract


class TestAimUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and Aim recovers."""

    def make_reporter(self, folder: Path) -> AimReporter:
        return AimReporter()
