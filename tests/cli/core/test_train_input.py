"""What `runcast train` refuses before anything heavy starts, in one line that says what to do."""

from __future__ import annotations

import json
import sys

import pytest

from runcast.cli.data import LabelledTexts, read_texts, sample
from runcast.cli.options import split
from runcast.cli.output import UsageError

GOOD = "text,label\ngood day,hello\nsee you,bye\nhi there,hello\nso long,bye\n"


@pytest.fixture
def train(cli, tmp_path):
    """Calls `runcast train` on files with this content; None: there is no such file."""

    def call(train_content, *options, evaluation=GOOD, suffix=".csv"):
        paths = [tmp_path / f"train{suffix}", tmp_path / f"eval{suffix}"]
        for path, content in zip(paths, (train_content, evaluation)):
            if content is not None:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return cli("train", paths[0], "--eval", paths[1], "--output", tmp_path / "output", *options)

    return call


REFUSED = {
    "missing training file": (None, {}, "no file"),
    "missing evaluation file": (GOOD, {"evaluation": None}, "no file"),
    "unknown suffix": (GOOD, {"suffix": ".xls"}, "unknown suffix '.xls'; expected one of .csv, .jsonl, .parquet"),
    "no rows": ("text,label\n", {}, "has no rows"),
    "empty file": ("", {}, "has no rows"),
    "missing text column": ("sentence,label\na,b\n", {}, "no column 'text'; it has sentence, label"),
    "missing label column": ("text,category\na,b\n", {}, "no column 'label'; it has text, category"),
    "single class": ("text,label\na,x\nb,x\n", {}, "has a single class, 'x'; expected at least two"),
    "empty text": ("text,label\na,x\n  ,y\n", {}, "row 2: the text is empty"),
    "row that is too short": ("text,label\na,x\nb\n", {}, "row 2: the label is missing"),
    "missing label": ("text,label\na,x\nb,\n", {}, "row 2: the label is missing ('')"),
    "NaN label": ("text,label\na,x\nb,NaN\n", {}, "row 2: the label is missing ('NaN')"),
    "one example per class": ("text,label\na,x\nb,y\n", {}, "one example per class"),
    "unclosed quote": ('text,label\na,x\n"b,y\n', {}, "no CSV"),
    "not UTF-8": ("text,label\nÄ,x\n".encode("latin-1"), {}, "no UTF-8 text"),
    "label unseen in training": (
        GOOD, {"evaluation": "text,label\na,hello\nb,shout\n"}, "row 2: label 'shout' is not in",
    ),
    "bad evaluation text": (GOOD, {"evaluation": "text,label\n,hello\n"}, "row 1: the text is empty"),
    "no JSON": ('{"text": "a", "label": "x"}\n{"text": \n', {"suffix": ".jsonl"}, "line 2: no JSON"),
    "JSON but no object": ('["a", "x"]\n', {"suffix": ".jsonl"}, "line 1: a list"),
    "JSON null label": ('{"text": "a", "label": null}\n', {"suffix": ".jsonl"}, "row 1: the label is missing (None)"),
    "JSON NaN label": ('{"text": "a", "label": NaN}\n', {"suffix": ".jsonl"}, "row 1: the label is missing (nan)"),
    "text that is a number": ('{"text": 5, "label": "x"}\n', {"suffix": ".jsonl"}, "the text is 5 (int)"),
    "labels of several types": (
        '{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n', {"suffix": ".jsonl"}, "labels of several types",
    ),
    "label that is a list": ('{"text": "a", "label": ["x"]}\n', {"suffix": ".jsonl"}, "expected one string or number"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_unfit_data_is_one_line(train, tmp_path, case):
    """Each kind of bad data is said in one line with file and row; no run and no output folder is made."""
    content, how, said = REFUSED[case]
    result = train(content, **how)
    assert result.code == 2
    assert said in result.error
    assert str(tmp_path) in result.error
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--report-to", "shelff"], "Did you mean 'shelf'?"),
        (["--report-to", "none,shelf"], 'report_to has "none" beside shelf'),
        (["--shots", "0"], "--shots"),
        (["--shots", "1"], "raise --shots"),
        (["--text-column", "words"], "no column 'words'; it has text, label"),
    ],
)
def test_unfit_option_is_one_line(train, options, said):
    """An unknown tracker, a number out of range and a wrong column are said in one line."""
    result = train(GOOD, *options)
    assert result.code == 2
    assert said in result.error


