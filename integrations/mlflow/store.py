"""What MLflow stored, by its own means: the rows of its database and the files of its artifact folder."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any


class Store:
    """A database of MLflow's, and the folder beside it where its artifacts are.

    Args:
        folder: Where ``mlflow.db`` is.
        artifacts: A pattern below it that matches a run's artifact folder.
    """

    def __init__(self, folder: Path, artifacts: str = "mlartifacts/{}/artifacts") -> None:
        self._folder = folder
        self._artifacts = artifacts

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query gives."""
        with closing(sqlite3.connect(f"file:{self._folder}/mlflow.db?mode=ro", uri=True, timeout=240)) as database:
            return database.execute(query, values).fetchall()

    def runs(self, run_id: str | None = None) -> list[tuple[str, str, str]]:
        """Id, status and stage of each run, those included that were deleted; of one of our runs, or all."""
        query = "SELECT DISTINCT r.run_uuid, r.status, r.lifecycle_stage FROM runs r LEFT JOIN tags t USING (run_uuid)"
        where = " WHERE t.key = 'runcast.run_id' AND t.value = ?" if run_id is not None else ""
        return self.rows(query + where, *([run_id] if run_id is not None else []))

    def points(self, native: str) -> Counter[tuple[str, int]]:
        """How often a run has each metric at each step, those of the summary left out."""
        query = "SELECT key, step FROM metrics WHERE run_uuid = ? AND key NOT LIKE 'summary/%'"
        return Counter(self.rows(query, native))

    def summary(self, native: str) -> list[tuple[str, float]]:
        """The metrics that a run has of its summary."""
        return self.rows("SELECT key, value FROM metrics WHERE run_uuid = ? AND key LIKE 'summary/%'", native)

    def named(self, table: str, native: str) -> dict[str, str]:
        """The params or tags of a run."""
        return dict(self.rows(f"SELECT key, value FROM {table} WHERE run_uuid = ?", native))

    def files(self, native: str) -> list[str]:
        """The paths of a run's artifacts."""
        return sorted(self._files(native))

    def _files(self, native: str) -> Iterator[str]:
        for root in self._folder.glob(self._artifacts.format(native)):
            yield from (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
