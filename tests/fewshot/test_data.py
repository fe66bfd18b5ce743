"""Datasets of every kind become the same examples, and bad ones say what is wrong with them."""

from __future__ import annotations

import math

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from runcast.fewshot.data import Examples, evaluation_examples, examples

COLUMNS = {"text": ["a cat", "a dog"], "label": ["cat", "dog"]}
ROWS = [{"text": "a cat", "label": "cat"}, {"text": "a dog", "label": "dog"}]


@pytest.mark.parametrize(
    "data",
    [
        COLUMNS,
        ROWS,
        pd.DataFrame(COLUMNS),
        datasets.Dataset.from_dict(COLUMNS),
        Examples(**{"texts": COLUMNS["text"], "labels": COLUMNS["label"]}),
    ],
)
def test_every_kind_of_dataset_is_read(data):
    """A dict of lists, a list of dicts, a DataFrame and a datasets.Dataset hold the same examples."""
    found = examples(data, "train_dataset")
    assert (found.texts, found.labels) == (COLUMNS["text"], COLUMNS["label"])


def test_columns_can_be_renamed():
    """column_mapping goes from the data's names to ours, and leaves data that has ours already as it is."""
    mapping = {"sentence": "text", "intent": "label"}
    found = examples({"sentence": ["x", "y"], "intent": [1, 2], "other": [0, 0]}, "train_dataset", mapping)
    assert (found.texts, found.labels) == (["x", "y"], [1, 2])
    assert examples(COLUMNS, "eval_dataset", mapping).texts == COLUMNS["text"]


def test_numpy_labels_become_plain_ones():
    """Numpy's integers are plain integers afterwards, so that they can be saved as JSON."""
    found = examples({"text": ["x", "y"], "label": np.array([0, 1])}, "train_dataset")
    assert [type(label) for label in found.labels] == [int, int]


@pytest.mark.parametrize(
    ("labels", "plain", "form", "classes"),
    [
        ([["b", "a"], []], [("b", "a"), ()], "names", ["a", "b"]),
        ([("a",), {"c", "b"}], [("a",), ("b", "c")], "names", ["a", "b", "c"]),
        (np.array([[0, 1, 1], [1, 0, 0]]), [(0, 1, 1), (1, 0, 0)], "rows", [0, 1, 2]),
        (torch.tensor([[0.0, 1.0], [0.0, 0.0]]), [(0.0, 1.0), (0.0, 0.0)], "rows", [0, 1]),
        ([0, 1], [0, 1], "single", [0, 1]),
    ],
)
def test_a_text_may_have_several_labels(labels, plain, form, classes):
    """As lists of names or as rows of 0 and 1, of whatever type; they are plain values afterwards."""
    found = examples({"text": ["x", "y"], "label": labels}, "train_dataset")
    assert (found.labels, found.label_form, found.classes) == (plain, form, classes)


@pytest.mark.parametrize("labels", [[["a", "b"], []], [[1, 0], [0, 0]]])
def test_several_labels_are_read_from_every_kind_of_dataset(labels):
    """A DataFrame, a datasets.Dataset and rows give the same labels as a dict."""
    columns = {"text": ["x", "y"], "label": labels}
    expected = examples(columns, "train_dataset").labels
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for data in (rows, pd.DataFrame(columns), datasets.Dataset.from_dict(columns)):
        assert examples(data, "train_dataset").labels == expected


