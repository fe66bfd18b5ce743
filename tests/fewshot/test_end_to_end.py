"""Body and torch head learn together, each at its own rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from runcast.fewshot import FewShotClassifier
from runcast.fewshot.end_to_end import train_end_to_end

TEXTS = ["my invoice charge refund", "the parcel late courier", "a password login reset", "your money payment card"] * 2
LABELS = ["billing", "delivery", "account", "billing"] * 2
ROWS = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]] * 2


@pytest.fixture
def make_model(body_dir):
    """A tiny classifier with a fitted head."""

    def make(head="torch", labels=LABELS, **options):
        model = FewShotClassifier.from_pretrained(body_dir, head=head, device="cpu", **options)
        model.fit_head(TEXTS, labels, **({"epochs": 3} if head == "torch" else {}))
        return model

    return make


def train(model, labels=LABELS, **options):
    defaults = {"epochs": 4, "batch_size": 4, "body_learning_rate": 1e-3, "seed": 1}
    torch.manual_seed(0)
    return train_end_to_end(model, TEXTS, labels, **{**defaults, **options})


def loss_of(model, labels=LABELS):
    """The loss without dropout."""
    probabilities = model.predict_proba(TEXTS)
    return -np.log(probabilities[range(len(TEXTS)), model.class_indices(labels)]).mean()


def test_the_loss_falls_and_both_parts_move(make_model):
    """Body and head change, and classify better than before."""
    model = make_model()
    before = loss_of(model), model.head.weight.copy(), next(model.parameters()).clone()
    seen = []
    last = train(model, epochs=10, on_epoch=lambda steps, loss: seen.append((steps, loss)))
    assert loss_of(model) < before[0]
    assert not np.array_equal(model.head.weight, before[1])
    assert not torch.equal(next(model.parameters()), before[2])
    assert [steps for steps, _ in seen] == list(range(2, 21, 2))
    assert seen[-1][1] == last < seen[0][1]


def test_each_part_has_its_own_rate(make_model):
    """A rate of 0 leaves a part as it is."""
    model = make_model()
    body, head = next(model.parameters()).clone(), model.head.weight.copy()
    train(model, body_learning_rate=0.0)
    assert torch.equal(next(model.parameters()), body) and not np.array_equal(model.head.weight, head)
    model = make_model()
    train(model, head_learning_rate=0.0)
    assert not torch.equal(next(model.parameters()), body)
    assert np.allclose(model.head.weight, head, atol=1e-6)


def test_the_same_seed_gives_the_same_model(make_model):
    """Weights are equal bit by bit, and another seed gives others."""
    first, second, other = make_model(), make_model(), make_model()
    train(first)
    train(second)
    train(other, seed=2)
    assert np.array_equal(first.head.weight, second.head.weight)
    assert not np.array_equal(first.head.weight, other.head.weight)


def test_several_labels_and_classes_without_examples(make_model):
    """Rows of 0 and 1 work; a label that no text has stays impossible."""
    model = make_model(labels=ROWS)
    assert np.isfinite(train(model, ROWS, epochs=60))
    assert model.predict(TEXTS).tolist() == ROWS
    assert (model.predict_proba(TEXTS)[:, 3] == 0).all()
    model = FewShotClassifier(model.body, "torch", labels=["account", "billing", "delivery", "never"])
    model.fit_head(TEXTS, LABELS)
    assert np.isfinite(train(model))
    assert (model.predict_proba(TEXTS)[:, 3] == 0).all()


def test_a_frozen_body_stays_frozen(make_model):
    """Parameters without gradients are left alone, and the model's mode is as it was."""
    model = make_model()
    model.body.requires_grad_(False)
    model.eval()
    before = next(model.parameters()).clone()
    train(model)
    assert torch.equal(next(model.parameters()), before)
    assert not model.training


def test_labels_that_the_head_was_fitted_without_are_refused(body_dir):
    """They can't be trained, whether a text has one label or several; nothing is trained as another label in their place."""
    model = FewShotClassifier.from_pretrained(body_dir, "account billing delivery never".split(), "torch", device="cpu")
    model.fit_head(TEXTS, LABELS)
    before = next(model.parameters()).clone(), model.head.weight.copy()
    with pytest.raises(ValueError, match=r"without examples of \['never'\].*fit_head"):
        train(model, [*LABELS[:-1], "never"])
    assert torch.equal(next(model.parameters()), before[0]) and np.array_equal(model.head.weight, before[1])
    model.fit_head(TEXTS[:4], LABELS[:2] * 2)
    with pytest.raises(ValueError, match=r"without examples of \['account'\]"):
        train(model)


def test_several_labels_that_did_not_vary_are_refused(make_model):
    """A label that all texts had, or none, stays so: texts that say otherwise are refused."""
    model = make_model(labels=[[*row[:3], 1] for row in ROWS])
    with pytest.raises(ValueError, match=r"\[3\], or without any other"):
        train(model, ROWS)
    model = make_model(labels=ROWS)
    with pytest.raises(ValueError, match=r"without examples of \[3\]"):
        train(model, [[*row[:3], 1] for row in ROWS])


def test_what_it_cannot_train_is_refused(make_model, body_dir):
    """A head without gradient, an unfitted one, and a loss that is no number are errors that say what to do."""
    with pytest.raises(ValueError, match="this one is 'logistic'.*head='torch'"):
        train(make_model("logistic"))
    unfitted = FewShotClassifier.from_pretrained(body_dir, head="torch", labels=sorted(set(LABELS)), device="cpu")
    with pytest.raises(RuntimeError, match="starts from a fitted head"):
        train(unfitted)
    model = make_model()
    with pytest.raises(ValueError, match="doesn't know: \\['other'\\]"):
        train(model, ["other"] * 8)
    with pytest.raises(ValueError, match="expected at least 1"):
        train(model, epochs=0)
    model.head.weight[0] = np.nan
    with pytest.raises(ValueError, match="the loss is nan in epoch 1 of end-to-end training; lower"):
        train(model)
