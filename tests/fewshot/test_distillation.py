"""A student learns from a teacher, without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from runcast.fewshot import DistillationTrainer, FewShotClassifier, Trainer

from .conftest import save_transformer, texts_and_labels

LABELLED, LABELS = texts_and_labels(2)
UNLABELLED = [text for text in texts_and_labels(5)[0] if text not in LABELLED]


@pytest.fixture(scope="module")
def teacher_dir(body_dir, tmp_path_factory):
    """The folder of a trained teacher."""
    from runcast.fewshot import TrainingArguments

    folder = tmp_path_factory.mktemp("teacher")
    options = {"max_steps": 30, "learning_rate": 1e-3, "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    trainer = Trainer(
        FewShotClassifier.from_pretrained(body_dir, device="cpu"),
        TrainingArguments(str(folder), **options),
        {"text": LABELLED, "label": LABELS},
    )
    trainer.train()
    trainer.model.save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(teacher_dir):
    """A trained teacher."""
    return FewShotClassifier.from_pretrained(teacher_dir, device="cpu")


@pytest.fixture
def student(body_dir, tmp_path):
    """A student with one layer of 8 dimensions and random weights: smaller than the teacher, and knowing nothing."""
    body = SentenceTransformer(str(body_dir), device="cpu")
    body.tokenizer.save_pretrained(tmp_path / "student")
    save_transformer(tmp_path / "student", len(body.tokenizer), layers=1, dimensions=8, seed=1)
    return FewShotClassifier(SentenceTransformer(str(tmp_path / "student"), device="cpu"))


def similarities(model, texts):
    vectors = model.encode(texts, normalize_embeddings=True)
    return (vectors @ vectors.T)[np.triu_indices(len(texts), k=1)]


@pytest.mark.parametrize("sampling_strategy", ["oversampling", "batch"])
def test_a_student_comes_to_agree_with_its_teacher(teacher, student, make_args, sampling_strategy):
    """From texts without labels alone; the similarities of texts become the teacher's, and so do the labels it says."""
    texts = UNLABELLED[::2]
    others = UNLABELLED[1::2]
    expected, wanted = teacher.predict(others), similarities(teacher, others)
    student.fit_head(texts, teacher.predict(texts).tolist())
    agreed, apart = (student.predict(others) == expected).mean(), np.abs(similarities(student, others) - wanted).mean()
    student.head = type(student.head)()

    args = make_args(max_steps=100, learning_rate=1e-2, sampling_strategy=sampling_strategy)
    trainer = DistillationTrainer(teacher, student, args, texts)
    trainer.train()
    assert (student.predict(others) == expected).mean() > agreed
    assert np.abs(similarities(student, others) - wanted).mean() < 0.5 * apart
    assert student.labels == teacher.labels


