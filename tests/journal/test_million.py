"""A journal of a million events is read, and delivered, within a memory that doesn't depend on its size."""

from __future__ import annotations

import json

import pytest

from runcast import events
from runcast.courier import BATCH
from runcast.journal import FILE_NAME, Journal

EVENTS = 1_000_000
BLOCK = 10_000

PRELUDE = """
import json, os, sys
from pathlib import Path
import psutil
from runcast.journal import FILE_NAME, Journal

run_dir = Path(sys.argv[1])
process = psutil.Process()
most = 0

def look():
    global most
    most = max(most, process.memory_info().rss)
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run of a million numbers."""
    folder = tmp_path_factory.mktemp("million")
    journal = Journal(folder / FILE_NAME)
    writer = events.Writer(pid=2**31 - 1, started=0.0, host="elsewhere")
    journal.append(events.RunStarted(time=0.0, run_id="r", project="p", name="n", writer=writer))
    line = events.encode(events.Metrics(time=1.5, step=-1, values={"train/loss": 0.123456789})) + b"\n"
    before, after = line.split(b"-1")
    with journal.path.open("ab") as file:
        for first in range(0, EVENTS, BLOCK):
            file.write(b"".join(b"%b%d%b" % (before, step, after) for step in range(first, first + BLOCK)))
    journal.append(events.RunFinished(time=2.0, status="completed"))
    journal.close()
    return folder


@pytest.fixture
def child(python, run_dir):
    """Runs code in a process of its own; the answer is the dict that it calls `answer`."""

    def call(code: str):
        done = python(PRELUDE + code + "\nprint('\\n' + json.dumps(answer))", str(run_dir))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


def test_reading_takes_no_more_memory_for_more_events(child, run_dir):
    """All are read, in order, in a sliver of the memory that the file would take."""
    answer = child(
        """
journal = Journal(run_dir / FILE_NAME)
journal.start()
look()
least, count, in_order = most, 0, True
for number, entry in enumerate(journal.read()):
    count += 1
    if number % 1000 == 500:
        in_order = in_order and entry.event.step == number - 1
        look()
answer = dict(count=count, in_order=in_order, grown=most - least, lines=journal.count())
"""
    )
    size = (run_dir / FILE_NAME).stat().st_size
    assert answer["count"] == answer["lines"] == EVENTS + 2
    assert answer["in_order"]
    assert answer["grown"] < size / 4


def test_delivery_is_in_batches(child, run_dir):
    """A tracker gets all of them, in order, at most a batch at once, and the courier's memory stays small too."""
    answer = child(
        """
from runcast.courier import Courier
from runcast.reporter import Reporter

class Counting(Reporter):
    name = "counting"
    count = 0
    largest = 0
    in_order = True
    status = None

    def log_metrics(self, metrics, step, time):
        raise AssertionError("one by one")

    def log_metrics_batch(self, batch):
        steps = [event.step for event in batch]
        self.in_order = self.in_order and steps == list(range(self.count, self.count + len(steps)))
        self.count += len(steps)
        self.largest = max(self.largest, len(steps))
        look()

    def close(self, status):
        self.status = status

reporter = Counting()
courier = Courier(run_dir, reporter)
look()
least = most
while courier.advance() is not None:
    pass
answer = dict(count=reporter.count, largest=reporter.largest, in_order=reporter.in_order, status=reporter.status,
              state=courier.state.state, events=courier.state.events, grown=most - least)
"""
    )
    assert answer["count"] == EVENTS
    assert answer["in_order"]
    assert 1 < answer["largest"] <= BATCH
    assert (answer["state"], answer["status"], answer["events"]) == ("complete", "completed", EVENTS + 2)
    assert answer["grown"] < (run_dir / FILE_NAME).stat().st_size / 4


def test_line_without_an_end_is_read_once(tmp_path, monkeypatch):
    """A line of very many chunks is put together once, not again with each chunk: that would take hours here."""
    monkeypatch.setattr("runcast.journal._CHUNK", 64)
    path = tmp_path / FILE_NAME
    path.write_bytes(b"x" * 16_000_000)
    journal = Journal(path)
    assert list(journal.read()) == []
    assert journal.torn_bytes() == 16_000_000
    with path.open("ab") as file:
        file.write(b"\n" + events.encode(events.Tags(time=0.0, tags=("a",))) + b"\n")
    damage = []
    (entry,) = journal.read(on_damage=damage.append)
    assert entry.start == 16_000_001
    assert [(said.offset, said.size) for said in damage] == [(0, 16_000_000)]
