"""Which of many sets of labels have a label in common, without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from runcast.fewshot.permutation import Ints

Bits = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_NARROW = 10  # labels
_AT_ONCE = 1 << 17  # subsets


class LabelSets:
    """Distinct sets of labels, in an order.

    Args:
        rows: For each set whether it has each label, shape (sets, labels).
    """

    def __init__(self, rows: Flags) -> None:
        self._rows = rows
        self._words: Bits = np.ascontiguousarray(packed(rows).T)

    def later(self, number: int) -> Ints:
        """Which later sets share a label with a set."""
        return np.flatnonzero(self._share(number, number + 1)) + number + 1

    def later_weights(self, weights: Ints) -> Ints:
        """For each set, what the later sets that share a label with it weigh together.

        Sets of up to ten labels are counted by inclusion and exclusion: what has one label or the other is what has the one,
        and what has the other, less what has both; and so on for each subset of a set's labels. So the time goes with the
        number of subsets, not of pairs of sets. A set of more labels has too many: it is compared with all others.
        """
        counts = np.count_nonzero(self._rows, axis=1)
        narrow: Flags = counts <= _NARROW
        total = np.zeros(len(counts), dtype=np.int64)
        for number in np.flatnonzero(~narrow).tolist():
            shares = self._share(number, 0)
            total[number] = weights[number + 1 :][shares[number + 1 :]].sum()
            total[:number][shares[:number] & narrow[:number]] += weights[number]
        self._add_narrow(total, np.flatnonzero(narrow), weights)
        return total

    def _share(self, number: int, start: int) -> Flags:
        """Which sets from `start` on share a label with a set."""
        shares: Flags = np.zeros(len(self._rows) - start, dtype=bool)
        for word in self._words[self._words[:, number] != 0]:
            shares |= (word[start:] & word[number]) != 0
        return shares

    def _add_narrow(self, total: Ints, numbers: Ints, weights: Ints) -> None:
        """Adds to `total` what the sets of a few labels weigh for each other."""
        # With the rarest label first there are few sets for most beginnings of a subset.
        rarest_first = np.argsort(np.count_nonzero(self._rows, axis=0), kind="stable")
        which, label = np.nonzero(self._rows[np.ix_(numbers, rarest_first)])
        owner = numbers[which]  # of each label of each set, set by set
        end = np.searchsorted(which, which, side="right")
        for beginnings in _by_label(label, end):
            place, key, sign = beginnings, label[beginnings], 1
            while len(place):
                # Entries are subsets of a set's labels; those of the same subset, one after the other, in the order of the sets.
                order = np.argsort(key, kind="stable")
                place, key = place[order], key[order]
                first = np.concatenate(([True], key[1:] != key[:-1]))
                subset = np.cumsum(first) - 1
                sums = np.cumsum(weights[owner[place]])
                last = np.append(np.flatnonzero(first)[1:], len(first)) - 1
                np.add.at(total, owner[place], sign * (sums[last][subset] - sums))
                # What only one set has, with whatever other label, adds nothing any more.
                common = np.bincount(subset)[subset] > 1
                place, subset = place[common], subset[common]
                more = end[place] - place - 1
                parent = np.repeat(np.arange(len(place)), more)
                place = place[parent] + 1 + np.arange(len(parent)) - (np.cumsum(more) - more)[parent]
                key, sign = subset[parent] * self._rows.shape[1] + label[place], -sign


def _by_label(label: Ints, end: Ints) -> Iterator[Ints]:
    """All places, label by label, so many at once that their subsets fit into memory."""
    by_label = np.argsort(label, kind="stable")
    subsets = np.cumsum(1 << (end[by_label] - by_label - 1))
    bounds = np.append(np.flatnonzero(np.diff(label[by_label])) + 1, len(label))  # behind each label
    start = 0
    while start < len(label):
        limit = (subsets[start - 1] if start else 0) + _AT_ONCE
        fitting = bounds[(bounds > start) & (subsets[bounds - 1] <= limit)]
        stop = int(fitting[-1] if len(fitting) else bounds[bounds > start][0])
        yield by_label[start:stop]
        start = stop


def packed(rows: Flags) -> Bits:
    """Each row's labels as bits of 64-bit words, shape (n, words)."""
    words = max(1, -(-rows.shape[1] // 64))
    wide = np.zeros((len(rows), words * 64), dtype=bool)
    wide[:, : rows.shape[1]] = rows
    return np.packbits(wide, axis=1).view(np.uint64)
