"""The contract, proven on ClearML's offline task folders."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.clearml import ClearMLReporter
from runcast.testing.contract import ReporterContract


class TestClearML(ReporterContract):
    """Every promise of the contract holds for ClearML."""

    def make_reporter(self, folder: Path) -> ClearMLReporter:
        return ClearMLReporter()
