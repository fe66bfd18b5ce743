"""The Python examples of the Markdown pages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDS_TRAINER = re.compile(r"runcast\.(fewshot|frameworks)|transformers|TrainingArguments")


def pages(*, trainer: bool) -> list[Path]:
    """README and the pages of docs/ that have examples, by whether an example needs the trainer."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in found if blocks(page) and bool(NEEDS_TRAINER.search("".join(blocks(page)))) == trainer]


def blocks(page: Path) -> list[str]:
    """The page's ```python blocks, each behind as many empty lines as make its line numbers the page's."""
    text = page.read_text()
    return [
        "\n" * text[: match.start(1)].count("\n") + match[1]
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


def run(page: Path) -> None:
    """Runs the page's blocks one after another, in one namespace, as a reader would."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), namespace)
