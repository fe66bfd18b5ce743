"""Labelled texts from a file, checked row by row before anything heavy starts; and a few of them by class."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from runcast.cli.output import UsageError, expected
from runcast.errors import missing_extra
from runcast.shots import draw

Row: TypeAlias = Mapping[str, Any]
Label: TypeAlias = "str | int | float | bool"
_NAMED = 20
_PARQUET_ROWS = 1024  # read at once


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their labels, as many; rows count from 1, in the file's order."""

    file: str
    texts: list[str]
    labels: list[Label]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """As the trainer takes them."""
        return {"text": self.texts, "label": self.labels}


def read_texts(path: Path, text_column: str, label_column: str) -> LabelledTexts:
    """The texts and labels of a CSV, JSONL or Parquet file.

    Args:
        path: UTF-8; what it is says its suffix. A CSV has a header line.
        text_column: The column of the texts.
        label_column: The column of the labels.

    Raises:
        UsageError: There is no such file, it can't be read as what its suffix says, a column or all rows are missing, a
            text is empty, or a label missing.
    """
    texts: list[str] = []
    labels: list[Label] = []
    for number, row in enumerate(rows(path), start=1):
        where = f"{path}, row {number}"
        texts.append(text_of(row, text_column, where))
        labels.append(_label(_value(row, label_column, where), where))
    if not texts:
        raise UsageError(f"{path} has no rows")
    kinds = Counter(type(label).__name__ for label in labels)
    if len(kinds) > 1:
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        raise UsageError(f"{path}: labels of several types ({found}); convert them to one")
    return LabelledTexts(str(path), texts, labels)


def rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV, JSONL, Parquet or text file, one after the other, so that a large file needs little memory.

    Args:
        path: UTF-8; what it is says its suffix. A CSV has a header line; a ``.txt`` has a text a line.

    Raises:
        UsageError: There is no such file, or it can't be read as what its suffix says.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path}: unknown suffix {path.suffix!r}; expected one of {', '.join(_READERS)}")
    if not path.is_file():
        raise UsageError(f"no file {path}")
    with expected(OSError, ValueError):
        yield from read(path)


def text_of(row: Row, column: str, where: str) -> str:
    """The text in a row.

    Args:
        row: As `rows` gives it.
        column: Of the text.
        where: What error messages call the row.

    Raises:
        UsageError: There is no such column, or no text in it.
    """
    return _text(_value(row, column, where), where)


def sample(data: LabelledTexts, shots: int, seed: int) -> tuple[LabelledTexts, list[str]]:
    """At most `shots` examples of each class, always the same ones for the same seed.

    Returns:
        The examples in the order of the file, and notes on the classes that have fewer.

    Raises:
        UsageError: There is a single class, or no class has two examples.
    """
    rows_of: dict[Label, list[int]] = {}
    for row, label in enumerate(data.labels):
        rows_of.setdefault(label, []).append(row)
    if len(rows_of) < 2:
        raise UsageError(f"{data.file} has a single class, {data.labels[0]!r}; expected at least two")
    if shots < 2 or max(map(len, rows_of.values())) < 2:
        raise UsageError(
            f"{data.file}: one example per class; expected at least two of some class, since training pairs texts of the "
            f"same class" + (": raise --shots" if shots < 2 else "")
        )
    notes = []
    for label in sorted(rows_of, key=str):
        count = len(rows_of[label])
        if count < shots:
            alone = "; its only pair is of the text with itself" if count == 1 else ""
            notes.append(f"class {label!r} has {count} of the {shots} examples wanted: all are used{alone}")
    chosen = draw(rows_of, shots, seed)
    few = LabelledTexts(data.file, [data.texts[row] for row in chosen], [data.labels[row] for row in chosen])
    return few, notes


def check_classes(train: LabelledTexts, evaluation: LabelledTexts) -> None:
    """Every evaluation label must be one that training has.

    Raises:
        UsageError: One isn't; the message has the first such row.
    """
    known = set(train.labels)
    unseen = Counter(label for label in evaluation.labels if label not in known)
    if unseen:
        label = next(label for label in evaluation.labels if label in unseen)
        row = evaluation.labels.index(label) + 1
        others = f" (and {len(unseen) - 1} more labels)" if len(unseen) > 1 else ""
        raise UsageError(
            f"{evaluation.file}, row {row}: label {label!r}{others} is not in {train.file}, which has "
            f"{_names(sorted(known, key=str))}"
        )


# -- rows by format ----------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            yield from reader
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: no CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


def _jsonl(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UsageError(f"{path}, line {number}: no JSON: {error}") from error
                if not isinstance(row, dict):
                    raise UsageError(
                        f"{path}, line {number}: a {type(row).__name__}; expected an object with the columns"
                    )
                yield row
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise missing_extra("pyarrow, which reads Parquet files,", "train") from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UsageError(f"{path}: no Parquet: {error}") from error


def _txt(path: Path) -> Iterator[Row]:
    """A text a line, in the column ``text``; empty lines don't count."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if text := line.strip():
                    yield {"text": text}
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error


_READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".txt": _txt,
}


def _not_utf8(path: Path, error: UnicodeDecodeError) -> UsageError:
    return UsageError(f"{path}: no UTF-8 text ({error.reason} at byte {error.start}); convert it")


# -- values ------------------------------------------------------------------------------------------------------------


def _value(row: Row, column: str, where: str) -> Any:
    if column not in row:
        raise UsageError(f"{where}: no column {column!r}; it has {_names(row)}")
    return row[column]


def _text(value: Any, where: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UsageError(f"{where}: the text is empty; remove the row")
    if not isinstance(value, str):
        raise UsageError(f"{where}: the text is {value!r} ({type(value).__name__}); expected a string")
    return value


def _label(value: Any, where: str) -> Label:
    # What pandas writes for a missing label is "" in CSV; "nan" is what str() makes of one.
    words = value.strip().lower() if isinstance(value, str) else None
    if value is None or words in ("", "nan") or (isinstance(value, float) and math.isnan(value)):
        raise UsageError(f"{where}: the label is missing ({value!r}); remove the row, or label it")
    if not isinstance(value, str | int | float):
        raise UsageError(f"{where}: the label is {value!r} ({type(value).__name__}); expected one string or number")
    return value


def _names(found: Iterable[Any]) -> str:
    names = [str(name) for name in found if name is not None]
    return ", ".join(names[:_NAMED]) + (f", … ({len(names)} in all)" if len(names) > _NAMED else "")
