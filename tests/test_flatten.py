"""Reversible substitutes for trackers that know less."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcast.flatten import escape, flatten, from_text, literal, nest, to_text, unescape, unflatten

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
nested = st.recursive(
    st.dictionaries(st.text(), leaves | st.lists(leaves, max_size=2), max_size=3),
    lambda inner: st.dictionaries(st.text(), inner | leaves, max_size=3),
    max_leaves=6,
)


@given(nested)
def test_flatten_is_undone_by_unflatten(config):
    """Whatever the keys hold, slashes and percents too, the nested dict comes back."""
    assert unflatten(flatten(config)) == config


def test_flatten_keeps_ordinary_keys_readable():
    """Nesting is a slash, an empty dict is a value."""
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a/b": 1, "a/c": {}, "d": [1]}


def test_two_keys_never_become_one():
    """A slash within a key is not nesting."""
    flat = flatten({"a": {"b": 1}, "a/b": 2, "a%2Fb": 3})
    assert sorted(flat.values()) == [1, 2, 3]


def test_a_path_through_a_value_stays_a_name():
    """No value moves to another name, whichever comes first; the rest is nested."""
    assert unflatten({"lr": 5, "opt": "adam", "opt|lr": 0.1}, "|") == {"lr": 5, "opt": "adam", "opt|lr": 0.1}
    assert unflatten({"opt/lr": 0.1, "opt": "adam"}) == {"opt/lr": 0.1, "opt": "adam"}
    assert unflatten({"a/b": 1, "a/b/c": 2, "a/d": 3}) == {"a": {"b": 1, "d": 3}, "a/b/c": 2}


@given(st.dictionaries(st.text("ab%/"), st.integers()))
def test_nesting_moves_and_drops_nothing(flat):
    """What others called by paths is found by them, or by its whole name."""
    nested = nest(flat)

    def found(name):
        level = nested
        for part in name.split("/"):
            level = level[part]
        return level

    assert all((nested[name] if name in nested else found(name)) == value for name, value in flat.items())


@given(leaves | st.lists(leaves, max_size=3))
def test_text_of_a_value_is_undone(value):
    """Numbers, texts that look like numbers, lists and None come back with their type."""
    back = from_text(to_text(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "text"), [(3e-5, "3e-05"), ("adamw", "adamw"), (True, "true"), ("true", '"true"'), (None, "null")]
)
def test_text_of_a_value_is_readable(value, text):
    """People read ordinary values as they expect them."""
    assert to_text(value) == text


def test_nan_has_a_text():
    """NaN is a value like others."""
    assert math.isnan(from_text(to_text(math.nan)))


@given(st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(st.integers()))
def test_text_that_others_made_of_a_value_is_the_value(value):
    """By `str`, as MLflow makes them."""
    assert literal(str(value)) == value


@pytest.mark.parametrize(
    "text",
    ["3.10", "12e4567", "1e400", "5e3", "007", "12345678901234567890.12345", '"quoted"', "[1.50]", "NaN", "nan", "inf"],
)
def test_text_that_only_looks_like_a_value_stays(text):
    """A version, a commit and digits beyond a double are what they are."""
    assert literal(text) == text


@pytest.mark.parametrize(("text", "value"), [("None", None), ('{"a":1}', {"a": 1}), ('["é"]', ["é"])])
def test_text_of_json_or_python_is_the_value(text, value):
    """None, and JSON with or without spaces."""
    assert literal(text) == value


@given(st.text())
def test_escape_is_undone_by_unescape(name):
    """Any name comes back, and none of the refused characters is left."""
    escaped = escape(name, r"[^\w./ -]", ":")
    assert unescape(escaped, ":") == name
    assert "#" not in escaped


def test_escape_leaves_ordinary_names_alone():
    """`train/loss` stays `train/loss`."""
    assert escape("train/loss", r"[^\w./ -]", ":") == "train/loss"
    assert escape("a#b", r"[^\w./ -]", ":") == "a:23:b"
