"""Everything that can break, once, with MLflow."""

from __future__ import annotations

from pathlib import Path

from runcast.reporters.mlflow import MlflowReporter
from runcast.testing.fault_contract import FaultContract

from .backend import prepare


class TestMlflowUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and MLflow recovers."""

    def make_reporter(self, folder: Path) -> MlflowReporter:
        prepare(folder / "runs")
        return MlflowReporter()
