"""Beside SetFit itself: as many pairs, the same loss, the same predictions; and its own trainer reports through our callback.

SetFit is no dependency: `tox run -e py311-setfit` has it. Elsewhere the numbers that it gave are compared with.
"""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch

import runcast
from runcast.fewshot import FewShotClassifier
from runcast.fewshot.losses import supervised_contrastive_loss
from runcast.fewshot.sampling import ContrastivePairs
from runcast.frameworks.transformers import ReportingCallback
from runcast.verify import verify

setfit = pytest.importorskip("setfit", reason="SetFit is not installed")

TEXTS = [
    "invoice charge refund",
    "money payment card",
    "parcel late courier",
    "address door",
    "password login",
    "email",
]
UNSEEN = ["refund payment", "courier tracking package", "profile user", "my invoice is late", "login charge", "door"]
WORDS = ["billing", "billing", "delivery", "delivery", "account", "account"]
ROWS = [[1, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("max_pairs", [-1, 7, 40])
@pytest.mark.parametrize(
    ("labels", "multilabel"),
    [
        ([0, 0, 0, 1, 1, 2], False),
        ([0] * 9 + [1] * 2, False),
        ([0, 1, 2, 3], False),
        ([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]], True),
        ([[1, 0], [0, 1], [0, 0], [1, 1], [0, 0]], True),
    ],
)
def test_counts_are_setfits(labels, multilabel, max_pairs):
    """Its sampler lists as many pairs of each kind, for every strategy."""
    from setfit.sampler import ContrastiveDataset

    texts = [*map(str, labels)]
    for options in ({"sampling_strategy": s} for s in ("oversampling", "undersampling", "unique")):
        theirs = ContrastiveDataset(texts, labels, multilabel, max_pairs=max_pairs, **options)
        ours = ContrastivePairs(labels, options["sampling_strategy"], max_pairs=max_pairs)
        assert (ours.positives, ours.negatives) == (theirs.len_pos_pairs, theirs.len_neg_pairs)
    theirs = ContrastiveDataset(texts, labels, multilabel, num_iterations=3, max_pairs=max_pairs)
    ours = ContrastivePairs(labels, num_iterations=3, max_pairs=max_pairs)
    assert (ours.positives, ours.negatives) == (theirs.len_pos_pairs, theirs.len_neg_pairs)


def test_supervised_contrastive_loss_is_setfits():
    """Where every text has a partner: the same number."""
    from setfit.losses import SupConLoss

    embeddings = torch.randn(7, 6, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    expected = SupConLoss(torch.nn.Identity())([{"sentence_embedding": embeddings}], labels)
    assert torch.isclose(supervised_contrastive_loss(embeddings, labels), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (WORDS, {}),
        (WORDS, {"normalize_embeddings": True}),
        (ROWS, {"multi_target_strategy": "one-vs-rest"}),
        (ROWS, {"multi_target_strategy": "multi-output"}),
        (ROWS, {"multi_target_strategy": "classifier-chain"}),
    ],
)
def test_a_folder_that_setfit_saves_predicts_the_same(body_dir, tmp_path, labels, options):
    """From the texts on: tokens, body and head."""
    theirs = setfit.SetFitModel.from_pretrained(str(body_dir), device="cpu", **options)
    theirs.fit(TEXTS, labels, num_epochs=1)
    theirs.save_pretrained(tmp_path / "setfit")
    ours = FewShotClassifier.from_pretrained(tmp_path / "setfit", device="cpu", trust_pickle=True)
    expected = np.asarray(theirs.predict_proba(UNSEEN, as_numpy=True), dtype=float)
    if expected.ndim == 3:  # its multi-output has a pair for each label: not, and yes
        expected = expected[:, :, 1]
    assert np.allclose(ours.predict_proba(UNSEEN), expected, atol=1e-5)
    assert np.array_equal(ours.predict(UNSEEN), theirs.predict(UNSEEN, as_numpy=True))


@pytest.mark.parametrize("delivery", ["inline", "process"])
def test_its_trainer_reports_through_our_callback(body_dir, tmp_path, monkeypatch, delivery):
    """One run in the tracker with the training's losses, its options and the evaluation, which reads back whole."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNCAST_DELIVERY", delivery)
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": WORDS})
    model = setfit.SetFitModel.from_pretrained(str(body_dir), device="cpu", labels=sorted(set(WORDS)))
    options = setfit.TrainingArguments(
        output_dir="output", max_steps=4, batch_size=4, logging_steps=1, report_to="none"
    )
    callback = ReportingCallback(report_to="tensorboard", name="setfit")
    trainer = setfit.Trainer(model, options, train_dataset=data, eval_dataset=data, callbacks=[callback])
    trainer.train()
    callback.finish()

    (folder,) = (tmp_path / "runs").iterdir()
    record = runcast.read_run(folder)
    assert (record.name, record.status) == ("setfit", "completed")
    assert [point.step for point in record.metrics["train/embedding_loss"]] == [1, 2, 3, 4]
    assert record.config["batch_size"] == [4, 4]
    assert record.config["loss"].endswith(".CosineSimilarityLoss")
    (verification,) = verify(folder)
    assert verification.matches
    assert verification.compared["metrics"].matched > 5
