"""Whatever an event holds, it comes back: encoded and decoded, appended and read."""

from __future__ import annotations

import math
import struct
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runcast import events
from runcast.events import MAX_BITS, MAX_DEPTH, decode, encode, pack, plain, unpack
from runcast.journal import Journal

# The same examples everywhere and always: a test that fails here fails on every machine.
examples = settings(max_examples=150)

LIMITS = [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308]
INTEGERS = [
    sign * 2**bits + near for bits in (31, 32, 53, 63, 64, 128, 1024) for sign in (1, -1) for near in (-1, 0, 1)
]

texts = st.text(st.characters(exclude_categories=[]))  # lone surrogates too
keys = texts | texts.map("${}".format) | st.sampled_from(["$", "$$", "$float", "$$float", "", "\x00", "a/b", "NaN"])
finite = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(LIMITS)
numbers = st.floats() | st.sampled_from([*LIMITS, math.nan, math.inf, -math.inf])
integers = st.integers() | st.sampled_from(INTEGERS) | st.integers(-(2**MAX_BITS) + 1, 2**MAX_BITS - 1)
naturals = integers.map(abs)
leaves = st.none() | st.booleans() | integers | numbers | texts
data = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@st.composite
def deep(draw: st.DrawFn) -> Any:
    """Data as deep as any that is written."""
    value = draw(leaves)
    for _ in range(draw(st.integers(0, MAX_DEPTH - 1))):
        value = [value] if draw(st.booleans()) else {draw(keys): value}
    return value


free_form = st.dictionaries(keys, data | deep(), max_size=4)
writers = st.builds(events.Writer, pid=naturals, started=finite, host=texts)
files = st.builds(events.StoredFile, path=texts, size=naturals, sha256=texts)
base = {"time": finite}
point = {**base, "step": integers, "key": keys}
stored = {**point, "path": texts, "size": naturals, "sha256": texts}


@st.composite
def histograms(draw: st.DrawFn) -> events.Histogram:
    """Histograms with as many counts as there are bins."""
    edges = draw(st.lists(finite, min_size=1, max_size=9))
    counts = draw(st.lists(finite, min_size=len(edges) - 1, max_size=len(edges) - 1))
    return events.Histogram(
        time=draw(finite), step=draw(integers), key=draw(keys), counts=tuple(counts), edges=tuple(edges)
    )


EVENTS: dict[type[events.Event], st.SearchStrategy[Any]] = {
    events.RunStarted: st.builds(
        events.RunStarted,
        **base,
        run_id=texts,
        project=texts,
        name=texts,
        writer=writers,
        group=st.none() | texts,
        tags=st.lists(texts, max_size=4).map(tuple),
        config=free_form,
        format=integers,
    ),
    events.RunResumed: st.builds(events.RunResumed, **base, writer=writers, step=st.none() | integers),
    events.ConfigUpdated: st.builds(events.ConfigUpdated, **base, config=free_form),
    events.Metrics: st.builds(events.Metrics, **base, step=integers, values=st.dictionaries(keys, numbers, max_size=6)),
    events.Text: st.builds(events.Text, **point, text=texts),
    events.Image: st.builds(events.Image, **stored),
    events.Table: st.builds(events.Table, **stored),
    events.Histogram: histograms(),
    events.Artifact: st.builds(
        events.Artifact,
        **base,
        name=texts,
        kind=texts,
        path=texts,
        files=st.lists(files, max_size=3).map(tuple),
        step=st.none() | integers,
        metadata=free_form,
    ),
    events.Summary: st.builds(events.Summary, **base, values=free_form),
    events.Tags: st.builds(events.Tags, **base, tags=st.lists(texts, max_size=4).map(tuple)),
    events.RunFinished: st.builds(
        events.RunFinished,
        **base,
        status=st.sampled_from(get_args(events.RunStatus)),
        reason=st.none() | texts,
    ),
}
any_event = st.one_of(*EVENTS.values())


