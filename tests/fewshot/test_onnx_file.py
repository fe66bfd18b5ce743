"""An exported ONNX file predicts what the classifier predicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runcast.fewshot import FewShotClassifier
from runcast.fewshot.onnx_file import Whole

TEXTS = ["my invoice charge refund", "the parcel late courier", "a password login reset"]
LABELS = ["billing", "delivery", "account"]
ROWS = [[1, 0, 1], [0, 1, 1], [0, 0, 0]]
OTHERS = [["my"], ["late", "my invoice charge refund payment card my the a"], TEXTS * 3]
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "logistic": ({}, LABELS),
    "a class without examples": ({"labels": [*LABELS, "other"]}, LABELS),
    "normalized": ({"normalize_embeddings": True}, LABELS),
    "cut short": ({"truncate_dim": 4}, LABELS),
    "normalized sigmoid": ({}, LABELS),
    "torch": ({"head": "torch"}, LABELS),
    "several labels": ({}, ROWS),
    "chain": ({"multi_target_strategy": "classifier-chain"}, ROWS),
}


@pytest.fixture
def make_model(body_dir: Path) -> Callable[[str], FewShotClassifier]:
    """A fitted classifier of each case."""

    def make(case: str) -> FewShotClassifier:
        options, labels = CASES[case]
        model = FewShotClassifier.from_pretrained(body_dir, device="cpu", **options)
        model.fit_head(TEXTS * 2, labels * 2)
        if case == "normalized sigmoid":
            model.head.restore(model.head.arrays(), "normalized-sigmoid")
        return model

    return make


@pytest.mark.parametrize("case", CASES)
def test_every_head_is_the_same_in_torch(make_model, case):
    """What goes into the file gives the classifier's probabilities and embeddings."""
    model = make_model(case)
    for texts in OTHERS:
        features = model.tokenize(texts)
        with torch.no_grad():
            probabilities, embeddings = Whole(model, list(features)).eval()(*features.values())
        assert np.allclose(probabilities, model.predict_proba(texts), atol=1e-5)
        assert np.allclose(embeddings, model.encode(texts), atol=1e-5)


def test_a_prompt_that_is_not_pooled_is_a_part_of_the_graph(body_dir):
    """Its length is no input."""
    prompts = {"p": "invoice parcel login "}
    model = FewShotClassifier.from_pretrained(body_dir, prompts=prompts, default_prompt_name="p", device="cpu")
    model.body.set_pooling_include_prompt(include_prompt=False)
    model.fit_head(TEXTS, LABELS)
    features = model.tokenize(TEXTS)
    length = int(features.pop("prompt_length")[0])
    assert length == 3
    with torch.no_grad():
        _, embeddings = Whole(model, list(features), length).eval()(*features.values())
    assert np.allclose(embeddings, model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("case", ["a class without examples", "chain"])
def test_the_file_predicts_what_the_classifier_does(make_model, tmp_path, case):
    """For one text and for many, short and long; nothing is needed beside the file."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = make_model(case)
    model.train()
    model.export_onnx(tmp_path / "new" / "model.onnx")
    assert model.training
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(tmp_path / "new" / "model.onnx", providers=["CPUExecutionProvider"])
    for texts in OTHERS:
        features = model.tokenize(texts)
        given = {one.name: features[one.name].numpy() for one in session.get_inputs()}
        probabilities, embeddings = session.run(["probabilities", "embeddings"], given)
        assert np.allclose(probabilities, model.predict_proba(texts), atol=1e-5)
        assert np.allclose(embeddings, model.encode(texts), atol=1e-5)


def test_what_is_missing_is_said(model, tmp_path, monkeypatch):
    """Without the packages the error has the pip line; without a fitted head, what to do first."""
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r'onnx, onnxscript, which ONNX files need, is not.*"runcast\[onnx\]"'):
            model.export_onnx(tmp_path / "model.onnx")
        patch.setattr("importlib.util.find_spec", lambda name: name)
        with pytest.raises(RuntimeError, match="isn't fitted: train the classifier before it is exported"):
            model.export_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
