"""What contrastive training draws from, without ever listing it: pairs of texts, or batches of some texts of some classes.

n texts make some n²/2 pairs. They have an order, so that the k-th pair of a shared label, and the k-th of different labels,
can be computed from k alone; a keyed permutation of the indices shuffles them. Memory is that of the labels.

    ordinal ──permutation(seed, epoch)──► index of a pair ──arithmetic on the class sizes──► (left, right)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from runcast.fewshot.pair_index import pair_index
from runcast.fewshot.permutation import Ints, Permutation

PairStrategy: TypeAlias = Literal["oversampling", "undersampling", "unique"]
SamplingStrategy: TypeAlias = Literal["batch", "oversampling", "undersampling", "unique"]

_CHUNK = 4096


class Pair(NamedTuple):
    """Two texts, by their row, and what their similarity should be: 1.0 if they share a label, else 0.0."""

    left: int
    right: int
    target: float


class ContrastivePairs(Sampler[Pair]):
    """The pairs of one epoch: those that share a label (positive) spread evenly among those that don't (negative).

    A text paired with itself counts as positive, so that a class of one text has a positive pair too.

    Args:
        labels: One class index a text, shape (n,); or rows of 0 and 1, shape (n, classes), if a text may have several.
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
        labels: npt.ArrayLike,
        strategy: str = "oversampling",
        num_iterations: int | None = None,
        max_pairs: int = -1,
        seed: int = 0,
    ) -> None:
        if strategy not in get_args(PairStrategy):
            raise ValueError(f"sampling_strategy is {strategy!r}; expected one of {', '.join(get_args(PairStrategy))}")
        _check_iterations(num_iterations)
        if max_pairs != -1 and max_pairs < 2:
            raise ValueError(f"max_pairs is {max_pairs}; expected at least 2, or -1 for no limit")
        self.seed = seed
        self.epoch = 0
        self._index = pair_index(labels)
        available = self._index.positives, self._index.negatives
        limit = max_pairs // 2 if max_pairs > 0 else max(available)
        positives, negatives = (min(count, limit) for count in available)
        if num_iterations is not None:
            positives = negatives = num_iterations * len(np.asarray(labels))
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

    def chunks(self) -> Iterator[tuple[Ints, Ints, npt.NDArray[np.float32]]]:
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


class ClassBatches(Sampler[int]):
    """The rows of one epoch, batch after batch: `batch_size` rows that are some texts of each of some classes.

    Classes take turns, whatever their size, and so do the texts of a class; both in a new random order each turn. In a
    batch a class comes once. Of a class with fewer texts than are asked for some come twice, which still teaches something:
    dropout embeds them differently. Texts without any label are a class of their own.

    Args:
        labels: As for `ContrastivePairs`.
        classes_per_batch: How many classes a batch has.
        examples_per_class: How many texts of each. Where there aren't as many classes, there are more texts of each, so that
            the batch keeps its size, but no more than the largest class has.
        num_iterations: How often an epoch draws a text, on average; by default twice, or in small data more often, until the
            epoch has `FEWEST_BATCHES` batches.
        seed: Together with the epoch decides what is drawn.

    Attributes:
        batch_size: How many rows make a batch.

    Raises:
        ValueError: A parameter that makes no sense.
    """

    FEWEST_BATCHES = 40

    def __init__(
        self,
        labels: npt.ArrayLike,
        classes_per_batch: int = 16,
        examples_per_class: int = 2,
        num_iterations: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("classes_per_batch", classes_per_batch), ("examples_per_class", examples_per_class)):
            if value < 2:
                raise ValueError(f"{name} is {value}; expected at least 2")
        _check_iterations(num_iterations)
        self.seed = seed
        self.epoch = 0
        self._members = _members(np.asarray(labels))
        self._classes = min(classes_per_batch, len(self._members))
        wanted = max(examples_per_class, classes_per_batch * examples_per_class // self._classes)
        largest = max(len(rows) for rows in self._members)
        self._examples = max(examples_per_class, min(wanted, largest))
        self.batch_size = self._classes * self._examples
        batches = -(-(num_iterations or 2) * len(np.asarray(labels)) // self.batch_size)
        self._batches = batches if num_iterations else max(batches, self.FEWEST_BATCHES)

    def __len__(self) -> int:
        return self._batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Chooses other batches, the same for the same epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed % 2**64, self.epoch])
        classes = _Deck(np.arange(len(self._members)), random)
        texts: dict[int, _Deck] = {}
        for _ in range(self._batches):
            for one in classes.deal(self._classes):
                if one not in texts:
                    texts[one] = _Deck(self._members[one], random)
                yield from texts[one].deal(self._examples)


class _Deck:
    """Deals cards in random order; shuffles them all again when they run out."""

    def __init__(self, cards: Ints, random: np.random.Generator) -> None:
        self._cards = cards
        self._random = random
        self._left: list[int] = []

    def deal(self, count: int) -> list[int]:
        """So many cards, none twice before all are in the hand."""
        hand: list[int] = []
        later: list[int] = []
        while len(hand) < count:
            if not self._left:
                self._left = self._random.permutation(self._cards).tolist()
            card = self._left.pop()
            (later if card in hand and len(hand) < len(self._cards) else hand).append(card)
        self._left += later
        return hand


def _members(labels: npt.NDArray[Any]) -> list[Ints]:
    """The rows of each class that has any."""
    if labels.ndim == 1:
        ends = np.cumsum(np.unique(labels, return_counts=True)[1])[:-1]
        return np.split(np.argsort(labels, kind="stable"), ends)
    columns = [*labels.astype(bool).T, ~labels.any(axis=1)]
    return [np.flatnonzero(column) for column in columns if column.any()]


def _check_iterations(num_iterations: int | None) -> None:
    if num_iterations is not None and num_iterations < 1:
        raise ValueError(f"num_iterations is {num_iterations}; expected at least 1, or None")
