"""The trainer trains, evaluates, predicts, stops early, resumes, and reports it all into one run."""

from __future__ import annotations

import importlib.util
import json
import pickle

import datasets
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback

import runcast
from runcast.fewshot import EmbeddingPlotCallback, FewShotClassifier, Trainer, TrainingArguments
from runcast.fewshot.losses import LOSS_NAMES
from runcast.frameworks.transformers import ReportingCallback


@pytest.fixture
def make_trainer(model, make_args, train_data, eval_data):
    """A trainer for the tiny model; options of the arguments go by keyword, those of the trainer in `trainer`."""

    def make(trainer=None, **options):
        defaults = {"model": model, "train_dataset": train_data, "eval_dataset": eval_data}
        return Trainer(args=make_args(**options), **{**defaults, **(trainer or {})})

    return make


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# -- training and evaluation -----------------------------------------------------------------------------------------


def test_training_moves_the_body_and_fits_the_head(make_trainer, model, eval_data):
    """After training the body is another, and the classifier predicts labels of texts it has not seen."""
    before = weights(model).clone()
    trainer = make_trainer(max_steps=15)
    trainer.train()
    assert not torch.equal(weights(model), before)
    assert np.mean(model.predict(eval_data["text"]) == np.array(eval_data["label"])) > 0.8
    assert model.labels == ["account", "billing", "delivery"]


def test_training_brings_texts_of_a_label_together(make_trainer):
    """The contrastive loss on evaluation pairs sinks."""
    trainer = make_trainer(max_steps=20, loss="cosine")
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.6 * before


@pytest.mark.parametrize("loss", LOSS_NAMES)
@pytest.mark.parametrize("sampling_strategy", ["batch", "oversampling", "undersampling", "unique"])
def test_every_loss_and_strategy_trains(make_trainer, loss, sampling_strategy):
    """Each combination runs, moves the body, and gives finite losses."""
    trainer = make_trainer(loss=loss, sampling_strategy=sampling_strategy, max_steps=2)
    before = weights(trainer.model).clone()
    output = trainer.train()
    assert np.isfinite(output.training_loss) and np.isfinite(trainer.evaluate()["eval_loss"])
    assert torch.isfinite(weights(trainer.model)).all() and not torch.equal(weights(trainer.model), before)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_every_loss_is_minimised(make_trainer, loss):
    """Training on batches makes the loss of evaluation texts sink, each loss by its own measure."""
    trainer = make_trainer(loss=loss, sampling_strategy="batch", max_steps=25, learning_rate=3e-3)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


def test_a_loss_of_ones_own_trains(make_trainer):
    """A function of embeddings and labels is minimised, and the arguments can be saved though it can't."""
    seen = []

    def norm(embeddings, labels):
        seen.append((embeddings.shape, labels.tolist()))
        return embeddings.square().sum(dim=1).mean()

    trainer = make_trainer(loss=norm, sampling_strategy="batch", max_steps=10, save_strategy="steps", save_steps=10)
    before = trainer.evaluate()["eval_loss"]
    seen.clear()
    trainer.train()
    assert all(shape == (24, 16) and sorted(labels) == [0] * 8 + [1] * 8 + [2] * 8 for shape, labels in seen)
    assert trainer.evaluate()["eval_loss"] < before
    assert trainer.args.to_dict()["loss"] == "norm"


def test_batches_are_some_texts_of_some_classes(make_trainer):
    """With the strategy "batch" a step has that many texts of that many classes, each with its class."""
    trainer = make_trainer(sampling_strategy="batch", classes_per_batch=2, examples_per_class=3)
    for batch in trainer.get_train_dataloader():
        assert sorted(torch.bincount(batch["labels"], minlength=3).tolist()) == [0, 3, 3]
        assert len(batch["input_ids"]) == 6


def test_the_loss_of_a_batch_of_classes_is_that_of_all_its_pairs(make_trainer, model):
    """Positives and negatives weigh the same, each text embedded once, in parts by length or not."""
    trainer = make_trainer(loss="cosine", classes_per_batch=3, examples_per_class=2)
    rows = list(trainer.get_train_dataloader().dataset.sampler)[:6]
    batch = next(iter(trainer.get_train_dataloader()))
    model.eval()
    vectors = torch.tensor(model.encode([trainer.train_dataset.texts[row] for row in rows]))
    similarity = torch.cosine_similarity(vectors[:, None], vectors[None, :], dim=-1)
    same = batch["labels"][:, None] == batch["labels"][None, :]
    itself = torch.eye(6, dtype=torch.bool)
    expected = ((1 - similarity[same & ~itself]) ** 2).mean() / 2 + (similarity[~same] ** 2).mean() / 2
    assert torch.isclose(trainer.compute_loss(model, batch), expected, atol=1e-5)


def test_an_epoch_of_batches_has_forty_steps_at_least(make_trainer):
    """Few texts are gone over until there are forty steps."""
    assert make_trainer(max_steps=-1, num_train_epochs=1, sampling_strategy="batch").train().global_step == 40


