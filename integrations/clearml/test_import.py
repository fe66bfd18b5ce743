"""Tasks that were logged with plain clearml, read for an import."""

from __future__ import annotations

from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
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
