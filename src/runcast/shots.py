"""Which examples a few-shot training takes: so many of each class. Needs nothing installed, so the command line has it too."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any


def draw(rows_of: Mapping[Any, Sequence[int]], shots: int, seed: int) -> list[int]:
    """Rows in order, so that each class has `shots` of them, or all that it has; the same ones for the same seed.

    A row may be of several classes. The rarest class is drawn first, and what was drawn for one counts for the others; so a
    frequent class may get more than `shots`.

    Args:
        rows_of: The rows of each class.
        shots: How many are wanted.
        seed: Decides which.
    """
    chance = random.Random(seed)
    chosen: set[int] = set()
    for label in sorted(rows_of, key=lambda label: (len(rows_of[label]), str(label))):
        left = [row for row in rows_of[label] if row not in chosen]
        wanted = shots - (len(rows_of[label]) - len(left))
        chosen.update(chance.sample(left, max(0, min(wanted, len(left)))))
    return sorted(chosen)
