"""The contract, on a server that has the addresses of DagsHub's and takes a token of DagsHub's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runcast.reporters.dagshub import DagsHubReporter
from runcast.testing.contract import ReporterContract

from .backend import REPO, TOKEN, dagshub


class TestDagsHub(ReporterContract):
    """Every promise of the contract holds for DagsHub."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _configured(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with dagshub(tmp_path_factory.mktemp("dagshub")) as gate, pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSHUB_CLIENT_HOST", gate.url)
            patch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
            yield

    def make_reporter(self, folder: Path) -> DagsHubReporter:
        return DagsHubReporter(repo=REPO)
