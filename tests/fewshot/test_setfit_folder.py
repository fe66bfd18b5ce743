"""What SetFit saved predicts the same here; its pickle is read only with consent, and never run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from runcast.fewshot import FewShotClassifier, Trainer
from runcast.fewshot.inert_pickle import Thing, read

HEADS = Path(__file__).parent / "setfit_heads"
"""Made by SetFit itself, see ``make.py`` there."""
SINGLE = ["words", "numbers", "two_classes", "normalized", "torch"]
SEVERAL = ["one_vs_rest", "multi_output", "classifier_chain", "torch_rows"]
TEXTS = ["refund payment", "courier tracking package", "profile user"]


@pytest.fixture
def folder(body_dir: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a SetFit model with one of the heads."""

    def make(name: str) -> Path:
        target = tmp_path / name
        shutil.copytree(body_dir, target)
        for file in ("config_setfit.json", "model_head.pkl"):
            shutil.copy(HEADS / name / file, target / file)
        return target

    return make


def load(path: Path, **options: object) -> FewShotClassifier:
    return FewShotClassifier.from_pretrained(path, device="cpu", trust_pickle=True, **options)


@pytest.mark.parametrize("name", SINGLE + SEVERAL)
def test_predictions_are_setfits(folder, name):
    """Labels and probabilities of every kind of head are what SetFit gave for the same embeddings."""
    expected = json.loads((HEADS / name / "expected.json").read_text())
    model = load(folder(name))
    probabilities = model.head.predict_proba(expected["embeddings"])
    theirs = np.array(expected["probabilities"])
    if theirs.ndim == 3:  # SetFit's multi-output has a pair for each label: not, and yes
        theirs = theirs[:, :, 1]
    assert np.allclose(probabilities, theirs, atol=1e-6)
    assert model.names(model.head.predict(expected["embeddings"])).tolist() == expected["predictions"]


@pytest.mark.parametrize("name", SINGLE + SEVERAL)
def test_saved_again_there_is_no_pickle_and_the_same_predictions(folder, name, tmp_path):
    """After save_pretrained no consent is needed any more."""
    model = load(folder(name))
    model.save_pretrained(tmp_path / "ours")
    assert not list((tmp_path / "ours").rglob("*.pkl"))
    again = FewShotClassifier.from_pretrained(tmp_path / "ours", device="cpu")
    assert np.array_equal(again.predict_proba(TEXTS), model.predict_proba(TEXTS))
    assert again.predict(TEXTS).tolist() == model.predict(TEXTS).tolist()


def test_normalized_embeddings_stay_normalized(folder):
    """`normalize_embeddings` in SetFit's configuration counts here too, in training as in prediction."""
    model = load(folder("normalized"))
    assert np.allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1, atol=1e-6)
    assert np.allclose(model(**model.tokenize(TEXTS)).norm(dim=1).tolist(), 1, atol=1e-6)


def test_without_consent_the_error_says_what_the_pickle_would_run(folder):
    """The head isn't loaded; the message names the classes in it and the argument."""
    with pytest.raises(
        ValueError, match=r"would import and call:.*sklearn.linear_model._logistic.LogisticRegression.*"
    ) as e:
        FewShotClassifier.from_pretrained(folder("words"), device="cpu")
    assert "trust_pickle=True" in str(e.value)


def test_a_new_head_needs_no_consent(folder):
    """With `head` given, the pickle isn't read; the labels are SetFit's."""
    model = FewShotClassifier.from_pretrained(folder("numbers"), head="logistic", device="cpu")
    assert not model.head.is_fitted
    assert model.labels == ["account", "delivery", "billing"]


def test_a_setfit_model_can_be_trained_on(folder, make_args):
    """Loaded from SetFit's folder, it goes on training here."""
    data = {"text": TEXTS * 2, "label": ["billing", "delivery", "account"] * 2}
    trainer = Trainer(load(folder("words")), make_args(max_steps=1), data)
    trainer.train()
    assert set(trainer.predict(TEXTS).predictions) <= {"billing", "delivery", "account"}


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("boom",))


