"""``runcast sync``: delivers what is pending."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType

from runcast.cli import output
from runcast.cli.runs import run_folders, runs_folder
from runcast.delivery import Delivery
from runcast.display import delivery_table, stderr
from runcast.errors import JournalError, RunFolderError
from runcast.sync import TIMEOUT, delivered, how_far, is_open
from runcast.sync import sync as sync_run


class Synced(msgspec.Struct):
    """What became of a run; `ok` if every tracker has everything."""

    run: str
    dir: str
    ok: bool
    deliveries: list[Delivery]


def sync(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Run folders, ids, or beginnings of ids.")
    ] = None,
    all_runs: Annotated[
        bool, typer.Option("--all", help="All runs in the folder given instead of RUN, else in $RUNCAST_DIR or ./runs.")
    ] = False,
    timeout: output.Timeout = TIMEOUT,
    as_json: output.AsJson = False,
) -> int:
    """Deliver what is pending to every tracker that a run was reported to."""
    folders = _chosen(runs or [], all_runs)
    deadline = time.monotonic() + timeout
    with output.clean_stdout(as_json):
        found = [_sync(folder, deadline - time.monotonic()) for folder in folders]
    output.show(found, as_json, *_views(found))
    return 0 if all(run.ok for run in found) else 1


def _chosen(runs: Sequence[str], all_runs: bool) -> list[Path]:
    from runcast.folder import find_run

    if not all_runs:
        if not runs:
            raise output.UsageError("name the runs to sync, or --all for those in $RUNCAST_DIR or ./runs")
        return [find_run(run) for run in runs]
    parents = [Path(folder) for folder in runs] or [runs_folder()]
    for parent in parents:
        if not parent.is_dir():
            raise output.UsageError(f"no folder {parent}: name another, or set RUNCAST_DIR")
    return [run for parent in parents for run in _readable(run_folders(parent))]


def _readable(folders: Sequence[Path]) -> list[Path]:
    """Those with a journal; one that has none that can be read is said and passed over."""
    readable = []
    for folder in folders:
        try:
            is_open(folder)
        except (RunFolderError, JournalError) as error:
            stderr().print(f"passed over: {error}", markup=False)
            continue
        readable.append(folder)
    return readable


def _sync(run_dir: Path, timeout: float) -> Synced:
    rows = sync_run(run_dir, timeout) if timeout > 0 else how_far(run_dir)
    still_written = is_open(run_dir)
    ok = all(delivered(row, still_written=still_written) for row in rows)
    return Synced(run_dir.name, str(run_dir), ok, rows)


def _views(found: Sequence[Synced]) -> list[RenderableType]:
    if not found:
        return ["no runs"]
    return [delivery_table(run.dir, run.deliveries) if run.deliveries else _nothing(run) for run in found]


def _nothing(run: Synced) -> str:
    from rich.markup import escape

    return f"{escape(run.dir)}: reported to no tracker"
