"""Experiments that were logged with plain comet_ml, read for an import."""

from __future__ import annotations

from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.reporters.comet import CometReporter
from runcast.testing.couriers import python

PLAIN = """
import os, sys
os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"
os.chdir(sys.argv[1])
import comet_ml
from PIL import Image
e = comet_ml.OfflineExperiment(project_name="p", offline_directory="out", log_code=False, log_env_details=False, display_summary_level=0)
e.set_name("n")
e.add_tags(["b", "a"])
e.log_parameters({"lr": 0.1, "opt": {"name": "adam", "layers": [1, 2]}, "flag": True})
for step in range(4):
    e.log_metrics({"loss": 1 / (step + 1), "word": "w"}, step=step)
e.log_metric("nan", float("nan"), step=9)
e.log_text("hello", step=3)
Image.new("RGB", (5, 4), (1, 2, 3)).save("im.png")
e.log_image("im.png", name="picture", step=2)
e.log_table("t.csv", [[1, "x"], [2, "y"]], headers=["a", "b"], step=2)
os.makedirs("ck/sub")
open("ck/sub/n.bin", "wb").write(b"deep")
open("ck/m.bin", "wb").write(b"flat")
e.log_asset("ck/m.bin", file_name="f.bin", step=1)
e.log_model("m", "ck")
e.log_other("best", 0.25)
e.end()
"""


def test_plain_experiment_is_imported(tmp_path: Path) -> None:
    """What plain comet_ml logged is in the run folder: numbers, texts, images, tables, files and the rest."""
    python(PLAIN, str(tmp_path))
    reporter = CometReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert (record.run_id, record.name, record.project, record.status) == (native.id, "n", "p", "completed")
    assert record.tags == ("a", "b")
    assert record.config == {"lr": 0.1, "opt": {"name": "adam", "layers": [1, 2]}, "flag": True}
    assert [(point.step, point.value) for point in record.metrics["loss"]] == [(s, 1 / (s + 1)) for s in range(4)]
    assert record.metrics["nan"][0].value != record.metrics["nan"][0].value
    assert record.texts["word"][3].text == "w"
    assert (record.texts["text"][0].text, record.texts["text"][0].step) == ("hello", 3)
    assert record.images["picture"][0].image.read() == (tmp_path / "im.png").read_bytes()
    assert (record.tables["t.csv"][0].columns, record.tables["t.csv"][0].rows) == (("a", "b"), (("1", "x"), ("2", "y")))
    assert {path: content.read() for path, content in record.artifacts["f.bin"].files.items()} == {"f.bin": b"flat"}
    assert record.artifacts["m"].kind == "model"
    assert sorted(content.read() for content in record.artifacts["m"].files.values()) == [b"deep", b"flat"]
    assert record.summary["best"] == 0.25
    times = [point.time for point in record.metrics["loss"]]
    assert record.started <= times[0] <= times[-1] <= record.finished


def test_own_run_of_several_sessions_is_found_as_one(tmp_path: Path) -> None:
    """The archives of a run that was resumed are one run, which reads as the journal has it."""
    with runcast.start_run("comet", dir=tmp_path / "runs", config={"a": 1}, tags=["t"]) as run:
        run.log({"loss": 1.0, "word": "w"}, step=3)
    with runcast.start_run("comet", resume=run.dir) as again:
        again.log({"loss": 2.0}, step=4)
    reporter = CometReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    found = reporter.read(native)
    assert (found.run_id, found.config, found.tags, found.status) == (run.id, {"a": 1}, ("t",), "completed")
    assert [point.value for point in found.metrics["loss"]] == [1.0, 2.0]


def test_nothing_to_find_says_what_was_looked_for(tmp_path: Path) -> None:
    """A folder without archives is an error with words; another's zip is none."""
    (tmp_path / "some.zip").write_bytes(b"PK")
    with pytest.raises(LookupError, match="no archive of Comet's"):
        CometReporter().find_runs(str(tmp_path))
