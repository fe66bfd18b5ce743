"""No test is configured from outside, finds an account, or keeps another's settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runcast.testing.couriers import unconfigured


@pytest.fixture(autouse=True, scope="session")
def _unconfigured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with unconfigured(tmp_path_factory.mktemp("home"), "CLEARML_", "TRAINS_"):
        yield
