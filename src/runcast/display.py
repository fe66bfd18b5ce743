"""What people see while and after a run is delivered: a bar per tracker, then a table."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runcast.delivery import Delivery

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_COLOURS = {"complete": "green", "failed": "red", "retrying": "yellow", "pending": "yellow", "removed": "dim"}


def stderr() -> Console:
    """Where messages go: never standard output, which belongs to the user's program."""
    return Console(stderr=True, soft_wrap=True)


def delivery_table(title: str, deliveries: Sequence[Delivery]) -> Table:
    """Tracker, state, delivered/total, where to look."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for column in ("tracker", "state", "delivered", "where to look"):
        table.add_column(column, overflow="fold", justify="right" if column == "delivered" else "left")
    for row in deliveries:
        state = row.state + (f", {row.refused} set aside" if row.refused else "")
        colour = "yellow" if row.refused else _COLOURS.get(row.state, "cyan")
        where = escape(row.where or "")
        if row.detail and not row.done:
            where = f"{where}\n[dim]{escape(row.detail)}[/dim]".strip()
        table.add_row(escape(row.name), f"[{colour}]{state}[/{colour}]", f"{row.delivered}/{row.total}", where)
    return table


class DeliveryProgress:
    """A bar per tracker while somebody waits; nothing where the output is no terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        console = stderr()
        if console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._progress = Progress(*columns, console=console, transient=True)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, deliveries: Sequence[Delivery]) -> None:
        """Shows how far each tracker is."""
        if self._progress is None:
            return
        for row in deliveries:
            if row.name not in self._tasks:
                self._tasks[row.name] = self._progress.add_task(escape(row.name), total=row.total, state="")
            self._progress.update(self._tasks[row.name], completed=row.delivered, total=row.total, state=row.state)
