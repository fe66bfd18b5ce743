"""The contract, proven on Trackio's databases."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.trackio import TrackioReporter
from runcast.testing.contract import ReporterContract


class TestTrackio(ReporterContract):
    """Every promise of the contract holds for Trackio."""

    def make_reporter(self, folder: Path) -> TrackioReporter:
        return TrackioReporter()
