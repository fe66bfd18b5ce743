"""No input makes a journal unreadable: what is damaged is dropped and told, all else is read."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import runcast
from runcast import events, folder
from runcast import journal as journal_module
from runcast.errors import JournalError, RunFolderError, RuncastError
from runcast.events import Unknown, encode
from runcast.journal import FILE_NAME, Journal
from runcast.writer import this_writer

examples = settings(max_examples=200)

SHA = "0" * 64
EVENTS: list[events.Event] = [
    events.RunStarted(
        time=1.0,
        run_id="r",
        project="p",
        name="n",
        writer=events.Writer(pid=2**31 - 1, started=0.0, host=os.uname().nodename),
        tags=("a",),
        config={"lr": 0.1, "$deep": {"er": [1, None]}},
    ),
    events.Metrics(time=2.0, step=0, values={"loss": 0.5}),
    events.Metrics(time=3.0, step=1, values={"loss": float("inf"), "漢字 🚀": 5e-324}),
    events.Text(time=4.0, step=1, key="note", text='two\nlines "quoted" \u2028'),
    events.Image(time=5.0, step=1, key="i", path="artifacts/image.png", size=4, sha256=SHA),
    events.Table(time=6.0, step=1, key="t", path="artifacts/table.json", size=4, sha256=SHA),
    events.Histogram(time=7.0, step=1, key="h", counts=(1.0, 2.0), edges=(0.0, 0.5, 1.0)),
    events.Artifact(
        time=8.0,
        name="a",
        kind="file",
        path="artifacts/table.json",
        files=(events.StoredFile("table.json", 4, SHA),),
        metadata={"x": -float("inf")},
    ),
    events.ConfigUpdated(time=9.0, config={"$deep": {"er": 2}}),
    events.Summary(time=10.0, values={"best": 0.5}),
    events.Tags(time=11.0, tags=("b",)),
    events.RunResumed(time=12.0, writer=events.Writer(pid=2**31 - 1, started=0.0, host=os.uname().nodename), step=1),
    events.Metrics(time=13.0, step=2, values={"loss": 0.25}),
    events.RunFinished(time=14.0, status="failed", reason="ValueError: x"),
]
ORIGINAL = {encode(event): event for event in EVENTS}
LINES = list(ORIGINAL)

GARBAGE = [
    b"",
    b" ",
    b"garbage",
    b"\x00" * 50,
    b"\xff\xfe",
    b"{",
    b"{}",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"type":"config_updated","time":1,"config":{"a":' + b"[" * 130 + b"]" * 130 + b"}}",
    b'{"type":"config_updated","time":1,"config":{"a":' + b"[" * 600 + b"]" * 600 + b"}}",
    b'{"type":"config_updated","time":1,"config":{"a":{"$float":"many"}}}',
    b'{"type":"metrics","time":1,"step":' + b"9" * 5000 + b',"values":{}}',
    b'{"type":"metrics","time":1e999,"step":1,"values":{}}',
    b'{"type":"metrics","time":1,"step":1,"values":{"a":null}}',
    b'{"type":"text","time":1,"step":1,"key":"k","text":"\\ud800"}',
    b'{"type":"text","time":1,"step":1,"key":"k","text":"\xc3("}',
    b'{"type":"run_finished","time":1,"status":"' + b"x" * 10_000 + b'"}',
    b'{"type":["metrics"]}',
    b"\xef\xbb\xbf" + LINES[1],
    LINES[1] + LINES[2],
    LINES[1][:-1],
]
garbage = st.sampled_from(GARBAGE) | st.binary(max_size=60).map(lambda data: data.replace(b"\n", b""))
HOLOGRAM = b'{"type":"hologram","time":1.0,"step":0}'
future = st.sampled_from(
    [
        HOLOGRAM,
        b'{"type":"metrics/2"}',
        b'{"type":"tags","time":1.0,"tags":["a"],"colour":"red"}',
        LINES[0].replace(b'"format":1', b'"format":99,"new":[1]'),
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> list[bytes]:
    """The lines of a journal that bad disks, two writers and later versions have been at, and its unfinished last one."""
    lines = [*LINES]
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(lines) - 1))
        line = lines[place]
        cut = draw(st.integers(0, len(line)))
        match draw(st.sampled_from(["insert", "future", "flip", "cut", "double", "swap", "mix", "join", "zero"])):
            case "insert":
                lines.insert(place, draw(garbage))
            case "future":
                lines.insert(place, draw(future))
            case "flip":
                lines[place] = (
                    line[:cut] + bytes(x ^ draw(st.integers(1, 255)) for x in line[cut : cut + 1]) + line[cut + 1 :]
                )
            case "cut":
                lines[place] = line[:cut]
            case "double":
                lines.insert(draw(st.integers(0, len(lines))), line)
            case "swap":  # two writers
                other = draw(st.integers(0, len(lines) - 1))
                lines[place], lines[other] = lines[other], lines[place]
            case "mix":  # two writers, in the middle of their lines
                other = draw(st.sampled_from(LINES))
                lines[place : place + 1] = [line[:cut] + other, line[cut:]]
            case "join":
                lines[place : place + 2] = [b"".join(lines[place : place + 2])]
            case "zero":  # a block that never reached the disk
                lines[place] = line[:cut] + b"\x00" * len(line[cut:])
    # A changed byte may have become a newline.
    lines = b"\n".join(lines).split(b"\n")
    tail = draw(st.sampled_from(LINES))
    return [*lines, tail[: draw(st.integers(0, len(tail) - 1))]]


class Read(NamedTuple):
    """What a reader gave: events and damage by their offset."""

    events: dict[int, Any]
    damage: dict[int, int]
    ends: list[int]


def read(journal: Journal, cursor: int = 0) -> Read:
    damage: list[journal_module.Damage] = []
    entries = list(journal.read(cursor, damage.append))
    assert all(len(said.reason) <= 500 for said in damage)
    return Read(
        {entry.start: entry.event for entry in entries},
        {said.offset: said.size for said in damage},
        [entry.end for entry in entries],
    )


def write(path: Path, lines: list[bytes]) -> Journal:
    """A journal of these lines, the last one without its end."""
    (path / "artifacts").mkdir(exist_ok=True)
    (path / "artifacts" / "table.json").write_text('{"columns": ["a"], "rows": [[1]]}')
    (path / FILE_NAME).write_bytes(b"\n".join(lines))
    return Journal(path / FILE_NAME)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """One folder for all examples: its journal is written anew for each."""
    return tmp_path_factory.mktemp("run")


@examples
@given(damaged())
@example([*LINES, LINES[1]])
def test_only_what_is_damaged_is_dropped(run_dir, lines):
    """Each line is an event or told as damage, each intact one its event, and every cursor gives exactly the rest."""
    journal = write(run_dir, lines)
    found = read(journal)
    offset = 0
    for line in lines[:-1]:
        if line in ORIGINAL:
            assert found.events[offset] == ORIGINAL[line]
        else:
            assert offset in found.events or found.damage[offset] == len(line)
        offset += len(line) + 1
    assert len(found.events) + len(found.damage) == journal.count() == len(lines) - 1
    assert journal.torn_bytes() == len(lines[-1])
    for end in found.ends:
        rest = read(journal, end)
        assert rest.events == {start: event for start, event in found.events.items() if start >= end}
        assert rest.damage == {start: size for start, size in found.damage.items() if start >= end}


@pytest.mark.parametrize("line", GARBAGE, ids=range(len(GARBAGE)))
def test_each_kind_of_garbage_is_damage(line):
    """What the fuzzing puts between the lines is no event, and says so with a ValueError."""
    with pytest.raises(ValueError, match="not an event"):
        events.decode(line)


@examples
@given(damaged())
def test_damaged_journal_is_still_a_run(run_dir, lines):
    """Outline and record have all that is intact; there is no error but one that says that this is no journal."""
    write(run_dir, lines)
    found = read(Journal(run_dir / FILE_NAME)).events.values()
    try:
        outline = folder.outline(run_dir)
        record = runcast.read_run(run_dir)
    except JournalError:
        assert lines[0] != LINES[0]  # another event, or one of a newer format, came first
        return
    assert outline.status == record.status
    if lines[0] == LINES[0]:
        assert (record.run_id, record.name, record.project) == ("r", "n", "p")
    if not any(isinstance(event, events.RunResumed) for event in found):  # which takes back what is after its step
        logged = [ORIGINAL[line] for line in lines[:-1] if line in ORIGINAL]
        steps = {point.step for point in record.metrics.get("loss", [])}
        assert steps >= {event.step for event in logged if isinstance(event, events.Metrics)}
        assert LINES[5] not in lines[:-1] or record.tables["t"][0].rows == ((1,),)


def test_every_cut_of_a_journal_is_a_run(run_dir):
    """Cut anywhere behind its first line, a journal gives a record of the whole lines before the cut."""
    data = b"\n".join([*LINES, b""])
    for cut in range(len(LINES[0]) + 1, len(data) + 1):
        (run_dir / FILE_NAME).write_bytes(data[:cut])
        record = runcast.read_run(run_dir)
        whole = [ORIGINAL[line] for line in data[:cut].split(b"\n")[:-1]]
        assert record.started == 1.0
        assert record.status == ("failed" if isinstance(whole[-1], events.RunFinished) else "crashed")
        assert folder.outline(run_dir).status == record.status


def test_reading_says_what_it_leaves_out(run_dir, caplog):
    """Damaged lines are counted and the first is placed; a torn end is said of a run that nobody writes any more."""
    write(run_dir, [LINES[0], b"garbage", LINES[1], b"more garbage", LINES[2][:10]])
    with caplog.at_level(logging.WARNING, "runcast"):
        record = runcast.read_run(run_dir)
    assert [point.step for point in record.metrics["loss"]] == [0]
    damaged, torn = caplog.messages
    assert f"damaged lines, which are left out: 2; the first at byte {len(LINES[0]) + 1}, of 7 bytes" in damaged
    assert "ends in the middle of an event, which is left out: 10 bytes" in torn


def test_half_an_event_of_a_living_writer_is_no_damage(run_dir, caplog):
    """While its process runs, an unfinished last line is not worth a word."""
    start = msgspec.structs.replace(EVENTS[0], writer=this_writer())
    write(run_dir, [encode(start), LINES[1], LINES[2][:10]])
    assert runcast.read_run(run_dir).status == "running"
    assert caplog.messages == []


@pytest.mark.parametrize("first", [b"garbage", LINES[0][:-1], LINES[0].replace(b'"pid":', b'"pid":-'), b""])
def test_damaged_first_line_costs_what_it_said(run_dir, first):
    """The run is then called as its folder, and all behind the line is read."""
    write(run_dir, [first, *LINES[1:], b""])
    record = runcast.read_run(run_dir)
    assert (record.run_id, record.name, record.started) == (run_dir.name, run_dir.name, 2.0)
    assert record.status == "failed"
    assert len(record.metrics["loss"]) == 3
    write(run_dir, [first, *LINES[1:4], b""])
    assert folder.outline(run_dir).status == runcast.read_run(run_dir).status == "crashed"


def test_garbage_alone_is_no_journal(run_dir):
    """Where nothing at all is an event of ours, the error says so."""
    for lines in (
        [b"garbage", b"garbage", b""],
        [b"garbage", b'{"type":"hologram"}', b""],
        [b""],
        [LINES[1], LINES[0], b""],
    ):
        write(run_dir, lines)
        with pytest.raises(JournalError, match="not a run's journal"):
            runcast.read_run(run_dir)


def test_first_line_twice_starts_nothing_anew(run_dir):
    """A start that stands there once more, as after a copy gone wrong, takes back no later setting."""
    write(run_dir, [LINES[0], LINES[8], LINES[10], LINES[0], b""])
    record = runcast.read_run(run_dir)
    assert record.config["$deep"] == {"er": 2}
    assert record.tags == ("a", "b")


json_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e308, 1e308) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
paths = st.sampled_from(
    ["../outside.json", "/etc/hostname", "out", "out/hostname", "loop", "gone.json", "", ".", "a\x00b", "x" * 5000]
    + ["artifacts", "artifacts/text.json", "artifacts/deep.json", "artifacts/list.json", "artifacts/ragged.json"]
    + ["artifacts/odd.json", "artifacts/binary.json", "artifacts/table.json", "artifacts/table.json/x", "\x1b[31m"]
)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """An event of a known type, one of whose values somebody has changed."""
    event = json.loads(draw(st.sampled_from(LINES)))
    place, field = event, draw(st.sampled_from(sorted(set(event) - {"type"})))
    while isinstance(place[field], dict | list) and place[field] and draw(st.booleans()):
        place = place[field]
        field = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[field] = draw(json_data | paths | st.sampled_from([-1, 0, 2**64, -1e308, [], {}, "NaN", "null"]))
    return json.dumps(event).encode()


@pytest.fixture(scope="module")
def hostile_dir(run_dir):
    """A run folder from a stranger: links that lead out or in circles, tables that are none."""
    write(run_dir, [b""])
    (run_dir.parent / "outside.json").write_text('{"columns": ["a"], "rows": [["outside"]]}')
    (run_dir / "out").symlink_to("/etc")
    (run_dir / "loop").symlink_to("loop")
    tables = {"text": b"no", "deep": b"[" * 100_000, "list": b"[1, 2]", "binary": b"\xff\xfe\x00"}
    tables |= {"ragged": b'{"columns": ["a"], "rows": [[1, 2]]}', "odd": b'{"columns": 7, "rows": {"a": 1}}'}
    for name, content in tables.items():
        (run_dir / "artifacts" / f"{name}.json").write_bytes(content)
    return run_dir


@examples
@given(st.lists(hostile(), min_size=1, max_size=4))
def test_impossible_values_cost_only_themselves(hostile_dir, lines):
    """Whatever a known event says, the record has what stands around it, and nothing from outside the folder."""
    write(hostile_dir, [LINES[0], LINES[1], *lines, encode(events.Summary(time=1.0, values={"last": 1})), b""])
    record = runcast.read_run(hostile_dir)
    folder.outline(hostile_dir)
    assert record.summary["last"] == 1
    assert record.started == 1.0
    assert "outside" not in repr(record.tables)
    for artifact in record.artifacts.values():
        for content in artifact.files.values():
            assert "/etc" not in repr(content.read)


@pytest.mark.parametrize(
    "path", ["../outside.json", "gone.json", "out/hostname", "loop", "artifacts/ragged.json", "artifacts/deep.json"]
)
def test_table_that_is_none_is_left_out_and_said(hostile_dir, caplog, path):
    """A warning says which kind of event was left out, and why."""
    event = events.Table(time=1.0, step=1, key="bad", path=path, size=4, sha256=SHA)
    write(hostile_dir, [LINES[0], encode(event), LINES[5], b""])
    assert list(runcast.read_run(hostile_dir).tables) == ["t"]
    (said,) = caplog.messages
    assert said.startswith("table: left out of the record: ")


@pytest.mark.parametrize(
    "change",
    [
        {"type": "histogram", "counts": [1.0], "edges": [0.0]},
        {"type": "histogram", "counts": [1.0], "edges": [0.0, "NaN"]},
        {"type": "image", "size": -1},
        {"type": "table", "size": -1},
        {"type": "artifact", "files": [{"path": "x", "size": -1, "sha256": ""}]},
        {"type": "run_resumed", "writer": {"pid": -1, "started": 0.0, "host": ""}},
    ],
    ids=lambda change: change["type"],
)
def test_impossible_value_makes_no_event(change):
    """Reporters and readers never see a size below zero, a process that can't be, or bins without counts."""
    honest = next(event for event in map(json.loads, LINES) if event["type"] == change["type"])
    assert not isinstance(events.decode(json.dumps(honest).encode()), Unknown)
    with pytest.raises(ValueError, match="not an event"):
        events.decode(json.dumps(honest | change).encode())


