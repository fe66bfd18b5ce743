"""``runcast ls``: the runs in a folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from runcast.cli import output
from runcast.cli.runs import RunSummary, runs_folder, summaries
from runcast.delivery import Delivery
from runcast.display import harmless, line

STATUS_COLOURS = {"completed": "green", "running": "cyan"}
_SHOWN_METRICS = 2


def ls(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Parent of run folders; default: $RUNCAST_DIR, else ./runs.")
    ] = None,
    as_json: output.AsJson = False,
) -> int:
    """List the runs in a folder, newest first."""
    folder = folder or runs_folder()
    if not folder.is_dir():
        raise output.UsageError(f"no folder {folder}: name another, or set RUNCAST_DIR")
    found = summaries(folder)
    output.show(found, as_json, *_views(harmless(found), folder))
    return 0


def _views(found: Sequence[RunSummary], folder: Path) -> list[RenderableType]:
    runs = [run for run in found if run.error is None]
    unreadable: list[RenderableType] = [
        Text(f"unreadable: {run.error}", "red") for run in found if run.error is not None
    ]
    return [_table(runs) if runs else Text(f"no runs in {folder}"), *unreadable]


def _table(runs: Sequence[RunSummary]) -> Table:
    table = output.table(
        *("run", "project", "status", "steps", "last values", "delivery"), right=("steps",), whole=("run", "status")
    )
    for run in runs:
        table.add_row(
            escape(line(run.id))
            if run.name in ("", run.id)
            else f"[bold]{escape(line(run.name))}[/bold]\n{escape(line(run.id))}",
            escape(line(run.project)),
            f"{status_text(run.status)}\n[dim]{when(run.started)}[/dim]",
            "" if run.steps is None else str(run.steps),
            escape(_last_values(run.metrics)),
            _delivery_words(run.deliveries),
        )
    return table


def status_text(status: str) -> str:
    """A status in its colour."""
    colour = STATUS_COLOURS.get(status, "red")
    return f"[{colour}]{status}[/{colour}]"


def when(seconds: float | None) -> str:
    """A point in time, in local time; what is none, as it is."""
    if seconds is None:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


def _last_values(metrics: dict[str, float]) -> str:
    """The first few, the speed and time of evaluations last."""
    technical = ("runtime", "per_second", "epoch", "learning_rate", "grad_norm")
    names = sorted(metrics, key=lambda name: name.endswith(technical))[:_SHOWN_METRICS]
    more = len(metrics) - len(names)
    shown = [f"{name} {metrics[name]:.4g}" for name in names]
    return "\n".join([*shown, f"and {more} more"] if more else shown)


def _delivery_words(rows: Sequence[Delivery]) -> str:
    """One word if all is well, else who isn't."""
    behind = [row for row in rows if not row.done and row.state != "removed"]
    complete = sum(row.done for row in rows)
    if not rows:
        return "[dim]no tracker[/dim]"
    if not behind:
        return f"[green]{complete} complete[/green]"
    by_state = Counter(row.state if not row.refused else f"{row.state}, some set aside" for row in behind)
    words = ", ".join(f"{count} {state}" for state, count in by_state.items())
    return f"{complete} complete, [yellow]{words}[/yellow]" if complete else f"[yellow]{words}[/yellow]"
