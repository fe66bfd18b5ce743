"""A training from files to a saved model and a delivered run: what ``runcast train`` and ``runcast demo`` share."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runcast.cli.data import LabelledTexts
from runcast.cli.output import UsageError, expected
from runcast.delivery import Delivery
from runcast.errors import MissingDependencyError

if TYPE_CHECKING:
    from runcast.fewshot import Trainer, TrainingArguments


class Trained(msgspec.Struct):
    """What a training gave.

    Attributes:
        metrics: Of the final evaluation, by name: ``accuracy``, ``loss``, ...
        before: Likewise, before the body was fine-tuned; empty if that was not asked for.
        steps: Training steps made.
        examples: Training texts; `evaluated`: texts of the final evaluation.
        model: The folder of the saved classifier.
        pushed: The URL of the commit on the hub, if it was pushed.
        run: The run's id; `run_dir` its folder, None if nothing was reported.
        figures: Maps of embeddings.
        notes: What is worth knowing about the data.
    """

    metrics: dict[str, float]
    before: dict[str, float]
    steps: int
    examples: int
    evaluated: int
    model: str
    pushed: str | None
    run: str
    run_dir: str | None
    figures: list[str]
    notes: list[str]
    deliveries: list[Delivery]


def import_fewshot() -> None:
    """Imports the trainer, and torch with it.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        importlib.import_module("runcast.fewshot")
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        raise MissingDependencyError(str(error)) from error


def check_report_to(report_to: str) -> None:
    """Fails on trackers that are unknown or not installed.

    Raises:
        UsageError: `report_to` makes no sense.
        UnknownTrackerError: Nobody registered a tracker of that name.
        MissingDependencyError: It is not installed.
    """
    from runcast.registry import resolve_report_to

    with expected(ValueError, TypeError):
        resolve_report_to(report_to)


def writable_folder(folder: Path) -> Path:
    """Creates the folder, and tries to write there.

    Raises:
        UsageError: It can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"can't write to {folder}: {error.strerror}; choose another --output") from error
    return folder


def fit(
    args: TrainingArguments,
    model: str,
    train: LabelledTexts,
    evaluation: LabelledTexts,
    test: LabelledTexts | None = None,
    *,
    head: str | None = None,
    project: str | None = None,
    config: Mapping[str, Any] | None = None,
    patience: int | None = None,
    plot_embeddings: bool = False,
    log_model: bool = False,
    notes: list[str] | None = None,
) -> Trained:
    """Trains a few-shot classifier, evaluates it, saves it to ``<output_dir>/model``, and waits for the trackers.

    Args:
        args: The options; `run_name` names the run. With `resume_from_checkpoint` the run of the checkpoint is gone on with;
            with `push_to_hub` the saved classifier is uploaded when all else is done.
        model: Of the body: a name or a folder.
        train: What to train on.
        evaluation: What to evaluate on while training.
        test: What to evaluate on before and after training; None: `evaluation`, after training.
        head: The kind of a new head; None: what the model was saved with, else ``"logistic"``.
        project: What trackers file the run under.
        config: Settings besides the training arguments.
        patience: Stop after so many evaluations without a better one.
        plot_embeddings: Draw a map of embeddings at every evaluation.
        log_model: Whether the saved model becomes an artifact of the run.
        notes: What is worth knowing about the data.

    Raises:
        UsageError: The model can't be loaded, the options don't go together, there is no such checkpoint, or the hub refuses.
        TrackerStartError: A tracker that was named can't start.
    """
    from transformers import EarlyStoppingCallback

    from runcast.fewshot import EmbeddingPlotCallback, FewShotClassifier, Trainer
    from runcast.frameworks.transformers import ReportingCallback
    from runcast.run import start_run

    if patience is not None and args.eval_strategy == "no":
        raise UsageError("early stopping needs evaluations while training: --eval-strategy steps --eval-steps N")
    checkpoint = _checkpoint(args)
    if args.push_to_hub:
        _make_repository(args)
    config = dict(config or {})
    config["data"] = {**config.get("data", {}), "train_examples": len(train.texts), "labels": sorted(set(train.labels))}
    plot = EmbeddingPlotCallback()
    stopping = [EarlyStoppingCallback(early_stopping_patience=patience)] if patience is not None else []
    with expected(OSError, ValueError, TypeError):  # the names of models and metrics, what doesn't fit together
        reporting = ReportingCallback(args.report_to, project=project, config=config, probes=args.probes)
        trainer = Trainer(
            FewShotClassifier.from_pretrained(model, head=head),
            args,
            train_dataset=train.columns,
            eval_dataset=evaluation.columns,
            callbacks=[reporting, plot] if plot_embeddings else [reporting],
        )
    folder = Path(args.output_dir or ".") / "model"
    with trainer:
        before = {} if test is None else trainer.evaluate(test.columns, metric_key_prefix="test")
        for callback in stopping:  # only while training: it warns at evaluations of other texts
            trainer.add_callback(callback)
        with expected(OSError, ValueError) if checkpoint else contextlib.nullcontext():  # one of another training
            trainer.train(checkpoint)
        for callback in stopping:
            trainer.remove_callback(callback)
        phase = "eval" if test is None else "test"
        after = trainer.evaluate(None if test is None else test.columns, metric_key_prefix=phase)
        trainer.model.save_pretrained(folder)
        run = reporting.run or start_run("none")  # the main process alone opens one
        if log_model:
            run.log_artifact(folder, name="model", kind="model", step=trainer.state.global_step)
    return Trained(
        metrics=_unprefixed(after, phase),
        before=_unprefixed(before, phase),
        steps=trainer.state.global_step,
        examples=len(train.texts),
        evaluated=len((test or evaluation).texts),
        model=str(folder),
        pushed=_pushed(trainer, folder) if args.push_to_hub else None,
        run=run.id,
        run_dir=None if run.dir is None else str(run.dir),
        figures=[os.path.relpath(path) for path in plot.paths],
        notes=notes or [],
        deliveries=run.deliveries(),
    )


def _checkpoint(args: TrainingArguments) -> str | None:
    """The folder of the checkpoint to go on from, if one was asked for.

    Raises:
        UsageError: There is none.
    """
    from runcast.fewshot.checkpoint import find_checkpoint

    wanted = args.resume_from_checkpoint
    words = {"true": True, "false": False}
    choice = words.get(str(wanted).lower(), wanted)
    if not choice:
        return None
    with expected(OSError, ValueError):
        return find_checkpoint(choice, args.output_dir or ".")


def _make_repository(args: TrainingArguments) -> None:
    """So that a hub that is away, or doesn't know who asks, is said before anything is trained.

    Raises:
        UsageError: It couldn't be made.
    """
    from huggingface_hub import HfApi

    name = args.hub_model_id or Path(args.output_dir or ".").absolute().name
    api = HfApi(token=args.hub_token)
    try:
        api.create_repo(name, private=args.hub_private_repo, exist_ok=True)
    except Exception as error:  # the hub's client raises what its HTTP library raises
        raise UsageError(
            f"--push-to-hub: the repository {name!r} can't be made at {api.endpoint} ({type(error).__name__}: {error}). Is "
            "the network there, and did you log in with: hf auth login?"
        ) from error


def _pushed(trainer: Trainer, folder: Path) -> str | None:
    try:
        return trainer.push_to_hub()
    except OSError as error:
        raise UsageError(f"the classifier is trained, and saved in {folder}, but {error}") from error


def _unprefixed(metrics: Mapping[str, float], phase: str) -> dict[str, float]:
    prefix = f"{phase}_"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
