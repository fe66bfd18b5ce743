"""``runcast predict``: a saved classifier's labels for the texts in a file, a batch at a time."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import typer
from rich.markup import escape

from runcast.cli import output
from runcast.cli.data import Row, rows, text_of
from runcast.cli.output import UsageError, expected
from runcast.display import line, stderr, visible

if TYPE_CHECKING:
    from runcast.fewshot import FewShotClassifier


class Stream(Protocol):
    """Where text can be written."""

    def write(self, text: str, /) -> Any:
        """Takes some text."""


_AT_ONCE = 16  # batches that are read, sorted by length and written together
_ADDED = ("prediction", "probability", "probabilities")


class Predicted(msgspec.Struct):
    """What was predicted.

    Attributes:
        rows: Rows of the file.
        labels: Label → how many texts got it.
        output: The file with the predictions; None if they went to standard output.
    """

    rows: int
    labels: dict[str, int]
    output: str | None


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The folder of a saved classifier, or a name on the hub.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSONL, Parquet, or a text a line (.txt).")],
    text_column: Annotated[str, typer.Option(metavar="NAME", help="The column of the texts.")] = "text",
    to: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="A .csv or .jsonl file; default: standard output, as CSV."),
    ] = None,
    all_probabilities: Annotated[
        bool, typer.Option("--all-probabilities", help="Add the probability of every label.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts that go through the model at once.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the model's parameters: float32, bfloat16, float16.")] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Consent to read the pickled head of a SetFit model.")
    ] = False,
    as_json: output.AsJson = False,
) -> int:
    """Predict the labels of the texts in a file: each row again, with the columns prediction and probability."""
    writer = _writer_of(to, as_json)
    _check_destination(to, file)
    count = _check_rows(file, text_column, same_columns=writer is _write_csv)
    with output.clean_stdout(True):  # standard output is for predictions
        from runcast.cli.training import import_fewshot

        import_fewshot()
        from runcast.fewshot import FewShotClassifier

        with _quiet(), expected(OSError, ValueError):  # a folder that is none, a device that isn't there
            classifier = FewShotClassifier.from_pretrained(model, device=device, dtype=dtype, trust_pickle=trust_pickle)
        if not classifier.head.is_fitted:
            raise UsageError(f"{model} is no trained classifier: it has no fitted head; runcast train makes one")
    counts: Counter[str] = Counter()
    with _destination(to) as stream:
        predicted = _predicted(
            classifier, _with_progress(rows(file), count), text_column, batch_size, all_probabilities, counts
        )
        writer(predicted, stream)
        result = Predicted(count, dict(counts.most_common()), None if to is None else str(to))
        if to is None and as_json:
            rest = json.dumps(output.jsonable(result), indent=2).removeprefix("{")
            stream.write(f",{rest}\n")
    if to is not None:
        output.show(result, as_json, *_views(result))
    return 0


# -- reading -----------------------------------------------------------------------------------------------------------


def _check_rows(file: Path, text_column: str, same_columns: bool) -> int:
    """Looks at every row before anything heavy starts, and counts them."""
    count, columns = 0, None
    for count, row in enumerate(rows(file), start=1):
        where = f"{file}, row {count}"
        text_of(row, text_column, where)
        if None in row:
            raise UsageError(f"{where}: more values than the header has columns")
        taken = next((name for name in row if name in _ADDED), None)
        if taken is not None:
            raise UsageError(f"{file} has a column {taken!r} already, which predictions are to go to; rename it")
        columns = row.keys() if columns is None else columns
        new = next((name for name in row if name not in columns), None) if same_columns else None
        if new is not None:
            raise UsageError(f"{where}: column {new!r}, which the first row has not; choose a .jsonl file as --output")
    if not count:
        raise UsageError(f"{file} has no rows")
    return count


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars where nobody watches: standard error is for what went wrong."""
    from transformers.utils import logging

    wanted = logging.is_progress_bar_enabled()
    if wanted and not stderr().is_terminal:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    try:
        yield
    finally:
        if wanted:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _predicted(
    classifier: FewShotClassifier,
    source: Iterable[Row],
    text_column: str,
    batch_size: int,
    all_probabilities: bool,
    counts: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Each row with what is predicted for it; only some batches of them are in memory."""
    labels = list(map(str, classifier.labels or ()))
    source = iter(source)
    while some := list(itertools.islice(source, _AT_ONCE * batch_size)):
        with output.clean_stdout(True):
            probabilities = classifier.predict_proba([row[text_column] for row in some], batch_size)
        decided = classifier.head.decide(probabilities)
        for row, chances, place in zip(some, probabilities.tolist(), decided, strict=True):
            if classifier.head.multi_label:
                chosen = [position for position, yes in enumerate(place) if yes]
                found: Any = [labels[position] for position in chosen]
                chance: Any = [chances[position] for position in chosen]
                counts.update(found)
            else:
                found, chance = (classifier.labels or ())[place], chances[place]
                counts[str(found)] += 1
            result = {**row, "prediction": found, "probability": chance}
            if all_probabilities:
                result["probabilities"] = dict(zip(labels, chances, strict=True))
            yield result


def _with_progress(source: Iterable[Row], count: int) -> Iterator[Row]:
    """The rows; where standard error is a terminal, with a bar there."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(source, total=count)


# -- writing -----------------------------------------------------------------------------------------------------------


def _writer_of(to: Path | None, as_json: bool) -> Callable[[Iterable[dict[str, Any]], Stream], None]:
    if to is None:
        return _write_json if as_json else _write_csv
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl}
    if to.suffix.lower() not in writers:
        raise UsageError(f"--output is {to}; expected a name that ends with {' or '.join(writers)}")
    return writers[to.suffix.lower()]


