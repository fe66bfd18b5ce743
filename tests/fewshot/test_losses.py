"""Losses are what their formulas say, computed from embeddings that are there already."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from runcast.fewshot.losses import (
    LOSS_NAMES,
    Loss,
    Pairs,
    library,
    loss_name,
    shared,
)

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
SETS = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]])


@pytest.fixture
def embeddings() -> torch.Tensor:
    """Eight embeddings, in no order."""
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pairs() -> Pairs:
    """Some pairs of them, one of an embedding with itself."""
    left, right = torch.tensor([0, 1, 2, 5, 7]), torch.tensor([1, 4, 6, 6, 7])
    return Pairs(left, right, (LABELS[left] == LABELS[right]).float())


def distance(embeddings: torch.Tensor, one: int, other: int) -> float:
    return 1 - cosine_similarity(embeddings[one], embeddings[other], dim=0).item()


def triplets(embeddings: torch.Tensor) -> dict[int, tuple[list[float], list[float]]]:
    """Of each embedding: the distances of those of its label, and of the others."""
    count = range(len(LABELS))
    return {
        one: (
            [distance(embeddings, one, other) for other in count if other != one and LABELS[other] == LABELS[one]],
            [distance(embeddings, one, other) for other in count if LABELS[other] != LABELS[one]],
        )
        for one in count
    }


@pytest.mark.parametrize(
    ("name", "theirs"), [("cosine", library.CosineSimilarityLoss), ("contrastive", library.ContrastiveLoss)]
)
def test_losses_of_pairs_are_those_of_sentence_transformers(embeddings, pairs, name, theirs):
    """Given pairs cost what sentence-transformers says that the embedded pairs cost."""
    expected = theirs(torch.nn.Identity())(
        [{"sentence_embedding": embeddings[side]} for side in (pairs.left, pairs.right)], pairs.target
    )
    assert torch.isclose(Loss(name)(embeddings, LABELS, pairs), expected, atol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, SETS], ids=["one label", "several labels"])
def test_all_pairs_of_a_batch_count_half_for_either_kind(embeddings, labels):
    """Without pairs: the mean over positive pairs and that over negative ones, however many there are of each."""
    kinds = {0: [], 1: []}
    for one, other in itertools.combinations(range(8), 2):
        same = labels[one] == labels[other] if labels.dim() == 1 else (labels[one] & labels[other]).any()
        similarity = 1 - distance(embeddings, one, other)
        kinds[int(same)].append((similarity - int(same)) ** 2)
    expected = sum(sum(costs) / len(costs) for costs in kinds.values()) / 2
    assert Loss("cosine")(embeddings, labels).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("labels", [torch.zeros(3, dtype=torch.long), torch.arange(3)], ids=["positive", "negative"])
def test_a_batch_with_one_kind_of_pairs_is_their_mean(embeddings, labels):
    """All pairs positive, or all negative, is no division by zero."""
    costs = [
        (1 - distance(embeddings, one, other) - (labels[0] == labels[1]).item()) ** 2
        for one, other in ((0, 1), (0, 2), (1, 2))
    ]
    assert Loss("cosine")(embeddings[:3], labels).item() == pytest.approx(sum(costs) / 3, abs=1e-6)


def test_triplets_of_all(embeddings):
    """The mean over triplets that cost something."""
    costs = [
        near - far + 0.25
        for positive, negative in triplets(embeddings).values()
        for near in positive
        for far in negative
        if near - far + 0.25 > 0
    ]
    assert Loss("triplet_all")(embeddings, LABELS).item() == pytest.approx(sum(costs) / len(costs), abs=1e-5)


def test_triplets_of_the_hardest(embeddings):
    """Each text with the furthest of its label and the nearest of another; with a margin, and with a soft one."""
    gaps = [max(positive, default=0.0) - min(negative) for positive, negative in triplets(embeddings).values()]
    hard = sum(max(gap + 0.4, 0.0) for gap in gaps) / 8
    soft = sum(math.log1p(math.exp(gap)) for gap in gaps) / 8
    assert Loss("triplet_hard", margin=0.4)(embeddings, LABELS).item() == pytest.approx(hard, abs=1e-5)
    assert Loss("triplet_hard_soft_margin")(embeddings, LABELS).item() == pytest.approx(soft, abs=1e-5)


def test_triplets_of_the_semi_hard(embeddings):
    """Each positive pair with the nearest other text beyond it, or the furthest of all if there is none."""
    costs = []
    for positive, negative in triplets(embeddings).values():
        for near in positive:
            beyond = [far for far in negative if far > near]
            costs.append(max(near - (min(beyond) if beyond else max(negative)) + 0.25, 0.0))
    assert Loss("triplet_semi_hard")(embeddings, LABELS).item() == pytest.approx(sum(costs) / len(costs), abs=1e-5)


@pytest.mark.parametrize("labels", [LABELS, SETS], ids=["one label", "several labels"])
def test_supervised_contrastive_loss_is_its_formula(embeddings, labels):
    """The mean negative log-probability of partners among all others; texts without a partner don't count."""
    expected = []
    for one in range(8):
        weight = {other: math.exp((1 - distance(embeddings, one, other)) / 0.07) for other in range(8) if other != one}
        partners = [other for other in weight if shared(labels)[one, other]]
        if partners:
            expected.append(-sum(math.log(weight[p] / sum(weight.values())) for p in partners) / len(partners))
    loss = Loss("supervised_contrastive")(embeddings, labels).item()
    assert loss == pytest.approx(sum(expected) / len(expected), rel=1e-4)


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("labels", [LABELS, torch.arange(8), torch.zeros(8, dtype=torch.long)])
def test_every_loss_has_a_gradient_that_is_finite(embeddings, name, labels):
    """Whatever the labels, and with two equal embeddings, no loss turns weights into NaN."""
    vectors = embeddings.clone()
    vectors[1] = vectors[0]
    vectors.requires_grad_()
    Loss(name)(vectors, labels).backward()
    assert torch.isfinite(vectors.grad).all()


def test_a_loss_may_be_a_function_of_embeddings_and_labels(embeddings, pairs):
    """It gets the embeddings and the labels, and its value is the loss, drawn pairs or not."""

    def spread(vectors, labels):
        assert vectors is embeddings and labels is LABELS
        return vectors.std()

    assert Loss(spread)(embeddings, LABELS) == Loss(spread)(embeddings, LABELS, pairs) == embeddings.std()
    assert loss_name(spread) == "spread"


def test_a_class_of_sentence_transformers_means_the_loss_of_that_name(embeddings):
    """As with SetFit, `loss=BatchHardTripletLoss` will do."""
    expected = Loss("triplet_hard")(embeddings, LABELS)
    assert Loss(library.BatchHardTripletLoss)(embeddings, LABELS) == expected
    assert loss_name(library.CosineSimilarityLoss) == "cosine"


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ("cosin", ValueError, "loss is 'cosin'; expected a function, or one of cosine, contrastive, supervised"),
        (torch.nn.Linear, ValueError, "loss is 'Linear'"),
        (3, TypeError, "loss is a int; expected a name, or a function"),
    ],
)
def test_what_is_no_loss_is_refused(loss, error, message):
    """The error lists the names."""
    with pytest.raises(error, match=message):
        Loss(loss)
