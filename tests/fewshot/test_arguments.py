"""Training arguments take any report_to, and survive what transformers does with them."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle

import pytest
import torch
from transformers import HfArgumentParser

from runcast import Reporter
from runcast.fewshot import TrainingArguments


@pytest.mark.parametrize(
    "report_to", ["wandb", ["wandb", "tensorboard"], "all", "none", None, {"wandb": {"mode": "offline"}}]
)
def test_report_to_is_kept_as_given(report_to):
    """Every form of report_to is there afterwards: it isn't transformers that resolves it."""
    assert TrainingArguments(report_to=report_to).report_to == report_to


def test_reporter_classes_and_instances_are_kept(recorder, recorder_class):
    """Classes and instances are there afterwards, also in copies; in dicts they are names."""
    args = TrainingArguments(report_to=[recorder, recorder_class])
    assert copy.deepcopy(args).report_to == dataclasses.replace(args).report_to == [recorder, recorder_class]
    assert args.to_dict()["report_to"] == ["recorder", "recorder"]


def test_report_to_defaults_to_the_environment_else_all(monkeypatch):
    """Without a word it is "all", unless RUNCAST_REPORT_TO says otherwise."""
    assert TrainingArguments().report_to == "all"
    monkeypatch.setenv("RUNCAST_REPORT_TO", "console")
    assert TrainingArguments().report_to == "console"


def test_arguments_can_be_saved_whatever_the_reporters(recorder):
    """JSON, pickle and torch.save work with live reporters, and keep their options (secrets, maybe) out."""
    recorder.unpicklable = lambda: None
    args = TrainingArguments(report_to=[recorder, {"wandb": {"api_key": "very secret"}}], head_params={"C": 2.0})
    assert json.loads(args.to_json_string())["report_to"] == ["recorder", "wandb"]
    torch.save(args, buffer := io.BytesIO())
    buffer.seek(0)
    for loaded in (pickle.loads(pickle.dumps(args)), torch.load(buffer, weights_only=False)):
        assert loaded.report_to == ["recorder", "wandb"]
        assert loaded.head_params == {"C": 2.0}
    assert b"very secret" not in pickle.dumps(args)


def test_a_command_line_is_understood():
    """transformers' own argument parser reads every option, JSON among them."""
    line = [
        "--report_to",
        "wandb,mlflow",
        "--head_params",
        '{"C": 3}',
        "--num_iterations",
        "5",
        "--loss",
        "contrastive",
    ]
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(line)
    assert (args.report_to, args.head_params, args.num_iterations, args.loss) == (
        "wandb,mlflow",
        {"C": 3},
        5,
        "contrastive",
    )


def test_evaluation_watches_the_accuracy_unless_told_otherwise():
    """With evaluation on, the best model is the most accurate one; a metric of the user's stays."""
    args = TrainingArguments(eval_strategy="steps")
    assert (args.metric_for_best_model, args.greater_is_better) == ("accuracy", True)
    args = TrainingArguments(eval_strategy="steps", metric_for_best_model="eval_loss")
    assert (args.metric_for_best_model, args.greater_is_better) == ("eval_loss", False)
    assert TrainingArguments().metric_for_best_model is None