@pytest.mark.parametrize("dump", [joblib.dump, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_consent_runs_nothing(folder, tmp_path, dump):
    """Even with consent, code in the pickle isn't run: what is no head that is known is refused by its name."""
    path = folder("words")
    dump(Bomb(), path / "model_head.pkl")
    with pytest.raises(ValueError, match="would import and call: posix.mkdir"):
        FewShotClassifier.from_pretrained(path, device="cpu")
    with pytest.raises(ValueError, match="holds a mkdir, not one of LogisticRegression"):
        load(path)
    assert not (tmp_path / "boom").exists()


def test_a_state_is_given_to_nothing_but_what_was_made_here(tmp_path):
    """A pickle can't set attributes of the reader's own functions."""
    for name in ("torch._utils _rebuild_parameter", "collections OrderedDict"):
        program = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\nN}U\x07trappedK\x01s\x86b."
        (tmp_path / "head.pkl").write_bytes(program)
        with pytest.raises(OSError, match="a state for a"):
            read(tmp_path / "head.pkl")


def test_code_beside_a_good_head_is_not_run_either(folder, tmp_path):
    """A head whose attributes hold a bomb loads, and the bomb doesn't go off."""
    path = folder("words")
    head = LogisticRegression().fit(np.eye(16)[:4], [0, 1, 0, 1])
    head.extra = Bomb()
    joblib.dump(head, path / "model_head.pkl")
    assert load(path).head.is_fitted
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (SVC().fit(np.eye(4), [0, 1, 0, 1]), "holds a SVC, not one of LogisticRegression.*pass head='logistic'"),
        (LogisticRegression(), "holds a LogisticRegression that isn't fitted"),
        ([1, 2], "holds a list, not one of"),
    ],
)
def test_other_heads_are_refused_by_name(folder, head, message):
    """What isn't linear, or not fitted, is an error that says what to do instead."""
    path = folder("words")
    joblib.dump(head, path / "model_head.pkl")
    with pytest.raises(ValueError, match=message):
        load(path)


@pytest.mark.parametrize("how", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no pickle"])
@pytest.mark.parametrize("consent", [True, False])
def test_a_damaged_head_is_said(folder, how, consent):
    """A cut or foreign file is an error with its name, with consent and without."""
    path = folder("words")
    head = path / "model_head.pkl"
    head.write_bytes(how(head.read_bytes()))
    with pytest.raises(OSError, match=r"model_head.pkl is damaged, or no pickle by joblib"):
        FewShotClassifier.from_pretrained(path, device="cpu", trust_pickle=consent)


def test_a_damaged_configuration_is_said(folder):
    """So is SetFit's JSON."""
    path = folder("words")
    (path / "config_setfit.json").write_text('{"labels": [')
    with pytest.raises(OSError, match=r"config_setfit.json is damaged"):
        load(path)


@pytest.mark.parametrize(
    "name", ["modules.json", "1_Pooling/config.json", "config.json", "tokenizer_config.json", "model_head.pkl"]
)
def test_a_missing_file_is_said(folder, name):
    """Without one of its files another model would load."""
    path = folder("words")
    (path / name).unlink()
    with pytest.raises(OSError, match=rf"{name} is missing"):
        load(path)


def test_a_head_of_another_body_is_said(folder):
    """A head that takes longer embeddings than the body gives is refused when it is loaded."""
    path = folder("words")
    joblib.dump(LogisticRegression().fit(np.eye(20)[:4], [0, 1, 2, 0]), path / "model_head.pkl")
    with pytest.raises(ValueError, match="embeddings of 20 dimensions; those of the body have 16"):
        load(path)


def test_reading_without_running_gives_the_arrays(tmp_path):
    """Arrays of every kind come back bit by bit, in C and in Fortran order, and objects as things with attributes."""
    head = LogisticRegression().fit(np.random.default_rng(0).normal(size=(9, 5)), list("abc") * 3)
    head.fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    head.empty, head.scalar, head.flag = np.zeros((0, 3), dtype="f4"), np.float32(0.1), np.array([True, False])
    joblib.dump(head, tmp_path / "head.pkl")
    thing, names = read(tmp_path / "head.pkl")
    assert isinstance(thing, Thing) and thing.origin == "sklearn.linear_model._logistic.LogisticRegression"
    for name in ("coef_", "intercept_", "classes_", "fortran", "empty", "scalar", "flag"):
        assert np.array_equal(thing.get(name), getattr(head, name)), name
        assert np.asarray(thing.get(name)).dtype == np.asarray(getattr(head, name)).dtype, name
    assert "sklearn.linear_model._logistic.LogisticRegression" in names
