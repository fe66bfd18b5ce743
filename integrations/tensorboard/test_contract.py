"""The contract, proven on TensorBoard's event files."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.tensorboard import TensorBoardReporter
from runcast.testing.contract import ReporterContract


class TestTensorBoard(ReporterContract):
    """Every promise of the contract holds for TensorBoard."""

    def make_reporter(self, folder: Path) -> TensorBoardReporter:
        return TensorBoardReporter()
