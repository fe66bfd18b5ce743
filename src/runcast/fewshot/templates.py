"""Examples made of the labels' names alone, for classes that have none yet: zero-shot classification."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from runcast.fewshot.data import Examples, check_no_stream, columns_of
from runcast.fewshot.labels import LabelForm, check_labels, label_form, plain


def get_templated_dataset(
    dataset: Any = None,
    candidate_labels: Sequence[str] | None = None,
    reference_dataset: str | None = None,
    template: str = "This sentence is {}",
    sample_size: int = 2,
    text_column: str = "text",
    label_column: str = "label",
    multi_label: bool = False,
    label_names_column: str = "label_text",
) -> Any:
    """Texts such as ``This sentence is sports``, some for each label; added to a dataset, or by themselves.

    A label is given by its position in `candidate_labels`, or in a row of 0 and 1 if `multi_label`; in a dataset whose labels
    are names, by its name, and where they are numbers with names (`datasets.ClassLabel`), by the number of that name. With
    positions, give the classifier the names:
    ``FewShotClassifier.from_pretrained(..., labels=candidate_labels)``.

    Args:
        dataset: What to add to; as for the trainer. Other columns are left empty in the rows that are added.
        candidate_labels: The names of the labels; either this or `reference_dataset`.
        reference_dataset: A dataset whose training split has the labels: its name on the Hugging Face hub, from where it is
            downloaded by `datasets.load_dataset`, or a folder. Names are those of its column ``label``, or, if that has
            none, in `label_names_column`.
        template: The text, with ``{}`` where the name goes.
        sample_size: How many of each label.
        text_column: The column of the texts.
        label_column: The column of the labels.
        multi_label: Whether a text may have several labels.
        label_names_column: The column of `reference_dataset` that has names.

    Returns:
        A dataset of the same kind as `dataset`; without one, a `datasets.Dataset`.

    Raises:
        ValueError: Both or none of `candidate_labels` and `reference_dataset`; a template without ``{}``; a column is missing;
            labels that don't go together.
        TypeError: Data of another kind.
        OSError: The reference dataset can't be loaded.
    """
    check_no_stream(dataset, "dataset")
    if (candidate_labels is None) == (reference_dataset is None):
        raise ValueError("get_templated_dataset needs either candidate_labels or reference_dataset")
    if "{}" not in template:
        raise ValueError(f"template is {template!r}; expected a text with {{}} where the label's name goes")
    if sample_size < 1:
        raise ValueError(f"sample_size is {sample_size}; expected at least 1")
    if candidate_labels is not None:
        names = _checked(candidate_labels)
    else:
        names = _names_of(str(reference_dataset), label_names_column)
    texts = [template.replace("{}", name) for name in names for _ in range(sample_size)]
    places = [place for place in range(len(names)) for _ in range(sample_size)]
    if dataset is None:
        import datasets

        labels = _labels(places, names, "rows" if multi_label else "single", named=False)
        return datasets.Dataset.from_dict({text_column: texts, label_column: labels})
    form, named = _form(dataset, text_column, label_column, names)
    numbered = _numbered(dataset, label_column)
    if numbered is not None:
        unknown = [name for name in names if name not in numbered]
        if unknown:
            raise ValueError(
                f"dataset calls its labels {numbered}; candidate_labels has also {unknown}. Name them as it does, or make them "
                f"numbers without names: dataset.cast_column({label_column!r}, datasets.Value('int64'))"
            )
        places = [numbered.index(names[place]) for place in places]
    if multi_label and form == "single":
        raise ValueError(
            "multi_label is set, but the dataset has one label a text; give lists of names or rows of 0 and 1"
        )
    return _added(dataset, text_column, texts, label_column, _labels(places, names, form, named))


def _checked(names: Sequence[str]) -> list[str]:
    found = [plain(name) for name in names]
    if isinstance(names, str) or not found or not all(isinstance(name, str) and name.strip() for name in found):
        raise ValueError(f"candidate_labels are {names!r}; expected the names of the labels")
    if len(set(found)) < len(found):
        raise ValueError(f"candidate_labels are {found}; expected each once")
    return found


def _names_of(reference: str, names_column: str) -> list[str]:
    """What the labels of a dataset are called, in the order of their numbers."""
    import datasets

    try:
        data = datasets.load_dataset(reference, split="train")
    except Exception as error:  # the hub's client raises what its HTTP library raises, and readers what is theirs
        raise OSError(
            f"reference_dataset {reference!r} can't be loaded ({type(error).__name__}: {error}). Pass a folder of a dataset, "
            "or the names of the labels as candidate_labels"
        ) from error
    names = getattr(data.features.get("label"), "names", None)
    if names is not None:
        return _checked(names)
    missing = [column for column in ("label", names_column) if column not in data.column_names]
    if missing:
        raise ValueError(
            f"reference_dataset {reference!r} has no column {missing[0]!r}; it has {data.column_names}. Pass "
            "label_names_column='<its name>', or candidate_labels"
        )
    return _checked([name for _, name in sorted(set(zip(data["label"], data[names_column], strict=True)))])


def _form(dataset: Any, text_column: str, label_column: str, names: Sequence[str]) -> tuple[LabelForm, bool]:
    """In which form a dataset has its labels, and whether it calls them by their names."""
    if isinstance(dataset, Examples):
        labels = dataset.required_labels()
    else:
        columns = columns_of(dataset, "dataset")
        for column in (text_column, label_column):
            if column not in columns:
                raise ValueError(f"dataset has no column {column!r}; it has {', '.join(map(repr, columns)) or 'none'}")
        labels = [plain(label) for label in columns[label_column]]
        if not labels:
            raise ValueError("dataset is empty; leave it out")
        check_labels(labels, "dataset")
    form = label_form(labels)
    if form == "rows" and len(labels[0]) != len(names):
        raise ValueError(
            f"dataset has rows of {len(labels[0])} labels, and there are {len(names)} names: {list(names)}"
        )
    return form, form == "names" or isinstance(labels[0], str)


def _numbered(dataset: Any, label_column: str) -> list[str] | None:
    """What a dataset calls its labels, in the order of their numbers, if it says so."""
    if not hasattr(dataset, "column_names"):
        return None
    names = getattr(dataset.features.get(label_column), "names", None)
    return None if names is None else list(names)


def _labels(places: Sequence[int], names: Sequence[str], form: LabelForm, named: bool) -> list[Any]:
    if form == "rows":
        return [[int(place == one) for one in range(len(names))] for place in places]
    labels: list[Any] = [names[place] for place in places] if named else list(places)
    return [[label] for label in labels] if form == "names" else labels


def _added(dataset: Any, text_column: str, texts: list[str], label_column: str, labels: list[Any]) -> Any:
    """A dataset with more rows."""
    new = {text_column: texts, label_column: labels}
    if isinstance(dataset, Examples):
        return Examples([*dataset.texts, *texts], [*dataset.required_labels(), *labels], dataset.name)
    if isinstance(dataset, Mapping):
        nothing = itertools.repeat(None, len(texts))
        return {name: [*column, *new.get(name, nothing)] for name, column in dataset.items()}
    if hasattr(dataset, "column_names"):  # datasets.Dataset
        import datasets

        rows = {name: new.get(name, [None] * len(texts)) for name in dataset.column_names}
        return datasets.concatenate_datasets([dataset, datasets.Dataset.from_dict(rows, features=dataset.features)])
    if hasattr(dataset, "iloc"):  # pandas.DataFrame
        import pandas as pd

        return pd.concat([dataset, pd.DataFrame(new)], ignore_index=True)
    return [*dataset, *({text_column: text, label_column: label} for text, label in zip(texts, labels, strict=True))]
