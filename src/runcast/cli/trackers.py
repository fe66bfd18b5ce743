"""``runcast trackers``: which trackers there are, why one can't be used, and what each can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from runcast.capabilities import Capabilities, Capability, features
from runcast.cli import output
from runcast.display import harmless
from runcast.reporter import Availability

_COLOURS = {"ready": "green", "on request": "cyan", "missing": "dim"}


def trackers(
    capabilities: Annotated[
        bool,
        typer.Option("--capabilities", help="What each tracker can hold, from the results of the conformance kit."),
    ] = False,
    as_json: output.AsJson = False,
) -> int:
    """List every known tracker: status, version, mode, and what to do about one that can't be used."""
    if capabilities:
        from runcast.capabilities import known_capabilities

        known = known_capabilities()
        output.show(known, as_json, *_capabilities(known))
        return 0
    from runcast.registry import available_reporters

    found = available_reporters()
    output.show(found, as_json, _view(harmless(found)))
    return 0


def _view(found: Sequence[Availability]) -> Table:
    table = output.table("tracker", "status", "version", "mode", "remarks")
    for tracker in found:
        colour = _COLOURS.get(tracker.status, "red")
        table.add_row(
            escape(tracker.name),
            f"[{colour}]{tracker.status}[/{colour}]",
            tracker.version or "",
            tracker.mode or "",
            escape(tracker.reason),
        )
    return table


def _capabilities(found: Capabilities) -> list[RenderableType]:
    """A row a feature, a column a tracker, and below in words what goes another way."""
    table = output.table("", *found, whole=tuple(found))
    notes: list[str] = []
    for feature in features(found):
        cells = []
        for tracker, row in found.items():
            seen = row.get(feature)
            if seen is not None and seen.how and seen.result == "yes":
                notes.append(f"{len(notes) + 1}  {tracker}, {feature}: {seen.how}")
                cells.append(f"[green]yes[/green] [dim]{len(notes)}[/dim]")
            else:
                cells.append(_cell(seen))
        table.add_row(feature, *cells)
    return [table, *(escape(note) for note in notes)]


def _cell(seen: Capability | None) -> str:
    match seen:
        case None:
            return ""
        case Capability(result="yes"):
            return "[green]yes[/green]"
        case Capability(result="no"):
            return "[dim]no[/dim]"
    return "[red]failed[/red]"
