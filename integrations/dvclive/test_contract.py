"""The contract, proven on DVCLive's files."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.dvclive import DVCLiveReporter
from runcast.testing.contract import ReporterContract


class TestDVCLive(ReporterContract):
    """Every promise of the contract holds for DVCLive."""

    def make_reporter(self, folder: Path) -> DVCLiveReporter:
        return DVCLiveReporter()
