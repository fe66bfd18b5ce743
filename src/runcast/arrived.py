"""What of the events behind the cursor has arrived, told from what the tracker has.

A courier that died, or a request whose answer was lost, leaves at most one batch of events in doubt. Of those, each point
is counted in the tracker by kind, name, step and millisecond (the one beside it is as good, as some trackers round a time
and some cut it off); those that the journal has before the cursor are taken off; what is left has arrived, in the order
of the journal. In doubt are also events before the cursor that were set aside, as these are tried again.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from typing import TypeAlias

import msgspec

from runcast import events
from runcast.events import Event, Unknown
from runcast.journal import Entry, Journal
from runcast.record import RunRecord
from runcast.superseded import Superseded

_Key: TypeAlias = tuple[str, str, int, int]

_SERIES: dict[type[Event], str] = {
    events.Text: "texts",
    events.Image: "images",
    events.Table: "tables",
    events.Histogram: "histograms",
}


class Arrived:
    """The points in doubt that have arrived.

    Args:
        record: What the tracker has.
        journal: The run's.
        cursor: Where the doubt begins.
        superseded: What the tracker was never to have.
        most: How many events behind the cursor may be in doubt.
        aside: Where the events are that were set aside.

    Attributes:
        end: Where the doubt ends.
    """

    def __init__(
        self,
        record: RunRecord,
        journal: Journal,
        cursor: int,
        superseded: Superseded,
        most: int,
        aside: Collection[int] = (),
    ) -> None:
        behind = list(itertools.islice(journal.read(cursor), most))
        self.end = behind[-1].end if behind else cursor
        before = (next(journal.read(offset), None) for offset in sorted(aside) if offset < cursor)
        doubtful = [*(entry for entry in before if entry is not None), *behind]
        wanted = {key[:3] for entry in doubtful for key in _keys(entry.event)}
        self._left = Counter(key for key in _stored(record) if key[:3] in wanted)
        # Of an artifact that is logged again, the tracker has the last version that arrived, and so the ones before it.
        self._stored: dict[str, int] = {}
        for entry in doubtful:
            if isinstance(entry.event, events.Artifact) and _is_stored(entry.event, record):
                self._stored[entry.event.name] = entry.start
        if wanted and self._left:
            for entry in itertools.takewhile(lambda entry: entry.start < cursor, journal.read()):
                for key in () if superseded.covers(entry) or entry.start in aside else _keys(entry.event):
                    if key[:3] in wanted:
                        self._take(key)

    def rest(self, entry: Entry) -> Event | Unknown | None:
        """The event without what has arrived of it; None if nothing is left."""
        event = entry.event
        if entry.start >= self.end:
            return event
        if isinstance(event, events.Metrics):
            missing = {
                name: value
                for (name, value), key in zip(event.values.items(), _keys(event), strict=True)
                if not self._take(key)
            }
            return msgspec.structs.replace(event, values=missing) if missing else None
        if isinstance(event, events.Artifact):
            return None if entry.start <= self._stored.get(event.name, -1) else event
        return None if any(self._take(key) for key in _keys(event)) else event

    def _take(self, key: _Key) -> bool:
        kind, name, step, ms = key
        for near in (ms - 1, ms, ms + 1):  # the first, as they arrive in order
            if self._left[kind, name, step, near] > 0:
                self._left[kind, name, step, near] -= 1
                return True
        return False


def _is_stored(event: events.Artifact, record: RunRecord) -> bool:
    stored = record.artifacts.get(event.name)
    if stored is None or (stored.kind, stored.step) != (event.kind, event.step):
        return False
    files = {path: (content.size, content.sha256) for path, content in stored.files.items()}
    return files == {file.path: (file.size, file.sha256) for file in event.files}


def _keys(event: Event | Unknown) -> Iterator[_Key]:
    if isinstance(event, events.Metrics):
        for name in event.values:
            yield "metrics", name, event.step, round(event.time * 1000)
    elif isinstance(event, events.Text | events.Image | events.Table | events.Histogram):
        yield _SERIES[type(event)], event.key, event.step, round(event.time * 1000)


def _stored(record: RunRecord) -> Iterator[_Key]:
    for kind in ("metrics", *_SERIES.values()):
        for name, points in getattr(record, kind).items():
            for point in points:
                yield kind, name, point.step, round(point.time * 1000)
