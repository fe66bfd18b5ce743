"""``runcast sync``: delivers what is pending."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType

from runcast.cli import output
from runcast.cli.runs import runs_below, runs_folder
from runcast.delivery import Delivery
from runcast.dispatch import take_turns
from runcast.display import delivery_table, line, stderr
from runcast.errors import JournalError
from runcast.journal import FILE_NAME, Journal
from runcast.sync import TIMEOUT, Pending

_INTERRUPTED = 130


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
        bool, typer.Option("--all", help="All runs below the folders given as RUN, else below $RUNCAST_DIR or ./runs.")
    ] = False,
    timeout: output.Timeout = TIMEOUT,
    as_json: output.AsJson = False,
) -> int:
    """Deliver what is pending to every tracker that a run was reported to."""
    pending, unreadable = _below(runs or [str(runs_folder())]) if all_runs else (_named(runs or []), 0)
    turns = [turn for run in pending for turn in run.turns]
    ended = "time is up"
    with output.clean_stdout(as_json):
        try:
            take_turns(turns, timeout)
        except KeyboardInterrupt:
            ended = "interrupted"
    found = [_synced(run) for run in pending]
    news = [_table(run) for run, had in zip(found, pending, strict=True) if not all_runs or _got_some(had)]
    output.show(found, as_json, *news)
    if all_runs and not as_json:
        _say_what_is_left(found, pending)
    if going_on := sum(turn.goes_on for turn in turns):
        _say(f"{ended}; couriers that go on by themselves: {going_on}")
    if ended == "interrupted":
        return _INTERRUPTED
    return 0 if all(run.ok for run in found) and not unreadable else 1


# -- which runs --------------------------------------------------------------------------------------------------------


def _named(runs: Sequence[str]) -> list[Pending]:
    from runcast.folder import find_run

    if not runs:
        raise output.UsageError("name the runs to sync, or --all for those below $RUNCAST_DIR or ./runs")
    return [Pending(run_dir) for run_dir in dict.fromkeys(find_run(run) for run in runs)]


def _below(parents: Sequence[str]) -> tuple[list[Pending], int]:
    """The runs below these folders, and how many folders were passed over since they can't be read."""
    unreadable: list[OSError | JournalError] = []
    found: dict[Path, None] = {}
    for parent in parents:
        if not Path(parent).is_dir():
            raise output.UsageError(f"no folder {parent}: name another, or set RUNCAST_DIR")
        found |= dict.fromkeys(runs_below(Path(parent).absolute(), unreadable.append))
    pending = []
    for run_dir in found:
        try:
            pending.append(Pending(run_dir))
        except (OSError, JournalError) as error:
            if not _is_empty(run_dir):
                unreadable.append(error)
    for reason in unreadable:
        _say(f"passed over: {reason}")
    return pending, len(unreadable)


def _is_empty(run_dir: Path) -> bool:
    """Whether the run is about to begin, or never did: there is nothing to deliver."""
    try:
        return Journal(run_dir / FILE_NAME).count() == 0
    except OSError:
        return False


# -- what became of them -----------------------------------------------------------------------------------------------


def _synced(run: Pending) -> Synced:
    rows = run.deliveries()
    return Synced(run.run_dir.name, str(run.run_dir), all(run.delivered(row) for row in rows), rows)


def _got_some(run: Pending) -> bool:
    """Whether a courier of ours has brought a tracker what it lacked."""
    return any(turn.through() for turn in run.turns if not turn.fresh)


def _table(run: Synced) -> RenderableType:
    if run.deliveries:
        return delivery_table(run.dir, run.deliveries)
    from rich.markup import escape

    return f"{escape(line(run.dir))}: reported to no tracker"


def _say_what_is_left(found: Sequence[Synced], pending: Sequence[Pending]) -> None:
    """A line for each tracker that lacks something and had its turn; where people watch, also that all is well."""
    had_none = 0
    for run, had in zip(found, pending, strict=True):
        later = {turn.name for turn in had.turns if turn.phase == "waiting" and turn.fresh}
        had_none += len(later)
        for row in run.deliveries:
            if row.name not in later and not had.delivered(row):
                words = f"{row.state}, {row.delivered} of {row.total} events delivered. {row.detail or ''}"
                _say(f"{run.dir}: {row.name} {words}")
    if had_none:
        _say(f"deliveries that had no turn yet: {had_none}")
    if stderr().is_terminal:
        _say(f"runs: {len(found)}, not delivered: {sum(not run.ok for run in found)}")


def _say(text: str) -> None:
    """One line on standard error, whatever a stranger's run folder put into it."""
    stderr().print(line(" ".join(text.split())), markup=False, highlight=False)
