"""Puts the results of the kit together: ``python integrations/capability_table.py FOLDER``.

FOLDER is tox's, where the environments of the trackers have what pytest's ``--capabilities`` wrote. That becomes
docs/capabilities.md, and the file that ``runcast trackers --capabilities`` shows. A tracker that was not tested now keeps its
row; oldest versions don't count.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from runcast.capabilities import Capabilities, features, read_capabilities

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "capabilities.md"
DATA = ROOT / "src" / "runcast" / "reporters" / "capabilities.json"
HEAD = """# What each tracker can hold

Written from the results of the [conformance kit](conformance.md), not by hand; `runcast trackers --capabilities` shows the same.
Each *yes* was proven by a test that reported to the tracker's real local or offline backend and read it back.

| cell | meaning |
|---|---|
| yes | the tracker has a place of its own for it |
| [yes](#how) | it has none, so it goes another way, which is told below; it reads back the same |
| no | nothing of it reaches the tracker |
"""


def merged(folder: Path) -> Capabilities:
    """All results, by tracker."""
    found = read_capabilities(DATA) if DATA.exists() else {}
    for path in sorted(folder.glob("*/tmp/capabilities.json")):
        if not path.parents[1].name.endswith("-oldest"):
            found |= read_capabilities(path)
    return dict(sorted(found.items()))


def page(found: Capabilities) -> str:
    """The table, and below it how."""
    lines = [HEAD, f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    how = []
    for feature in features(found):
        cells = []
        for tracker, row in found.items():
            seen = row.get(feature)
            cells.append("" if seen is None else "[yes](#how)" if seen.how and seen.result == "yes" else seen.result)
            if seen is not None and seen.how and seen.result == "yes":
                how.append(f"| {tracker} | {feature} | {seen.how} |")
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    return (
        "\n".join([*lines, "", "## How", "", "| tracker | what | where it goes |", "|---|---|---|", *sorted(how)])
        + "\n"
    )


def plain(found: Capabilities) -> str:
    """The results as JSON that is pleasant to compare."""
    rows = {
        tracker: {
            feature: {"result": seen.result, **({"how": seen.how} if seen.how else {})} for feature, seen in row.items()
        }
        for tracker, row in found.items()
    }
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    results = merged(Path(sys.argv[1]))
    DATA.write_text(plain(results), encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")
    failed = [f"{t}: {f}" for t, row in results.items() for f, seen in row.items() if seen.result == "failed"]
    sys.stdout.write(f"{PAGE} and {DATA} written\n" + "".join(f"failed: {line}\n" for line in failed))
    sys.exit(bool(failed))