def test_texts_of_several_labels_train(make_trainer, model, train_data, monkeypatch):
    """Rows of 0 and 1 make pairs that share a label or don't, in batches and as pairs; triplets are refused."""
    index = {"billing": [1, 0, 0], "delivery": [0, 1, 0], "account": [0, 1, 1]}
    monkeypatch.setattr(
        FewShotClassifier, "class_indices", lambda self, labels, name="": np.array([index[label] for label in labels])
    )
    for strategy in ("batch", "oversampling"):
        trainer = make_trainer(sampling_strategy=strategy, loss="cosine")
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["labels"].shape == (len(batch["input_ids"]), 3)
        loss = trainer.compute_loss(model, batch)
        loss.backward()
        assert torch.isfinite(loss)
        if strategy == "oversampling":
            rows = batch["labels"]
            shares = (rows[batch["left"]] & rows[batch["right"]]).any(dim=1)
            assert torch.equal(shares.float(), batch["target"])
    with pytest.raises(ValueError, match="needs one label a text"):
        make_trainer(loss="triplet_all").get_train_dataloader()


def test_an_epoch_has_all_the_pairs(make_trainer):
    """Without max_steps, an epoch goes over as many pairs as the strategy says."""
    trainer = make_trainer(sampling_strategy="oversampling", max_steps=-1, num_train_epochs=1, num_iterations=1)
    assert trainer.train().global_step == 2 * 24 // 8


def test_each_epoch_draws_other_pairs(make_trainer):
    """The second epoch is not a copy of the first."""
    seen = []

    class Watch(TrainerCallback):
        def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
            seen.append(list(train_dataloader.dataset.sampler))

    make_trainer({"callbacks": [Watch]}, max_steps=-1, num_train_epochs=2, num_iterations=1).train()
    assert len(seen) == 2 and seen[0] != seen[1]


def test_a_text_that_occurs_twice_in_a_batch_is_embedded_once(make_trainer):
    """The tokens of a batch are those of its distinct texts."""
    trainer = make_trainer(sampling_strategy="oversampling", per_device_train_batch_size=64)
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["input_ids"]) <= 24 < len(batch["target"]) == 64
    assert int(torch.stack([batch["left"], batch["right"]]).max()) == len(batch["input_ids"]) - 1


def test_the_loss_of_a_batch_is_that_of_its_pairs(make_trainer, model):
    """Embedding distinct texts once gives the loss that embedding every pair gives."""
    trainer = make_trainer(sampling_strategy="oversampling")
    loader = trainer.get_train_dataloader()
    pairs, batch = list(loader.dataset.sampler)[:8], next(iter(loader))
    model.eval()
    texts = trainer.train_dataset.texts
    left, right = (torch.tensor(model.encode([texts[pair[side]] for pair in pairs])) for side in (0, 1))
    target = torch.tensor([pair.target for pair in pairs])
    expected = ((torch.cosine_similarity(left, right) - target) ** 2).mean()
    assert torch.isclose(trainer.compute_loss(model, batch), expected, atol=1e-5)


