"""The contract, proven on Comet's offline archives."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.comet import CometReporter
from runcast.testing.contract import ReporterContract


class TestComet(ReporterContract):
    """Every promise of the contract holds for Comet."""

    def make_reporter(self, folder: Path) -> CometReporter:
        return CometReporter()
