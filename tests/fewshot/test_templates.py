"""Examples made of labels' names train a classifier that has seen no real text."""

from __future__ import annotations

import datasets
import pandas as pd
import pytest

from runcast.fewshot import Examples, FewShotClassifier, Trainer, get_templated_dataset

NAMES = ["billing", "delivery"]
TEXTS = [f"This is about {name}" for name in NAMES for _ in range(2)]


def templated(dataset=None, **options):
    return get_templated_dataset(dataset, NAMES, template="This is about {}", **options)


def test_each_label_gets_texts_of_the_template():
    """Without a dataset there is one with so many texts a label, and positions as labels."""
    data = templated()
    assert isinstance(data, datasets.Dataset)
    assert data.to_dict() == {"text": TEXTS, "label": [0, 0, 1, 1]}
    assert templated(multi_label=True)["label"] == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert len(templated(sample_size=5)) == 10


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ([0, 1], [0, 0, 1, 1]),
        (["delivery", "billing"], ["billing", "billing", "delivery", "delivery"]),
        ([["billing", "delivery"], []], [["billing"], ["billing"], ["delivery"], ["delivery"]]),
        ([[1, 1], [0, 0]], [[1, 0], [1, 0], [0, 1], [0, 1]]),
    ],
    ids=["positions", "names", "lists of names", "rows of 0 and 1"],
)
def test_labels_have_the_form_that_the_dataset_has(given, labels):
    """What is added says the labels as the dataset does."""
    data = templated({"text": ["one", "two"], "label": given})
    assert data == {"text": ["one", "two", *TEXTS], "label": [*given, *labels]}


def test_every_kind_of_dataset_keeps_its_kind_and_its_other_columns():
    """Rows are added to a Dataset, a DataFrame, a list of dicts and `Examples`; other columns are empty there."""
    columns = {"words": ["one", "two"], "intent": [1, 0], "source": ["x", "y"]}
    names = {"text_column": "words", "label_column": "intent"}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    features = datasets.Features(
        words=datasets.Value("string"), intent=datasets.ClassLabel(names=NAMES), source=datasets.Value("string")
    )
    dataset = templated(datasets.Dataset.from_dict(columns, features=features), **names)
    assert dataset.features == features
    assert dataset["source"] == ["x", "y", None, None, None, None]
    assert dataset["intent"] == [1, 0, 0, 0, 1, 1]
    frame = templated(pd.DataFrame(columns), **names)
    assert frame["words"].tolist() == ["one", "two", *TEXTS]
    assert frame["source"].isna().tolist() == [False] * 2 + [True] * 4
    assert templated(rows, **names)[2:] == [
        {"words": text, "intent": label} for text, label in zip(TEXTS, [0, 0, 1, 1], strict=True)
    ]
    assert templated(Examples(["one", "two"], [1, 0])).labels == [1, 0, 0, 0, 1, 1]


def test_labels_that_have_names_are_matched_by_these():
    """A ClassLabel's numbers are those of its own names, in whatever order these are given, or only some of them."""
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["account", "billing", "delivery"])
    )
    dataset = datasets.Dataset.from_dict({"text": ["one"], "label": [1]}, features=features)
    data = get_templated_dataset(dataset, ["delivery", "account"], sample_size=1)
    assert data.features == features
    assert data.to_dict() == {
        "text": ["one", "This sentence is delivery", "This sentence is account"],
        "label": [1, 2, 0],
    }
    with pytest.raises(
        ValueError, match=r"calls its labels \['account', 'billing', 'delivery'\].*has also \['parcels'\]"
    ):
        get_templated_dataset(dataset, ["account", "billing", "delivery", "parcels"])
    numbers = get_templated_dataset(dataset.cast_column("label", datasets.Value("int64")), ["x", "y"], sample_size=1)
    assert numbers["label"] == [1, 0, 1]


def test_a_stream_is_refused():
    """Nothing can be added to one."""
    stream = datasets.Dataset.from_dict({"text": ["one"], "label": [1]}).to_iterable_dataset()
    with pytest.raises(TypeError, match="IterableDataset.*from_list"):
        templated(stream)


def test_names_come_from_a_reference_dataset(tmp_path):
    """The column with names is read in the order of the labels' numbers; a dataset that knows its names says them itself."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "train.csv").write_text("text,label,label_text\na,1,delivery\nb,0,billing\nc,1,delivery\n")
    cache = str(tmp_path / "cache")
    datasets.config.HF_DATASETS_CACHE, before = cache, datasets.config.HF_DATASETS_CACHE
    try:
        data = get_templated_dataset(reference_dataset=str(tmp_path / "plain"), sample_size=1)
        assert data.to_dict() == {"text": ["This sentence is billing", "This sentence is delivery"], "label": [0, 1]}
        with pytest.raises(ValueError, match="has no column 'nothing'"):
            get_templated_dataset(reference_dataset=str(tmp_path / "plain"), label_names_column="nothing")
    finally:
        datasets.config.HF_DATASETS_CACHE = before


def test_a_reference_dataset_that_is_nowhere_says_what_to_do(monkeypatch):
    """The error names the dataset and the way without one."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="'nobody/nothing' can't be loaded.*candidate_labels"):
        get_templated_dataset(reference_dataset="nobody/nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either candidate_labels or reference_dataset"),
        ({"candidate_labels": NAMES, "reference_dataset": "x"}, "either candidate_labels or reference_dataset"),
        ({"candidate_labels": NAMES, "template": "about it"}, "text with {} where"),
        ({"candidate_labels": NAMES, "sample_size": 0}, "sample_size is 0"),
        ({"candidate_labels": "billing"}, "expected the names of the labels"),
        ({"candidate_labels": ["billing", "billing"]}, "expected each once"),
        ({"candidate_labels": NAMES, "dataset": {"words": ["a"], "label": [0]}}, "no column 'text'"),
        ({"candidate_labels": NAMES, "dataset": {"text": ["a"], "label": [[0, 1, 0]]}}, "rows of 3 labels.* 2 names"),
        (
            {"candidate_labels": NAMES, "dataset": {"text": ["a"], "label": [0]}, "multi_label": True},
            "one label a text",
        ),
    ],
)
def test_wrong_use_is_an_error(options, message):
    """The error names what is wrong."""
    with pytest.raises(ValueError, match=message):
        get_templated_dataset(**options)


def test_a_classifier_learns_from_templates_alone(body_dir, make_args):
    """Trained on templates only, it predicts names for texts that it has never seen."""
    names = ["invoice", "parcel", "password"]
    trainer = Trainer(
        FewShotClassifier.from_pretrained(body_dir, labels=names, device="cpu"),
        make_args(max_steps=30),
        get_templated_dataset(candidate_labels=names, template="my {}", sample_size=4),
    )
    trainer.train()
    assert trainer.model.predict(["the invoice", "your parcel", "a password"]).tolist() == names