def exact(value: Any) -> Any:
    """A value that equals another's only if both have the same types and bits; lone surrogates as their escapes."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack("d", value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {exact(key): exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [exact(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return type(value), [exact(getattr(value, name)) for name in value.__struct_fields__]
    return type(value), value


def test_every_event_type_is_tried():
    """The table of strategies misses no event."""
    assert tuple(EVENTS) == events.EVENT_TYPES


@pytest.mark.parametrize("kind", events.EVENT_TYPES, ids=lambda kind: kind.__name__)
def test_event_comes_back_from_its_line(kind):
    """Of each type, with any text, any key and any number, each bit comes back, from one line of valid UTF-8."""

    @examples
    @given(EVENTS[kind])
    def check(event):
        line = encode(event)
        assert b"\n" not in line
        line.decode("utf-8")
        assert exact(decode(line)) == exact(event)

    check()


@examples
@given(st.lists(any_event, max_size=8), st.integers(1, 400))
def test_events_come_back_from_their_journal(tmp_path_factory, written, chunk):
    """What was appended is read, in order and without damage, however the file falls into chunks."""
    journal = Journal(tmp_path_factory.mktemp("run") / "journal.jsonl")
    journal.open()
    for event in written:
        journal.append(event)
    journal.close()
    damage = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runcast.journal._CHUNK", chunk)
        assert [exact(entry.event) for entry in journal.read(on_damage=damage.append)] == [exact(e) for e in written]
        assert journal.count() == len(written)
        assert journal.torn_bytes() == 0
    assert damage == []


@examples
@given(data | deep())
@example({"$float": "NaN"})
@example({"$float": math.nan, "$$": {"$": -math.inf}})
def test_packing_is_reversible(value):
    """Nothing of the user's is taken for one of our marks, and packed data is JSON that has every number."""
    packed = pack(value)
    assert exact(unpack(packed)) == exact(value)
    encoded = msgspec.json.encode(events.escape_surrogates(packed))
    assert exact(unpack(msgspec.json.decode(encoded))) == exact(value)


class Mute:
    """An object that can't say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_any_data_is_made_plain_and_comes_back():
    """Too deep, within itself, too large or unable to say what it is: it ends in a word, and costs nothing around it."""
    endless: list[Any] = []
    for _ in range(100_000):
        endless = [endless]
    wide: dict[str, Any] = {}
    wide.update(a=wide, b=wide, api_key="sekret")
    odd = {"deep": endless, "wide": wide, "mute": Mute(), Mute(): 1, "huge": 10**10_000, 10**10_000: 2, "well": 0.5}
    config = plain(odd)
    assert exact(decode(encode(events.ConfigUpdated(time=0.0, config=config))).config) == exact(config)
    assert config["well"] == 0.5
    assert config["wide"] == {"a": "<dict inside itself>", "b": "<dict inside itself>", "api_key": "sekret"}
    assert config["mute"] == "<Mute without text>"
    assert int(config["huge"], 16) == 10**10_000
    for _ in range(MAX_DEPTH - 1):
        (config["deep"],) = config["deep"]
    assert config["deep"] == "<list nested too deep>"


@examples
@given(st.lists(numbers, min_size=1), st.booleans())
@example([1.7976931348623157e308, -1.7976931348623157e308], False)
@example([1.7976931348623157e308, -1.7976931348623157e308], True)
@example([1.7976931348623157e308], True)
@example([5e-324, 1e-323], True)
@example([1.0, 1.0000000000000002], False)
def test_histogram_of_any_numbers_comes_back(values, as_array):
    """Also of numbers almost equal or at their limits: every finite one is counted, between edges that rise."""
    import numpy as np

    from runcast.media import histogram

    number = sum(map(math.isfinite, values))
    if not number:
        with pytest.raises(ValueError, match="finite"):
            histogram(values)
        return
    counts, edges = histogram(np.array(values) if as_array else values)
    assert sum(counts) == number
    assert all(low < high for low, high in zip(edges, edges[1:], strict=False))
    event = events.Histogram(time=0.0, step=0, key="k", counts=counts, edges=edges)
    assert exact(decode(encode(event))) == exact(event)


def test_table_of_odd_texts_comes_back(tmp_path):
    """A lone surrogate in a cell or a column's name comes back as its escape, as in an event."""
    from runcast.media import table_json
    from runcast.record import read_table

    (tmp_path / "table.json").write_bytes(
        table_json(["a\ud800"], [["\udfff"], [-0.0], [2**70], [math.inf], [["$", None]]])
    )
    columns, rows = read_table(tmp_path / "table.json")
    assert columns == ("a\\ud800",)
    assert exact(rows) == exact((("\\udfff",), (-0.0,), (2**70,), (math.inf,), (["$", None],)))


def test_file_whose_name_is_no_text_is_found_again(tmp_path):
    """An artifact's file is called what its event says, also where the original's name is no UTF-8."""
    from runcast.media import store_artifact

    source = tmp_path / "source"
    source.mkdir()
    (source / "\udce9.txt").write_bytes(b"latin-1")
    for logged, name in ((source, "folder"), (source / "\udce9.txt", "file")):
        path, files = store_artifact(tmp_path / "run", logged, name)
        event = events.Artifact(time=0.0, name=name, kind="file", path=path, files=files)
        back = decode(encode(event))
        assert back == event
        root = tmp_path / "run" / back.path
        assert (root / back.files[0].path if root.is_dir() else root).read_bytes() == b"latin-1"
