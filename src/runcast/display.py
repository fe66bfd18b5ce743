"""What people see while and after a run is delivered: a bar per tracker, then a table.

Names, texts and errors may come from a stranger's run folder or from a server, and so hold what a terminal obeys: all of
them pass `visible`, `line` or `harmless` on their way to one.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast

import msgspec

_drawn = random.getstate()  # rich draws from Python's generator when it is imported, and that is training's
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.table import Table  # noqa: E402

random.setstate(_drawn)

from runcast.delivery import Delivery  # noqa: E402

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_COLOURS = {"complete": "green", "failed": "red", "retrying": "yellow", "pending": "yellow", "removed": "dim"}

T = TypeVar("T")

# Controls, what turns the direction of writing around, separators of lines and paragraphs, halves of surrogate pairs.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with what a terminal would obey written as escapes; ends of lines and tabs stay."""
    return _OBEYED.sub(lambda match: ascii(match[0])[1:-1], text)


def line(text: str) -> str:
    """`visible`, in one line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def harmless(value: T) -> T:
    """A structure whose texts are `visible` and whose keys are each one `line`."""
    return cast("T", _harmless(value))


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {line(str(key)): _harmless(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_harmless, value))
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(
            value, **{name: _harmless(getattr(value, name)) for name in value.__struct_fields__}
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{field.name: _harmless(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return value


def stderr() -> Console:
    """Where messages go: never standard output, which belongs to the user's program."""
    return Console(stderr=True, soft_wrap=True)


def delivery_table(title: str, deliveries: Sequence[Delivery]) -> Table:
    """Tracker, state, delivered/total, where to look."""
    table = Table(title=escape(line(title)), title_justify="left", title_style="bold")
    for column in ("tracker", "state", "delivered", "where to look"):
        table.add_column(column, overflow="fold", justify="right" if column == "delivered" else "left")
    for row in deliveries:
        state = row.state + (f", {row.refused} set aside" if row.refused else "")
        colour = "yellow" if row.refused else _COLOURS.get(row.state, "cyan")
        where = escape(line(row.where or ""))
        if row.detail and not row.done:
            where = f"{where}\n[dim]{escape(visible(row.detail))}[/dim]".strip()
        table.add_row(escape(line(row.name)), f"[{colour}]{state}[/{colour}]", f"{row.delivered}/{row.total}", where)
    return table


class Bar(NamedTuple):
    """One line of progress."""

    label: str
    done: int
    total: int
    words: str


class DeliveryProgress:
    """Bars while somebody waits; nothing where the output is no terminal.

    Attributes:
        shown: Whether it is one.
    """

    def __init__(self) -> None:
        self.shown = False
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        console = stderr()
        self.shown = console.is_terminal
        if self.shown:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[words]}"),
            )
            self._progress = Progress(*columns, console=console, transient=True)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, bars: Sequence[Bar]) -> None:
        """Shows these bars, and no others."""
        if self._progress is None:
            return
        for label in self._tasks.keys() - {bar.label for bar in bars}:
            self._progress.remove_task(self._tasks.pop(label))
        for label, done, total, words in bars:
            if label not in self._tasks:
                self._tasks[label] = self._progress.add_task(escape(line(label)), total=total, words=words)
            self._progress.update(self._tasks[label], completed=done, total=total, words=words)
