"""Pairs are those that listing all of them would give, without listing them; batches are some texts of some classes."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runcast.fewshot import label_sets
from runcast.fewshot.label_sets import LabelSets
from runcast.fewshot.permutation import Permutation
from runcast.fewshot.sampling import ClassBatches, ContrastivePairs

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=25).filter(lambda labels: len(set(labels)) > 1)
LABEL_SETS = st.integers(2, 70).flatmap(
    lambda classes: st.lists(
        st.sets(st.integers(0, classes - 1), max_size=3).map(
            lambda labels: [int(number in labels) for number in range(classes)]
        ),
        min_size=2,
        max_size=20,
    )
)
MANY_LABELS = st.lists(st.lists(st.integers(0, 1), min_size=14, max_size=14), min_size=2, max_size=20)


def share(one: int | list[int], other: int | list[int]) -> bool:
    """Whether two texts have a label in common, as SetFit sees it."""
    return one == other if isinstance(one, int) else any(np.logical_and(one, other))


def all_pairs(labels: list) -> tuple[set[frozenset[int]], set[frozenset[int]]]:
    """Every pair that shares a label (each text with itself too), and every other pair, by brute force."""
    pairs = list(itertools.combinations_with_replacement(range(len(labels)), 2))
    positive = {frozenset(pair) for pair in pairs if share(labels[pair[0]], labels[pair[1]])}
    return positive, {frozenset(pair) for pair in pairs} - positive


@settings(max_examples=120)
@given(LABELS | LABEL_SETS | MANY_LABELS)
def test_unique_draws_every_pair_exactly_once(labels):
    """`unique` yields every pair once, with the right target."""
    positive, negative = all_pairs(labels)
    pairs = list(ContrastivePairs(labels, "unique"))
    drawn = [frozenset((pair.left, pair.right)) for pair in pairs]
    assert len(drawn) == len(set(drawn)) == len(positive) + len(negative)
    assert {key for key, pair in zip(drawn, pairs) if pair.target == 1.0} == positive


@settings(max_examples=120)
@given(LABELS | LABEL_SETS | MANY_LABELS, st.integers(1, 3), st.sampled_from([-1, 4, 20]))
def test_counts_are_those_of_the_strategies(labels, num_iterations, max_pairs):
    """Oversampling, undersampling and num_iterations yield as many pairs of each kind as they promise."""
    limit = max_pairs // 2 if max_pairs > 0 else 10**9
    positive, negative = (min(len(kind), limit) for kind in all_pairs(labels))
    for options, expected in [
        ({"strategy": "oversampling"}, max(positive, negative)),
        ({"strategy": "undersampling"}, min(positive, negative)),
        ({"num_iterations": num_iterations}, num_iterations * len(labels)),
    ]:
        sampler = ContrastivePairs(labels, max_pairs=max_pairs, **options)
        targets = [pair.target for pair in sampler]
        kinds = [expected if kind else 0 for kind in (positive, negative)]  # a kind that there isn't can't be repeated
        assert len(sampler) == len(targets) == sum(kinds)
        assert sum(targets) == kinds[0]


# As setfit 1.2.0 says: labels, max_pairs, then positive and negative pairs of oversampling, undersampling and unique.
SETFIT = [
    ([0, 0, 0, 1, 1, 2], -1, (11, 11), (10, 10), (10, 11)),
    ([0] * 9 + [1] * 2, -1, (48, 48), (18, 18), (48, 18)),
    ([0] * 9 + [1] * 2, 40, (20, 20), (18, 18), (20, 18)),
    ([0] * 9 + [1] * 2, 7, (3, 3), (3, 3), (3, 3)),
    ([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]], -1, (10, 10), (5, 5), (10, 5)),
    ([[1, 0], [0, 1], [0, 0], [1, 1], [0, 0]], -1, (10, 10), (5, 5), (5, 10)),
]


@pytest.mark.parametrize(("labels", "max_pairs", "over", "under", "unique"), SETFIT)
def test_counts_are_those_that_setfit_gave(labels, max_pairs, over, under, unique):
    """The numbers of pairs of each kind, as SetFit 1.2.0 counts them."""
    for strategy, expected in (("oversampling", over), ("undersampling", under), ("unique", unique)):
        sampler = ContrastivePairs(labels, strategy, max_pairs=max_pairs)
        assert (sampler.positives, sampler.negatives) == expected, strategy


def test_oversampling_covers_every_pair_of_the_frequent_kind():
    """Repeating the rarer kind leaves out no pair of either kind."""
    labels = [0, 0, 1, 2, 3, 4]
    positive, negative = all_pairs(labels)
    pairs = list(ContrastivePairs(labels, "oversampling"))
    assert {frozenset(p[:2]) for p in pairs if p.target} == positive
    assert {frozenset(p[:2]) for p in pairs if not p.target} == negative


def test_kinds_alternate_evenly():
    """Any stretch of balanced pairs has as many of one kind as of the other, give or take one."""
    targets = [pair.target for pair in ContrastivePairs([0, 1, 2] * 8)]
    assert all(abs(sum(targets[i : i + 10]) - 5) <= 1 for i in range(0, len(targets) - 10))


def test_same_seed_and_epoch_give_the_same_pairs_and_others_do_not():
    """The order depends on seed and epoch, and on nothing else."""

    def draw(seed, epoch):
        sampler = ContrastivePairs([0, 1, 2] * 10, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(1, 0) == draw(1, 0)
    assert draw(1, 0) != draw(1, 1)
    assert draw(1, 0) != draw(2, 0)


def drawn_with_peak(labels):
    """A sampler, its first thousand pairs, and the bytes that both took at most."""
    tracemalloc.start()
    sampler = ContrastivePairs(labels)
    first = list(itertools.islice(sampler, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return sampler, first, peak


def test_memory_is_that_of_the_labels():
    """A hundred thousand texts, with five thousand million pairs, cost some megabytes."""
    labels = np.arange(100_000) % 77
    sampler, first, peak = drawn_with_peak(labels)
    assert len(sampler) > 9 * 10**9
    assert all((labels[a] == labels[b]) == bool(target) for a, b, target in first)
    assert peak < 30e6


def test_memory_is_that_of_the_labels_where_texts_have_several():
    """So it is with a hundred thousand texts of any number of labels, whose pairs share one or don't."""
    labels = np.random.default_rng(0).random((100_000, 12)) < 0.1
    sampler, first, peak = drawn_with_peak(labels)
    assert len(sampler) > 5 * 10**9
    assert all((labels[a] & labels[b]).any() == bool(target) for a, b, target in first)
    assert peak < 60e6


