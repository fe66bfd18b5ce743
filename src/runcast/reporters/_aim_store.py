"""What an Aim repository holds of a run, read as it is: Aim's own API sees no more than what `aim up` has indexed.

A run is two RocksDB databases, ``meta/chunks/<hash>`` (attributes, what series there are) and ``seqs/chunks/<hash>`` (the
series), and a row in ``run_metadata.sqlite`` (name, experiment, tags). They are opened for reading alone, so that a run
that is being written can be read, and no run is taken for one that goes on.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from runcast.record import inside
from runcast.reporter import setting

DATABASE = "run_metadata.sqlite"
_TRIES = 5
_NUMBERS = frozenset({"float", "float64", "int", "number"})


def repository(folder: Path) -> Path:
    """Aim's folder below another: ``.aim``, unless its environment variable says otherwise."""
    return folder / setting(None, "__AIM_REPO_NAME__", ".aim")


class Row(NamedTuple):
    """What a series has at a step; `time` in Unix seconds."""

    step: int
    value: Any
    time: float


@dataclass(frozen=True)
class Series:
    """A series of a run.

    Attributes:
        kind: ``number``, or what Aim calls the type: ``aim.text``, ``aim.image``, ...
        rows: By step.
    """

    name: str
    context: dict[str, Any]
    kind: str
    rows: list[Row]


class StoredRun:
    """A run of a repository.

    Args:
        folder: Where the repository is.

    Attributes:
        attributes: What Aim shows as the run's parameters.
        artifacts: Name → Aim's `Artifact`.
        ended: Unix seconds; None if nobody has closed it. Likewise `created`.

    Raises:
        LookupError: The repository has no such run.
    """

    def __init__(self, folder: Path, run_hash: str) -> None:
        self.hash = run_hash
        self.aim = repository(folder)
        top = _collected(self._tree("meta").subtree(("meta", "chunks", run_hash)))
        self.attributes: dict[str, Any] = top.get("attrs", {})
        self.artifacts: dict[str, Any] = top.get("artifacts", {})
        self.ended: float | None = top.get("end_time")
        self._contexts: dict[int, dict[str, Any]] = top.get("contexts", {})
        self._traces: dict[int, dict[str, Any]] = top.get("traces", {})
        self.name, self.description, self.experiment, self.created, self.tags = self._properties()

    def series(self) -> Iterator[Series]:
        """All series, each by step."""
        if not self._traces:
            return
        stored = self._tree("seqs").subtree("seqs")
        for number, traces in self._traces.items():
            for name, trace in traces.items():
                kind = trace.get("dtype", "float")
                rows = _rows(stored, self.hash, number, name, trace.get("version", 1))
                context = self._contexts.get(number, {})
                yield Series(str(name), context, "number" if kind in _NUMBERS else kind, rows)

    def _tree(self, name: str) -> Any:
        chunk = inside(self.aim, f"{name}/chunks/{self.hash}")
        if not (chunk / "CURRENT").exists():  # opening it would make a folder
            raise LookupError(f"no run {self.hash!r} in the Aim repository {str(self.aim)!r}")
        return opened(chunk).tree()

    def _properties(self) -> tuple[str, str, str, float | None, list[str]]:
        with contextlib.closing(connected(self.aim)) as database:
            found = database.execute(
                "SELECT run.id, run.name, run.description, experiment.name, run.created_at FROM run "
                "LEFT JOIN experiment ON experiment.id = run.experiment_id WHERE run.hash = ?",
                (self.hash,),
            ).fetchone()
            if found is None:
                return "", "", "", None, []
            number, name, description, experiment, created = found
            tags = database.execute(
                "SELECT tag.name FROM tag JOIN run_tag ON run_tag.tag_id = tag.id "
                "WHERE run_tag.run_id = ? AND NOT coalesce(tag.is_archived, 0)",
                (number,),
            ).fetchall()
        began = created and datetime.fromisoformat(created).replace(tzinfo=UTC).timestamp()
        return name or "", description or "", experiment or "", began, [str(tag) for (tag,) in tags]


def run_hashes(folder: Path) -> list[str]:
    """The runs of the repository in a folder, oldest first; none if there is no repository."""
    aim = repository(folder)
    if not (aim / DATABASE).is_file():
        return []
    chunks = aim / "meta" / "chunks"
    found = {path.name for path in chunks.iterdir()} if chunks.is_dir() else set()
    with contextlib.closing(connected(aim)) as database:
        known = [str(row[0]) for row in database.execute("SELECT hash FROM run ORDER BY created_at, id")]
    return [*(run_hash for run_hash in known if run_hash in found), *sorted(found.difference(known))]


def connected(aim: Path) -> sqlite3.Connection:
    """The repository's database.

    Raises:
        sqlite3.OperationalError: It has none.
    """
    path = quote(os.fspath(aim.absolute() / DATABASE))
    return sqlite3.connect(f"file:{path}?mode=rw", uri=True)  # to read: but what a crash left half done is taken back


def opened(chunk: Path) -> Any:
    """A RocksDB database of Aim's, for reading."""
    import aim  # noqa: F401 -- registers the types of what is in it
    from aim.storage.rockscontainer import RocksContainer
    from aimrocks.errors import RocksIOError

    for attempt in range(_TRIES):
        try:
            return RocksContainer(str(chunk), read_only=True, skip_read_optimization=True)
        except RocksIOError:  # who writes it has removed a file that was just listed
            if attempt == _TRIES - 1:
                raise
            clock.sleep(0.05)
    raise AssertionError


def _collected(tree: Any) -> dict[str, Any]:
    try:
        return dict(tree.collect())
    except KeyError:  # nothing is in it yet
        return {}


def _rows(stored: Any, run_hash: str, number: int, name: str, version: int) -> list[Row]:
    """The whole rows of a series: Aim writes its columns one by one, the step or else the time last."""
    where = ("v2", "chunks") if version == 2 else ("chunks",)
    columns = stored.subtree((*where, run_hash, number, name))
    times = dict(columns.array("time").items())
    steps = dict(columns.array("step").items()) if version == 2 else None
    rows = []
    for key, value in columns.array("val").items():
        step = key if steps is None else steps.get(key)
        if step is not None and times.get(key) is not None:
            rows.append(Row(int(step), value, float(times[key])))
    return sorted(rows, key=lambda row: row.step)
