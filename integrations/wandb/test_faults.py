"""Everything that can break, once, with Weights & Biases."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.wandb import WandbReporter
from runcast.testing.fault_contract import FaultContract


class TestWandbUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and Weights & Biases recovers."""

    def make_reporter(self, folder: Path) -> WandbReporter:
        return WandbReporter(mode="offline")
