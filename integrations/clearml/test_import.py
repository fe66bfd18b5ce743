"""Tasks that were logged with plain clearml, read for an import."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.record import RunRecord
from runcast.reporters.clearml import ClearMLReporter
from runcast.testing.couriers import python

PLAIN = """
import os, sys
os.chdir(sys.argv[1])
os.environ.update(CLEARML_OFFLINE_MODE="1", CLEARML_CACHE_DIR=os.path.join(sys.argv[1], "out"))
from clearml import Task
from PIL import Image
task = Task.init(project_name="p", task_name="n", tags=["b", "a"], auto_connect_frameworks=False,
                 auto_resource_monitoring=False, auto_connect_arg_parser=False)
task.connect({"lr": 0.1, "opt": {"name": "adam"}, "flag": True})
task.connect({"x": 1}, name="other")
log = task.get_logger()
for step in range(4):
    log.report_scalar("train", "loss", 1 / (step + 1), step)
    log.report_scalar("acc", "acc", step, step)
log.report_text("hello there")
Image.new("RGB", (5, 4), (1, 2, 3)).save("im.png")
log.report_image("pics", "one", 2, local_path="im.png")
log.report_table("tab", "t", 3, table_plot=[["a", "b"], [1, "x"], [2, "y"]])
log.report_histogram("h", "w", [1, 2, 3], iteration=1)
log.report_single_value("best", 0.25)
os.makedirs("ck/sub")
open("ck/sub/n.bin", "wb").write(b"deep")
open("f.bin", "wb").write(b"flat")
task.upload_artifact("file", "f.bin", wait_on_upload=True, metadata={"k": 1})
task.upload_artifact("folder", "ck", wait_on_upload=True)
task.close()
"""


def test_plain_task_is_imported(tmp_path: Path) -> None:
    """What plain clearml logged is in the run folder: numbers, texts, images, tables, files and the rest."""
    python(PLAIN, str(tmp_path))
    reporter = ClearMLReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert (record.run_id, record.name, record.project, record.status) == (native.id, "n", "p", "completed")
    assert record.tags == ("a", "b")
    assert record.config == {"lr": 0.1, "opt": {"name": "adam"}, "flag": True, "other": {"x": 1}}
    losses = [(point.step, round(point.value, 6)) for point in record.metrics["train/loss"]]
    assert losses == [(s, round(1 / (s + 1), 6)) for s in range(4)]
    assert [point.value for point in record.metrics["acc"]] == [0, 1, 2, 3]
    assert any("hello there" in point.text for point in record.texts["console"])
    assert record.images["pics/one"][0].image.read() == (tmp_path / "im.png").read_bytes()
    assert (record.tables["tab/t"][0].columns, record.tables["tab/t"][0].rows) == (("a", "b"), ((1, "x"), (2, "y")))
    assert record.histograms["h/w"][0].counts == (1.0, 2.0, 3.0)
    assert record.artifacts["file"].files["f.bin"].read() == b"flat"
    assert record.artifacts["file"].metadata == {"k": "1"}
    assert [content.read() for content in record.artifacts["folder"].files.values()] == [b"deep"]
    assert record.summary == {"best": 0.25}


BEGIN = """
import os, sys
os.chdir(sys.argv[1])
os.environ.update(CLEARML_OFFLINE_MODE="1", CLEARML_CACHE_DIR=os.path.join(sys.argv[1], "out"))
from clearml import Task
"""
CROWDED = (
    BEGIN
    + """
import argparse
task = Task.init(project_name="p", task_name="n", auto_connect_frameworks=False, auto_resource_monitoring=False)
parser = argparse.ArgumentParser()
parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
parser.parse_args([])
task.set_comment("why it was run")
task.set_user_properties(backbone="great")
task.connect({"lr": 5, "opt": "adam", "opt/lr": 0.1, "net": {"depth": 2}})
task.connect({"ints": [1, 2], "texts": ["a", "b"], "pair": (1, 2), "mixed": [1, "a", None], "none": None, "empty": ""})
task.connect({"m": 1}, name="model")
task.connect_configuration({"layers": 3}, name="model")
log = task.get_logger()
log.report_scalar("a/b", "c", 1, 0)
log.report_scalar("a", "b/c", 2, 0)
log.report_scalar("a/b", "c", 3, 1)
log.report_scalar("kept", "kept", 4, 0)
log.report_histogram("bars", "labels", [1, 2, 3], iteration=1, xlabels=["cat", "dog", "eel"])
log.report_histogram("bars", "signs", [1, -2, 3], iteration=1)
log.report_table("table", "uneven", 1, table_plot=[["h1", "h2"], [1, 2], [3]])
log.report_image("far", "image", 4, url="https://me:secret@example.com/i.png")
open("gone.txt", "w").write("gone")
log.report_media("gone", "text", 5, local_path="gone.txt")
task.upload_artifact("far", "https://example.com/x.bin")
task.upload_artifact("gone", "gone.txt", wait_on_upload=True)
task.upload_artifact("kept", "gone.txt", wait_on_upload=True)
task.close()
"""
)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a session in which names meet and files are elsewhere, or were removed."""
    folder = tmp_path_factory.mktemp("crowded")
    python(CROWDED, str(folder))
    for path in (*folder.rglob("artifacts/gone/*"), *folder.rglob("gone_text*")):
        path.unlink()
    return folder


def imported(folder: Path, parent: Path) -> RunRecord:
    """What a run folder made of the only task in a folder says."""
    reporter = ClearMLReporter()
    (native,) = reporter.find_runs(str(folder))
    return runcast.read_run(import_run(reporter, native, parent).dir)


