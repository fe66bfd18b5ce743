"""The contract, proven on the files of W&B's offline mode."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.wandb import WandbReporter
from runcast.testing.contract import ReporterContract


class TestWandb(ReporterContract):
    """Every promise of the contract holds for Weights & Biases."""

    def make_reporter(self, folder: Path) -> WandbReporter:
        return WandbReporter(mode="offline")