def test_gradient_accumulation_equals_a_larger_batch(make_args, body_dir, train_data):
    """Two batches of 8 move the body as one of 16 does, dropout aside."""

    def trained(**options):
        model = FewShotClassifier.from_pretrained(
            body_dir, device="cpu", config_kwargs={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        )
        Trainer(model, make_args(max_steps=2, **options), train_data).train()
        return weights(model)

    accumulated = trained(per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert torch.allclose(accumulated, trained(per_device_train_batch_size=16), atol=1e-5)


@pytest.mark.parametrize(
    "convert",
    [
        dict,
        pd.DataFrame,
        datasets.Dataset.from_dict,
        lambda columns: [{"text": t, "label": l} for t, l in zip(columns["text"], columns["label"])],
    ],
)
def test_every_kind_of_dataset_trains(make_trainer, train_data, eval_data, convert):
    """Datasets may be of any kind, in training, evaluation and prediction."""
    trainer = make_trainer({"train_dataset": convert(train_data), "eval_dataset": convert(eval_data)}, max_steps=1)
    trainer.train()
    assert set(trainer.evaluate(convert(eval_data), metric_key_prefix="test")) >= {"test_loss", "test_accuracy"}
    assert len(trainer.predict(convert(eval_data)).predictions) == len(eval_data["text"])


def test_columns_can_have_other_names(make_trainer, train_data):
    """column_mapping says which columns are text and label."""
    data = {"sentence": train_data["text"], "intent": train_data["label"]}
    trainer = make_trainer(
        {"train_dataset": data, "eval_dataset": data, "column_mapping": {"sentence": "text", "intent": "label"}}
    )
    assert trainer.evaluate()["eval_accuracy"] > 0.5


def test_evaluation_during_training_has_loss_and_metrics(make_trainer):
    """Every evaluation reports the contrastive loss, the accuracy and the chosen metric."""
    trainer = make_trainer(
        {"metric": "f1", "metric_kwargs": {"average": "weighted"}}, eval_strategy="steps", eval_steps=2
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [2, 4]
    assert all({"eval_accuracy", "eval_f1", "eval_runtime"} <= set(entry) for entry in evaluations)


def test_evaluations_in_between_do_not_change_the_training(make_args, body_dir, train_data, eval_data):
    """The weights are the same whether one evaluates on the way or not."""

    def trained(**options):
        model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
        Trainer(model, make_args(**options), train_data, eval_data).train()
        return weights(model)

    assert torch.equal(trained(), trained(eval_strategy="steps", eval_steps=1))


def test_the_same_seed_gives_the_same_weights_and_another_does_not(make_args, body_dir, train_data):
    """Training is a function of its seed."""

    def trained(seed):
        model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
        Trainer(model, make_args(seed=seed), train_data).train()
        return weights(model)

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_a_metric_may_be_a_function(make_trainer):
    """A function of predicted and true labels gives one value under its name, or several under theirs."""

    def errors(y_pred, y_test):
        assert set(y_test.tolist()) == {"account", "billing", "delivery"}
        return int((y_pred != y_test).sum())

    assert "eval_errors" in make_trainer({"metric": errors}).evaluate()
    several = make_trainer({"metric": lambda y_pred, y_test: {"one": 1.0, "two": 2.0}}).evaluate()
    assert (several["eval_one"], several["eval_two"]) == (1.0, 2.0)


def test_an_unknown_metric_is_named_with_the_nearest(make_trainer, monkeypatch):
    """A misspelt metric fails when the trainer is made, with a suggestion."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as without the package evaluate
    with pytest.raises(ValueError, match="sklearn.metrics has no metric 'acuracy'. Did you mean 'accuracy'"):
        make_trainer({"metric": "acuracy"})


SHARE_RIGHT = """
import datasets
import evaluate

class ShareRight(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references, times=1):
        return {"share_right": times * sum(p == r for p, r in zip(predictions, references)) / len(references)}
"""


def test_a_metric_of_evaluate_is_computed(make_trainer, tmp_path, monkeypatch):
    """Where that package is installed, what it loads under a name that scikit-learn lacks gets labels as numbers."""
    pytest.importorskip("evaluate")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "share_right").mkdir()
    (tmp_path / "share_right" / "share_right.py").write_text(SHARE_RIGHT)
    trainer = make_trainer({"metric": str(tmp_path / "share_right"), "metric_kwargs": {"times": 2}})
    found = trainer.evaluate()
    assert found["eval_share_right"] == pytest.approx(2 * found["eval_accuracy"])


def test_metrics_see_the_texts_in_order(make_trainer, eval_data):
    """Texts are embedded by length, but predictions and true labels come as in the dataset."""
    seen = []

    def keep(y_pred, y_test):
        seen.append((y_pred.tolist(), y_test.tolist()))
        return 0.0

    data = {"text": [*eval_data["text"], "refund"], "label": [*eval_data["label"], "billing"]}
    trainer = make_trainer({"metric": keep, "eval_dataset": data}, eval_strategy="steps", eval_steps=2, max_steps=2)
    trainer.train()
    assert seen[0] == (trainer.model.predict(data["text"]).tolist(), data["label"])


def test_texts_are_embedded_once_while_the_body_stands_still(make_trainer, model, eval_data):
    """Evaluating and predicting again costs nothing; after a step all is embedded anew."""
    trainer = make_trainer(eval_strategy="steps", eval_steps=4)
    passes = []
    model.body.register_forward_hook(lambda *_: passes.append(1))
    trainer.train()
    passes.clear()
    first = trainer.evaluate()
    assert trainer.evaluate(eval_data)["eval_loss"] == first["eval_loss"]
    trainer.predict(eval_data["text"])
    trainer.predict(trainer.train_dataset.texts)
    assert not passes
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    assert trainer.evaluate()["eval_loss"] != first["eval_loss"]
    assert passes


def test_embeddings_follow_the_bodys_settings(make_trainer, model, eval_data):
    """Let the body read less of each text, and the next prediction embeds that, whatever is known of the whole ones."""
    trainer = make_trainer()
    trainer.train()
    whole = trainer.predict(eval_data["text"]) and trainer._embeddings.recall(model, eval_data["text"])
    model.body.max_seq_length = 3
    trainer.predict(eval_data["text"])
    cut = trainer._embeddings.recall(model, eval_data["text"])
    assert not np.allclose(cut, whole, atol=1e-3)
    assert np.allclose(cut, model.encode(eval_data["text"]), atol=1e-6)


@pytest.mark.parametrize("options", [{"bf16": True}, {"torch_compile": True, "torch_compile_backend": "eager"}])
def test_the_usual_arguments_for_speed_train(make_trainer, options):
    """Mixed precision and compilation run, and learn."""
    trainer = make_trainer(sampling_strategy="batch", max_steps=15, **options)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


def test_several_evaluation_sets_are_evaluated_by_name(make_trainer, eval_data):
    """Each of several datasets has its metrics, and the first one's accuracy is watched."""
    trainer = make_trainer(
        {"eval_dataset": {"easy": eval_data, "hard": eval_data}}, eval_strategy="steps", eval_steps=4
    )
    trainer.train()
    assert {"eval_easy_accuracy", "eval_hard_loss"} <= set().union(*trainer.state.log_history)
    assert trainer.args.metric_for_best_model == "easy_accuracy"


def test_prediction_gives_labels_and_metrics(make_trainer, eval_data):
    """predict takes bare texts, or a dataset, whose labels make for metrics."""
    trainer = make_trainer()
    trainer.train()
    bare = trainer.predict(eval_data["text"])
    assert set(bare.predictions.tolist()) <= {"account", "billing", "delivery"}
    assert bare.label_ids is None and "test_accuracy" not in bare.metrics
    full = trainer.predict(eval_data)
    assert (full.predictions == bare.predictions).all()
    assert full.label_ids.tolist() == eval_data["label"]
    assert full.metrics["test_accuracy"] == np.mean(full.predictions == full.label_ids)


def test_a_saved_classifier_is_evaluated_with_its_own_head(make_trainer, make_args, eval_data, tmp_path):
    """Without training data, evaluation uses the head that was saved; without that it says what is missing."""
    trainer = make_trainer()
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = FewShotClassifier.from_pretrained(tmp_path / "saved", device="cpu")
    again = Trainer(loaded, make_args(), eval_dataset=eval_data).evaluate()
    assert again["eval_accuracy"] == trainer.evaluate()["eval_accuracy"]
    unfitted = FewShotClassifier(loaded.body, labels=loaded.labels)
    with pytest.raises(RuntimeError, match="without a train_dataset there is nothing to fit it on"):
        Trainer(unfitted, make_args(), eval_dataset=eval_data).evaluate()


ONE_EACH = {
    "text": ["my invoice charge", "the parcel late", "a password login"],
    "label": ["billing", "delivery", "account"],
}


@pytest.mark.parametrize("sampling_strategy", ["batch", "oversampling", "undersampling", "unique"])
def test_one_example_per_class_trains(make_trainer, sampling_strategy):
    """One text a class is enough: its positive pair is itself, and in a batch it is drawn twice."""
    trainer = make_trainer({"train_dataset": ONE_EACH}, sampling_strategy=sampling_strategy)
    before = weights(trainer.model).clone()
    trainer.train()
    assert not torch.equal(weights(trainer.model), before)
    assert trainer.evaluate()["eval_accuracy"] > 1 / 3


def test_a_loss_of_labels_cannot_learn_from_pairs_of_one_example_per_class(make_trainer):
    """No text has a partner in its step then: the error says what to do, and what it says helps."""
    options = {"loss": "supervised_contrastive"}
    with pytest.raises(ValueError, match="needs two texts of a label in a step.*sampling_strategy='batch'"):
        make_trainer({"train_dataset": ONE_EACH}, sampling_strategy="oversampling", **options).train()
    trainer = make_trainer({"train_dataset": ONE_EACH}, **options)
    before = weights(trainer.model).clone()
    trainer.train()
    assert not torch.equal(weights(trainer.model), before)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"sampling_strategy": "undersampling"}, {"label": [[1, 1], [1, 0], [1, 1]]}),
        ({"sampling_strategy": "unique", "dataloader_drop_last": True, "per_device_train_batch_size": 64}, {}),
    ],
)
def test_an_epoch_without_a_step_is_refused(make_trainer, options, change):
    """Where every two texts share a label, or there are fewer pairs than a batch has, the error says what to change."""
    data = {**ONE_EACH, **change}
    with pytest.raises(
        ValueError, match="make no step: use another sampling_strategy, or leave out dataloader_drop_last"
    ):
        make_trainer({"train_dataset": data, "eval_dataset": None}, **options).train()