def test_tracker_that_is_not_installed_has_its_install_line(train, monkeypatch):
    """Naming a tracker that is missing gives the command that installs it."""
    from runcast.reporters.wandb import WandbReporter

    monkeypatch.setattr(type(WandbReporter.requires), "installed_version", lambda self: None)
    result = train(GOOD, "--report-to", "wandb")
    assert result.code == 2
    assert 'pip install "runcast[wandb]"' in result.error


def test_output_that_cannot_be_written_is_one_line(cli, tmp_path):
    """A file in the place of the output folder is named."""
    (tmp_path / "train.csv").write_text(GOOD)
    (tmp_path / "output").write_text("in the way")
    result = cli("train", tmp_path / "train.csv", "--eval", tmp_path / "train.csv", "--output", tmp_path / "output/x")
    assert result.code == 2
    assert result.error.startswith(f"can't write to {tmp_path / 'output/x'}: Not a directory")


def test_missing_trainer_has_its_install_line(train, monkeypatch):
    """Without the extra, good data still end in the line that installs it."""
    for name in [name for name in sys.modules if name.startswith("runcast.fewshot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = train(GOOD, "--report-to", "none", "--shots", "2")
    assert result.code == 2
    assert 'pip install "runcast[train]"' in result.error


def test_rows_of_csv_and_jsonl_are_the_same(tmp_path):
    """Both formats give the same texts and labels; a byte order mark, quotes and line breaks in a text are kept right."""
    rows = [("one, two", "a"), ('say "hi"\nthere', "b"), ("Äther ☕", "a")]
    (tmp_path / "t.csv").write_bytes(
        b"\xef\xbb\xbf" + 'topic,words\na,"one, two"\nb,"say ""hi""\nthere"\na,Äther ☕\n'.encode()
    )
    lines = [json.dumps({"words": text, "topic": label}) for text, label in rows]
    (tmp_path / "t.jsonl").write_text("\n\n".join(lines) + "\n")
    for name in ("t.csv", "t.jsonl"):
        found = read_texts(tmp_path / name, "words", "topic")
        assert list(zip(found.texts, found.labels, strict=True)) == rows


def test_few_examples_are_drawn_the_same_way_for_a_seed():
    """So many of each class, in the file's order, decided by the seed alone; a class that has fewer is used whole."""
    labels = ["a"] * 20 + ["b"] * 20 + ["c"] * 3 + ["d"]
    data = LabelledTexts("t.csv", [f"text {n}" for n in range(44)], labels)
    few, notes = sample(data, 5, seed=1)
    assert {label: few.labels.count(label) for label in "abcd"} == {"a": 5, "b": 5, "c": 3, "d": 1}
    assert few.texts == sorted(few.texts, key=data.texts.index)
    assert [few.labels[few.texts.index(text)] for text in few.texts] == [labels[data.texts.index(t)] for t in few.texts]
    assert sample(data, 5, seed=1)[0] == few
    assert sample(data, 5, seed=2)[0] != few
    assert notes == [
        "class 'c' has 3 of the 5 examples wanted: all are used",
        "class 'd' has 1 of the 5 examples wanted: all are used; its only pair is of the text with itself",
    ]


@pytest.mark.parametrize(
    ("tokens", "file", "rest"),
    [
        (["t.csv"], "t.csv", []),
        (["t.csv", "--lr", "1", "--fp16"], "t.csv", ["--lr", "1", "--fp16"]),
        (["--lr", "1", "t.csv"], "t.csv", ["--lr", "1"]),
        (["--lr=1", "t.csv", "--fp16"], "t.csv", ["--lr=1", "--fp16"]),
    ],
)
def test_training_file_is_found_among_options(tokens, file, rest):
    """The file may stand before or behind options with values."""
    assert split(tokens) == (file, rest)


def test_options_without_a_file_are_refused():
    """There is no training file among options and their values."""
    with pytest.raises(UsageError, match="no training file"):
        split(["--lr", "1"])
