"""DagsHub's backend for the tests: MLflow's real server behind a door that has DagsHub's addresses and asks for a token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..mlflow.backend import prepare, server
from ..mlflow.gate import Gate, basic

REPO = "an-owner/a.repo"
TOKEN = "d4gshub-t0ken/with+signs"


@contextmanager
def dagshub(folder: Path) -> Iterator[Gate]:
    """DagsHub with one repository.

    Args:
        folder: Where the server keeps its things.
    """
    with server(prepare(folder), folder / "server") as address:
        port = int(address.rpartition(":")[2])
        with Gate(port, basic(TOKEN, TOKEN), prefix=f"/{REPO}.mlflow") as gate:
            yield gate
