"""W&B's items: a value in JSON, under a key or under the path of keys to a value within nested ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


class Summary:
    """What the summary of a run amounts to.

    W&B's file tells apart what the user set from what W&B notes with each row, which always has the row's step.

    Attributes:
        chosen: Nested: what the user set, as long as no row was logged over it.
        automatic: Nested: the last value of each column, or what `define_metric` asked for instead.
    """

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}
        self.automatic: dict[str, Any] = {}

    def add(self, record: Any) -> None:
        """Adds W&B's record of a change."""
        of_a_row = any(list(item.nested_key) == ["_step"] for item in record.update)
        into, over = (self.automatic, self.chosen) if of_a_row else (self.chosen, self.automatic)
        for item in record.update:
            _remove(over, _path(item))
            _put(into, item)
        for item in record.remove:
            _remove(self.chosen, _path(item))
            _remove(self.automatic, _path(item))


def nested(items: Iterable[Any]) -> dict[str, Any]:
    """Values as they were logged: W&B takes the dict of an image, say, apart."""
    values: dict[str, Any] = {}
    for item in items:
        _put(values, item)
    return values


def _path(item: Any) -> Sequence[str]:
    return item.nested_key or [item.key]


def _put(values: dict[str, Any], item: Any) -> None:
    *parents, last = _path(item)
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            values[parent] = {}
        values = values[parent]
    values[last] = json.loads(item.value_json) if item.value_json else None  # a row of the user's in another encoding


def _remove(values: dict[str, Any], path: Sequence[str]) -> None:
    *parents, last = path
    for parent in parents:
        below = values.get(parent)
        if not isinstance(below, dict):
            return
        values = below
    values.pop(last, None)