def test_pipe_or_device_in_the_journals_place_is_an_error(tmp_path):
    """What never ends is not read."""
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(RunFolderError, match="not a regular file"):
        runcast.read_run(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).symlink_to("/dev/zero")
    with pytest.raises(RuncastError, match="is a link|not a regular file"):
        folder.outline(tmp_path)


class Model(RuleBasedStateMachine):
    """A journal, its writers, and what happens to its file, beside a list of what each line should be."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[bytes, Any]] = []  # without newline; and the event, or None
        self.tail = b""
        self.number = 0
        self.whole: dict[bytes, Any] = {HOLOGRAM: Unknown("hologram", HOLOGRAM)}

    @initialize()
    def create(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / FILE_NAME
        self.path.touch()
        self.journal = Journal(self.path)

    def teardown(self) -> None:
        self.journal.close()
        self.folder.cleanup()

    def _next(self) -> events.Event:
        self.number += 1
        event = events.Metrics(time=1.0, step=self.number, values={"loss": self.number / 7})
        self.whole[encode(event)] = event
        return event

    def _bytes(self) -> bytes:
        return b"".join(line + b"\n" for line, _ in self.lines) + self.tail

    def _end_tail(self) -> None:
        """What the next line of a writer makes of an unfinished one before it."""
        if self.tail:
            self.lines.append((self.tail, self.whole.get(self.tail)))  # of a whole one, only the newline was missing
            self.tail = b""

    def _reopen(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path)

    @rule()
    def append(self) -> None:
        event = self._next()
        self.journal.append(event)
        self._end_tail()
        self.lines.append((encode(event), event))

    @rule(data=st.data())
    def writer_dies_in_a_line(self, data: st.DataObject) -> None:
        line = encode(self._next())
        part = line[: data.draw(st.integers(1, len(line)))]
        with self.path.open("ab") as file:
            file.write((b"\n" if self.tail else b"") + part)
        self._end_tail()
        self.tail = part
        self._reopen()

    @precondition(lambda self: self.lines)
    @rule(data=st.data())
    def file_is_cut_short(self, data: st.DataObject) -> None:
        content = self._bytes()
        content = content[: len(content) - data.draw(st.integers(1, min(len(content), 200)))]
        *whole, self.tail = content.split(b"\n")
        self.lines = self.lines[: len(whole)]
        os.truncate(self.path, len(content))
        self._reopen()

    @precondition(lambda self: self.lines)
    @rule(data=st.data())
    def bytes_are_damaged(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.lines) - 1))
        line, _ = self.lines[number]
        if line:
            place = data.draw(st.integers(0, len(line) - 1))
            self.lines[number] = (line[:place] + b"\xff" + line[place + 1 :], None)  # no UTF-8 anywhere has this byte
            self.path.write_bytes(self._bytes())

    @precondition(lambda self: not self.tail)
    @rule(line=garbage)
    def garbage_is_written(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(line + b"\n")
        self.lines.append((line, None))

    @precondition(lambda self: not self.tail)
    @rule()
    def newer_version_writes(self) -> None:
        with self.path.open("ab") as file:
            file.write(HOLOGRAM + b"\n")
        self.lines.append((HOLOGRAM, self.whole[HOLOGRAM]))

    @precondition(lambda self: not self.tail and self.lines)
    @rule(data=st.data())
    def line_is_doubled(self, data: st.DataObject) -> None:
        line = data.draw(st.sampled_from(self.lines))
        with self.path.open("ab") as file:
            file.write(line[0] + b"\n")
        self.lines.append(line)

    @rule()
    def reopen(self) -> None:
        self._reopen()

    @rule(chunk=st.integers(1, 300), data=st.data())
    def read_on_from_a_cursor(self, chunk: int, data: st.DataObject) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journal_module, "_CHUNK", chunk)
            found = read(self.journal)
            if found.ends:
                end = data.draw(st.sampled_from(found.ends))
                rest = read(self.journal, end)
                assert rest.ends == [later for later in found.ends if later > end]
                assert rest.events == {start: event for start, event in found.events.items() if start >= end}
            assert self.journal.torn_bytes() == len(self.tail)

    @invariant()
    def all_is_read(self) -> None:
        assert self.path.read_bytes() == self._bytes()
        found = read(self.journal)
        wanted: dict[int, Any] = {}
        damage: dict[int, int] = {}
        offset = 0
        for line, event in self.lines:
            if event is None:
                damage[offset] = len(line)
            else:
                wanted[offset] = event
            offset += len(line) + 1
        assert found.events == wanted
        assert found.damage == damage
        assert self.journal.count() == len(self.lines)
        assert self.journal.torn_bytes() == len(self.tail)


Model.TestCase.settings = settings(examples, max_examples=60, stateful_step_count=30)
test_journal_is_what_a_list_of_lines_is = Model.TestCase
