"""Events, and their encoding."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import math
from collections import OrderedDict
from pathlib import Path

import pytest

from runcast import events
from runcast.events import decode, encode, plain

WRITER = events.Writer(pid=1, started=2.5, host="here")
CASES = [
    events.RunStarted(time=1.5, run_id="r", project="p", name="n", writer=WRITER, tags=("a",), config={"x": [1, None]}),
    events.RunResumed(time=1.5, writer=WRITER, step=3),
    events.ConfigUpdated(time=1.5, config={"deep": {"er": math.inf}, "$odd": {"$float": 1}}),
    events.Metrics(time=1.5, step=-3, values={"train/loss": 0.1, "tiny": 5e-324, "big": 1.7976931348623157e308}),
    events.Metrics(time=1.5, step=2**53, values={"up": math.inf, "down": -math.inf, "漢字 🚀": -0.0}),
    events.Text(time=1.5, step=0, key="k", text='line\nline\u2028 "quoted" \x00'),
    events.Image(time=1.5, step=0, key="k", path="artifacts/images/a.png", size=3, sha256="ab"),
    events.Table(time=1.5, step=0, key="k", path="artifacts/tables/a.json", size=3, sha256="ab"),
    events.Histogram(time=1.5, step=0, key="k", counts=(1.0, 2.0), edges=(0.0, 0.5, 1.0)),
    events.Artifact(
        time=1.5,
        name="m",
        kind="model",
        path="a/b",
        files=(events.StoredFile("x", 1, "ab"),),
        metadata={"n": -math.inf},
    ),
    events.Summary(time=1.5, values={"best": 0.5, "name": "x", "none": None}),
    events.Tags(time=1.5, tags=("a", "b")),
    events.RunFinished(time=1.5, status="failed", reason="ValueError: x"),
]


@pytest.mark.parametrize("event", CASES, ids=lambda event: type(event).__name__)
def test_event_survives_its_line(event):
    """Every event comes back equal from one line without a newline in it."""
    line = encode(event)
    assert b"\n" not in line
    assert decode(line) == event


def test_there_is_a_case_for_every_event_type():
    """The table above misses no event."""
    assert {type(event) for event in CASES} == set(events.EVENT_TYPES)


def test_nan_survives_in_metrics_config_and_summary():
    """NaN, which equals nothing, is NaN again wherever it stood."""
    metrics = decode(encode(events.Metrics(time=0.0, step=0, values={"a": math.nan, "b": 1.0})))
    assert math.isnan(metrics.values["a"]) and metrics.values["b"] == 1.0
    config = decode(encode(events.ConfigUpdated(time=0.0, config={"a": [{"b": math.nan}]})))
    assert math.isnan(config.config["a"][0]["b"])


def test_lone_surrogate_costs_no_event():
    """A text that is not valid Unicode is written with an escape in its place."""
    assert decode(encode(events.Text(time=0.0, step=0, key="k", text="a\ud800b"))).text == "a\\ud800b"
    beside_nan = events.Metrics(time=0.0, step=0, values={"\udfff": math.nan})
    assert math.isnan(decode(encode(beside_nan)).values["\\udfff"])


def test_event_of_a_newer_version_is_kept_and_skipped():
    """An unknown type decodes to Unknown, with its bytes."""
    line = b'{"type":"hologram","time":1.0,"step":0}'
    assert decode(line) == events.Unknown(type="hologram", raw=line)


def test_unknown_field_of_a_newer_version_is_ignored():
    """A field that this version doesn't know costs nothing."""
    assert decode(b'{"type":"tags","time":1.0,"tags":["a"],"colour":"red"}') == events.Tags(time=1.0, tags=("a",))


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"null", b"[]", b'"x"', b"\x00" * 40, b'{"type":"metrics"}', b'{"type":7}', b"\xff\xfe", b"[" * 5000],
)
def test_garbage_is_a_value_error(line):
    """What is no event raises ValueError, never anything else."""
    with pytest.raises(ValueError, match="not an event"):
        decode(line)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Options:
    lr: float
    path: Path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Path("/tmp/x"), "/tmp/x"),
        ((1, 2), [1, 2]),
        ({"b", "a"}, ["a", "b"]),
        (OrderedDict(a={1: 2}), {"a": {"1": 2}}),
        (Options(0.1, Path("y")), {"lr": 0.1, "path": "y"}),
        (argparse.Namespace(a=1), {"a": 1}),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (math.sqrt, "math.sqrt"),
        (Options, "test_events.Options"),
    ],
)
def test_plain_makes_json_values(value, expected):
    """Whatever people put into a config becomes JSON values that tell what it was."""
    result = plain(value)
    assert result == expected or isinstance(expected, str) and str(result).endswith(expected.split(".")[-1])


def test_plain_takes_numpy():
    """Numpy scalars are numbers and small arrays lists."""
    import numpy

    assert plain({"a": numpy.float32(0.5), "b": numpy.int64(3), "c": numpy.bool_(True)}) == {
        "a": 0.5,
        "b": 3,
        "c": True,
    }
    assert plain(numpy.arange(3)) == [0, 1, 2]


def test_plain_ends_at_a_cycle():
    """Data that contains itself becomes text at some depth instead of never ending."""
    loop: dict = {}
    loop["self"] = loop
    assert isinstance(encode(events.ConfigUpdated(time=0.0, config=plain(loop))), bytes)
