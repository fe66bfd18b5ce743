"""A few examples of each class, from a large dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from runcast.fewshot.data import Examples, check_no_stream, columns_of
from runcast.fewshot.labels import check_labels, label_form, plain
from runcast.shots import draw

logger = logging.getLogger("runcast")

Data = TypeVar("Data")
_NAMED = 5


def sample_dataset(dataset: Data, label_column: str = "label", num_samples: int = 8, seed: int = 42) -> Data:
    """So many examples of each class, the same ones for the same seed, in the order of the dataset.

    Where a text may have several labels, each label gets at least so many; rare ones are drawn first, and a text counts for
    all of its labels. Texts without any label are a class of their own. Of a class that has fewer, all are taken, and a
    warning says so. ``runcast train --shots 8`` draws the same examples.

    Args:
        dataset: A `datasets.Dataset`, a pandas DataFrame, a dict of lists, a list of dicts, or `Examples`.
        label_column: Its column with the labels.
        num_samples: How many of each class.
        seed: Decides which.

    Returns:
        A dataset of the same kind, with all columns.

    Raises:
        ValueError: There is no such column, a label is missing, or `num_samples` isn't positive.
        TypeError: Data of another kind.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1")
    check_no_stream(dataset, "dataset")
    rows_of = _rows_of(_labels(dataset, label_column))
    few = [f"{_called(label)} has {len(rows)}" for label, rows in rows_of.items() if len(rows) < num_samples]
    if few:
        more = f", and {len(few) - _NAMED} more classes" if len(few) > _NAMED else ""
        logger.warning(
            "fewer than the %d examples wanted, so all are taken: %s%s", num_samples, ", ".join(few[:_NAMED]), more
        )
    taken: Data = _take(dataset, draw(rows_of, num_samples, seed))
    return taken


def _labels(dataset: Any, column: str) -> list[Any]:
    if isinstance(dataset, Examples):
        return dataset.required_labels()
    columns = columns_of(dataset, "dataset")
    if column not in columns:
        names = ", ".join(map(repr, columns)) or "none"
        raise ValueError(f"dataset has no column {column!r}; it has {names}. Pass label_column='<its name>'")
    labels = [plain(label) for label in columns[column]]
    if not labels:
        raise ValueError("dataset is empty; there is nothing to draw from")
    check_labels(labels, "dataset")
    return labels


def _rows_of(labels: Sequence[Any]) -> dict[Any, list[int]]:
    """The rows of each class; None is the class of those without any label."""
    form = label_form(labels)
    found: dict[Any, list[int]] = {}
    for row, label in enumerate(labels):
        own = (label,) if form == "single" else label
        if form == "rows":
            own = tuple(place for place, value in enumerate(label) if value)
        for one in own or (None,):
            found.setdefault(one, []).append(row)
    return found


def _called(label: Any) -> str:
    return "no label at all" if label is None else f"{label!r}"


def _take(dataset: Any, rows: Sequence[int]) -> Any:
    """These rows of a dataset, as a dataset of the same kind."""
    if isinstance(dataset, Examples):
        labels = dataset.required_labels()
        return Examples([dataset.texts[row] for row in rows], [labels[row] for row in rows], dataset.name)
    if isinstance(dataset, Mapping):
        columns = {name: list(column) for name, column in dataset.items()}
        return {name: [column[row] for row in rows] for name, column in columns.items()}
    if hasattr(dataset, "column_names"):  # datasets.Dataset
        return dataset.select(rows)
    if hasattr(dataset, "iloc"):  # pandas.DataFrame
        return dataset.iloc[list(rows)]
    return [dataset[row] for row in rows]
