"""Pairs of texts for contrastive training, drawn without ever listing them.

n texts make some n²/2 pairs. They have an order, so that the k-th pair of equal labels, and the k-th of different
labels, can be computed from k alone; a keyed permutation of the indices shuffles them. Memory is that of the labels.

    ordinal ──permutation(seed, epoch)──► index of a pair ──arithmetic on the class sizes──► (left, right)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

SamplingStrategy: TypeAlias = Literal["oversampling", "undersampling", "unique"]

_Ints: TypeAlias = npt.NDArray[np.int64]
_CHUNK = 4096


class Pair(NamedTuple):
    """Two texts, by their row, and what their similarity should be: 1.0 for equal labels, else 0.0."""

    left: int
    right: int
    target: float


class ContrastivePairs(Sampler[Pair]):
    """The pairs of one epoch: those of equal labels (positive) spread evenly among those of different labels (negative).

    A text paired with itself counts as positive, so that a class of one text has a positive pair too.

    Args:
        labels: One class index (0, 1, ...) a text.
        strategy: ``oversampling`` repeats pairs of the rarer kind until there are as many as of the other,
            ``undersampling`` leaves out pairs of the more frequent kind, ``unique`` takes every pair once.
        num_iterations: If set, the number of pairs of each kind is this times the number of texts, whatever the strategy.
        max_pairs: If positive, at most half of it of each kind is available to the strategy.
        seed: Together with the epoch decides about the order.

    Raises:
        ValueError: A parameter that makes no sense.
    """

    def __init__(
        self,
        labels: Sequence[int] | _Ints,
        strategy: str = "oversampling",
        num_iterations: int | None = None,
        max_pairs: int = -1,
        seed: int = 0,
    ) -> None:
        if strategy not in get_args(SamplingStrategy):
            raise ValueError(
                f"sampling_strategy is {strategy!r}; expected one of {', '.join(get_args(SamplingStrategy))}"
            )
        if num_iterations is not None and num_iterations < 1:
            raise ValueError(f"num_iterations is {num_iterations}; expected at least 1, or None")
        if max_pairs != -1 and max_pairs < 2:
            raise ValueError(f"max_pairs is {max_pairs}; expected at least 2, or -1 for no limit")
        self.seed = seed
        self.epoch = 0
        self._index = _PairIndex(np.asarray(labels, dtype=np.int64))
        available = self._index.positives, self._index.negatives
        limit = max_pairs // 2 if max_pairs > 0 else max(available)
        positives, negatives = (min(count, limit) for count in available)
        if num_iterations is not None:
            positives = negatives = num_iterations * len(labels)
        elif strategy == "oversampling":
            positives = negatives = max(positives, negatives)
        elif strategy == "undersampling":
            positives = negatives = min(positives, negatives)
        self.positives = positives if self._index.positives else 0
        self.negatives = negatives if self._index.negatives else 0

    def __len__(self) -> int:
        return self.positives + self.negatives

    def set_epoch(self, epoch: int) -> None:
        """Chooses another order (and, where not all pairs are taken, other pairs), the same for the same epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Pair]:
        for left, right, target in self.chunks():
            yield from map(Pair, left.tolist(), right.tolist(), target.tolist())

    def chunks(self) -> Iterator[tuple[_Ints, _Ints, npt.NDArray[np.float32]]]:
        """The pairs in order, some thousand at a time: rows of the left texts, of the right ones, targets."""
        shuffle_positives = Permutation(self._index.positives, self.seed, self.epoch, 1)
        shuffle_negatives = Permutation(self._index.negatives, self.seed, self.epoch, 2)
        total = len(self)
        for start in range(0, total, _CHUNK):
            offset = np.arange(min(_CHUNK, total - start) + 1, dtype=np.int64)
            # Of the first k pairs, ⌊k · positives / total⌋ are positive. Python's integers don't overflow; the rest fits.
            whole, rest = divmod(start * self.positives, total)
            before = whole + (rest + offset * self.positives) // total
            positive = np.diff(before).astype(bool)
            ordinal = np.where(positive, before[:-1], start + offset[:-1] - before[:-1])
            left, right = np.empty_like(ordinal), np.empty_like(ordinal)
            if positive.any():
                left[positive], right[positive] = self._index.positive(shuffle_positives(ordinal[positive]))
            if not positive.all():
                left[~positive], right[~positive] = self._index.negative(shuffle_negatives(ordinal[~positive]))
            yield left, right, positive.astype(np.float32)


class _PairIndex:
    """The order of all pairs: index → two rows.

    Rows are sorted by class. Positive pairs are the lower triangles (with diagonal) of one square a class, one after the
    other; negative pairs couple each row with all rows of later classes.
    """

    def __init__(self, labels: _Ints) -> None:
        self._rows = np.argsort(labels, kind="stable")
        sizes = np.unique(labels, return_counts=True)[1].astype(np.int64)
        self._class_end = np.cumsum(sizes)
        self._positive_end = np.cumsum(sizes * (sizes + 1) // 2)
        self._first_later = np.repeat(self._class_end, sizes)
        self._negative_end = np.cumsum(len(labels) - self._first_later)
        self.positives = int(self._positive_end[-1]) if len(labels) else 0
        self.negatives = int(self._negative_end[-1]) if len(labels) else 0

    def positive(self, index: _Ints) -> tuple[_Ints, _Ints]:
        group = np.searchsorted(self._positive_end, index, side="right")
        within = index - np.concatenate(([0], self._positive_end))[group]
        # Row r of the triangle starts at r(r+1)/2; the square root may be off by one for large numbers.
        row = ((np.sqrt(8.0 * within + 1.0) - 1.0) / 2.0).astype(np.int64)
        row += ((row + 1) * (row + 2) // 2 <= within).astype(np.int64)
        row -= (row * (row + 1) // 2 > within).astype(np.int64)
        first = np.concatenate(([0], self._class_end))[group]
        return self._rows[first + row], self._rows[first + within - row * (row + 1) // 2]

    def negative(self, index: _Ints) -> tuple[_Ints, _Ints]:
        row = np.searchsorted(self._negative_end, index, side="right")
        within = index - np.concatenate(([0], self._negative_end))[row]
        return self._rows[row], self._rows[self._first_later[row] + within]


class Permutation:
    """A shuffle of range(size) that is computed, not stored: a Feistel network of four rounds, keyed by `keys`.

    The network permutes the next power of four; what falls outside range(size) goes through again until it falls inside.
    Ordinals from `size` on start over.
    """

    _ROUNDS = 4

    def __init__(self, size: int, *keys: int) -> None:
        self.size = size
        self._half_bits = np.uint64(max(1, math.ceil(max(size - 1, 1).bit_length() / 2)))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        entropy = [key % 2**64 for key in keys]
        self._keys = np.random.SeedSequence(entropy).generate_state(self._ROUNDS, np.uint64)

    def __call__(self, ordinals: _Ints) -> _Ints:
        value = (ordinals % self.size).astype(np.uint64)
        outside = np.ones(len(value), dtype=bool)
        while outside.any():
            value[outside] = self._network(value[outside])
            outside = value >= self.size
        return value.astype(np.int64)

    def _network(self, value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = value >> self._half_bits, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijective hash of 64 bits (the finaliser of SplitMix64); multiplication wraps on purpose."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
