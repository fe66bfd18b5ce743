"""Heads fit what scikit-learn fits, for one label a text and for several, and survive being saved."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier

from runcast.fewshot import FewShotClassifier
from runcast.fewshot.heads import HEADS, Head, LogisticHead, TorchHead, make_head

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(40, 6))
ROWS = (VECTORS[:, :3] + 0.5 * VECTORS[:, [1, 2, 0]] > 0.2).astype(int)
THEIRS = {
    "one-vs-rest": OneVsRestClassifier,
    "multi-output": MultiOutputClassifier,
    "classifier-chain": ClassifierChain,
}


@pytest.mark.parametrize("strategy", THEIRS)
def test_strategies_are_scikit_learns(strategy):
    """Predictions and probabilities of each strategy are those of scikit-learn's estimator of that name."""
    head = LogisticHead(strategy)
    head.fit(VECTORS, ROWS, 3, C=2.0)
    theirs = THEIRS[strategy](LogisticRegression(C=2.0, max_iter=1000)).fit(VECTORS, ROWS)
    probabilities = theirs.predict_proba(VECTORS)
    if strategy == "multi-output":
        probabilities = np.stack(probabilities, axis=1)[:, :, 1]
    assert np.allclose(head.predict_proba(VECTORS), probabilities)
    assert np.array_equal(head.predict(VECTORS), theirs.predict(VECTORS))
    assert not np.array_equal(ROWS[:, 0], ROWS[:, 1])


@pytest.mark.parametrize("kind", ["logistic", "torch"])
def test_several_labels_without_a_strategy_are_decided_one_by_one(kind):
    """Rows of 0 and 1 are enough to say that a text may have several labels."""
    head = make_head(kind)
    head.fit(VECTORS, ROWS, 3)
    assert head.multi_label
    assert np.mean(head.predict(VECTORS) == ROWS) > 0.9
    assert not np.allclose(head.predict_proba(VECTORS).sum(axis=1), 1)


@pytest.mark.parametrize(("kind", "strategy"), [("logistic", None), ("logistic", "classifier-chain"), ("torch", None)])
def test_a_label_that_never_varies_is_certain(kind, strategy):
    """A label that no training text has gets probability 0, one that all have 1, without a warning."""
    rows = np.column_stack([np.zeros(40, int), ROWS[:, 0], np.ones(40, int), ROWS[:, 1]])
    head = make_head(kind, strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.fit(VECTORS, rows, 4)
        probabilities = head.predict_proba(VECTORS)
    assert (probabilities[:, 0] == 0).all() and (probabilities[:, 2] == 1).all()
    assert np.mean(head.predict(VECTORS) == rows) > 0.9


def test_a_torch_head_learns_classes():
    """The linear layer tells apart what is apart, and is the same for the same seed."""
    classes = VECTORS[:, :4].argmax(axis=1)
    first, second = TorchHead(), TorchHead()
    first.fit(VECTORS, classes, 4, seed=3)
    second.fit(VECTORS, classes, 4, seed=3)
    assert np.mean(first.predict(VECTORS) == classes) > 0.9
    assert np.array_equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("kind", "strategy", "classes"),
    [
        ("logistic", None, VECTORS[:, :4].argmax(axis=1)),
        ("torch", None, VECTORS[:, 0] > 0),
        ("logistic", "classifier-chain", ROWS),
        ("torch", "one-vs-rest", ROWS),
    ],
)
def test_what_a_head_has_learnt_can_be_restored(kind, strategy, classes):
    """Its arrays and its link are all there is to a head."""
    head = make_head(kind, strategy)
    head.fit(VECTORS, np.asarray(classes).astype(int), 4 if np.ndim(classes) == 1 else 3)
    other = make_head(kind, strategy)
    other.restore(head.arrays(), head.link)
    assert np.array_equal(other.predict_proba(VECTORS), head.predict_proba(VECTORS))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "arrays none; expected weight"),
        ({"weight": np.zeros((3, 2))}, r"arrays weight \(3, 2\); expected weight \(classes, dimensions\) and bias"),
        ({"weight": np.zeros((3, 2)), "bias": np.zeros(2)}, "expected weight"),
        ({"weight": np.zeros((3, 2)), "bias": np.zeros(3), "chain": np.zeros((2, 2))}, "expected weight"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, message):
    """What can't be a head says its shapes."""
    with pytest.raises(ValueError, match=message):
        LogisticHead().restore(arrays)
    with pytest.raises(ValueError, match="link is 'tanh'; expected one of softmax"):
        LogisticHead().restore({"weight": np.zeros((3, 2)), "bias": np.zeros(3)}, "tanh")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogisticHead("chain"), "multi_target_strategy is 'chain'; expected one of one-vs-rest, multi-output"),
        (lambda: TorchHead("classifier-chain"), "head 'torch' can't do 'classifier-chain'; head 'logistic' can"),
        (lambda: LogisticHead("one-vs-rest").fit(VECTORS, ROWS[:, 0], 2), "but each text has one label"),
        (lambda: LogisticHead().fit(VECTORS, np.ones((40, 2), int), 2), "at least one label that some texts have"),
    ],
)
def test_what_a_head_cannot_do_is_said(make, message):
    """Strategies that are unknown or don't fit the data are errors with what to do."""
    with pytest.raises(ValueError, match=message):
        make()