def test_parameters_keep_their_names_and_types(crowded: Path, tmp_path: Path) -> None:
    """None is moved by another whose path begins with it; lists are lists; of sections of one name both are there."""
    assert imported(crowded, tmp_path).config == {
        "lr": 5,
        "opt": "adam",
        "opt/lr": 0.1,
        "net": {"depth": 2},
        "ints": [1, 2],
        "texts": ["a", "b"],
        "pair": [1, 2],
        "mixed": [1, "a", None],
        "none": None,
        "empty": "",
        "Args": {"layers": [1, 2]},
        "model": {"m": 1},
        "model_": "layers = 3",
        "properties": {"backbone": "great"},
    }


def test_comment_is_a_text(crowded: Path, tmp_path: Path) -> None:
    """It has the time at which the task began."""
    record = imported(crowded, tmp_path)
    (comment,) = record.texts["comment"]
    assert (comment.text, comment.time) == ("why it was run", record.started)


def test_two_series_are_never_one(crowded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Slashes in titles and series can make two look the same; that one has another name is said."""
    metrics = imported(crowded, tmp_path).metrics
    values = {name: [point.value for point in points] for name, points in metrics.items()}
    assert values == {"a/b/c": [1, 3], "a/b/c_": [2], "kept": [4]}
    assert "a second 'a/b/c' is called 'a/b/c_' here" in caplog.text
    assert "'kept'" not in caplog.text  # an artifact may be called what a series is


def test_bars_with_labels_are_a_table(crowded: Path, tmp_path: Path) -> None:
    """So are those that can't be counts; a table of uneven columns is kept as ClearML has it."""
    record = imported(crowded, tmp_path)
    (labels,), (signs,) = record.tables["bars/labels"], record.tables["bars/signs"]
    assert (labels.columns, labels.rows) == (("x", "y"), (("cat", 1), ("dog", 2), ("eel", 3)))
    assert signs.rows == ((0, 1), (1, -2), (2, 3))
    assert record.histograms == {}
    assert '"values": ["h1", "h2"]' in record.texts["table/uneven"][0].text


def test_file_that_is_elsewhere_is_said_and_its_address_kept(
    crowded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One URL, or a file that was removed, doesn't keep the rest from being imported; no secret gets into the log."""
    record = imported(crowded, tmp_path)
    assert [(point.step, point.text) for point in record.texts["far/image"]] == [(4, "https://example.com/i.png")]
    assert [point.text for point in record.texts["far"]] == ["https://example.com/x.bin"]
    assert record.texts["gone"][0].text.endswith("artifacts/gone/gone.txt")
    assert record.texts["gone/text"][0].step == 5
    assert list(record.artifacts) == ["kept"]
    assert "the file of far/image is left out: it is at https://example.com/i.png" in caplog.text
    assert "the file of gone is left out" in caplog.text


def test_file_of_a_strangers_session_is_not_looked_for_elsewhere(crowded: Path, tmp_path: Path) -> None:
    """A session that names a file outside of its folder has that file's address only."""
    shutil.copytree(crowded / "out", tmp_path / "out")
    (tmp_path / "secret.txt").write_text("secret")
    (path,) = (tmp_path / "out").rglob("task.json")
    task = json.loads(path.read_bytes())
    for artifact in task["execution"]["artifacts"]:
        artifact["uri"] = str(tmp_path / "secret.txt")
    path.write_text(json.dumps(task))
    record = imported(tmp_path / "out", tmp_path / "runs")
    assert (record.artifacts, record.texts["kept_"][0].text) == ({}, str(tmp_path / "secret.txt"))


def test_table_of_a_data_frame_has_its_columns(tmp_path: Path) -> None:
    """Also if these have several levels, and if there is no row."""
    pytest.importorskip("pandas")
    python(
        BEGIN
        + """
import pandas
task = Task.init(project_name="p", task_name="n", auto_connect_frameworks=False, auto_resource_monitoring=False)
log = task.get_logger()
log.report_table("table", "flat", 1, table_plot=pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
levels = pandas.MultiIndex.from_tuples([("a", "x"), ("a", "y")])
log.report_table("table", "levels", 1, table_plot=pandas.DataFrame([[1, 2]], columns=levels))
log.report_table("table", "empty", 1, table_plot=pandas.DataFrame({"a": []}))
task.close()
""",
        str(tmp_path),
    )
    tables = {name: (points[0].columns, points[0].rows) for name, points in imported(tmp_path, tmp_path).tables.items()}
    assert tables == {
        "table/flat": (("a", "b"), ((1, "x"), (2, "y"))),
        "table/levels": (("a/x", "a/y"), ((1, 2),)),
        "table/empty": (("a",), ()),
    }


def test_own_run_of_several_sessions_is_found_as_one(tmp_path: Path) -> None:
    """The folders of a run that was resumed are one run, which reads as the journal has it."""
    with runcast.start_run("clearml", dir=tmp_path / "runs", config={"a": 1}, tags=["t"]) as run:
        run.log({"loss": 1.0, "word": "w"}, step=3)
    with runcast.start_run("clearml", resume=run.dir) as again:
        again.log({"loss": 2.0}, step=4)
        again.update_config({"a": 2})
    reporter = ClearMLReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    found = reporter.read(native)
    assert (found.run_id, found.config, found.tags, found.status) == (run.id, {"a": 2}, ("t",), "completed")
    assert [point.value for point in found.metrics["loss"]] == [1.0, 2.0]


def test_nothing_to_find_says_what_was_looked_for(tmp_path: Path) -> None:
    """A folder without sessions is an error with words."""
    with pytest.raises(LookupError, match="no offline session of ClearML"):
        ClearMLReporter().find_runs(str(tmp_path))
