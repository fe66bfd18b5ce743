"""``runcast train``: a few-shot classifier from labelled texts in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.markup import escape

from runcast.cli import output
from runcast.cli.training import Trained
from runcast.display import stderr


def train(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="TRAIN [--OPTION VALUE]...",
            help="The training file: CSV, JSONL or Parquet. Then options of transformers' TrainingArguments.",
        ),
    ],
    evaluation: Annotated[Path, typer.Option("--eval", metavar="EVAL", help="The file to evaluate on, all of it.")],
    text_column: Annotated[str, typer.Option(metavar="NAME", help="The column of the texts.")] = "text",
    label_column: Annotated[str, typer.Option(metavar="NAME", help="The column of the labels.")] = "label",
    shots: Annotated[int, typer.Option(min=1, help="Training examples drawn from each class.")] = 8,
    model: Annotated[str, typer.Option(metavar="NAME_OR_PATH", help="The Sentence Transformer.")] = "all-MiniLM-L6-v2",
    head: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="The head: logistic or torch; default: what the model has, else logistic."),
    ] = None,
    report_to: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help='Trackers, "all" or "none"; default: $RUNCAST_REPORT_TO, else all.'),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--output", "--output-dir", metavar="DIR", help="Where the model and checkpoints go.")
    ] = Path("output"),
    max_steps: Annotated[int, typer.Option(help="Training steps; -1: as many as the epochs have.")] = -1,
    project: Annotated[str | None, typer.Option(help="What trackers file the run under.")] = None,
    name: Annotated[str | None, typer.Option("--name", "--run-name", help="What people call the run.")] = None,
    seed: Annotated[int, typer.Option(help="Decides which examples are drawn, and every other chance.")] = 42,
    early_stopping: Annotated[
        int | None, typer.Option(min=1, metavar="PATIENCE", help="Stop after so many evaluations that are no better.")
    ] = None,
    plot_embeddings: Annotated[
        bool, typer.Option("--plot-embeddings", help="Draw embeddings at each evaluation.")
    ] = False,
    log_model: Annotated[bool, typer.Option("--log-model", help="Log the model as an artifact of the run.")] = False,
    as_json: output.AsJson = False,
) -> int:
    """Train a few-shot text classifier, and report the run to every tracker.

    The options of transformers' TrainingArguments work too, as --learning-rate 2e-5 or --learning_rate 2e-5.
    """
    from runcast.cli.data import check_classes, read_texts, sample
    from runcast.cli.options import split, training_arguments
    from runcast.cli.training import check_report_to, fit, writable_folder
    from runcast.registry import default_report_to

    train_file, more = split(arguments)
    everything = read_texts(Path(train_file), text_column, label_column)
    examples, notes = sample(everything, shots, seed)
    held_out = read_texts(evaluation, text_column, label_column)
    check_classes(examples, held_out)
    report_to = default_report_to() if report_to is None else report_to
    check_report_to(report_to)
    writable_folder(folder)
    for note in notes:
        stderr().print(f"note: {note}", markup=False)
    with output.clean_stdout(as_json):
        stopping: dict[str, Any] = {"eval_strategy": "steps", "load_best_model_at_end": True} if early_stopping else {}
        args = training_arguments(
            more,
            stopping,
            output_dir=str(folder),
            report_to=report_to,
            max_steps=max_steps,
            seed=seed,
            run_name=name,
        )
        trained = fit(
            args,
            model,
            examples,
            held_out,
            head=head,
            project=project,
            config={
                "data": {
                    "train_file": str(train_file),
                    "eval_file": str(evaluation),
                    "shots": shots,
                    "eval_examples": len(held_out.texts),
                },
                "model_name": model,
            },
            patience=early_stopping,
            plot_embeddings=plot_embeddings,
            log_model=log_model,
            notes=notes,
        )
    output.show(trained, as_json, *_views(trained))
    return 0 if all(row.done for row in trained.deliveries) else 1


def _views(trained: Trained) -> Sequence[RenderableType]:
    lines = [
        f"trained on {trained.examples} texts for {trained.steps} steps, evaluated on {trained.evaluated}",
        *(f"  {escape(name):<24} {output.number(value)}" for name, value in trained.metrics.items()),
        f"model  {escape(trained.model)}",
    ]
    if trained.pushed is not None:
        lines.append(f"hub    {escape(trained.pushed)}")
    if trained.run_dir is not None:
        lines.append(f"run    {escape(trained.run_dir)}")
        lines.append(f"       runcast show {trained.run}   runcast verify {trained.run}")
    return [*lines, *(f"figure {escape(path)}" for path in trained.figures)]
