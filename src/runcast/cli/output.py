"""What all subcommands do with what they found: print it as JSON or as tables, one line for what went wrong."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from runcast import events
from runcast.errors import RuncastError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, a run id, or the beginning of an id.")]
Timeout = Annotated[float, typer.Option(min=0.0, help="Seconds to wait at most.")]

_WIDTH_OF_FILES = 200
"""Columns for tables where standard output is no terminal."""


class UsageError(RuncastError, ValueError):
    """What was asked for can't be done as asked; the message says what to do instead."""


@contextlib.contextmanager
def expected(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds inside are the user's to mend: shown as one line."""
    try:
        yield
    except RuncastError:
        raise
    except kinds as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def clean_stdout(wanted: bool) -> Iterator[None]:
    """With ``--json``, standard output carries the result alone; what libraries print goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def show(value: Any, as_json: bool, *views: RenderableType) -> None:
    """Prints a structure: itself as JSON, or the views of it."""
    if as_json:
        print(json.dumps(jsonable(value), indent=2))
        return
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_FILES
    for view in views:
        console.print(view, soft_wrap=isinstance(view, str | Text))


def jsonable(value: Any) -> Any:
    """A structure as JSON values; NaN and infinities as the words that the journal uses."""
    return _finite(events.plain(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return events.float_name(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """An empty table in the one style of the command line; `right` names columns of numbers, `whole` unbroken ones."""
    grid = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        grid.add_column(
            column, overflow="fold", justify="right" if column in right else "left", no_wrap=column in (*right, *whole)
        )
    return grid


def number(value: float) -> str:
    """A number, short."""
    return f"{value:.6g}"
