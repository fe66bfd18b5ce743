"""Aim's repositories as Aim itself reads them: once they are indexed, which `aim up` does, and `aim storage reindex`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import native_of


def aim(*arguments: str) -> str:
    """What the command line of Aim prints."""
    code = "from aim.cli.cli import cli_entry_point; cli_entry_point()"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def home_of(run_dir: Path) -> Path:
    """The folder of the repository that a run was reported to."""
    return Path(native_of(run_dir, "aim").data["repo"])


@contextmanager
def indexed(home: Path) -> Iterator[Any]:
    """The repository as Aim's API has it, indexed anew."""
    from aim.sdk.repo import Repo

    aim("storage", "--repo", str(home), "reindex", "--yes")
    repo = Repo(str(home))
    yield repo
    repo.structured_db.engine.dispose()


def points(run: Any) -> list[tuple[str, dict[str, Any], list[int], list[float]]]:
    """Name, context, steps and values of every metric of a run of Aim's API."""
    found = []
    for metric in run.metrics():
        steps, (values, *_) = metric.data.items_list()
        found.append((metric.name, metric.context.to_dict(), steps, values))
    return sorted(found, key=lambda item: (item[0], len(item[1]), str(item[1])))


def objects(run: Any, kind: str) -> list[tuple[str, dict[str, Any], int, Any]]:
    """Name, context, step and object of every text, image, ... (``texts``, ``images``, ...) of a run of Aim's API."""
    from aim.sdk.sequence_collection import SingleRunSequenceCollection
    from aim.sdk.sequence import Sequence

    found = []
    for series in SingleRunSequenceCollection(run, Sequence.registry[kind]):
        for step, (value, *_) in series.data.items():
            found.append((series.name, series.context.to_dict(), step, value))
    return found
