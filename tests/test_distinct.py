"""Names for what a tracker tells apart by more than one name."""

from __future__ import annotations

import logging

from runcast.distinct import Distinct


def test_each_thing_is_called_as_wanted():
    """Whoever comes first has the name, each time it is asked for."""
    names = Distinct()
    assert [names.name(thing, thing) for thing in ("a", "b", "a")] == ["a", "b", "a"]


def test_two_things_never_have_one_name(caplog):
    """What wants a name that another has gets one more character, also if that is a third's; it is said once."""
    names = Distinct()
    names.name(1, "a")
    names.name(2, "a_")
    with caplog.at_level(logging.WARNING):
        assert [names.name(3, "a"), names.name(1, "a"), names.name(3, "a")] == ["a__", "a", "a__"]
    assert [record.getMessage() for record in caplog.records] == ["a second 'a' is called 'a__' here"]
