"""The journal, and what damage does to it."""

from __future__ import annotations

import os
import stat

import psutil
import pytest

import runcast
from runcast import events
from runcast.errors import JournalError, RunFolderError
from runcast.journal import Damage, Journal
from runcast.reporter import Reporter

WRITER = events.Writer(pid=1, started=2.5, host="here")
START = events.RunStarted(time=0.0, run_id="r", project="p", name="n", writer=WRITER)


class Nobody(Reporter):
    """Takes everything."""

    name = "nobody"

    def log_metrics(self, metrics, step, time):
        pass


def metric(step: int) -> events.Metrics:
    return events.Metrics(time=float(step), step=step, values={"loss": step / 7})


@pytest.fixture
def journal(tmp_path):
    """A journal of a start and three numbers."""
    journal = Journal(tmp_path / "journal.jsonl")
    for event in (START, metric(0), metric(1), metric(2)):
        journal.append(event)
    return journal


def everything(journal, cursor=0):
    damage: list[Damage] = []
    return [entry.event for entry in journal.read(cursor, damage.append)], damage


def test_events_come_back_in_order(journal):
    """Reading gives what was appended, in order, without damage."""
    assert everything(journal) == ([START, metric(0), metric(1), metric(2)], [])


def test_every_cursor_reads_what_stands_behind_it(journal):
    """The end of each entry is a cursor from which exactly the rest is read."""
    entries = list(journal.read())
    for number, entry in enumerate(entries):
        assert [later.event for later in journal.read(entry.end)] == [later.event for later in entries[number + 1 :]]
    assert list(journal.read(entries[-1].end + 1000)) == []


def test_an_event_is_one_write(journal, monkeypatch):
    """`append` makes exactly one write(2)."""
    calls = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: calls.append(data) or write(fd, data))
    journal.append(metric(3))
    assert len(calls) == 1
    assert calls[0].endswith(b"\n")


def test_journal_is_private(journal):
    """Only the user can read it."""
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


def test_torn_last_line_is_not_yet_an_event(journal):
    """Cut at every byte, the reader gives the whole lines, raises nothing and reports no damage."""
    data = journal.path.read_bytes()
    ends = [entry.end for entry in journal.read()]
    for cut in range(len(data)):
        journal.path.write_bytes(data[:cut])
        found, damage = everything(journal)
        assert len(found) == sum(end <= cut for end in ends)
        assert damage == []
        assert journal.torn_bytes() == cut - max((end for end in ends if end <= cut), default=0)


def test_line_that_is_completed_later_is_read_then(journal):
    """A reader that tails sees an event when its newline has come, and not before."""
    cursor = [entry.end for entry in journal.read()][-1]
    line = events.encode(metric(3)) + b"\n"
    with journal.path.open("ab") as file:
        file.write(line[:10])
        file.flush()
        assert everything(journal, cursor) == ([], [])
        file.write(line[10:])
    assert everything(journal, cursor) == ([metric(3)], [])


@pytest.mark.parametrize("garbage", [b"garbage", b"\x00" * 100, b'{"type":"metrics","step":1}', b"\xff\xff"])
def test_damaged_line_is_skipped_and_said(journal, garbage):
    """What is no event is reported with place, size and reason; everything around it is read."""
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([lines[0], lines[1], garbage + b"\n", *lines[2:]]))
    found, damage = everything(journal)
    assert found == [START, metric(0), metric(1), metric(2)]
    assert [(d.offset, d.size) for d in damage] == [(len(lines[0]) + len(lines[1]), len(garbage))]
    assert "not an event" in damage[0].reason


def test_any_single_changed_byte_costs_at_most_its_line(journal):
    """Whatever byte changes, reading raises nothing and the other lines are read."""
    data = journal.path.read_bytes()
    for place in range(len(data)):
        journal.path.write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
        found, damage = everything(journal)
        assert len(found) + len(damage) >= 2  # a lost newline joins two lines
        assert sum(event in (START, metric(0), metric(1), metric(2)) for event in found) >= 2


def test_writer_goes_on_behind_a_torn_line(journal):
    """After a crash in the middle of a line the next writer's events are whole; the torn one is reported."""
    with journal.path.open("ab") as file:
        file.write(b'{"type":"metr')
    second = Journal(journal.path)
    second.append(metric(9))
    second.append(metric(10))
    found, damage = everything(journal)
    assert found[-2:] == [metric(9), metric(10)]
    assert [d.size for d in damage] == [13]


