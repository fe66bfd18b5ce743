"""Everything that can break, once, with TensorBoard."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.tensorboard import TensorBoardReporter
from runcast.testing.fault_contract import FaultContract


class TestTensorBoardUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and TensorBoard recovers."""

    def make_reporter(self, folder: Path) -> TensorBoardReporter:
        return TensorBoardReporter()