def _check_destination(to: Path | None, file: Path) -> None:
    if to is None:
        return
    if not to.parent.is_dir():
        raise UsageError(f"--output is {to}, and there is no folder {to.parent}")
    if to.is_dir():
        raise UsageError(f"--output is {to}, which is a folder; name a file in it")
    if to.exists() and file.exists() and to.samefile(file):
        raise UsageError(f"--output is {file} itself; choose another file")


class _Terminal:
    """Standard output that is a terminal: it gets nothing that it would obey."""

    def write(self, text: str, /) -> Any:
        sys.stdout.write(visible(text))


@contextlib.contextmanager
def _destination(to: Path | None) -> Iterator[Stream]:
    """Standard output; or a file that is there when it is complete."""
    if to is None:
        try:
            yield _Terminal() if sys.stdout.isatty() else sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read it has seen enough; Python would complain at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    partial = to.with_name(f"{to.name}.partial")
    try:
        with expected(OSError), partial.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)


def _write_csv(predicted: Iterable[dict[str, Any]], stream: Stream) -> None:
    """Lists as JSON in their cell; the probability of each label in a column of its own."""
    writer: csv.DictWriter[str] | None = None
    for row in predicted:
        for label, chance in row.pop("probabilities", {}).items():
            row[f"probability of {label}"] = chance
        if writer is None:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    return _json(value) if isinstance(value, list | dict) else value


def _write_jsonl(predicted: Iterable[dict[str, Any]], stream: Stream) -> None:
    for row in predicted:
        stream.write(_json(row) + "\n")


def _write_json(predicted: Iterable[dict[str, Any]], stream: Stream) -> None:
    """The beginning of an object, up to its ``predictions``."""
    stream.write('{\n  "predictions": [')
    for number, row in enumerate(predicted):
        stream.write(f"{',' if number else ''}\n    {_json(row)}")
    stream.write("\n  ]")


def _json(value: Any) -> str:
    return json.dumps(output.jsonable(value), ensure_ascii=False, default=str)


def _views(result: Predicted) -> list[Any]:
    grid = output.table("label", "texts", right=("texts",))
    for label, count in result.labels.items():
        grid.add_row(escape(line(label)), str(count))
    return [f"{result.rows} rows → {escape(line(result.output or ''))}", grid]