def test_workers_change_nothing(make_args, body_dir, train_data):
    """Batches that another process makes are the same ones."""

    def trained(**options):
        model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
        Trainer(model, make_args(max_steps=2, **options), train_data).train()
        return weights(model)

    assert torch.equal(trained(), trained(dataloader_num_workers=1))


def test_very_long_texts_are_cut_off(make_trainer, train_data, eval_data):
    """Texts of ten thousand characters train, are evaluated and predicted, as their beginnings are."""
    data = {**train_data, "text": [*train_data["text"][:-1], "account password user " * 450]}
    trainer = make_trainer({"train_dataset": data})
    trainer.train()
    short, long = trainer.model.encode(["refund payment money " * 10, "refund payment money " * 500])
    assert np.allclose(short, long, atol=1e-6)
    assert trainer.evaluate({"text": ["refund " * 1500], "label": ["billing"]})["eval_loss"] >= 0


def test_nothing_is_done_in_a_step_that_can_be_done_before(make_trainer, model, monkeypatch):
    """A text is tokenized once however often it is trained on, texts are embedded for the head only when it is needed."""
    tokenized, encoded = [], []
    tokenize, encode = model.tokenize, model.encode
    monkeypatch.setattr(model, "tokenize", lambda texts: tokenized.extend(texts) or tokenize(texts))
    monkeypatch.setattr(
        model, "encode", lambda texts, **options: encoded.append(len(texts)) or encode(texts, **options)
    )
    trainer = make_trainer({"eval_dataset": None}, max_steps=30)
    trainer.train()
    assert len(tokenized) == len(set(tokenized)) <= 24
    assert encoded == [24]
    trainer.predict(trainer.train_dataset.texts)
    assert encoded == [24]


def test_the_optimizer_is_the_fused_one(make_trainer):
    """AdamW updates all parameters in one go, where torch can."""
    trainer = make_trainer(max_steps=1)
    trainer.train()
    assert trainer.args.optim == "adamw_torch_fused"
    assert trainer.optimizer.defaults["fused"] is True


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_dataset": {"text": ["a", "b"], "category": [0, 1]}}, "train_dataset has no column 'label'"),
        ({"train_dataset": {"text": ["a", "b"], "label": [7, 7]}}, "train_dataset has a single class, 7"),
        ({"train_dataset": {"text": ["a", ""], "label": [0, 1]}}, "train_dataset: text in row 1 is empty"),
        (
            {"train_dataset": {"text": ["a", "b"], "label": [0.0, float("nan")]}},
            "train_dataset: label in row 1 is missing",
        ),
        ({"train_dataset": {"text": ["a", "b"], "label": ["x", 1]}}, "train_dataset has labels of several types"),
        (
            {"eval_dataset": {"text": ["a"], "label": ["nobody"]}},
            r"eval_dataset has labels .* doesn't know: \['nobody'\]",
        ),
        ({"eval_dataset": {"sentence": ["a"], "label": ["billing"]}}, "eval_dataset has no column 'text'"),
        ({"eval_dataset": {"text": ["a"]}}, "eval_dataset has no column 'label'"),
        ({"eval_dataset": {"text": ["a"], "label": [None]}}, "eval_dataset: label in row 0 is missing"),
    ],
)
def test_bad_data_fails_when_the_trainer_is_made(make_trainer, change, message):
    """What is wrong with a dataset is said before anything is trained."""
    with pytest.raises(ValueError, match=message):
        make_trainer(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "Trainer needs a model or a model_init"),
        ({"model": torch.nn.Linear(1, 1)}, "model is a torch.*Linear; expected a FewShotClassifier"),
    ],
)
def test_a_wrong_model_is_refused(make_trainer, change, message):
    """Something that is no classifier comes with the way to make one."""
    with pytest.raises(TypeError, match=message):
        make_trainer(change)


