"""No test is configured from outside; each has a collector of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .backend import Collector


@pytest.fixture(autouse=True, scope="session")
def _unconfigured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            ours = variable.startswith(("OTEL_", "RUNCAST_"))
            if ours or variable.lower().endswith("_proxy") or variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
                patch.delenv(variable)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, and the environment that names it."""
    with Collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found
