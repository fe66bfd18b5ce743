"""The examples of README and docs run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"trainer.md"}  # its examples need the trainer: tests/fewshot/test_docs.py
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in ELSEWHERE)]


def blocks(page: Path) -> list[str]:
    """The page's ```python blocks, each behind as many empty lines as make its line numbers the page's."""
    text = page.read_text("utf-8")
    return [
        "\n" * text[: match.start(1)].count("\n") + match[1]
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    """Every Python block of the page runs, in order, as a reader would run it."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), namespace)


def test_pages_with_examples_are_found():
    """The three pages that show Python are among them."""
    assert {page.name for page in PAGES if blocks(page)} >= {"README.md", "reporters.md", "cli.md"}
