"""`runcast predict` adds predictions to the rows of a file, in little memory, and says what is wrong with one."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from runcast.cli import main
from runcast.fewshot import FewShotClassifier

TEXTS = ["my invoice charge refund", "the parcel late courier", "a password login reset"]
LABELS = ["billing", "delivery", "account"]
ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS * 5)]


@pytest.fixture
def saved(model, tmp_path) -> Path:
    """The folder of a classifier for one label a text."""
    model.fit_head(TEXTS * 3, LABELS * 3)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """The same texts in a file of each kind."""
    frame = pd.DataFrame(ROWS)
    paths = {kind: tmp_path / f"texts.{kind}" for kind in ("csv", "jsonl", "parquet", "txt")}
    frame.to_csv(paths["csv"], index=False)
    frame.to_json(paths["jsonl"], orient="records", lines=True)
    frame.to_parquet(paths["parquet"])
    paths["txt"].write_text("\n\n".join(row["text"] for row in ROWS) + "\n")
    return paths


def run(*arguments: Any) -> int:
    return main(["predict", *map(str, arguments), *([] if "--device" in arguments else ["--device", "cpu"])])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "txt"])
@pytest.mark.parametrize("to", [None, "csv", "jsonl", "json"])
def test_every_kind_of_file_in_and_out(saved, files, kind, to, tmp_path, capsys):
    """Rows keep their columns and order, and get the label and probability that the classifier gives."""
    output = tmp_path / f"out.{to}"
    options = {None: [], "json": ["--json"]}.get(to, ["--output", output])
    assert run(saved, files[kind], "--batch-size", 4, *options) == 0
    captured = capsys.readouterr().out
    if to == "json":
        rows = json.loads(captured)["predictions"]
    elif to == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        rows = list(csv.DictReader(io.StringIO(captured if to is None else output.read_text())))
    model = FewShotClassifier.from_pretrained(saved, device="cpu")
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    if kind != "txt":
        assert [int(row["id"]) for row in rows] == list(range(15))
    assert [row["prediction"] for row in rows] == LABELS * 5
    expected = model.predict_proba(TEXTS * 5).max(axis=1)
    assert np.allclose([float(row["probability"]) for row in rows], expected, atol=1e-6)


def test_all_probabilities(saved, files, tmp_path):
    """An object in JSON lines, a column a label in CSV; they are the classifier's."""
    assert run(saved, files["csv"], "--output", tmp_path / "out.jsonl", "--all-probabilities") == 0
    assert run(saved, files["csv"], "--output", tmp_path / "out.csv", "--all-probabilities") == 0
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    model = FewShotClassifier.from_pretrained(saved, device="cpu")
    assert list(first["probabilities"]) == model.labels
    assert np.allclose(list(first["probabilities"].values()), model.predict_proba(TEXTS[0]), atol=1e-6)
    frame = pd.read_csv(tmp_path / "out.csv")
    assert np.allclose(frame["probability of billing"][0], first["probabilities"]["billing"])


def test_several_labels_are_lists(model, files, tmp_path):
    """Where a text may have several labels, both columns are lists, in CSV as JSON."""
    model.fit_head(TEXTS * 2, [["billing", "money"], ["delivery"], []] * 2, C=1e6)
    model.save_pretrained(tmp_path / "model")
    for kind in ("csv", "jsonl"):
        assert run(tmp_path / "model", files["csv"], "--output", tmp_path / f"out.{kind}") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows[:3]] == [["billing", "money"], ["delivery"], []]
    assert [len(row["probability"]) for row in rows[:3]] == [2, 1, 0]
    assert json.loads(pd.read_csv(tmp_path / "out.csv")["prediction"][0]) == ["billing", "money"]


def test_the_summary(saved, files, tmp_path, capsys):
    """With --output, standard output says how many texts got which label; with --json as one value."""
    assert run(saved, files["csv"], "--output", tmp_path / "out.csv", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "rows": 15,
        "labels": {"billing": 5, "delivery": 5, "account": 5},
        "output": str(tmp_path / "out.csv"),
    }
    assert run(saved, files["csv"], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["output"], len(found["predictions"])) == (15, None, 15)
    assert run(saved, files["csv"], "--output", tmp_path / "out.csv") == 0
    assert "15 rows" in capsys.readouterr().out


