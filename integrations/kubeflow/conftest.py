"""No test is configured from outside; each has a status server of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runcast.reporters.kubeflow import CA_CERT, TOKEN, URL

from .backend import Certificates, StatusServer


@pytest.fixture(autouse=True, scope="session")
def _unconfigured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith(("KUBEFLOW_", "RUNCAST_")) or variable == "DISABLE_KUBEFLOW_INTEGRATION":
                patch.delenv(variable)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority of our own, and a certificate of its for this machine."""
    return Certificates.made(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StatusServer]:
    """The status server of a TrainJob, and the environment that the controller gives its pods."""
    token = tmp_path / "token"
    token.write_text("first token\n")
    with StatusServer(certificates, "first token") as status_server:
        monkeypatch.setenv(URL, status_server.url)
        monkeypatch.setenv(CA_CERT, str(certificates.authority))
        monkeypatch.setenv(TOKEN, str(token))
        yield status_server
