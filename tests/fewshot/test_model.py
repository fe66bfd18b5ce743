"""The classifier embeds, predicts, and survives being saved."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from runcast.fewshot import FewShotClassifier
from runcast.fewshot import model as model_module
from runcast.fewshot.heads import LogisticHead, TorchHead

TEXTS = ["my invoice charge refund", "the parcel late courier", "a password login reset"] * 3
LABELS = ["billing", "delivery", "account"] * 3


def test_encode_has_a_row_for_each_text(model):
    """Several texts give a matrix, one text a vector; both are numpy's."""
    assert model.encode(TEXTS).shape == (9, 16)
    assert model.encode(TEXTS[0]).shape == (16,)
    assert np.allclose(model.encode(TEXTS)[0], model.encode(TEXTS[0]), atol=1e-6)


def test_forward_gives_what_encode_gives(model):
    """Training and inference see the same embeddings."""
    model.eval()
    with torch.no_grad():
        embeddings = model(**model.tokenize(TEXTS)).numpy()
    assert np.allclose(embeddings, model.encode(TEXTS), atol=1e-6)


def test_the_default_prompt_counts_in_training_too(body_dir):
    """A body with a default prompt sees it in `tokenize` as in `encode`."""
    model = FewShotClassifier.from_pretrained(
        body_dir, prompts={"p": "invoice "}, default_prompt_name="p", device="cpu"
    )
    model.eval()
    with torch.no_grad():
        embeddings = model(**model.tokenize(TEXTS)).numpy()
    assert np.allclose(embeddings, model.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, [0, 1, 2] * 3, [True, False, True] * 3])
def test_predictions_are_labels_of_the_training_data(model, labels):
    """Whatever the labels are, predictions are such labels, and probabilities add up to one."""
    model.fit_head(TEXTS, labels)
    assert model.predict(TEXTS).tolist() == labels
    assert model.predict(TEXTS[0]) == labels[0]
    assert model.predict_proba(TEXTS).shape == (9, len(set(labels)))
    assert np.allclose(model.predict_proba(TEXTS).sum(axis=1), 1)


@pytest.mark.parametrize("head", ["logistic", "torch"])
def test_a_saved_classifier_predicts_the_same(model, body_dir, head, tmp_path):
    """Body, head and labels come back from a folder without any pickle in it."""
    model = FewShotClassifier(SentenceTransformer(str(body_dir), device="cpu"), head)
    model.fit_head(TEXTS, LABELS)
    model.save_pretrained(tmp_path / "saved")
    loaded = FewShotClassifier.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.labels == ["account", "billing", "delivery"]
    assert loaded.head.kind == head
    assert (loaded.predict_proba(TEXTS) == model.predict_proba(TEXTS)).all()
    suffixes = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".bin", ".pt", ".joblib"}


def test_a_saved_classifier_is_a_sentence_transformer_too(model, tmp_path):
    """Plain sentence-transformers loads the folder, as the body."""
    model.save_pretrained(tmp_path / "saved")
    body = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.allclose(body.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_saving_an_unfitted_classifier_leaves_no_older_head(model, tmp_path):
    """A folder never holds a head that belongs to another body."""
    model.fit_head(TEXTS, LABELS)
    model.save_pretrained(tmp_path)
    unfitted = FewShotClassifier(model.body)
    unfitted.save_pretrained(tmp_path)
    assert not FewShotClassifier.from_pretrained(tmp_path, device="cpu").head.is_fitted
    assert json.loads((tmp_path / "classifier.json").read_text())["labels"] is None


def test_integer_labels_count_as_positions_in_names(body_dir):
    """With names given, integer labels of the training data mean positions, and predictions are names."""
    model = FewShotClassifier.from_pretrained(body_dir, labels=["bill", "parcel", "login"], device="cpu")
    model.fit_head(TEXTS, [0, 1, 2] * 3)
    assert model.predict(TEXTS[:3]).tolist() == ["bill", "parcel", "login"]


def test_a_class_without_examples_is_never_predicted(body_dir):
    """A label that training lacks keeps its place, with probability 0."""
    model = FewShotClassifier.from_pretrained(
        body_dir, labels=["account", "billing", "delivery", "other"], device="cpu"
    )
    model.fit_head(TEXTS, LABELS)
    assert (model.predict_proba(TEXTS)[:, 3] == 0).all()


def test_predicting_without_a_head_says_what_to_do(model):
    """An unfitted classifier says how to fit it."""
    with pytest.raises(RuntimeError, match="isn't fitted: call Trainer.train"):
        model.predict(TEXTS)


def test_unknown_labels_are_named(model):
    """A label that the classifier doesn't know is in the message, beside those it knows."""
    model.fit_head(TEXTS, LABELS)
    with pytest.raises(ValueError, match=r"doesn't know: \['other'\]; it knows \['account', 'billing', 'delivery'\]"):
        model.fit_head(["x"], ["other"])


def test_fitting_a_head_leaves_the_random_state_alone(model):
    """Neither torch's nor numpy's global random numbers move when a head is fitted."""
    embeddings = model.encode(TEXTS)
    for head in (LogisticHead(), TorchHead()):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        head.fit(embeddings, [0, 1, 2] * 3, 3)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()


def test_a_logistic_head_is_scikit_learns(model):
    """Probabilities are those of scikit-learn's own model, for two classes and for more."""
    from sklearn.linear_model import LogisticRegression

    embeddings = model.encode(TEXTS).astype(np.float64)
    for classes in ([0, 1, 2] * 3, [0, 1, 1] * 3):
        head = LogisticHead()
        head.fit(embeddings, classes, max(classes) + 1, C=3.0)
        expected = LogisticRegression(C=3.0, max_iter=1000).fit(embeddings, classes).predict_proba(embeddings)
        assert np.allclose(head.predict_proba(embeddings), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]], [0], 1), ValueError, "at least two classes, found 1"),
        (([[np.nan], [1.0]], [0, 1], 2), ValueError, "NaN or infinity: training diverged"),
    ],
)
def test_heads_refuse_what_they_cannot_fit(arguments, error, message):
    """A single class, and embeddings of a diverged training, are errors that say so."""
    with pytest.raises(error, match=message):
        LogisticHead().fit(*arguments)


def test_an_unknown_head_or_option_is_named(model):
    """A misspelt head comes with the nearest one, a wrong option with the head's name."""
    with pytest.raises(ValueError, match=r"head is 'logistics'; expected one of logistic, torch \(logistic\?\)"):
        FewShotClassifier(model.body, "logistics")
    with pytest.raises(TypeError, match="head 'torch' doesn't take head_params"):
        TorchHead().fit([[0.0], [1.0]], [0, 1], 2, layers=3)


def test_a_model_that_is_nowhere_fails_at_once_and_says_how_to_get_one(monkeypatch):
    """Without a folder and without the hub, the error names the model and what to pass instead."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="'no-such/model' is no local folder, and the Hugging Face hub didn't deliver it"):
        FewShotClassifier.from_pretrained("no-such/model")


def test_a_packaged_model_is_found_by_its_name(monkeypatch, tmp_path):
    """all-MiniLM-L6-v2 resolves to the folder of the package that carries it, and to the hub's name without it."""
    (tmp_path / "tiny_package" / "model").mkdir(parents=True)
    (tmp_path / "tiny_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(model_module, "_PACKAGED", {"all-minilm-l6-v2": "tiny_package"})
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert model_module.resolve_model(name) == str(tmp_path / "tiny_package" / "model")
    monkeypatch.setattr(model_module, "_PACKAGED", {"all-minilm-l6-v2": "no_such_package"})
    assert model_module.resolve_model("all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"