@settings(max_examples=120)
@given(LABEL_SETS | MANY_LABELS, st.integers(0, 9), st.sampled_from([1, 1 << 17]))
def test_later_sets_are_those_that_share_a_label(labels, seed, at_once):
    """And weigh what they weigh together, however many are counted at once."""
    rows = np.unique(np.array(labels, dtype=bool), axis=0)
    weights = np.random.default_rng(seed).integers(1, 9, len(rows))
    later = [[j for j in range(i + 1, len(rows)) if (rows[i] & rows[j]).any()] for i in range(len(rows))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_sets, "_AT_ONCE", at_once)
        sets = LabelSets(rows)
        assert [sets.later(number).tolist() for number in range(len(rows))] == later
        assert sets.later_weights(weights).tolist() == [weights[partners].sum() for partners in later]


def test_many_sets_of_few_labels_are_counted_without_comparing_them(monkeypatch):
    """So pairs are ready at once where nearly every text has labels of its own; the count is that of comparing all."""
    labels = np.zeros((5000, 200), dtype=bool)
    chosen = np.random.default_rng(0).integers(0, 200, (5000, 3))
    labels[np.arange(5000)[:, None], chosen] = True
    share = (labels.astype(np.float32) @ labels.T.astype(np.float32)) > 0
    monkeypatch.setattr(LabelSets, "_share", None)
    sampler = ContrastivePairs(labels, "unique")
    assert sampler.positives == (share.sum() + 5000) // 2
    assert sampler.negatives == (~share).sum() // 2


# -- batches ---------------------------------------------------------------------------------------------------------


def batches_of(sampler: ClassBatches) -> list[list[int]]:
    """The batches of an epoch."""
    rows = list(sampler)
    assert len(rows) == len(sampler) and len(rows) % sampler.batch_size == 0
    return [rows[start : start + sampler.batch_size] for start in range(0, len(rows), sampler.batch_size)]


