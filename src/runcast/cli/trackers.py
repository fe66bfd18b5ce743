"""``runcast trackers``: which trackers there are, and why one can't be used."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from runcast.cli import output
from runcast.display import harmless
from runcast.reporter import Availability

_COLOURS = {"ready": "green", "on request": "cyan", "missing": "dim"}


def trackers(as_json: output.AsJson = False) -> int:
    """List every known tracker: status, version, mode, and what to do about one that can't be used."""
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
