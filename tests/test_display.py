"""What people see."""

from __future__ import annotations

import msgspec
import pytest

from runcast.display import harmless, line, visible
from runcast.reporter import Availability


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"), ("\x9b31m", r"\x9b31m"), ("a\rb\x00\x7f", r"a\rb\x00\x7f"), ("\u202egnp", r"\u202egnp"),
        ("\u2066x\u2069\u200f\u061c", r"\u2066x\u2069\u200f\u061c"), ("\ud800", r"\ud800"), ("\u2028", r"\u2028"),
    ],
)  # fmt: skip
def test_what_terminals_obey_is_made_visible(text, shown):
    """Controls, changes of direction and what is no character are shown as escapes."""
    assert visible(text) == line(text) == shown


@pytest.mark.parametrize("text", ["", "plain", "über", "日本語", "שלום", "👩‍💻", "[red]", "a\\x1b", "<b>"])
def test_text_of_any_language_stays(text):
    """What is only text is shown as it is."""
    assert visible(text) == line(text) == text


def test_ends_of_lines_stay_in_texts_only():
    """A text has lines; a name is one."""
    assert visible("a\n\tb") == "a\n\tb"
    assert line("a\n\tb") == r"a\n\tb"


def test_structures_are_harmless_throughout():
    """Every text in a structure is visible, every key one line; the rest stays."""

    class Inner(msgspec.Struct):
        words: tuple[str, ...]

    class Outer(msgspec.Struct):
        values: dict
        inner: list[Inner]

    found = harmless(Outer({"a\n\x1b": ["\x1b", 1, None, {"b": 0.5}]}, [Inner(("\x07",))]))
    assert found == Outer({"a\\n\\x1b": ["\\x1b", 1, None, {"b": 0.5}]}, [Inner(("\\x07",))])
    assert harmless(Availability("a", "ready", "\x1b")).reason == "\\x1b"
