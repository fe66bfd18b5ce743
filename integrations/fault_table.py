"""Writes a page of docs/ from what the fault tests reported: ``python integrations/fault_table.py RESULTS.xml PAGE``.

PAGE is ``faults`` or ``faults-others``, after the environment of tox that ran the tests.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from runcast.testing.fault_contract import TRACKER_FAULTS, TRAINING_FAULTS

# What isn't a tracker comes last.
TITLES = {"console": "console", "yours": "yours, in a thread"}
TABLES = {
    "test_tracker_fails": ("What goes wrong in a tracker, its SDK or its courier", [f.name for f in TRACKER_FAULTS]),
    "test_training_fails": ("What happens to the training process", [f.name for f in TRAINING_FAULTS]),
}
DOCS = Path(__file__).parents[1] / "docs"
OTHERS = {
    "faults": ("faults-others", "The other trackers have"),
    "faults-others": ("faults", "The trackers most used have"),
}
HEAD = """# Faults

Written by the tests (`tox run -e py311-{name}`), not by hand. {others}Each cell is a test of `runcast.testing.fault_contract`: a real
training that reports to this tracker and to a second, healthy one, while that goes wrong.

| cell | all of this was seen |
|---|---|
| ✓ | the trained weights are those of a training without any tracker, bit by bit; the healthy tracker has everything; this tracker recovered by itself; read back from the tracker itself, every value is there once; its status is right |
| ✓ sync | the same, after `runcast sync` |
| — | not so built: the console, and a reporter of yours that isn't registered, live in the training process, and end with it |
| ✗ | a test failed |
"""


def cells(results: Path) -> dict[tuple[str, str, str], str]:
    """(test, fault, reporter) → cell."""
    found = {}
    for case in ElementTree.parse(results).iter("testcase"):
        test, _, fault = case.attrib["name"].removesuffix("]").partition("[")
        properties = {entry.attrib["name"]: entry.attrib["value"] for entry in case.iter("property")}
        if test not in TABLES or "reporter" not in properties:
            continue
        bad = case.find("failure") is not None or case.find("error") is not None
        good = "✓ sync" if properties.get("recovery") == "sync" else "✓"
        cell = "✗" if bad else "—" if case.find("skipped") is not None else good
        found[test, fault, properties["reporter"]] = cell
    return found


def page(name: str, found: dict[tuple[str, str, str], str]) -> str:
    """The page of that name with both tables."""
    proven = sum(cell.startswith("✓") for cell in found.values())
    reporters = sorted({reporter for *_, reporter in found}, key=lambda name: (name in TITLES, name))
    titles = [TITLES.get(name, name) for name in reporters]
    other, have = OTHERS[name]
    others = f"{have} [a page of their own]({other}.md). " if (DOCS / f"{other}.md").exists() else ""
    lines = [HEAD.format(name=name, others=others)]
    for test, (title, faults) in TABLES.items():
        lines += [f"## {title}\n", f"| fault | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
        for fault in faults:
            row = [found.get((test, fault, reporter), "not run") for reporter in reporters]
            lines.append(f"| {fault} | {' | '.join(row)} |")
        lines.append("")
    missing = sum(cell == "✗" for cell in found.values())
    lines.append(f"{proven} cells proven, {missing} failed.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    results, name = sys.argv[1:]
    target = DOCS / f"{name}.md"
    target.write_text(page(name, cells(Path(results))), encoding="utf-8")
    sys.stdout.write(f"{target} written\n")
