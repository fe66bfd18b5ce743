"""Flytekit's own local execution, in a process of its own, and the decks that it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from runcast.testing.couriers import PATIENCE

_VOID = frozenset({"img", "br", "hr", "meta", "link", "input"})

HEAD = """
import sys
from pathlib import Path

import runcast
from flytekit import Deck, current_context, task, workflow

folder = Path(sys.argv[1])
"""


def execute(code: str, folder: Path) -> str:
    """Runs code that defines and calls tasks; flytekit's local files are below `folder`. Returns what it printed."""
    script = folder / "script.py"  # flytekit wants to see the source of a task
    script.write_text(HEAD + code)
    return run(script, folder)


def run(script: Path, folder: Path, *arguments: str) -> str:
    """Runs a file of tasks; fails with its output."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(script), *(arguments or [str(folder)])],
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def decks(folder: Path) -> list[dict[str, Element]]:
    """The deck files, oldest first: the title of each tab → its content."""
    files = sorted((folder / "tmp").rglob("deck.html"), key=lambda path: path.stat().st_mtime_ns)
    return [_tabs(path.read_text(encoding="utf-8")) for path in files]


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str | None = None) -> Iterator[Element]:
        """The elements within it, itself included, in the order of the page."""
        if tag in (None, self.tag):
            yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.all(tag)

    def text(self) -> str:
        """What a person reads."""
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)

    def texts(self, tag: str) -> list[str]:
        """The texts of all its elements of a kind."""
        return [element.text() for element in self.all(tag)]

    def rows(self) -> list[list[str]]:
        """The cells of all tables."""
        return [[cell.text() for cell in row.all("td")] for row in self.all("tr")]


class _Tree(HTMLParser):
    """Reads a page into elements; every element has to be closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> ends no <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def _tabs(page: str) -> dict[str, Element]:
    tree = _Tree()
    tree.feed(page)
    tree.close()
    by_id = {element.attributes.get("id"): element for element in tree.root.all()}
    titles = [item.text() for item in by_id["flyte-frame-tabs"].all("li")]
    bodies = [child for child in by_id["flyte-frame-container"].children if isinstance(child, Element)]
    assert len(titles) == len(bodies), "a tab's content isn't one element: markup got out of its place"
    return dict(zip(titles, bodies, strict=True))