@settings(max_examples=60)
@given(st.lists(st.integers(3, 9), min_size=2, max_size=9), st.integers(2, 4), st.integers(2, 3), st.integers(0, 9))
def test_a_batch_has_some_texts_of_some_classes(sizes, classes, examples, seed):
    """Each batch has that many different classes, and that many different texts of each."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    sampler = ClassBatches(labels, classes, examples, seed=seed)
    for batch in batches_of(sampler):
        found = Counter(labels[batch].tolist())
        assert len(found) == min(classes, len(sizes))
        assert set(found.values()) == {sampler.batch_size // len(found)}
        if len(sizes) >= classes:
            assert len(batch) == len(set(batch)) == classes * examples


def test_classes_and_their_texts_take_turns():
    """No class is drawn more often than another, give or take one; and within a class no text."""
    labels = np.array([0] * 40 + [1] * 4 + [2] * 5 + [3] * 6 + [4] * 7)
    rows = list(ClassBatches(labels, 2, 2, num_iterations=10))
    drawn = Counter(labels[rows].tolist())
    assert max(drawn.values()) - min(drawn.values()) <= 2  # a class's two texts
    for one in range(5):
        texts = Counter(row for row in rows if labels[row] == one)
        assert max(texts.values()) - min(texts[row] for row in np.flatnonzero(labels == one)) <= 1


def test_few_classes_give_more_texts_each():
    """With two classes a batch keeps its size, but for classes that haven't as many texts."""
    assert ClassBatches([0, 1] * 50, 16, 2).batch_size == 32
    assert ClassBatches([0, 1] * 8, 16, 2).batch_size == 16
    assert ClassBatches([0, 1, 2] * 8, 16, 2).batch_size == 24


def test_a_class_of_one_text_draws_it_twice():
    """One text a class still makes a pair."""
    assert all(Counter(batch) == {0: 2, 1: 2, 2: 2} for batch in batches_of(ClassBatches([0, 1, 2])))


def test_texts_of_several_labels_are_drawn_for_each_and_those_of_none_too():
    """Every label's texts are drawn, and those without any label as a class of their own."""
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]])
    sampler = ClassBatches(labels, 4, 2)
    assert sampler.batch_size == 8
    for batch in batches_of(sampler):
        assert (labels[batch].sum(axis=0) >= 2).all() and (labels[batch].sum(axis=1) == 0).sum() == 2


def test_an_epoch_draws_each_text_twice_and_has_at_least_forty_batches():
    """The default length of an epoch; num_iterations sets how often a text is drawn."""
    assert len(batches_of(ClassBatches(np.arange(2000) % 50))) == 2 * 2000 // 32
    assert len(batches_of(ClassBatches([0, 1] * 8))) == 40
    assert len(batches_of(ClassBatches([0, 1] * 8, num_iterations=3))) == 3
    assert len(batches_of(ClassBatches(np.arange(2000) % 50, num_iterations=1))) == -(-2000 // 32)


def test_the_same_seed_and_epoch_give_the_same_batches_and_others_do_not():
    """What is drawn depends on seed and epoch, and on nothing else."""

    def draw(seed, epoch):
        sampler = ClassBatches([0, 1, 2, 3] * 10, 2, 2, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(1, 0) == draw(1, 0)
    assert draw(1, 0) != draw(1, 1)
    assert draw(1, 0) != draw(2, 0)


# -- arithmetic ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(0, 100))
@settings(max_examples=50)
def test_permutation_is_one(size, key):
    """Every index comes exactly once, and after the last one it starts over."""
    permuted = Permutation(size, key)(np.arange(2 * size))
    assert sorted(permuted[:size]) == list(range(size))
    assert (permuted[:size] == permuted[size:]).all()


def test_pair_index_is_exact_for_huge_classes():
    """Square roots of large numbers are corrected: the last pair of a million equal labels is the last row with itself."""
    index = ContrastivePairs(np.zeros(1_000_000, dtype=int), "unique")._index
    last = np.array([index.positives - 1])
    assert [int(side[0]) for side in index.positive(last)] == [999_999, 999_999]
    start_of_last_row = np.array([999_999 * 1_000_000 // 2])
    assert [int(side[0]) for side in index.positive(start_of_last_row)] == [999_999, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "random"}, "sampling_strategy is 'random'; expected one of oversampling, undersampling, unique"),
        ({"num_iterations": 0}, "num_iterations is 0"),
        ({"max_pairs": 1}, "max_pairs is 1"),
    ],
)
def test_senseless_options_are_refused(options, message):
    """An option that makes no sense is an error that says what is expected."""
    with pytest.raises(ValueError, match=message):
        ContrastivePairs([0, 1], **options)


@pytest.mark.parametrize("options", [{"classes_per_batch": 1}, {"examples_per_class": 1}, {"num_iterations": 0}])
def test_senseless_batches_are_refused(options):
    """A batch needs two classes and two texts of each, else it has pairs of one kind only."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        ClassBatches([0, 1, 2], **options)
