"""The contract, proven on Aim's repositories."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.aim import AimReporter
from runcast.testing.contract import ReporterContract


class TestAim(ReporterContract):
    """Every promise of the contract holds for Aim."""

    def make_reporter(self, folder: Path) -> AimReporter:
        return AimReporter()