def test_arguments_of_transformers_are_refused(model, train_data, tmp_path):
    """Plain transformers arguments lack our options; the error names the class to use."""
    from transformers import TrainingArguments as Plain

    with pytest.raises(TypeError, match="expected runcast.fewshot.TrainingArguments"):
        Trainer(model, Plain(output_dir=str(tmp_path)), train_data)


def test_missing_datasets_are_named(model, make_args):
    """train without training data, and evaluate without any, say which argument is missing."""
    trainer = Trainer(model, make_args())
    with pytest.raises(ValueError, match="needs a train_dataset"):
        trainer.train()
    with pytest.raises(ValueError, match="evaluation needs a dataset"):
        trainer.evaluate()


def test_model_init_starts_each_training_afresh(make_args, body_dir, train_data):
    """With model_init the second training gives what the first gave."""
    trainer = Trainer(
        args=make_args(),
        train_dataset=train_data,
        model_init=lambda: FewShotClassifier.from_pretrained(body_dir, device="cpu"),
    )
    trainer.train()
    first = weights(trainer.model).clone()
    trainer.train()
    assert torch.equal(first, weights(trainer.model))


# -- callbacks and reporters -----------------------------------------------------------------------------------------


def names(trainer):
    """The classes of a trainer's callbacks that users know of."""
    return [
        type(callback).__name__
        for callback in trainer.callback_handler.callbacks
        if not type(callback).__name__.startswith("_")
    ]


def test_default_callbacks_are_flow_progress_and_reporting(make_trainer):
    """By default there is a flow, a progress bar (printing without one), and reporting unless nothing is reported."""
    assert names(make_trainer(report_to="none", disable_tqdm=False)) == ["DefaultFlowCallback", "ProgressCallback"]
    assert names(make_trainer(report_to="console")) == ["DefaultFlowCallback", "ReportingCallback", "PrinterCallback"]
    assert names(make_trainer(report_to="all")) == ["DefaultFlowCallback", "ReportingCallback", "PrinterCallback"]


@pytest.mark.parametrize("report_to", ["wandb", ["wandb", "tensorboard"]])
def test_transformers_own_tracker_callbacks_are_never_added(make_trainer, report_to):
    """report_to names trackers for runcast alone, and is there as it was given."""
    trainer = make_trainer(report_to=report_to)
    assert names(trainer) == ["DefaultFlowCallback", "ReportingCallback", "PrinterCallback"]
    expected = [report_to] if isinstance(report_to, str) else report_to
    assert [reporter.name for reporter in trainer._reporting().reporters] == expected
    assert trainer.args.report_to == report_to


def test_unknown_trackers_fail_when_the_trainer_is_made(make_trainer):
    """A misspelt tracker is an error before training, with the nearest name."""
    with pytest.raises(ValueError, match="Did you mean 'wandb'"):
        make_trainer(report_to="wandbb")


def test_callbacks_can_be_added_popped_and_removed(make_trainer):
    """By class and by instance, as in transformers; popping returns the callback, or None."""
    trainer = make_trainer()
    instance = EarlyStoppingCallback(early_stopping_patience=2)
    trainer.add_callback(instance)
    trainer.add_callback(ProgressCallback)
    assert trainer.pop_callback(EarlyStoppingCallback) is instance
    assert trainer.pop_callback(EarlyStoppingCallback) is None
    assert isinstance(trainer.pop_callback(PrinterCallback), PrinterCallback)
    trainer.add_callback(instance)
    assert trainer.pop_callback(instance) is instance
    trainer.add_callback(instance)
    trainer.remove_callback(instance)
    trainer.remove_callback(ProgressCallback)
    assert names(trainer) == ["DefaultFlowCallback"]


def test_reporters_can_be_popped_and_removed(make_trainer, recorder_class):
    """By name, alias, class and instance; popping returns the reporter, or None."""
    from runcast.reporters.tensorboard import TensorBoardReporter
    from runcast.reporters.wandb import WandbReporter

    trainer = make_trainer(report_to=["wandb", "tensorboard", "console"])
    assert isinstance(trainer.pop_callback("wandb"), WandbReporter)
    assert trainer.pop_callback("wandb") is None
    assert trainer.pop_callback(WandbReporter) is None
    assert isinstance(trainer.pop_callback(TensorBoardReporter), TensorBoardReporter)
    trainer.add_callback(WandbReporter)
    trainer.remove_callback(WandbReporter)
    instance = WandbReporter()
    trainer.add_callback(instance)
    assert trainer.pop_callback(instance) is instance
    trainer.add_callback("wandb")
    own = recorder_class()
    trainer.add_callback(own)
    assert trainer.pop_callback("recorder") is own
    trainer.remove_callback("wandb")
    trainer.remove_callback("wandb")
    assert [reporter.name for reporter in trainer._reporting().reporters] == ["console"]
    for trainer in (trainer, make_trainer(report_to="none")):
        assert trainer.pop_callback("wandb") is None
        with pytest.raises(ValueError, match="no tracker is called 'wnadb'"):
            trainer.pop_callback("wnadb")