def test_wanting_the_best_model_saves_it():
    """load_best_model_at_end alone is enough: the best checkpoint is saved, and only that."""
    args = TrainingArguments(eval_strategy="steps", load_best_model_at_end=True)
    assert (args.save_strategy, args.save_total_limit) == ("best", 1)
    args = TrainingArguments(eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    assert (args.save_strategy, args.save_total_limit) == ("epoch", None)


@pytest.mark.parametrize("parse", [False, True])
@pytest.mark.parametrize(
    ("options", "evaluated"),
    [
        ({}, ("steps", 10)),
        ({"logging_steps": 3}, ("steps", 3)),
        ({"eval_steps": 7}, ("steps", 7)),
        ({"save_strategy": "epoch"}, ("epoch", None)),
        ({"save_strategy": "steps", "save_steps": 6}, ("steps", 6)),
        ({"save_strategy": "best"}, ("steps", 10)),
        ({"eval_strategy": "epoch"}, ("epoch", None)),
    ],
)
def test_wanting_the_best_model_evaluates(options, evaluated, parse):
    """load_best_model_at_end alone is enough to evaluate while training, as often as is saved; also on a command line."""
    options = {"load_best_model_at_end": True, **options}
    if parse:
        line = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(line)
    else:
        args = TrainingArguments(**options)
    assert (args.eval_strategy, args.eval_steps, args.metric_for_best_model) == (*evaluated, "accuracy")
    assert TrainingArguments().eval_strategy == "no"


def test_defaults_suit_few_examples():
    """The defaults are those of contrastive training on few texts."""
    args = TrainingArguments()
    assert (args.per_device_train_batch_size, args.learning_rate, args.num_train_epochs) == (16, 2e-5, 1.0)
    assert (args.save_strategy, args.sampling_strategy, args.loss) == ("no", "batch", None)
    assert (args.chosen_loss, TrainingArguments(sampling_strategy="unique").chosen_loss) == (
        "supervised_contrastive",
        "cosine",
    )
    assert args.restore_callback_states_from_checkpoint


def test_an_unknown_strategy_is_refused():
    """The error lists those that there are."""
    with pytest.raises(ValueError, match="is 'batches'; expected one of batch, oversampling, undersampling, unique"):
        TrainingArguments(sampling_strategy="batches")


def test_a_loss_that_is_a_function_is_saved_by_name():
    """JSON, pickle and torch.save get its name; copies keep the function."""
    args = TrainingArguments(loss=lambda embeddings, labels: embeddings.sum())
    assert json.loads(args.to_json_string())["loss"] == pickle.loads(pickle.dumps(args)).loss == "<lambda>"
    assert copy.deepcopy(args).loss is copy.copy(args).loss is args.loss
    assert pickle.loads(pickle.dumps(TrainingArguments())).loss is None


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({"loss": lambda embeddings, labels: embeddings.sum()}, "loss"),
        ({"report_to": {"wandb": {"mode": "offline"}}}, "report_to"),
        ({"report_to": ["console", Reporter()]}, "report_to"),
        ({"report_to": ["console", "tensorboard"], "loss": "cosine", "probes": "system"}, None),
        ({"report_to": {"console": {}}}, None),
    ],
)
def test_what_a_pickle_leaves_out_is_not_lost_unnoticed(options, lost):
    """A trainer refuses arguments of which the name alone is left, until they are set again; copies keep everything."""
    args = TrainingArguments(**options)
    for copied in (copy.copy(args), copy.deepcopy(args)):
        assert copied is not args and copied.report_to == args.report_to and copied.loss is args.loss
        copied.check_complete()
    loaded = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(args))))
    if lost is None:
        loaded.check_complete()
        return
    with pytest.raises(ValueError, match=f"{lost} is .*: set args.{lost} again"):
        loaded.check_complete()
    setattr(loaded, lost, getattr(args, lost))
    loaded.check_complete()


@pytest.mark.parametrize("params", [["C"], '["C"]', 3, '"C"'])
def test_head_params_that_are_no_options_are_refused(params):
    """Lists, numbers and text that is no JSON object have no names of options."""
    with pytest.raises(TypeError, match="head_params are .*expected options by name"):
        TrainingArguments(head_params=params)


@pytest.mark.parametrize(
    "options",
    [
        {"include_for_metrics": ["inputs"]},
        {"eval_do_concat_batches": False},
        {"batch_eval_metrics": True},
        {"label_smoothing_factor": 0.1},
        {"train_sampling_strategy": "group_by_length"},
    ],
)
def test_options_without_meaning_are_refused(options):
    """What would fail after the training, or do nothing, is an error that says why."""
    (name,) = options
    if name not in TrainingArguments.__dataclass_fields__:
        pytest.skip(f"this version of transformers has no {name}")
    with pytest.raises(ValueError, match=f"{name} is .*which has no meaning here: .*; leave it out"):
        TrainingArguments(**options)
