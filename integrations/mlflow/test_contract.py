"""The contract, with a SQLite file beside the run folders: what `report_to="mlflow"` does without any settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from runcast.reporters.mlflow import MlflowReporter
from runcast.testing.contract import ReporterContract

from .backend import prepare


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class TestMlflow(ReporterContract):
    """Every promise of the contract holds for MLflow."""

    def make_reporter(self, folder: Path) -> MlflowReporter:
        prepare(folder / "runs")
        return MlflowReporter()
