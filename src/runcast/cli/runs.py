"""Runs at a glance, for ``runcast ls`` and ``runcast sync --all``: one pass over a journal, and nothing beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from runcast import events
from runcast.delivery import Delivery
from runcast.journal import FILE_NAME, Journal
from runcast.writer import is_written


class RunSummary(msgspec.Struct):
    """A run in one line.

    Attributes:
        dir: The run folder.
        status: running | completed | failed | killed | crashed; ``unreadable`` for a folder whose journal is none.
        started: Unix seconds; likewise `finished`.
        steps: The highest step of a number; None without any.
        metrics: Metric name → last value.
        deliveries: How far each tracker is.
        error: Why it is unreadable.
    """

    id: str
    dir: str
    name: str = ""
    project: str = ""
    group: str | None = None
    status: str = "unreadable"
    started: float | None = None
    finished: float | None = None
    steps: int | None = None
    metrics: dict[str, float] = {}
    deliveries: list[Delivery] = []
    error: str | None = None


def runs_folder() -> Path:
    """Where runs are, unless told otherwise."""
    return Path(os.environ.get("RUNCAST_DIR") or "runs")


def run_folders(folder: Path) -> list[Path]:
    """The run folders in a folder, by name; the folder itself if it is one."""
    if (folder / FILE_NAME).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}"))


def runs_below(folder: Path, on_error: Callable[[OSError], None]) -> list[Path]:
    """The run folders in a folder and in the folders below it, by path; the folder itself if it is one.

    Run folders have no run folders in them. Links are not followed, nor are hidden folders looked into.

    Args:
        on_error: Told of folders that can't be read.
    """
    found = []
    for path, folders, files in os.walk(folder, onerror=on_error):
        if FILE_NAME in files:
            found.append(Path(path))
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found)


def summaries(folder: Path) -> list[RunSummary]:
    """The runs in a folder, newest first; what can't be read comes last, with the reason."""
    found = [_summary(path) for path in run_folders(folder)]
    return sorted(found, key=lambda run: run.started or 0.0, reverse=True)


def _summary(run_dir: Path) -> RunSummary:
    try:
        return summarize(run_dir)
    except (OSError, ValueError) as error:  # damaged, foreign, or of a newer format
        return RunSummary(run_dir.name, str(run_dir), error=str(error))


def summarize(run_dir: Path) -> RunSummary:
    """A run in one line.

    Raises:
        RunFolderError: There is no journal in the folder.
        JournalError: The journal is none, or of a newer format.
    """
    from runcast.sync import how_far

    journal = Journal(run_dir / FILE_NAME)
    start = journal.start()
    run = RunSummary(
        start.run_id, str(run_dir), start.name, start.project, start.group, status="running", started=start.time
    )
    run.metrics = {}
    writer = start.writer
    for entry in journal.read():
        match entry.event:
            case events.Metrics(step=step, values=values):
                run.steps = step if run.steps is None else max(run.steps, step)
                run.metrics |= values
            case events.RunResumed():
                writer, run.status, run.finished = entry.event.writer, "running", None
            case events.RunFinished(status=status, time=time):
                run.status, run.finished = status, time
    if run.status == "running" and not is_written(journal.path, writer):
        run.status = "crashed"
    run.deliveries = how_far(run_dir)
    return run
