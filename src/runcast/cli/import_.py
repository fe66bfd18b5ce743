"""``runcast import``: run folders made of what a tracker stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from runcast.cli import output
from runcast.cli.runs import runs_folder
from runcast.display import line, stderr
from runcast.reporter import NativeRun, Reporter


class ImportedRun(msgspec.Struct):
    """What became of one stored run.

    Attributes:
        native: The tracker's own id.
        run: Its id here; None if it could not be read.
        already: Whether all of it was here before.
        error: Why it could not be read.
    """

    native: str
    run: str | None = None
    dir: str | None = None
    already: bool = False
    error: str | None = None


def import_(
    tracker: Annotated[str, typer.Argument(metavar="NAME", help="The tracker, as in report_to.")],
    source: Annotated[
        str,
        typer.Argument(metavar="PATH_OR_ID", help="A file, a run's folder, a store of runs, or the tracker's own id."),
    ],
    parent: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Parent of run folders. Default: $RUNCAST_DIR or ./runs."),
    ] = None,
    as_json: output.AsJson = False,
) -> int:
    """Make run folders of what a tracker stored. One that was cut short goes on when it is asked for again."""
    from runcast.importer import importing_reporter

    reporter = importing_reporter(tracker)
    with output.clean_stdout(as_json), output.expected(LookupError, ValueError, OSError):
        natives = list(reporter.find_runs(source))
    with output.clean_stdout(as_json):
        found = [_imported(reporter, native, parent or runs_folder()) for native in natives]
    table = output.table("stored run", "run folder", "", whole=("run folder",))
    for row in found:
        state = row.error or ("was here already" if row.already else "imported")
        table.add_row(escape(line(row.native)), escape(line(row.dir or "")), escape(line(state)))
    here = [row.run for row in found if row.run]
    hint = f"Send it on with: runcast replay {here[0]} --to NAMES" if here else ""
    output.show(found, as_json, table, *filter(None, [escape(line(hint))]))
    return 1 if any(row.error for row in found) else 0


def _imported(reporter: Reporter, native: NativeRun, parent: Path) -> ImportedRun:
    from runcast.importer import import_run

    try:
        with _progress(native.id) as told:
            done = import_run(reporter, native, parent, told)
    except Exception as error:  # whatever an SDK or damage raises: the other runs are imported all the same
        return ImportedRun(native.id, error=f"{type(error).__name__}: {error}")
    return ImportedRun(native.id, done.run, done.dir, done.already)


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True) as progress:
        task = progress.add_task(escape(line(label)), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