def test_short_write_is_an_error_and_costs_one_event(journal, monkeypatch):
    """When the disk takes only part of a line, `append` says so, and what comes later is whole."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(OSError, match="only 20 of"):
        journal.append(metric(3))
    monkeypatch.undo()
    journal.append(metric(4))
    found, damage = everything(journal)
    assert found[-1] == metric(4)
    assert len(damage) == 1


@pytest.mark.parametrize("missing", range(1, 4))
def test_event_that_was_lost_is_not_read_after_all(journal, monkeypatch, missing):
    """An event whose newline alone didn't fit is lost like any other: what is said of it stays true."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:-missing]))
    with pytest.raises(OSError, match="bytes fitted"):
        journal.append(metric(3))
    monkeypatch.undo()
    journal.append(metric(4))
    found, damage = everything(journal)
    assert found[-2:] == [metric(2), metric(4)]
    assert len(damage) == 1


def test_whole_event_without_its_newline_is_kept_by_the_next_writer(journal):
    """When the last byte of the file is gone, the next writer's newline completes the event."""
    os.truncate(journal.path, journal.path.stat().st_size - 1)
    Journal(journal.path).append(metric(3))
    assert everything(journal) == ([START, metric(0), metric(1), metric(2), metric(3)], [])


def test_closing_makes_the_events_durable(journal, monkeypatch):
    """`close` syncs the file, once; where that can't be done it closes all the same."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    journal.close()
    journal.close()
    assert synced == [journal.path.stat().st_ino]

    def refuse(_fd):
        raise OSError("not here")

    monkeypatch.setattr(os, "fsync", refuse)
    journal.append(metric(3))
    journal.close()
    journal.append(metric(4))
    assert everything(journal)[0][-2:] == [metric(3), metric(4)]


def test_link_is_not_written_through(journal, tmp_path):
    """A link in the journal's place is an error for the writer; a link to the run folder is none."""
    (tmp_path / "elsewhere").symlink_to(journal.path)
    before = journal.path.read_bytes()
    with pytest.raises(RunFolderError, match="can't write the journal: it is a link"):
        Journal(tmp_path / "elsewhere").append(metric(3))
    assert journal.path.read_bytes() == before
    (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
    Journal(tmp_path / "folder" / journal.path.name).append(metric(3))
    assert everything(journal)[0][-1] == metric(3)


def test_run_is_resumed_through_a_link_to_its_folder(tmp_path):
    """Many people keep their runs on another disk, behind a link."""
    run = runcast.start_run(Nobody(), dir=tmp_path / "disk", delivery="inline")
    run.finish()
    (tmp_path / "runs").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "latest").symlink_to(run.dir, target_is_directory=True)
    for link in (tmp_path / "runs" / run.id, tmp_path / "latest"):
        with runcast.start_run(Nobody(), resume=link, delivery="inline") as resumed:
            resumed.log({"loss": 1.0})
    assert len(runcast.read_run(run.dir).metrics["loss"]) == 2


def test_writer_leaves_no_descriptor_open_behind_an_error(tmp_path):
    """A file that can't be looked at is closed again."""
    os.mkfifo(tmp_path / "pipe")
    before = psutil.Process().num_fds()
    with pytest.raises(RunFolderError):
        Journal(tmp_path / "no folder" / "journal.jsonl").append(metric(0))
    with pytest.raises(RunFolderError, match="not a regular file"):
        Journal(tmp_path / "pipe").start()
    assert psutil.Process().num_fds() == before


def test_count_is_the_number_of_complete_lines(journal):
    """`count` counts what is there to deliver: each newline ends an event or a damaged line, an empty one too."""
    with journal.path.open("ab") as file:
        file.write(b"\ngarbage\n\ntorn")
    found, damage = everything(journal)
    assert journal.count() == len(found) + len(damage) == 7
    assert [said.size for said in damage] == [0, 7, 0]


def test_large_journal_is_read_across_chunks(tmp_path, monkeypatch):
    """Lines that straddle the reader's chunks are whole."""
    monkeypatch.setattr("runcast.journal._CHUNK", 64)
    journal = Journal(tmp_path / "journal.jsonl")
    wanted = [START, *map(metric, range(100)), events.Text(time=0.0, step=0, key="k", text="x" * 5000)]
    for event in wanted:
        journal.append(event)
    assert everything(journal) == (wanted, [])


def test_what_is_no_journal_says_so(tmp_path):
    """A missing file, an empty one, a foreign one and one of a newer format each have their error."""
    path = tmp_path / "journal.jsonl"
    with pytest.raises(RunFolderError, match="no journal here"):
        Journal(path).start()
    path.write_bytes(b"")
    with pytest.raises(JournalError, match="not a run's journal"):
        Journal(path).start()
    path.write_bytes(events.encode(metric(0)) + b"\n")
    with pytest.raises(JournalError, match="not a run's journal"):
        Journal(path).start()
    path.write_bytes(events.encode(START).replace(b'"format":1', b'"format":2') + b"\n")
    with pytest.raises(JournalError, match="pip install -U runcast"):
        Journal(path).start()
