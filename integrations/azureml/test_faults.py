"""Everything that can break, once, in jobs of Azure ML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runcast.reporters.azureml import AzureMLReporter
from runcast.testing.fault_contract import FaultContract

from .backend import Azure, azure


class TestAzureMLUnderFaults(FaultContract):
    """Training doesn't notice, other trackers are complete, and Azure ML recovers. Each test is a job."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def workspace(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
        with azure(tmp_path_factory.mktemp("azure")) as workspace:
            yield workspace
            assert workspace.gate.broken == [], "Azure ML would have refused something"

    @pytest.fixture(autouse=True)
    def _job(self, workspace: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
        for variable, value in workspace.job().items():
            monkeypatch.setenv(variable, value)

    def make_reporter(self, folder: Path) -> AzureMLReporter:
        return AzureMLReporter()
