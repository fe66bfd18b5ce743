"""Flyte: a deck of the task that a run is logged in, to look at in Flyte's console.

A deck is HTML that flytekit writes when the task ends, so there is nothing to read back, and it can be made by the task's
own process only: delivery is a thread there. Everything is in one page: metrics as curves and with their last values,
config, summary, tags, status, images, tables, histograms, texts. Its size has a bound: of long series every so many
points are drawn, and of everything else the newest are kept; the page says what is left out.
"""

from __future__ import annotations

import sys
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from runcast.events import RunStatus
from runcast.flatten import flatten
from runcast.record import merge
from runcast.reporter import Availability, NativeRun, Reporter, Requirement, RunInfo, offline
from runcast.reporters._flyte_page import Page, moment
from runcast.reporters._versions import requirement

_PERIOD = 10.0
"""Seconds between two makings of the page, at least: they take time of the training process."""


class FlyteReporter(Reporter):
    """Adds a deck to the task that `runcast.start_run` is called in: one with ``@task(enable_deck=True)``."""

    name: ClassVar[str] = "flyte"
    requires: ClassVar[Requirement] = requirement("flyte")
    in_process: ClassVar[bool] = True
    _decks: list[Any] | None = None

    @classmethod
    def availability(cls) -> Availability:
        found = super().availability()
        if found.status == "ready" and _decks() is None:
            reason = "not in a Flyte task that writes decks: @task(enable_deck=True)"
            return replace(found, status="inactive", reason=reason)
        return offline(found, "a deck of this task", mode="local")

    def joins(self) -> bool:
        self._decks = _decks()  # asked in the user's thread; flytekit has another context in each
        return self._decks is not None

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        return self._start(run, attach.data["decks"] if attach is not None else [])

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        decks = self._of_task()
        decks[:] = [deck for deck in decks if deck.name not in old.data["decks"]]
        return self._start(run, [])

    def _start(self, run: RunInfo, earlier: list[str]) -> NativeRun:
        decks = self._of_task()
        taken = {*earlier, *(deck.name for deck in decks)}  # of decks of one name flytekit shows the last
        self._name, number = run.name, 1
        while self._name in taken:
            number += 1
            self._name = f"{run.name} ({number})"
        facts: dict[str, Any] = {"run": run.run_id, "project": run.project}
        if run.group is not None:
            facts["group"] = run.group
        self._page = Page(run.name, facts | {"tags": [], "status": "running", "started": moment(run.started)})
        if earlier:
            self._page.facts["earlier"] = "the run goes on here: an earlier deck has what was logged before"
        self._config: dict[str, Any] = {}
        self._show()
        return NativeRun(run.run_id, f"the deck {self._name!r} of the task", {"decks": [*earlier, self._name]})

    def _of_task(self) -> list[Any]:
        if self._decks is None:
            raise RuntimeError("a deck is written by its own task alone, and this is none: @task(enable_deck=True)")
        return self._decks

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._config = merge(self._config, dict(config))
        self._page.config = flatten(self._config)

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        """As curves of at most 1,000 points, and a table of last, lowest and highest values."""
        for name, value in metrics.items():
            self._page.add_metric(name, step, value)

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        """The newest, up to a megabyte."""
        self._page.add_text(key, text, step)

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        """The newest, up to 16 MB."""
        self._page.add_image(key, image.read_bytes(), step)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        """The newest, up to 2 MB, with their first 100 rows."""
        self._page.add_table(key, columns, rows, step)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        """As bars; the newest, up to a megabyte."""
        self._page.add_histogram(key, counts, edges, step)

    def set_summary(self, values: Mapping[str, Any]) -> None:
        self._page.summary |= values

    def add_tags(self, tags: Sequence[str]) -> None:
        self._page.facts["tags"] = sorted({*self._page.facts["tags"], *tags})

    def flush(self) -> None:
        if clock.monotonic() > self._shown + _PERIOD:
            self._show()

    def close(self, status: RunStatus) -> None:
        """In the deck, which flytekit writes when the task ends."""
        self._page.facts |= {"status": status, "finished": moment(clock.time())}
        self._show()

    def _show(self) -> None:
        """Puts the page as it is in the place of the one before. A plain deck may be sent to another process."""
        from flytekit import Deck

        decks = self._of_task()
        deck = Deck(self._name, self._page.html(), auto_add_to_deck=False)
        for place, other in enumerate(decks):
            if other.name == self._name:
                decks[place] = deck
                break
        else:
            decks.append(deck)
        self._shown = clock.monotonic()


def _decks() -> list[Any] | None:
    """The decks of the Flyte task that this thread is in; None if it is in none, or if that writes no decks."""
    context_manager = sys.modules.get("flytekit.core.context_manager")
    if context_manager is None:  # a task imports it
        return None
    parameters: Any = context_manager.FlyteContextManager.current_context().user_space_params
    return parameters.decks if parameters is not None and parameters.enable_deck else None
