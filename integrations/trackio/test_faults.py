"""Everything that can break, once, with Trackio."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.trackio import TrackioReporter
from runcast.testing.fault_contract import FaultContract


class TestTrackioUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and Trackio recovers."""

    def make_reporter(self, folder: Path) -> TrackioReporter:
        return TrackioReporter()
