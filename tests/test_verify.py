"""The comparison finds every kind of difference."""

from __future__ import annotations

import copy
import math

import pytest

from runcast.record import (
    ArtifactRecord,
    Content,
    HistogramPoint,
    ImagePoint,
    Point,
    RunRecord,
    TablePoint,
    TextPoint,
    inside,
    merge,
)
from runcast.verify import KINDS, compare


@pytest.fixture
def record():
    """A record with something of everything."""
    png = Content.of_bytes(b"png")
    return RunRecord(
        run_id="r",
        status="completed",
        config={"a": {"b": 1, "nan": math.nan}, "text": "1"},
        metrics={
            "x": [Point(0, 1.0, 10.0), Point(1, math.nan, 11.0), Point(1, math.inf, 12.0)],
            "y": [Point(0, 2.0, 10.0)],
        },
        texts={"t": [TextPoint(0, "hello", 10.0)]},
        images={"i": [ImagePoint(0, png, 10.0)]},
        tables={"tab": [TablePoint(0, ("a",), ((1,), (None,)), 10.0)]},
        histograms={"h": [HistogramPoint(0, (1.0,), (0.0, 1.0), 10.0)]},
        artifacts={"m": ArtifactRecord("m", "model", {"f": png}, None, {"k": 1})},
        tags=("a", "b"),
        summary={"best": 0.5, "none": None},
    )


def test_equal_records_match(record):
    """NaN equals NaN, a time within the tolerance equals, and every value is counted."""
    other = copy.deepcopy(record)
    other.metrics["x"][0] = Point(0, 1.0, 10.0009)
    result = compare("t", record, other)
    assert result.matches, result.differences
    assert {kind: tally.total for kind, tally in result.compared.items()} == {
        "metrics": 4, "config": 3, "texts": 1, "images": 1, "tables": 1, "histograms": 1, "artifacts": 1, "summary": 2, "tags": 2, "status": 1,
    }  # fmt: skip
    assert all(tally.matched == tally.total for tally in result.compared.values())


CHANGES = {
    "a value": lambda r: r.metrics["x"].__setitem__(0, Point(0, 1.0000001, 10.0)),
    "a step": lambda r: r.metrics["x"].__setitem__(0, Point(3, 1.0, 10.0)),
    "a time": lambda r: r.metrics["x"].__setitem__(0, Point(0, 1.0, 10.1)),
    "a point lost": lambda r: r.metrics["x"].pop(),
    "a point twice": lambda r: r.metrics["x"].append(r.metrics["x"][0]),
    "a metric lost": lambda r: r.metrics.pop("y"),
    "a metric too many": lambda r: r.metrics.update(z=[Point(0, 1.0, 1.0)]),
    "a metric renamed": lambda r: r.metrics.update(Y=r.metrics.pop("y")),
    "NaN lost": lambda r: r.metrics["x"].__setitem__(1, Point(1, 0.0, 11.0)),
    "sign of infinity": lambda r: r.metrics["x"].__setitem__(2, Point(1, -math.inf, 12.0)),
    "a setting": lambda r: r.config["a"].update(b=2),
    "a setting's type": lambda r: r.config.update(text=1),
    "a setting lost": lambda r: r.config.pop("text"),
    "bool for int": lambda r: r.config["a"].update(b=True),
    "a text": lambda r: r.texts["t"].__setitem__(0, TextPoint(0, "hullo", 10.0)),
    "an image": lambda r: r.images["i"].__setitem__(0, ImagePoint(0, Content.of_bytes(b"pmg"), 10.0)),
    "a cell": lambda r: r.tables["tab"].__setitem__(0, TablePoint(0, ("a",), ((1,), ("None",)), 10.0)),
    "a bin": lambda r: r.histograms["h"].__setitem__(0, HistogramPoint(0, (2.0,), (0.0, 1.0), 10.0)),
    "a file": lambda r: r.artifacts["m"].files.update(f=Content.of_bytes(b"other")),
    "an artifact's kind": lambda r: r.artifacts.update(
        m=ArtifactRecord("m", "file", r.artifacts["m"].files, None, {"k": 1})
    ),
    "metadata": lambda r: r.artifacts["m"].metadata.update(k=2),
    "a summary value": lambda r: r.summary.update(best=0.6),
    "a tag": lambda r: setattr(r, "tags", ("a",)),
    "the status": lambda r: setattr(r, "status", "failed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_found(record, change):
    """One changed thing is one difference, said with key and values."""
    other = copy.deepcopy(record)
    CHANGES[change](other)
    result = compare("t", record, other)
    assert not result.matches
    assert result.differences


def test_what_a_tracker_cannot_hold_is_named(record):
    """A kind without support is neither compared nor counted as matched."""
    result = compare("t", record, RunRecord(metrics=record.metrics), {"metrics"})
    assert result.matches
    assert set(result.compared) == {"metrics"}
    assert set(result.unsupported) == set(KINDS) - {"metrics"}


def test_merge_is_nested_and_leaves_its_arguments():
    """Settings learnt later replace leaves, not branches."""
    first = {"a": {"b": 1, "c": 2}}
    assert merge(first, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert first == {"a": {"b": 1, "c": 2}}


def test_paths_stay_inside(tmp_path):
    """Dots, absolute paths and links that lead out are refused."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc")
    assert inside(tmp_path / "in", "a/b") == tmp_path / "in" / "a" / "b"
    for path in ("../x", "/etc/passwd", "a/../../x", "link/passwd"):
        with pytest.raises(ValueError, match="leads out of"):
            inside(tmp_path / "in", path)
