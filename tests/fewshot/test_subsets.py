"""A few examples of each class are drawn the same way from every kind of dataset."""

from __future__ import annotations

import csv
import json
from collections import Counter

import datasets
import pandas as pd
import pytest

from runcast.fewshot import Examples, sample_dataset

LABELS = ["a"] * 20 + ["b"] * 9 + ["c"] * 3
DATA = {"text": [f"text {n}" for n in range(32)], "label": LABELS, "row": list(range(32))}


def as_rows(data):
    return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]


KINDS = {
    "dict": (lambda data: data, as_rows),
    "rows": (as_rows, list),
    "DataFrame": (lambda data: pd.DataFrame(data, index=range(100, 132)), lambda frame: frame.to_dict("records")),
    "Dataset": (datasets.Dataset.from_dict, lambda dataset: dataset.to_list()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_dataset_gives_the_same_rows_and_its_own_kind(kind):
    """So many of each class, with all columns, in the dataset's order; the kind stays."""
    make, read = KINDS[kind]
    data = make(DATA)
    few = sample_dataset(data, num_samples=3, seed=1)
    assert type(few) is type(data)
    assert read(few) == as_rows(sample_dataset(DATA, num_samples=3, seed=1))
    assert Counter(row["label"] for row in read(few)) == {"a": 3, "b": 3, "c": 3}
    assert [row["row"] for row in read(few)] == sorted(row["row"] for row in read(few))


def test_examples_stay_examples():
    """The trainer's own kind is taken and given back too."""
    few = sample_dataset(Examples(DATA["text"], LABELS), num_samples=2)
    assert isinstance(few, Examples)
    assert Counter(few.labels) == {"a": 2, "b": 2, "c": 2}
    assert all(LABELS[int(text.split()[1])] == label for text, label in zip(few.texts, few.labels, strict=True))


def test_the_seed_decides():
    """The same seed draws the same rows, another one others."""
    first, again, other = (sample_dataset(DATA, num_samples=3, seed=seed)["row"] for seed in (1, 1, 2))
    assert first == again != other


def test_fewer_than_asked_are_all_taken_and_said(caplog):
    """A class without enough examples is taken whole, with a warning that names it."""
    few = sample_dataset(DATA, num_samples=5)
    assert Counter(few["label"]) == {"a": 5, "b": 5, "c": 3}
    (message,) = caplog.messages
    assert "'c' has 3" in message
    assert "'b'" not in message


@pytest.mark.parametrize("form", ["names", "rows"])
def test_several_labels_a_text_are_balanced_by_label(form):
    """Each label gets as many texts as asked for, or more through others of its texts; so do texts without any."""
    names = [["x"]] * 10 + [["x", "y"]] * 4 + [["y", "z"]] * 4 + [[]] * 6
    labels = names if form == "names" else [[int(label in own) for label in "xyz"] for own in names]
    few = sample_dataset({"text": [f"t{n}" for n in range(24)], "label": labels}, num_samples=4)
    drawn = [names[int(text[1:])] for text in few["text"]]
    counts = Counter(label for own in drawn for label in own or [None])
    with_x = counts["y"] - 4  # the four of z are all that y needs; others come with x
    assert counts == {"x": 4, "y": 4 + with_x, "z": 4, None: 4}
    assert with_x == sum(own == ["x", "y"] for own in drawn)
    assert few["label"] == [labels[int(text[1:])] for text in few["text"]]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (DATA, {"label_column": "intent"}, "no column 'intent'; it has 'text', 'label', 'row'"),
        (DATA, {"num_samples": 0}, "num_samples is 0"),
        ({"text": ["a", "b"], "label": ["x", None]}, {}, "label in row 1 is missing"),
        ({"train": {"text": [], "label": []}}, {}, "has the splits 'train'"),
        ({"text": [], "label": []}, {}, "dataset is empty"),
    ],
)
def test_what_cannot_be_drawn_from_is_an_error(data, options, message):
    """The error names what is wrong."""
    with pytest.raises(ValueError, match=message):
        sample_dataset(data, **options)


def test_a_stream_is_refused():
    """The error says how to draw from one."""
    with pytest.raises(TypeError, match=r"IterableDataset.*Dataset.from_list\(list\(dataset.take"):
        sample_dataset(datasets.Dataset.from_dict(DATA).to_iterable_dataset())


def test_the_command_line_draws_the_same_examples(tmp_path):
    """``runcast train --shots`` and `sample_dataset` agree for a seed."""
    from runcast.cli.data import read_texts, sample

    path = tmp_path / "train.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(DATA["text"], LABELS, strict=True)])
    few, _ = sample(read_texts(path, "text", "label"), 4, seed=7)
    assert json.dumps(few.columns) == json.dumps(
        {name: sample_dataset(DATA, num_samples=4, seed=7)[name] for name in ("text", "label")}
    )
