"""Batches hold each text's tokens as the tokenizer makes them, and pass through the body without much padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from runcast.fewshot.embeddings import EmbeddingCache
from runcast.fewshot.loading import _PASS, ByLength, Drawn, Shares, Tokens, length_groups, part_of

TEXTS = ["my invoice", "parcel late courier door address", "login", "email account locked password reset user"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_kept_tokens_are_those_of_the_tokenizer(model, side):
    """Padded to the longest of the batch, on the tokenizer's side, whatever was asked for before."""
    tokenizer = model.body.tokenizer
    tokenizer.padding_side = side
    asked = []
    tokens = Tokens(TEXTS, lambda texts: asked.append(list(texts)) or model.tokenize(texts), tokenizer)
    for rows in ([0, 1], [2, 0], [3, 2, 1, 0], [0, 0]):
        batch, expected = tokens(rows), model.tokenize([TEXTS[row] for row in rows])
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[key], expected[key]) for key in expected)
    assert sorted(itertools.chain(*asked)) == sorted(TEXTS)  # each once


def shares_of(rank: int, processes: int, count: int, size: int, unit: int, drop_last: bool, skip: int = 0) -> list:
    """What a process gets, through the data loader that accelerate makes."""
    sampler = range(count)
    shares = Shares(sampler, size, processes, unit, drop_last)
    loader = DataLoader(Drawn(None, sampler), batch_sampler=shares, collate_fn=lambda share: share)
    loader = prepare_data_loader(loader, num_processes=processes, process_index=rank)
    found = list(skip_first_batches(loader, skip) if skip else loader)
    assert len(found) == len(loader) - skip
    return found


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_processes_share_each_step(units, per_share, unit, processes, drop_last):
    """Each item is in one share, all processes have as many; and weighted, their means are the mean over the step."""
    count, size = units * unit, per_share * unit
    options = (processes, count, size, unit, drop_last)
    shares = [shares_of(rank, *options) for rank in range(processes)]
    steps = list(zip(*shares, strict=True))
    seen = []
    for number, step in enumerate(steps):
        items = [item for share in step if share.weight for item in share.items]
        mean = sum(share.weight * np.mean(share.items) for share in step) / processes
        assert mean == pytest.approx(np.mean(items))
        assert all(share.items and len(share.items) % unit == 0 for share in step)
        if number < len(steps) - 1:
            assert all((len(share.items), share.weight) == (size, 1.0) for share in step)
        seen += items
    whole = count // (size * processes) * size * processes
    assert seen == list(range(whole if drop_last else count))
    if len(steps) > 1:
        assert shares_of(0, *options, skip=1) == shares[0][1:]


def test_without_a_tokenizer_nothing_is_kept(model):
    """A body that doesn't pad tokens gets what it makes of the texts."""
    tokens = Tokens(TEXTS, model.tokenize)
    assert torch.equal(tokens([3, 1])["input_ids"], model.tokenize([TEXTS[3], TEXTS[1]])["input_ids"])


def test_rows_by_length_come_back_in_order():
    """Long texts first; what was computed in that order goes back to the rows'."""
    sampler = ByLength(TEXTS)
    order = list(sampler)
    assert [len(TEXTS[row]) for row in order] == sorted(map(len, TEXTS), reverse=True)
    assert sampler.restored([TEXTS[row] for row in order]).tolist() == TEXTS


@pytest.mark.parametrize("seed", range(20))
def test_groups_by_length_cost_least(seed):
    """No way to cut the sorted texts into parts costs less; every text is in one part."""
    lengths = np.random.default_rng(seed).integers(1, 200, 7).tolist()
    groups = length_groups(lengths)
    assert sorted(itertools.chain(*groups)) == list(range(7))

    def cost(parts):
        return sum(_PASS + len(part) * max(part) for part in parts)

    ordered = sorted(lengths)
    cuts = itertools.chain.from_iterable(itertools.combinations(range(1, 7), count) for count in range(7))
    best = min(cost([ordered[a:b] for a, b in itertools.pairwise((0, *cut, 7))]) for cut in cuts)
    assert cost([[lengths[row] for row in group] for group in groups]) == best


def test_parts_of_a_batch_embed_alike(model):
    """A part of a batch, with less padding, has the embeddings that it has in the whole."""
    model.eval()
    features = model.tokenize(TEXTS)
    part = part_of(features, [2, 0])
    assert part["input_ids"].shape == (2, 2)
    assert torch.allclose(model(**part), model(**features)[[2, 0]], atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_parts_of_a_batch_lack_nothing_but_padding(model, side):
    """They are what the tokenizer makes of these texts alone, whichever side it pads."""
    model.body.tokenizer.padding_side = side
    part, expected = part_of(model.tokenize(TEXTS), [2, 0]), model.tokenize([TEXTS[2], TEXTS[0]])
    assert all(torch.equal(part[key], expected[key]) for key in expected)


def test_embeddings_are_known_until_the_model_moves(model):
    """Whoever changes a parameter, and however little, makes the cache forget; a text that is missing makes it ask."""
    cache = EmbeddingCache()
    made = np.eye(2)
    for change in (
        lambda weight: weight.add_(1e-12),
        lambda weight: weight.data.mul_(1.5),
        lambda weight: weight.copy_(weight * 0.9),
    ):
        cache.keep(model, ["a", "b"], made)
        assert cache.recall(model, ["b", "a"]).tolist() == made[::-1].tolist()
        assert cache.recall(model, ["a", "c"]) is None
        with torch.no_grad():
            change(next(model.parameters()))
        assert cache.recall(model, ["a"]) is None
