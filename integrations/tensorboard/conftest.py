"""No test is configured from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _unconfigured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("TENSORBOARD_LOGGING_DIR", "RUNCAST_DIR", "RUNCAST_DELIVERY", "RUNCAST_REPORT_TO"):
            patch.delenv(variable, raising=False)
        yield
