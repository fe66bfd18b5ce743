"""``runcast verify``: compares every tracker with the journal, number by number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from runcast.cli import output
from runcast.delivery import Delivery
from runcast.display import harmless
from runcast.verify import KINDS, Tally, Verification


class VerifiedTracker(msgspec.Struct):
    """A tracker's verification, and how far its delivery is; `ok` if it has everything, and the same."""

    name: str
    ok: bool
    compared: dict[str, Tally]
    differences: list[str]
    unsupported: list[str]
    error: str | None
    delivery: Delivery | None

    @property
    def matched(self) -> int:
        """Values that match, of all kinds."""
        return sum(tally.matched for tally in self.compared.values())

    @property
    def total(self) -> int:
        """Values that the journal has, of the kinds that the tracker can hold."""
        return sum(tally.total for tally in self.compared.values())


class Verified(msgspec.Struct):
    """What ``runcast verify`` says of a run; `ok` if there are trackers, and all of them are."""

    run: str
    dir: str
    ok: bool
    trackers: list[VerifiedTracker]


def verify(
    run: output.RunArgument,
    tracker: Annotated[
        list[str] | None,
        typer.Option("--tracker", metavar="NAME", help="Only this tracker; may be given several times."),
    ] = None,
    as_json: output.AsJson = False,
) -> int:
    """Read every tracker back and compare it with the run's journal."""
    from runcast.folder import find_run

    found = verify_run(find_run(run), tracker)
    output.show(found, as_json, *_views(harmless(found)))
    return 0 if found.ok else 1


def verify_run(run_dir: Path, names: Sequence[str] | None = None) -> Verified:
    """Compares trackers with the journal of a run.

    Args:
        run_dir: The run folder.
        names: Which trackers, aliases allowed; default: all that the run was reported to and that can be read back.

    Raises:
        UnknownTrackerError: Neither the run nor the registry knows a name.
    """
    from runcast.sync import delivered, how_far, is_open
    from runcast.verify import verify as verify_trackers

    rows = {row.name: row for row in how_far(run_dir)}
    still_written = is_open(run_dir)
    complete = {name for name, row in rows.items() if delivered(row, still_written=still_written)}
    chosen = [name if name in rows else _canonical(name) for name in names] if names else None
    results = verify_trackers(run_dir, chosen)
    if chosen is None:  # those that can't be read back can still be behind
        unread = rows.keys() - complete - {result.name for result in results}
        results += [Verification(name, error="can't be read back") for name in sorted(unread)]
    trackers = [_tracker(result, rows.get(result.name), result.name in complete) for result in results]
    return Verified(run_dir.name, str(run_dir), bool(trackers) and all(tracker.ok for tracker in trackers), trackers)


def _canonical(name: str) -> str:
    from runcast.registry import reporter_class

    return reporter_class(name).name


def _tracker(result: Verification, row: Delivery | None, has_all: bool) -> VerifiedTracker:
    return VerifiedTracker(
        name=result.name,
        ok=result.matches and has_all,
        compared=result.compared,
        differences=result.differences,
        unsupported=result.unsupported,
        error=result.error,
        delivery=row,
    )


# -- the views of it ---------------------------------------------------------------------------------------------------


def _views(found: Verified) -> list[RenderableType]:
    if not found.trackers:
        return [f"{escape(found.dir)} was reported to no tracker that can be read back: nothing to compare"]
    return [f"[bold]{escape(found.dir)}[/bold]", _table(found), *_details(found.trackers)]


def _table(found: Verified) -> Table:
    trackers = found.trackers
    names = tuple(escape(tracker.name) for tracker in trackers)
    table = output.table("", *names, right=names)
    for kind in KINDS:
        if any(_has(tracker, kind) for tracker in trackers):
            table.add_row(kind, *(_cell(tracker, kind) for tracker in trackers))
    table.add_section()
    table.add_row("delivered", *(_delivered(tracker.delivery) for tracker in trackers))
    table.add_row("matches", *("[green]yes[/green]" if tracker.ok else "[red]no[/red]" for tracker in trackers))
    return table


def _delivered(row: Delivery | None) -> str:
    if row is None:
        return ""
    words = f"{row.delivered}/{row.total}"
    return words if row.delivered == row.total else f"[red]{words}[/red]"


def _has(tracker: VerifiedTracker, kind: str) -> bool:
    tally = tracker.compared.get(kind)
    return kind in tracker.unsupported or (tally is not None and tally.total > 0)


def _cell(tracker: VerifiedTracker, kind: str) -> str:
    tally = tracker.compared.get(kind)
    if tally is None:
        return "" if tracker.error else "—"
    words = f"{tally.matched}/{tally.total}"
    return words if tally.matched == tally.total else f"[red]{words}[/red]"


def _details(trackers: Sequence[VerifiedTracker]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for tracker in trackers:
        row = tracker.delivery
        words = [tracker.error] if tracker.error else tracker.differences
        if row is not None and not row.done:
            words = [
                f"{row.state}, {row.delivered} of {row.total} events delivered. {row.detail or ''}".strip(),
                *words,
            ]
        if not tracker.ok:
            lines += [Text(f"{tracker.name}: {word}") for word in words]
    return lines