@pytest.mark.parametrize("how", ["instance", "class", "callbacks", "report_to", "registered name"])
def test_a_reporter_of_ones_own_reports(make_trainer, recorder, recorder_class, how, monkeypatch, only_run):
    """A user's reporter gets the run by instance and by class, in add_callback, callbacks and report_to."""
    got = {}
    monkeypatch.setattr(recorder_class, "close", lambda self, status: got.update(points=self.points, status=status))
    if how == "callbacks":
        trainer = make_trainer({"callbacks": [recorder]})
    elif how == "report_to":
        trainer = make_trainer(report_to=recorder)
    else:
        trainer = make_trainer()
        if how == "registered name":
            monkeypatch.setattr("runcast.registry._registered", {"recorder": recorder_class})
        trainer.add_callback({"instance": recorder, "class": recorder_class, "registered name": "recorder"}[how])
    trainer.train()
    trainer.finish_run()
    assert got["status"] == "completed"
    assert [step for key, step, _ in got["points"] if key == "train/loss"] == [1, 2, 4]
    assert [point.step for point in only_run().metrics["train/loss"]] == [1, 2, 4]


def test_popping_the_last_reporter_reports_nothing(make_trainer, tmp_path):
    """Without any reporter left no run is opened."""
    trainer = make_trainer(report_to="console")
    trainer.pop_callback("console")
    trainer.train()
    assert not (tmp_path / "runs").exists()


def test_reporting_does_not_touch_the_training(make_args, body_dir, train_data, eval_data, recorder):
    """Weights are bit-identical with and without a reporter."""

    def trained(report_to):
        model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
        trainer = Trainer(
            model, make_args(report_to=report_to, eval_strategy="steps", eval_steps=2), train_data, eval_data
        )
        trainer.train()
        trainer.finish_run()
        return weights(model)

    assert torch.equal(trained("none"), trained(recorder))
    assert recorder.points


def test_training_evaluation_and_prediction_are_one_run(make_trainer, recorder, only_run, eval_data):
    """The contrastive phase, the head, evaluations and predictions report into one run, which completes."""
    trainer = make_trainer(report_to=recorder, eval_strategy="steps", eval_steps=2)
    trainer.train()
    trainer.evaluate(eval_data, metric_key_prefix="test")
    trainer.predict(eval_data, metric_key_prefix="final")
    assert only_run().status == "running"
    trainer.finish_run()
    run = only_run()
    assert run.status == "completed"
    assert [point.step for point in run.metrics["eval/accuracy"]] == [2, 4]
    assert {"train/loss", "eval/loss", "test/accuracy", "final/accuracy"} <= set(run.metrics)
    assert run.summary["train_accuracy"] > 0.5 and {"train_runtime", "train_head_runtime"} <= set(run.summary)
    assert run.config["data"] == {"train_examples": 24, "labels": ["account", "billing", "delivery"]}
    assert run.config["learning_rate"] == 1e-3 and run.config["model"]["hidden_size"] == 16


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("boom"), "failed"), (KeyboardInterrupt(), "killed")])
def test_an_interrupted_training_ends_its_run(make_trainer, recorder, only_run, error, status):
    """An exception ends the run as failed, Ctrl-C as killed; both go on to the caller."""

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise error

    trainer = make_trainer({"callbacks": [Interrupt]}, report_to=recorder)
    with pytest.raises(type(error)):
        trainer.train()
    assert only_run().status == status
    assert recorder.closed == [status]
    assert runcast.current_run() is None


def test_a_with_block_ends_the_run(make_trainer, recorder, only_run):
    """Leaving the block completes the run, an exception in it fails it."""
    with make_trainer(report_to=recorder) as trainer:
        trainer.train()
        trainer.evaluate()
    assert only_run().status == "completed"