def test_a_large_file_is_read_and_written_in_parts(saved, tmp_path, monkeypatch):
    """Never more than some batches are in memory, and results are written as they come."""
    sizes = []
    original = FewShotClassifier.predict_proba

    def counted(self, texts, *args, **kwargs):
        sizes.append(len(texts))
        return original(self, texts, *args, **kwargs)

    monkeypatch.setattr(FewShotClassifier, "predict_proba", counted)
    (tmp_path / "many.txt").write_text("\n".join(TEXTS * 200))
    assert run(saved, tmp_path / "many.txt", "--output", tmp_path / "out.jsonl", "--batch-size", 4) == 0
    assert max(sizes) == 64 and sum(sizes) == 600
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 600


def test_a_column_of_another_name_and_a_dtype(saved, tmp_path):
    """`--text-column` names the texts, `--dtype` the type of the parameters."""
    pd.DataFrame({"words": TEXTS}).to_csv(tmp_path / "texts.csv", index=False)
    arguments = ("--text-column", "words", "--dtype", "bfloat16", "--output", tmp_path / "out.csv")
    assert run(saved, tmp_path / "texts.csv", *arguments) == 0
    assert pd.read_csv(tmp_path / "out.csv")["prediction"].tolist() == LABELS


BAD = {
    "no file": (None, ".csv", [], "no file"),
    "unknown suffix": ("text\nx\n", ".xls", [], "unknown suffix '.xls'; expected one of .csv, .jsonl, .parquet, .txt"),
    "no rows": ("text\n", ".csv", [], "has no rows"),
    "no such column": ("words\nx\n", ".csv", [], "row 1: no column 'text'; it has words"),
    "empty text": ("id,text\n1,x\n2,\n", ".csv", [], "row 2: the text is empty; remove the row"),
    "text that is a number": ('{"text": 5}\n', ".jsonl", [], "row 1: the text is 5 (int)"),
    "no JSON": ('{"text": "x"}\n{', ".jsonl", [], "line 2: no JSON"),
    "no UTF-8": (b"text\n\xff\xfe\n", ".csv", [], "no UTF-8 text"),
    "no Parquet": ("text\nx\n", ".parquet", [], "no Parquet"),
    "more values than columns": ("text\nx,y\n", ".csv", [], "row 1: more values than the header has columns"),
    "column taken": ("text,prediction\nx,y\n", ".csv", [], "has a column 'prediction' already"),
    "output of another kind": ("text\nx\n", ".csv", ["--output", "out.xlsx"], "a name that ends with .csv or .jsonl"),
    "output is the input": ("text\nx\n", ".csv", ["--output", "bad.csv"], "--output is"),
    "output that can't be": ("text\nx\n", ".csv", ["--output", "no/such/out.csv"], "there is no folder no/such"),
    "output is a folder": ("text\nx\n", ".csv", ["--output", "folder.csv"], "which is a folder; name a file in it"),
    "other columns later": (
        '{"text": "x"}\n{"text": "x", "id": 1}\n',
        ".jsonl",
        ["--output", "out.csv"],
        "row 2: column 'id', which the first row has not; choose a .jsonl file",
    ),
    "unknown device": ("text\nx\n", ".csv", ["--device", "abacus"], "device is 'abacus', which can't be used here"),
    "unknown dtype": ("text\nx\n", ".csv", ["--dtype", "int8"], "dtype is 'int8'; expected one of float32"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(saved, tmp_path, capsys, case):
    """Exit code 2, one line on standard error, nothing on standard output, and no half file."""
    content, suffix, options, message = BAD[case]
    path = tmp_path / f"bad{suffix}"
    (tmp_path / "folder.csv").mkdir()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run(saved, path, *options) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.glob("out.*"))


def test_models_that_cannot_predict(body_dir, saved, files, tmp_path, capsys):
    """A body without head, a damaged folder, and a name that is nowhere are errors of one line."""
    (saved / "head.safetensors").unlink()
    for model, message in ((body_dir, "is no trained classifier"), (saved, "head.safetensors is missing")):
        assert run(model, files["csv"]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
