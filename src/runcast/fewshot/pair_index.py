"""The order of all pairs of texts: from an index to two rows, without a list of the pairs.

A pair is two rows in either order, or a row with itself. It is positive if the two share a label, else negative.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from runcast.fewshot.label_sets import LabelSets, packed
from runcast.fewshot.permutation import Ints


class PairIndex(Protocol):
    """How many pairs of each kind there are, and which rows make the k-th: arrays of indices to arrays of rows."""

    positives: int
    negatives: int

    def positive(self, index: Ints) -> tuple[Ints, Ints]: ...

    def negative(self, index: Ints) -> tuple[Ints, Ints]: ...


def pair_index(labels: npt.ArrayLike) -> PairIndex:
    """The order of the pairs of texts with these labels.

    Args:
        labels: One class index a text, shape (n,); or rows of 0 and 1, shape (n, classes), if a text may have several.

    Raises:
        ValueError: Another shape.
    """
    array = np.asarray(labels)
    if array.ndim == 1:
        return ClassPairs(array.astype(np.int64))
    if array.ndim == 2:
        return LabelSetPairs(array.astype(bool))
    raise ValueError(f"labels have the shape {array.shape}; expected (texts,) or (texts, classes)")


class ClassPairs:
    """The pairs of texts that have one label each.

    Rows are sorted by class. Positive pairs are the lower triangles (with diagonal) of one square a class, one after the
    other; negative pairs couple each row with all rows of later classes.
    """

    def __init__(self, labels: Ints) -> None:
        self._rows = np.argsort(labels, kind="stable")
        sizes = np.unique(labels, return_counts=True)[1].astype(np.int64)
        self._class_end = np.cumsum(sizes)
        self._positive_end = np.cumsum(sizes * (sizes + 1) // 2)
        self._first_later = np.repeat(self._class_end, sizes)
        self._negative_end = np.cumsum(len(labels) - self._first_later)
        self.positives = int(self._positive_end[-1]) if len(labels) else 0
        self.negatives = int(self._negative_end[-1]) if len(labels) else 0

    def positive(self, index: Ints) -> tuple[Ints, Ints]:
        group = np.searchsorted(self._positive_end, index, side="right")
        row, column = triangle(index - np.concatenate(([0], self._positive_end))[group])
        first = np.concatenate(([0], self._class_end))[group]
        return self._rows[first + row], self._rows[first + column]

    def negative(self, index: Ints) -> tuple[Ints, Ints]:
        row = np.searchsorted(self._negative_end, index, side="right")
        within = index - np.concatenate(([0], self._negative_end))[row]
        return self._rows[row], self._rows[self._first_later[row] + within]


class LabelSetPairs:
    """The pairs of texts that have any number of labels each.

    Rows are sorted by their set of labels. The pairs of a kind come set by set: first those within the set, if they are of
    that kind (those without any label share none, not even with themselves); then each row with all rows of those later
    sets that make a pair of that kind. Which sets these are is computed anew for each set that is asked for.
    """

    def __init__(self, labels: npt.NDArray[np.bool_]) -> None:
        sets, examples, members = np.unique(packed(labels), axis=0, return_index=True, return_inverse=True)
        self._sets = LabelSets(labels[examples])
        self._rows = np.argsort(members.reshape(-1), kind="stable")
        self._sizes = np.bincount(members.reshape(-1), minlength=len(sets)).astype(np.int64)
        self._first = np.cumsum(self._sizes) - self._sizes
        triangles = self._sizes * (self._sizes + 1) // 2
        self._nonempty: npt.NDArray[np.bool_] = np.asarray(sets.any(axis=1))
        with_later = self._sets.later_weights(self._sizes)
        rest = len(labels) - self._first - self._sizes - with_later
        self._end = {
            True: np.cumsum(np.where(self._nonempty, triangles, 0) + self._sizes * with_later),
            False: np.cumsum(np.where(self._nonempty, 0, triangles) + self._sizes * rest),
        }
        self.positives, self.negatives = (int(self._end[kind][-1]) if len(sets) else 0 for kind in (True, False))

    def positive(self, index: Ints) -> tuple[Ints, Ints]:
        return self._pairs(index, True)

    def negative(self, index: Ints) -> tuple[Ints, Ints]:
        return self._pairs(index, False)

    def _pairs(self, index: Ints, kind: bool) -> tuple[Ints, Ints]:
        ends = self._end[kind]
        number = np.searchsorted(ends, index, side="right")
        within = index - np.concatenate(([0], ends))[number]
        left, right = np.empty_like(index), np.empty_like(index)
        for one in np.unique(number).tolist():
            mine = number == one
            left[mine], right[mine] = self._pairs_of_set(one, within[mine], kind)
        return self._rows[left], self._rows[right]

    def _pairs_of_set(self, number: int, within: Ints, kind: bool) -> tuple[Ints, Ints]:
        size, first = int(self._sizes[number]), int(self._first[number])
        inside = size * (size + 1) // 2 if self._nonempty[number] == kind else 0
        left, right = triangle(within)
        outside: npt.NDArray[np.bool_] = np.asarray(within >= inside)
        if outside.any():
            sharing = self._sets.later(number)
            sizes = self._sizes[sharing]
            ends = np.cumsum(sizes)
            sharing_rows, later = int(sizes.sum()), first + size
            partners = sharing_rows if kind else len(self._rows) - later - sharing_rows
            row, column = np.divmod(within[outside] - inside, partners)
            if kind:
                partner = np.searchsorted(ends, column, side="right")
                place = self._first[sharing[partner]] + column - (ends - sizes)[partner]
            else:  # past those of the sharing sets that come before
                others_before = self._first[sharing] - later - (ends - sizes)
                passed = np.searchsorted(others_before, column, side="right")
                place = later + column + np.concatenate(([0], ends))[passed]
            left[outside], right[outside] = row, place - first
        return first + left, first + right


def triangle(index: Ints) -> tuple[Ints, Ints]:
    """Row and column of the k-th cell of a lower triangle: (0, 0), (1, 0), (1, 1), (2, 0), ..."""
    # Row r starts at r(r+1)/2; the square root may be off by one for large numbers.
    row = ((np.sqrt(8.0 * index + 1.0) - 1.0) / 2.0).astype(np.int64)
    row += ((row + 1) * (row + 2) // 2 <= index).astype(np.int64)
    row -= (row * (row + 1) // 2 > index).astype(np.int64)
    return row, index - row * (row + 1) // 2