def test_a_head_without_bounds_does_not_warn():
    """Scores beyond what a float can exponentiate are probabilities of 0 and 1."""
    head = LogisticHead()
    head.restore({"weight": [[1e6], [-1e6]], "bias": [0.0, 0.0]}, "sigmoid")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert head.predict_proba([[1.0]]).tolist() == [[1.0, 0.0]]


def test_torch_is_left_alone():
    """Fitting switches neither gradients nor the number of threads."""
    before = torch.is_grad_enabled(), torch.get_num_threads()
    with torch.no_grad():
        TorchHead().fit(VECTORS, ROWS[:, 0], 2)
    assert (torch.is_grad_enabled(), torch.get_num_threads()) == before


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("kind", "params", "error", "message"),
    [
        ("logistic", {"CC": 1}, TypeError, "head 'logistic' doesn't take head_params.*'CC'"),
        ("logistic", {"C": -1}, ValueError, "head 'logistic' can't be fitted with head_params.*Got -1"),
        ("torch", {"C": 1}, TypeError, "head 'torch' doesn't take head_params"),
        ("torch", {"epochs": 0}, ValueError, "can't be fitted with 0 epochs"),
        ("torch", {"learning_rate": -1.0}, ValueError, "learning rate"),
        ("torch", {"device": "cuda:99"}, ValueError, "head 'torch' can't be fitted with head_params"),
    ],
)
def test_options_are_checked_without_data(kind, params, error, message, several):
    """An option that isn't there, or a value that it can't have, is told apart; the head stays as it is."""
    head = make_head(kind)
    with pytest.raises(error, match=message):
        head.check(params, 5, multi_label=several)
    head.check({}, 5, multi_label=several)
    head.check({}, 2, multi_label=False)
    head.check({}, 1, multi_label=True)
    assert not head.is_fitted


def test_a_class_weight_counts_for_its_class():
    """Weights are by class index, also where some classes have no examples."""
    classes = np.where(VECTORS[:, 0] > 0, 3, 1)
    head = LogisticHead()
    head.fit(VECTORS, classes, 5, C=2.0, class_weight={3: 100.0, 4: 7.0})
    theirs = LogisticRegression(C=2.0, max_iter=1000, class_weight={3: 100.0}).fit(VECTORS, classes)
    assert np.allclose(head.predict_proba(VECTORS)[:, [1, 3]], theirs.predict_proba(VECTORS))


# -- heads of one's own ------------------------------------------------------------------------------------------------


@pytest.fixture
def centroid_class():
    """A kind of head of one's own."""

    class CentroidHead(Head):
        kind = "centroid"

        def __init__(self, scale=20.0):
            super().__init__()
            self.scale = scale

        def _fit(self, vectors, targets, seed, **params):
            centers = np.stack([vectors[targets == one].mean(axis=0) for one in range(targets.max() + 1)])
            return self.scale * centers, -0.5 * self.scale * (centers**2).sum(axis=1)

    return CentroidHead


def test_a_head_of_ones_own_is_saved_and_loaded(body_dir, train_data, tmp_path, centroid_class):
    """A subclass with a kind is known by it; what it learnt is what counts when it is loaded."""
    model = FewShotClassifier.from_pretrained(body_dir, head=centroid_class(5.0), device="cpu")
    model.fit_head(train_data["text"], train_data["label"])
    model.save_pretrained(tmp_path / "saved")
    loaded = FewShotClassifier.from_pretrained(tmp_path / "saved", device="cpu")
    assert isinstance(loaded.head, centroid_class)
    assert np.array_equal(loaded.predict_proba(train_data["text"]), model.predict_proba(train_data["text"]))
    del HEADS["centroid"]
    with pytest.raises(OSError, match="saved has a head 'centroid', and here is none of that kind.*import the module"):
        FewShotClassifier.from_pretrained(tmp_path / "saved")
    assert not FewShotClassifier.from_pretrained(tmp_path / "saved", head="logistic", device="cpu").head.is_fitted


def test_a_kind_belongs_to_one_class(centroid_class):
    """Another class can't take it; the same one may be defined again."""
    with pytest.raises(TypeError, match="head 'torch' is .*TorchHead already; choose another kind"):
        type("Mine", (LogisticHead,), {"kind": "torch"})
    again = type(
        "CentroidHead", (centroid_class,), {**vars(centroid_class), "__qualname__": centroid_class.__qualname__}
    )
    assert HEADS["centroid"] is again
    assert type("Quiet", (LogisticHead,), {}).kind == "logistic" and HEADS["logistic"] is LogisticHead