def test_the_loss_is_the_squared_difference_of_similarities(teacher, student, make_args):
    """Of the pairs of a batch, whose texts are embedded once; the targets are the teacher's cosine similarities."""
    args = make_args(max_steps=1, sampling_strategy="unique")
    trainer = DistillationTrainer(teacher, student, args, {"text": UNLABELLED})
    batch = next(iter(trainer.get_train_dataloader()))
    rows = len(batch["input_ids"])
    assert rows == len(torch.unique(torch.cat([batch["left"], batch["right"]])))
    student.eval()
    (loss, outputs) = trainer.compute_loss(student, dict(batch), return_outputs=True)
    texts = [
        student.body.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert outputs["embeddings"].shape[0] == rows
    assert set(texts) <= set(UNLABELLED)
    by_hand = [
        (cosine(student, texts[left], texts[right]) - cosine(teacher, texts[left], texts[right])) ** 2
        for left, right in zip(batch["left"].tolist(), batch["right"].tolist(), strict=True)
    ]
    assert loss.item() == pytest.approx(np.mean(by_hand), rel=1e-4)


def cosine(model, left, right):
    one, two = model.encode([left, right], normalize_embeddings=True)
    return float(one @ two)


def test_an_epoch_has_every_pair_once_or_as_many_as_asked_for(teacher, student, make_args):
    """As with SetFit: n(n+1)/2 pairs of n texts, or `num_iterations` times n, whatever the labels."""
    n = len(UNLABELLED)
    for options, pairs in ({}, n * (n + 1) // 2), ({"num_iterations": 3}, 3 * n):
        args = make_args(sampling_strategy="unique", **options)
        trainer = DistillationTrainer(teacher, student, args, UNLABELLED)
        assert sum(len(batch["left"]) for batch in trainer.get_train_dataloader()) == pairs


def test_the_teacher_embeds_each_text_once_and_stays_as_it_is(teacher, student, make_args):
    """Neither the training nor an evaluation asks it again, and its weights don't move."""
    seen = []
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.body[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output["input_ids"])))
    held_out = {"text": LABELLED, "label": LABELS}
    trainer = DistillationTrainer(teacher, student, make_args(max_steps=3), UNLABELLED, held_out)
    trainer.train()
    assert "eval_accuracy" in trainer.evaluate()
    assert sum(seen) == len(UNLABELLED)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_labels_that_the_texts_have_do_not_count(teacher, student, make_args):
    """The head is fitted on what the teacher says."""
    wrong = {"text": UNLABELLED, "label": ["nonsense", "rubbish"] * (len(UNLABELLED) // 2)}
    trainer = DistillationTrainer(teacher, student, make_args(max_steps=1), wrong)
    assert trainer.train_dataset.labels == teacher.predict(UNLABELLED).tolist()
    trainer.train()
    assert set(student.predict(LABELLED)) <= set(teacher.labels)
    assert f"{len(UNLABELLED)} training texts, labelled by a teacher." in student.model_card()


@pytest.mark.parametrize("form", ["names", "rows"])
def test_several_labels_a_text_are_passed_on(body_dir, student, make_args, form):
    """A student of a teacher for several labels predicts in the teacher's form."""
    names = [
        [label, "urgent"] if text.startswith("my") else [label] for text, label in zip(LABELLED, LABELS, strict=True)
    ]
    known = sorted({*LABELS, "urgent"})
    labels = names if form == "names" else [[int(label in own) for label in known] for own in names]
    teacher = FewShotClassifier.from_pretrained(body_dir, labels=known, device="cpu")
    teacher.fit_head(LABELLED, labels, C=100.0)
    DistillationTrainer(teacher, student, make_args(max_steps=2), LABELLED).train()
    assert student.labels == known
    assert student.label_form == form
    assert student.head.multi_label


def test_model_init_makes_the_student(teacher, body_dir, make_args):
    """Each training starts from a new student, with the teacher's labels."""
    make = lambda: FewShotClassifier.from_pretrained(body_dir, device="cpu")  # noqa: E731
    trainer = DistillationTrainer(teacher, None, make_args(max_steps=1), UNLABELLED, model_init=make)
    first = trainer.model
    trainer.train()
    assert trainer.model is not first
    assert trainer.model.labels == teacher.labels


def test_wrong_use_is_an_error_when_the_trainer_is_made(teacher, student, model, body_dir, make_args):
    """A teacher that isn't trained, or none, or one that says the same of everything; a loss without similarities."""
    with pytest.raises(ValueError, match="the teacher isn't trained"):
        DistillationTrainer(model, student, make_args(), UNLABELLED)
    with pytest.raises(TypeError, match="teacher_model is a SentenceTransformer"):
        DistillationTrainer(model.body, student, make_args(), UNLABELLED)
    with pytest.raises(ValueError, match="loss is 'triplet_hard'; distillation"):
        DistillationTrainer(teacher, student, make_args(loss="triplet_hard"), UNLABELLED)
    with pytest.raises(ValueError, match="the teacher says 'billing' of all texts"):
        DistillationTrainer(teacher, student, make_args(), [LABELLED[0]] * 4)


def test_the_arguments_stay_as_they_are(teacher, student, make_args):
    """A later trainer with the same ones trains with the loss that it would have had before."""
    args = make_args()
    trainer = DistillationTrainer(teacher, student, args, UNLABELLED)
    assert (args.loss, args.chosen_loss, trainer.args.loss) == (None, "supervised_contrastive", "cosine")
