"""What of a batch in doubt has arrived, told from times that trackers round or cut off."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from runcast import events
from runcast.arrived import Arrived
from runcast.journal import Journal
from runcast.record import Point, RunRecord, TextPoint
from runcast.superseded import Superseded

TIMES = [1795754709.4465002, 1795754709.4479998, 1795754709.4485002, 1795754709.449]
KEPT: dict[str, Callable[[float], float]] = {
    "as it is": lambda time: time,
    "microseconds, cut off": lambda time: math.floor(time * 1e6) / 1e6,
    "microseconds, rounded": lambda time: round(time, 6),
    "milliseconds, cut off": lambda time: math.floor(time * 1e3) / 1e3,
    "milliseconds, rounded": lambda time: round(time, 3),
}


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("arrived", range(len(TIMES) + 1))
def test_the_rest_is_what_has_not_arrived(how: str, arrived: int, tmp_path: Path) -> None:
    """Also of points of one name and step, whose times differ by little; before the cursor nothing is counted."""
    journal = Journal(tmp_path / "journal.jsonl")
    for time in (TIMES[0] - 0.0007, *TIMES):
        journal.append(events.Metrics(time=time, step=3, values={"loss": 0.5, "accuracy": 1.0}))
        journal.append(events.Text(time=time, step=3, key="note", text="hello"))
    entries = list(journal.read())
    kept = [KEPT[how](time) for time in (TIMES[0] - 0.0007, *TIMES[:arrived])]
    record = RunRecord(
        metrics={"loss": [Point(3, 0.5, time) for time in kept]},
        texts={"note": [TextPoint(3, "hello", time) for time in kept]},
    )
    found = Arrived(record, journal, entries[2].start, Superseded(), 1000)
    rest = [found.rest(entry) for entry in entries[2:]]
    metrics = [event.values for event in rest[::2] if isinstance(event, events.Metrics)]
    whole = {"loss": 0.5, "accuracy": 1.0}
    assert metrics == [{"accuracy": 1.0}] * arrived + [whole] * (len(TIMES) - arrived)
    assert [event is None for event in rest[1::2]] == [True] * arrived + [False] * (len(TIMES) - arrived)
