"""The contract, in jobs of a workspace that Azure's plugin is led to believe in, with Azure's limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runcast.reporters.azureml import AzureMLReporter
from runcast.testing.contract import ReporterContract

from .backend import Azure, azure


class TestAzureML(ReporterContract):
    """Every promise of the contract holds for Azure ML. Each test is a job."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def workspace(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
        with azure(tmp_path_factory.mktemp("azure")) as workspace, pytest.MonkeyPatch.context() as patch:
            for variable, value in workspace.job().items():
                patch.setenv(variable, value)
            yield workspace
            assert workspace.gate.broken == [], "Azure ML would have refused something"

    @pytest.fixture(autouse=True)
    def _job(self, workspace: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
        for variable, value in workspace.job().items():
            monkeypatch.setenv(variable, value)

    def make_reporter(self, folder: Path) -> AzureMLReporter:
        return AzureMLReporter()