def test_several_evaluation_sets_keep_their_names():
    """A dict of datasets is several of them, a dict of columns is one."""
    several = evaluation_examples({"easy": COLUMNS, "hard": pd.DataFrame(COLUMNS)})
    assert list(several) == ["easy", "hard"]
    assert isinstance(evaluation_examples(COLUMNS), Examples)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            {"text": ["a"], "category": [1]},
            ValueError,
            "train_dataset has no column 'label'; it has 'text', 'category'",
        ),
        ({"sentence": ["a"], "label": [1]}, ValueError, "train_dataset has no column 'text'.*column_mapping"),
        ({"text": ["a", " "], "label": [1, 2]}, ValueError, "text in row 1 is empty"),
        ({"text": ["a", None], "label": [1, 2]}, TypeError, "text in row 1 is None .NoneType.; expected a string"),
        ({"text": ["a", "b"], "label": [1.0, math.nan]}, ValueError, "label in row 1 is missing .nan."),
        ({"text": ["a", "b"], "label": ["x", None]}, ValueError, "label in row 1 is missing .None."),
        ({"text": ["a", "b"], "label": ["x", 1]}, ValueError, "labels of several types .1 str, 1 int."),
        ({"text": ["a", "b"], "label": ["x", {"y": 1}]}, TypeError, "label in row 1 is .'y': 1. .dict."),
        ({"text": ["a", "b"], "label": ["x", pd.NA]}, ValueError, "label in row 1 is missing .<NA>."),
        ({"text": ["a", "b"], "label": ["x", ["y"]]}, ValueError, "labels of several types .1 str, 1 list."),
        ({"text": ["a", "b"], "label": [["x"], ["y", None]]}, ValueError, "a label in row 1 is missing"),
        ({"text": ["a", "b"], "label": [["x"], ["y", 2]]}, TypeError, "row 1 are .'y', 2.; expected names"),
        (
            {"text": ["a", "b"], "label": [["x"], ["y", "y"]]},
            ValueError,
            "row 1 are .'y', 'y'.; expected each name once",
        ),
        ({"text": ["a", "b"], "label": [[0, 1], [0, 2]]}, ValueError, "row 1 are .0, 2.; expected a list of names"),
        ({"text": ["a", "b"], "label": [[0, 1], [0]]}, ValueError, "row 1 are 1 values, and 2 in row 0"),
        ({"text": ["a", "b"], "label": [[0, 1], [0, math.nan]]}, ValueError, "row 1 are .0, nan.; expected"),
        ({"text": ["a", "b"], "label": [[1], [0]]}, ValueError, "rows of a single 0 or 1"),
        ({"text": ["a", "b"], "label": [[], []]}, ValueError, "has no label at all: every list is empty"),
        ({"text": ["a", "b"], "label": [1]}, ValueError, "2 texts and 1 labels"),
        ({"text": [], "label": []}, ValueError, "train_dataset is empty"),
        ([], ValueError, "train_dataset is empty"),
        (datasets.DatasetDict(train=datasets.Dataset.from_dict(COLUMNS)), ValueError, "splits 'train'; choose"),
        (42, TypeError, "train_dataset is a int; expected a datasets.Dataset"),
    ],
)
def test_bad_data_is_refused_with_the_place(data, error, message):
    """The error names the dataset, the row or column, what was found and what was expected."""
    with pytest.raises(error, match=message):
        examples(data, "train_dataset")


def test_a_missing_mapped_column_is_named():
    """A column that column_mapping names and the data lack is the one in the message."""
    with pytest.raises(ValueError, match="no column 'sentence', which column_mapping names; it has 'body', 'label'"):
        examples({"body": ["a"], "label": [1]}, "train_dataset", {"sentence": "text"})


def test_prediction_takes_bare_texts():
    """Where no labels are needed, a list of strings or one string will do."""
    assert examples(["x", "y"], "test_dataset", need_labels=False).texts == ["x", "y"]
    assert examples("x", "test_dataset", need_labels=False).labels is None


def test_a_repeated_column_is_refused():
    """Which of two columns of a name is meant can't be known."""
    frame = pd.DataFrame([["a", "b", 1]], columns=["text", "text", "label"])
    with pytest.raises(ValueError, match="train has several columns 'text'; keep one of each name"):
        examples(frame, "train")


@pytest.mark.parametrize(
    ("texts", "labels", "where"),
    [
        (["a", "b \ud83d"], ["x", "y"], "text in row 1"),
        (["a", "b"], ["x", "y\ud83d"], "label in row 1"),
        (["a", "b"], [["x"], ["x", "\udc00"]], "label in row 1"),
    ],
)
def test_half_a_character_is_told(texts, labels, where):
    """A lone surrogate in a text or a label would fail where it is tokenized or saved."""
    with pytest.raises(ValueError, match=f"data: {where}: .* has a lone surrogate.*encoding"):
        Examples(texts, labels, "data")
