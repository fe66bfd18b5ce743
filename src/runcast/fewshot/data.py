"""Labelled texts from whatever holds them: a `datasets.Dataset`, a pandas DataFrame, dicts of lists, lists of dicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from runcast.fewshot.labels import Label, LabelForm, check_labels, check_text, distinct, label_form, plain

__all__ = ["Examples", "Label", "columns_of", "evaluation_examples", "examples"]


class Examples(Dataset[str]):
    """Texts and, unless they are for prediction only, their labels; checked when made.

    Args:
        texts: One non-empty string each.
        labels: As many labels, all of one type; or, where a text may have several, as many lists of names, or rows of 0 and
            1 with a place for each class. None if there are none.
        name: What error messages call the data.

    Attributes:
        labels: Plain Python values; tuples where a text may have several.

    Raises:
        ValueError: No text at all, an empty text or one with half a character, a missing label, labels of several types, or
            unequal lengths.
        TypeError: Something that is no text, or no label.
    """

    def __init__(self, texts: Iterable[str], labels: Iterable[Any] | None = None, name: str = "dataset") -> None:
        self.name = name
        self.texts = list(texts)
        self.labels: list[Any] | None = None if labels is None else [plain(label) for label in labels]
        self._check_texts()
        if self.labels is not None:
            self._check_labels(self.labels)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]

    @property
    def classes(self) -> list[Label]:
        """What there is to tell apart: the distinct labels, sorted; for rows of 0 and 1 their positions."""
        return distinct(self.required_labels())

    @property
    def label_form(self) -> LabelForm:
        """How the labels are given."""
        return label_form(self.required_labels())

    def required_labels(self) -> list[Any]:
        """The labels.

        Raises:
            ValueError: There are none.
        """
        if self.labels is None:
            raise ValueError(f"{self.name} has no labels; it needs a column 'label'")
        return self.labels

    def _check_texts(self) -> None:
        if not self.texts:
            raise ValueError(f"{self.name} is empty; it needs at least one text")
        for row, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise TypeError(
                    f"{self.name}: text in row {row} is {text!r} ({type(text).__name__}); expected a string"
                )
            if not text.strip():
                raise ValueError(f"{self.name}: text in row {row} is empty; remove the row")
            check_text(text, f"{self.name}: text in row {row}")

    def _check_labels(self, labels: list[Any]) -> None:
        if len(labels) != len(self.texts):
            raise ValueError(f"{self.name} has {len(self.texts)} texts and {len(labels)} labels; expected as many")
        check_labels(labels, self.name)


def examples(
    data: Any, name: str, column_mapping: Mapping[str, str] | None = None, *, need_labels: bool = True
) -> Examples:
    """`data` as `Examples`.

    Args:
        data: `Examples`, a `datasets.Dataset`, a pandas DataFrame, a dict of lists, a list of dicts; and where no labels
            are needed also a list of texts or one text.
        name: What error messages call it.
        column_mapping: From the data's column names to ``text`` and ``label``.
        need_labels: Whether a missing label column is an error.

    Raises:
        ValueError: A column is missing, or the content is unfit (see `Examples`).
        TypeError: Data of another kind.
    """
    if isinstance(data, Examples):
        if need_labels:
            data.required_labels()
        return data
    if not need_labels and isinstance(data, str):
        data = [data]
    if not need_labels and isinstance(data, Sequence) and data and all(isinstance(item, str) for item in data):
        return Examples(data, name=name)
    columns = columns_of(data, name)
    for source, target in (column_mapping or {}).items():
        if source not in columns and target not in columns:
            raise ValueError(f"{name} has no column {source!r}, which column_mapping names; it has {_names(columns)}")
        if source in columns:
            columns[target] = columns[source]
    for column in ("text", "label") if need_labels else ("text",):
        if column not in columns:
            raise ValueError(
                f"{name} has no column {column!r}; it has {_names(columns)}. Rename one, or pass "
                f"column_mapping={{'<its name>': {column!r}}}"
            )
    return Examples(columns["text"], columns.get("label"), name)


def evaluation_examples(
    data: Any, column_mapping: Mapping[str, str] | None = None
) -> Examples | dict[str, Examples] | None:
    """Evaluation data: one dataset, or several by name."""
    if data is None:
        return None
    if isinstance(data, Mapping) and data and not any(_is_column(value) for value in data.values()):
        return {str(key): examples(part, f"eval_dataset[{key!r}]", column_mapping) for key, part in data.items()}
    return examples(data, "eval_dataset", column_mapping)


def columns_of(data: Any, name: str) -> dict[str, Any]:
    """The columns of a dataset by name; None where a row of a list of dicts has no such value.

    Raises:
        ValueError: There are splits, or no row at all, or several columns of a name.
        TypeError: Data of another kind.
    """
    if isinstance(data, Mapping):
        if data and not any(_is_column(value) for value in data.values()):
            choice = next(iter(data))
            raise ValueError(f"{name} has the splits {_names(data)}; choose one of them, say dataset[{choice!r}]")
        return {str(key): value for key, value in data.items()}
    if hasattr(data, "column_names"):  # datasets.Dataset
        return {column: list(data[column]) for column in data.column_names}
    if hasattr(data, "columns") and hasattr(data, "to_dict"):  # pandas.DataFrame
        repeated = [column for column, count in Counter(map(str, data.columns)).items() if count > 1]
        if repeated:
            raise ValueError(f"{name} has several columns {_names(repeated)}; keep one of each name")
        return {str(column): data[column].tolist() for column in data.columns}
    if isinstance(data, Sequence) and data and all(isinstance(row, Mapping) for row in data):
        keys = list(dict.fromkeys(key for row in data for key in row))
        return {str(key): [row.get(key) for row in data] for key in keys}
    if isinstance(data, Sequence) and not data:
        raise ValueError(f"{name} is empty; it needs at least one text")
    raise TypeError(
        f"{name} is a {type(data).__name__}; expected a datasets.Dataset, a pandas DataFrame, a dict of lists or a list "
        "of dicts"
    )


def check_no_stream(data: Any, name: str) -> None:
    """Fails on a `datasets.IterableDataset`, whose rows have no numbers, for those who need these.

    Raises:
        TypeError: It is one.
    """
    if hasattr(data, "column_names") and not hasattr(data, "select"):
        raise TypeError(
            f"{name} is a {type(data).__name__}, of which no rows can be picked; keep what is needed of it: "
            "datasets.Dataset.from_list(list(dataset.take(10_000)))"
        )


def _is_column(value: Any) -> bool:
    """Whether it is a column (texts, labels), and not a dataset of its own."""
    if hasattr(value, "column_names") or hasattr(value, "columns") or isinstance(value, Mapping | Examples):
        return False
    return not (isinstance(value, Sequence) and value and isinstance(value[0], Mapping))


def _names(columns: Iterable[Any]) -> str:
    return ", ".join(repr(str(column)) for column in columns) or "none"