def test_resuming_in_another_process_goes_on_with_the_run(
    make_trainer, make_args, body_dir, train_data, recorder, only_run
):
    """Training from a checkpoint appends to the run that wrote it, without any step twice."""

    class Crash(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise RuntimeError("out of memory")

    options = {"max_steps": 6, "logging_steps": 1, "save_strategy": "steps", "save_steps": 3}
    with pytest.raises(RuntimeError):
        make_trainer({"callbacks": [Crash]}, report_to=recorder, **options).train()
    model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
    with Trainer(model, make_args(report_to=recorder, **options), train_data) as trainer:
        trainer.train(resume_from_checkpoint=True)
    run = only_run()
    assert run.status == "completed"
    assert [point.step for point in run.metrics["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_user_written_callback_gets_the_classifier(make_trainer, train_data, eval_data, tmp_path):
    """A callback makes a folder when the trainer is made, and plots t-SNE of both datasets at every evaluation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.manifold import TSNE

    class EmbeddingPlots(TrainerCallback):
        def __init__(self, folder):
            self.folder = folder

        def on_init_end(self, args, state, control, **kwargs):
            self.folder.mkdir(parents=True)

        def on_evaluate(self, args, state, control, model, **kwargs):
            figure, axes = plt.subplots(1, 2)
            for axis, data in zip(axes, (train_data, eval_data)):
                embeddings = model.encode(data["text"])
                points = TSNE(n_components=2, perplexity=5).fit_transform(embeddings)
                axis.scatter(
                    points[:, 0], points[:, 1], c=[sorted(set(data["label"])).index(label) for label in data["label"]]
                )
            figure.suptitle(f"step {state.global_step} of {state.max_steps}")
            figure.savefig(self.folder / f"step_{state.global_step}.png")
            plt.close(figure)

    trainer = make_trainer({"callbacks": [EmbeddingPlots(tmp_path / "plots")]}, eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["step_2.png", "step_4.png"]


def test_a_single_tracker_is_named_as_a_string(model, train_data):
    """`TrainingArguments(report_to="wandb")` alone is a complete configuration."""
    trainer = Trainer(model=model, args=TrainingArguments(report_to="wandb"), train_dataset=train_data)
    (reporter,) = trainer._reporting().reporters
    assert reporter.name == "wandb"


def test_a_reporting_callback_of_the_users_own_replaces_the_default(make_trainer, recorder):
    """Passing a ReportingCallback means that one, and not a second one beside it."""
    mine = ReportingCallback(report_to=recorder)
    trainer = make_trainer({"callbacks": [mine]}, report_to="console")
    assert trainer._reporting() is mine
    assert names(trainer).count("ReportingCallback") == 1


# -- options of the head -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "head", "error", "message"),
    [
        ({"head_params": {"CC": 1}}, {}, TypeError, "doesn't take head_params"),
        ({"head_params": {"C": -1}}, {}, ValueError, "can't be fitted with head_params"),
        ({}, {"multi_target_strategy": "one-vs-rest"}, ValueError, "each text has one label"),
        (
            {"head_params": {"class_weight": {"bill": 2.0}}},
            {},
            ValueError,
            r"the keys \['bill'\]; expected labels.*'billing'",
        ),
        ({"head_params": {"epochs": 3}}, {"head": "logistic"}, TypeError, "doesn't take head_params"),
    ],
)
def test_head_options_are_checked_when_the_trainer_is_made(
    body_dir, make_args, train_data, options, head, error, message
):
    """Nothing has to be trained to learn that the head can't be fitted; likewise with model_init."""
    make = lambda: FewShotClassifier.from_pretrained(body_dir, device="cpu", **head)  # noqa: E731
    with pytest.raises(error, match=message):
        Trainer(make(), make_args(**options), train_data)
    with pytest.raises(error, match=message):
        Trainer(None, make_args(**options), train_data, model_init=make)


@pytest.mark.parametrize("key", [2, "2"])
def test_a_class_weight_is_by_label(body_dir, make_args, train_data, key):
    """Its keys are labels, as numbers or, from JSON, as text; not positions."""
    data = {
        "text": train_data["text"],
        "label": [{"account": 1, "billing": 2, "delivery": 3}[x] for x in train_data["label"]],
    }
    model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
    trainer = Trainer(model, make_args(head_params={"class_weight": {key: 1e6}, "C": 1e-4}, max_steps=1), data)
    trainer.train()
    assert set(model.predict(data["text"])) == {2}
    model.fit_head(data["text"], data["label"], class_weight={3: 1e6}, C=1e-4)
    assert set(model.predict(data["text"])) == {3}


def test_with_several_labels_a_class_weight_says_what_having_one_is_worth(body_dir, make_args, train_data):
    """Each label is there or not, so the keys are 0 and 1."""
    data = {"text": train_data["text"], "label": [[label] for label in train_data["label"]]}
    model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
    options = {"C": 1e-4, "class_weight": {"1": 1e6}}
    Trainer(model, make_args(head_params=options, max_steps=1), data).train()
    assert all(list(names) == model.labels for names in model.predict(data["text"]))
    with pytest.raises(ValueError, match=r"the keys \['billing'\]; expected labels, and these are \[0, 1\]"):
        Trainer(model, make_args(head_params={"class_weight": {"billing": 2.0}}), data)


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_the_arguments_stay_as_they_are(model, make_args, train_data, eval_data):
    """With several evaluation datasets the first one's accuracy counts; the user's arguments don't say so afterwards."""
    args = make_args(eval_strategy="steps", eval_steps=2, load_best_model_at_end=True)
    before = args.to_dict()
    trainer = Trainer(model, args, train_data, {"mine": eval_data, "yours": eval_data})
    assert trainer.args.metric_for_best_model == "mine_accuracy"
    trainer.train()
    assert args.to_dict() == before


def test_the_best_model_needs_an_evaluation(model, make_args, train_data, eval_data):
    """load_best_model_at_end alone evaluates and loads the best; without data for that it is an error."""
    with pytest.raises(ValueError, match="load_best_model_at_end needs an eval_dataset"):
        Trainer(model, make_args(load_best_model_at_end=True), train_data)
    trainer = Trainer(model, make_args(load_best_model_at_end=True), train_data, eval_data)
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None


def test_arguments_from_a_pickle_are_refused_where_a_part_is_missing(model, make_args, train_data):
    """The loss that was a function is only a name there, and another must not take its place."""
    args = pickle.loads(pickle.dumps(make_args(loss=lambda embeddings, labels: embeddings.sum())))
    with pytest.raises(ValueError, match="loss is '<lambda>'.*set args.loss again"):
        Trainer(model, args, train_data)


# -- metrics that are no numbers ---------------------------------------------------------------------------------------


def report(predicted, true):
    return sklearn.metrics.classification_report(true, predicted, output_dict=True, zero_division=0)


NO_NUMBERS = {
    "array": {"metric": "f1", "metric_kwargs": {"average": None}},
    "matrix": {"metric": "confusion_matrix"},
    "some": {"metric": lambda predicted, true: {"acc": np.float64(1.0), "confusion": [[1, 2], [3, 4]], 7: {"a", "b"}}},
    "nested": {"metric": report},
    "text": {"metric": lambda predicted, true: "fine"},
    "nothing": {"metric": lambda predicted, true: None},
    "object": {"metric": lambda predicted, true: object()},
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_metrics_that_are_no_numbers_are_returned(model, make_args, train_data, eval_data, recorder, tmp_path, kind):
    """Training, checkpoints, evaluation and the card go on with them; trackers and the card get what are numbers."""
    args = make_args(report_to=recorder, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2)
    with Trainer(model, args, train_data, eval_data, **NO_NUMBERS[kind]) as trainer:
        trainer.train()
        found = trainer.evaluate()
        predicted = trainer.predict(eval_data).metrics
    trainer.save_model(str(tmp_path / "saved"))
    assert {name.replace("eval_", "test_") for name in found} - set(predicted) == {"epoch"}
    assert all(isinstance(value, float) for _, _, value in recorder.points)
    assert "eval/accuracy" in (tmp_path / "saved" / "README.md").read_text().replace("&#95;", "_")
    json.dumps(found)
    if kind == "array":
        assert len(found["eval_f1"]) == 3
    if kind == "matrix":
        assert np.sum(found["eval_confusion_matrix"]) == len(eval_data["text"])
    if kind == "some":
        assert (found["eval_acc"], found["eval_confusion"], len(found["eval_7"])) == (1.0, [[1, 2], [3, 4]], 2)


def test_what_is_no_number_cannot_choose_the_best(model, make_args, train_data, eval_data):
    """The first evaluation while training says so; one that isn't asked to choose goes on."""
    args = make_args(load_best_model_at_end=True, eval_steps=1, metric_for_best_model="f1")
    trainer = Trainer(model, args, train_data, eval_data, metric="f1", metric_kwargs={"average": None})
    with pytest.raises(ValueError, match=r"metric_for_best_model is 'f1', and that is \[.*\]; expected a number"):
        trainer.train()
    assert trainer.state.global_step == 1


# -- what transformers has, and what is unclear ------------------------------------------------------------------------


def test_noise_on_the_embeddings_of_tokens(body_dir, make_args, train_data):
    """neftune_noise_alpha changes what is learnt, and only while training."""
    trained = []
    for alpha in (None, None, 50.0):
        model = FewShotClassifier.from_pretrained(body_dir, device="cpu")
        Trainer(model, make_args(neftune_noise_alpha=alpha), train_data).train()
        assert np.array_equal(model.encode(["my invoice"]), model.encode(["my invoice"]))
        trained.append(model.encode(["my invoice"]))
    assert np.array_equal(trained[0], trained[1])
    assert not np.allclose(trained[0], trained[2])


def test_a_frozen_body_is_refused(model, make_args, train_data):
    """There is nothing to train; the error says how the head alone is fitted."""
    model.body.requires_grad_(False)
    with pytest.raises(ValueError, match="the body is frozen.*fit_head"):
        Trainer(model, make_args(), train_data).train()


def test_what_is_no_callback_is_refused(model, make_args, train_data):
    """One that isn't in a list, and what is neither callback nor reporter."""
    with pytest.raises(TypeError, match="callbacks is a .*EmbeddingPlotCallback; expected a list"):
        Trainer(model, make_args(), train_data, callbacks=EmbeddingPlotCallback())
    with pytest.raises(TypeError, match="callbacks is a builtins.str; expected a list"):
        Trainer(model, make_args(), train_data, callbacks="console")
    with pytest.raises(TypeError, match="42 is no callback: expected a TrainerCallback or a Reporter"):
        Trainer(model, make_args(), train_data, callbacks=[42])
    with pytest.raises(TypeError, match="<class 'int'> is no callback"):
        Trainer(model, make_args(), train_data).add_callback(int)


@pytest.mark.parametrize("label", ["single", "several"])
def test_another_task_than_the_saved_one_is_told_what_to_pass(model, make_args, train_data, tmp_path, label):
    """A classifier knows its labels; the error says how its body is trained on others, and that works."""
    model.fit_head(train_data["text"], train_data["label"])
    model.save_pretrained(tmp_path / "saved")
    names = [["new"], ["old"]] if label == "several" else ["new", "old"]
    other = {"text": train_data["text"], "label": names * 12}
    for options in ({}, {"head": "logistic"}):
        if label == "single" or not options:
            with pytest.raises(ValueError, match=r"pass labels=\[...\] and head='logistic', a new head, to FewShot"):
                Trainer(FewShotClassifier.from_pretrained(tmp_path / "saved", **options), make_args(), other)
    again = FewShotClassifier.from_pretrained(tmp_path / "saved", labels=["new", "old"], head="logistic", device="cpu")
    Trainer(again, make_args(max_steps=1), other).train()
    assert again.labels == ["new", "old"]
