"""``runcast replay``: sends a run to trackers that it never knew."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from runcast.cli import output
from runcast.delivery import Delivery
from runcast.display import delivery_table, line
from runcast.sync import TIMEOUT, delivered, how_far, is_open
from runcast.sync import replay as replay_run


class Replayed(msgspec.Struct):
    """What became of a replay.

    Attributes:
        ok: Whether all of these trackers have the run now.
        already: Those that had it before.
    """

    run: str
    dir: str
    ok: bool
    already: list[str]
    deliveries: list[Delivery]


def replay(
    run: output.RunArgument,
    to: Annotated[str, typer.Option("--to", metavar="NAMES", help='Trackers, comma-separated, or "all".')],
    timeout: output.Timeout = TIMEOUT,
    as_json: output.AsJson = False,
) -> int:
    """Send a run, from its first event on, to trackers that it never knew."""
    from runcast.folder import find_run

    run_dir = find_run(run)
    before = {row.name for row in how_far(run_dir) if row.done}
    with output.clean_stdout(as_json), output.expected(ValueError, TypeError):
        rows = replay_run(run_dir, to, timeout)
    still_written = is_open(run_dir)
    ok = all(delivered(row, still_written=still_written) for row in rows)
    already = [row.name for row in rows if row.name in before]
    found = Replayed(run_dir.name, str(run_dir), ok, already, rows)
    views = [f"{escape(line(name))} already has this run" for name in already]
    output.show(found, as_json, *views, delivery_table(found.dir, rows))
    return 0 if ok else 1
