"""Pairs are those that listing all of them would give, without listing them."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runcast.fewshot.sampling import ContrastivePairs, Permutation

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=25).filter(lambda labels: len(set(labels)) > 1)


def all_pairs(labels: list[int]) -> tuple[set[frozenset[int]], set[frozenset[int]]]:
    """Every pair with equal labels (each text with itself too), and every pair with different ones, by brute force."""
    pairs = list(itertools.combinations_with_replacement(range(len(labels)), 2))
    positive = {frozenset(pair) for pair in pairs if labels[pair[0]] == labels[pair[1]]}
    return positive, {frozenset(pair) for pair in pairs} - positive


@settings(deadline=None, max_examples=60)
@given(LABELS)
def test_unique_draws_every_pair_exactly_once(labels):
    """`unique` yields every pair once, with the right target."""
    positive, negative = all_pairs(labels)
    pairs = list(ContrastivePairs(labels, "unique"))
    drawn = [frozenset((pair.left, pair.right)) for pair in pairs]
    assert len(drawn) == len(set(drawn)) == len(positive) + len(negative)
    assert {key for key, pair in zip(drawn, pairs) if pair.target == 1.0} == positive


@settings(deadline=None, max_examples=60)
@given(LABELS, st.integers(1, 3), st.sampled_from([-1, 4, 20]))
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
        assert len(sampler) == len(targets) == 2 * expected
        assert sum(targets) == expected


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


def test_memory_is_that_of_the_labels():
    """A hundred thousand texts, with five thousand million pairs, cost some megabytes."""
    labels = np.arange(100_000) % 77
    tracemalloc.start()
    sampler = ContrastivePairs(labels)
    first = list(itertools.islice(sampler, 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sampler) > 9 * 10**9
    assert all((labels[a] == labels[b]) == bool(target) for a, b, target in first)
    assert peak < 30e6


@given(st.integers(1, 3000), st.integers(0, 100))
@settings(deadline=None, max_examples=50)
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
