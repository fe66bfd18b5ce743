"""Classification heads: from embeddings to class probabilities.

Every head is linear, however it was fitted; so it is saved as a few arrays, without pickle.
"""

from __future__ import annotations

import difflib

from runcast.fewshot.heads.base import HEADS, Floats, Head, Ints, Link, Strategy
from runcast.fewshot.heads.linear_layer import TorchHead
from runcast.fewshot.heads.logistic import LogisticHead


def make_head(kind: str, multi_target_strategy: Strategy | None = None) -> Head:
    """An unfitted head of that kind.

    Raises:
        ValueError: There is no such kind, or it can't do that strategy.
    """
    if kind not in HEADS:
        near = difflib.get_close_matches(kind, HEADS, n=1)
        raise ValueError(
            f"head is {kind!r}; expected one of {', '.join(sorted(HEADS))}" + (f" ({near[0]}?)" if near else "")
        )
    return HEADS[kind]() if multi_target_strategy is None else HEADS[kind](multi_target_strategy)


__all__ = ["HEADS", "Floats", "Head", "Ints", "Link", "LogisticHead", "Strategy", "TorchHead", "make_head"]
