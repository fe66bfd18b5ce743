"""Runs that were logged with plain wandb, read for an import."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.record import RunRecord
from runcast.reporters.wandb import WandbReporter
from runcast.testing.couriers import python

PLAIN = """
import sys, wandb, numpy as np
wandb.init(mode="offline", dir=sys.argv[1], id="abc", project="p", name="n", group="g", tags=["b", "a"],
           config={"lr": 0.1, "model": {"layers": [1, 2]}},
           settings=wandb.Settings(silent=True, x_disable_stats=True, x_disable_machine_info=True))
for step in range(5):
    wandb.log({"loss": 1 / (step + 1), "nested": {"acc": step}, "word": "w"}, step=step)
wandb.log({"nan": float("nan"), "flag": True, "hist": wandb.Histogram([1.0, 2.0, 2.5], num_bins=2),
           "picture": wandb.Image(np.zeros((4, 5, 3), dtype=np.uint8)), "both": [wandb.Image(np.ones((2, 2))), wandb.Image(np.zeros((2, 2)))],
           "table": wandb.Table(columns=["a", "b"], data=[[1, "x"], [2, "y"]]), "page": wandb.Html("<b>hi</b>")}, step=9)
wandb.run.summary["best"] = 0.25
artifact = wandb.Artifact("weights", type="model", metadata={"epoch": 3})
with open(sys.argv[1] + "/kept.txt", "w") as file:
    file.write("content")
artifact.add_file(file.name, "deep/er.txt")
wandb.log_artifact(artifact)
wandb.config.update({"later": True})
wandb.finish(exit_code=int(sys.argv[2]))
"""

OPEN = """
import os, signal, sys, time, wandb, numpy as np
os.chdir(sys.argv[1])
def begin(**about):
    settings = wandb.Settings(silent=True, x_disable_stats=True, x_disable_machine_info=True, **about.pop("settings", {}))
    return wandb.init(mode="offline", dir=sys.argv[1], id="abc", project="p", settings=settings, **about)
def picture(shade):
    return wandb.Image(np.full((2, 2, 3), shade, dtype=np.uint8))
"""


def _imported(code: str, folder: Path) -> RunRecord:
    """What an import of the run that `code` logged gives."""
    python(OPEN + code, str(folder))
    return _import_of(folder, folder / "runs")


def _import_of(source: Path, runs: Path) -> RunRecord:
    reporter = WandbReporter()
    (native,) = reporter.find_runs(str(source))
    return runcast.read_run(import_run(reporter, native, runs).dir)


@pytest.mark.parametrize(("exit_code", "status"), [(0, "completed"), (3, "failed")])
def test_plain_run_is_imported(exit_code: int, status: str, tmp_path: Path) -> None:
    """What plain wandb logged is in the run folder: numbers, texts, images, tables, histograms, files and the rest."""
    python(PLAIN, str(tmp_path), str(exit_code))
    reporter = WandbReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    done = import_run(reporter, native, tmp_path / "runs")
    record = runcast.read_run(done.dir)
    assert (record.run_id, record.name, record.project, record.group) == ("abc", "n", "p", "g")
    assert (record.status, record.tags) == (status, ("a", "b"))
    assert record.config == {"lr": 0.1, "model": {"layers": [1, 2]}, "later": True}
    assert [(point.step, point.value) for point in record.metrics["loss"]] == [(s, 1 / (s + 1)) for s in range(5)]
    assert [point.value for point in record.metrics["nested.acc"]] == [0, 1, 2, 3, 4]
    assert record.metrics["nan"][0].value != record.metrics["nan"][0].value
    assert record.metrics["flag"][0].value == 1.0
    assert record.texts["word"][4].text == "w"
    assert (record.histograms["hist"][0].counts, record.histograms["hist"][0].edges) == ((1.0, 2.0), (1.0, 1.75, 2.5))
    assert (len(record.images["picture"]), len(record.images["both"])) == (1, 2)
    assert record.tables["table"][0].rows == ((1, "x"), (2, "y"))
    assert b"<b>hi</b>" in next(iter(record.artifacts["page/9"].files.values())).read()
    assert record.artifacts["weights"].files["deep/er.txt"].read() == b"content"
    assert (record.artifacts["weights"].kind, record.artifacts["weights"].metadata) == ("model", {"epoch": 3})
    assert record.summary == {"best": 0.25}
    times = [point.time for point in record.metrics["loss"]]
    assert record.started <= times[0] <= times[-1] <= record.finished


def test_saved_files_are_artifacts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What `wandb.save` linked, copied or was given in place is there; a link out of the user's folder is named."""
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    code = """
run = begin(settings={"console": "off"})
os.mkdir("deep")
for name in ("model.pt", "deep/a.txt", "deep/b.txt", os.path.join(run.dir, "direct.txt")):
    with open(name, "w") as file:
        file.write(name[:6])
wandb.save("model.pt", policy="now")
wandb.save("deep/*.txt")
wandb.save("../outside.txt", base_path="..")
wandb.save(os.path.join(run.dir, "direct.txt"), base_path=run.dir, policy="end")
wandb.log({"picture": picture(0)})
wandb.finish()
"""
    saved = _imported(code, inside).artifacts
    assert {name: [*artifact.files] for name, artifact in saved.items()} == {
        "model.pt": ["model.pt"],
        "deep/a.txt": ["a.txt"],
        "deep/b.txt": ["b.txt"],
        "direct.txt": ["direct.txt"],
    }
    assert saved["deep/b.txt"].files["b.txt"].read() == b"deep/b"
    assert "the file 'outside.txt' is left out" in caplog.text


def test_killed_session_makes_a_run_that_was_ended_before_crashed(tmp_path: Path) -> None:
    """The last session says how the run ended; what only the first one says of the run stays."""
    code = """
begin(notes="why", job_type="train", group="g", tags=["t"]).log({"a": 1.0})
wandb.finish()
ended = time.strftime("%S")
while time.strftime("%S") == ended:  # W&B names a session's folder by the second
    pass
begin(resume="allow")
os.kill(os.getpid(), signal.SIGKILL)
"""
    with pytest.raises(AssertionError):  # that is how `python` tells of a kill
        python(OPEN + code, str(tmp_path))
    record = _import_of(tmp_path, tmp_path / "runs")
    assert (record.status, record.group, record.tags) == ("crashed", "g", ("t",))
    assert record.started <= record.metrics["a"][0].time


def test_summary_is_what_the_user_set(tmp_path: Path) -> None:
    """A result that was set beside a column, within another, or taken away, and what `define_metric` asked for."""
    code = """
run = begin()
run.define_metric("top", summary="max")
for value in (0.1, 0.9, 0.5):
    run.log({"acc": value, "top": value, "deep": {"x": value, "y": value}, "late": value})
run.summary.update({"acc": 0.9, "late": 7, "same": 1, "gone": 1, "_mine": 2})
run.summary["nested"] = {"x": 1, "z": 3}
run.summary["nested"]["y"] = 2
run.summary["deep"]["y"] = 4
del run.summary["nested"]["z"]
del run.summary["gone"]
run.log({"late": 8})
run.summary["picture"] = picture(3)
run.finish()
"""
    record = _imported(code, tmp_path)
    assert record.summary == {
        "acc": 0.9,
        "top.max": 0.9,
        "same": 1,
        "_mine": 2,
        "nested.x": 1,
        "nested.y": 2,
        "deep.y": 4,
    }
    assert len(record.images["picture"]) == 1


def test_media_of_lists_and_tables_are_there(tmp_path: Path) -> None:
    """Each file of a list is in one artifact, and so is each medium of a table, whose cell has its path there."""
    code = """
run = begin()
run.log({"pages": [wandb.Html("<b>1</b>"), wandb.Html("<b>2</b>")],
         "seen": wandb.Table(columns=["picture", "number"], data=[[picture(0), 1], [picture(9), float("inf")]])}, step=3)
run.finish()
"""
    record = _imported(code, tmp_path)
    pages = sorted(content.read() for content in record.artifacts["pages/3"].files.values())
    assert ["<b>1</b>" in str(pages[0]), "<b>2</b>" in str(pages[1])] == [True, True]
    (table,) = record.tables["seen"]
    assert [row[1] for row in table.rows] == [1, float("inf")]
    files = record.artifacts["seen/3"].files
    assert {row[0] for row in table.rows} == files.keys()
    assert all(content.read().startswith(b"\x89PNG") for content in files.values())
    assert record.artifacts.keys() == {"pages/3", "seen/3"}
    assert record.texts == {}


def test_incremental_table_is_a_table_for_each_increment(tmp_path: Path) -> None:
    """The rows that a step added to a table are there at that step."""
    import wandb

    if "log_mode" not in inspect.signature(wandb.Table).parameters:
        pytest.skip("this version has no incremental tables")
    code = """
run, table = begin(), wandb.Table(columns=["n"], log_mode="INCREMENTAL")
for number in range(3):
    table.add_data(number)
    run.log({"grown": table})
run.finish()
"""
    record = _imported(code, tmp_path)
    assert [(point.step, point.rows) for point in record.tables["grown"]] == [(n, ((n,),)) for n in range(3)]
    assert record.artifacts == {}


def test_medium_that_is_not_there_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A log without its files, or with a damaged one, is imported as far as it goes, whoever wrote it."""
    code = """
run = begin()
run.log({"a": 1.0, "picture": picture(0), "both": [picture(1), picture(2)], "page": wandb.Html("<b>hi</b>"),
         "table": wandb.Table(columns=["a"], data=[[1]])})
run.finish()
"""
    (tmp_path / "theirs").mkdir()
    python(OPEN + code, str(tmp_path / "theirs"))
    with runcast.start_run("wandb", dir=tmp_path / "ours") as run:
        run.log({"a": 1.0}, step=0)
        run.log_table("table", ["a"], [[1]], step=0)
    for name, keys in (("theirs", ("picture", "both", "page", "table")), ("ours", ("table",))):
        (log,) = (tmp_path / name).rglob("*.wandb")
        alone = tmp_path / f"{name} alone"
        alone.mkdir()
        shutil.copy(log, alone)
        caplog.clear()
        record = _import_of(alone / log.name, tmp_path / "runs")
        assert [point.value for point in record.metrics["a"]] == [1.0]
        assert (record.images, record.tables, record.artifacts) == ({}, {}, {})
        assert all(f"{key!r} at step 0 is left out" in caplog.text for key in keys)
    (damaged,) = (tmp_path / "theirs").rglob("media/images/picture_*.png")
    damaged.write_bytes(b"no picture")
    record = _import_of(tmp_path / "theirs", tmp_path / "more")
    assert (len(record.images["both"]), "picture" in record.images) == (2, False)


def test_descriptions_are_kept(tmp_path: Path) -> None:
    """The notes of a run, its type of job, and an artifact's description."""
    code = """
run = begin(notes="why", job_type="train")
run.log({"a": 1.0})
artifact = wandb.Artifact("data", type="dataset", description="what", metadata={"k": 1})
with artifact.new_file("x.txt") as file:
    file.write("x")
run.log_artifact(artifact)
run.finish()
"""
    record = _imported(code, tmp_path)
    assert {key: [point.text for point in points] for key, points in record.texts.items()} == {
        "notes": ["why"],
        "job_type": ["train"],
    }
    assert record.artifacts["data"].metadata == {"k": 1, "description": "what"}


def test_only_columns_that_wandb_adds_are_left_out(tmp_path: Path) -> None:
    """A column of the user's may begin with an underscore."""
    record = _imported('begin().log({"_hidden": 1.0, "_deep": {"_x": 2.0}})\nwandb.finish()', tmp_path)
    assert {key: points[0].value for key, points in record.metrics.items()} == {"_hidden": 1.0, "_deep._x": 2.0}


def test_own_run_is_found_by_file_folder_and_store(tmp_path: Path) -> None:
    """A log file, its folder and the folder above all mean the run, which reads as the journal has it."""
    with runcast.start_run("wandb", dir=tmp_path / "runs", config={"a": 1}, tags=["t"]) as run:
        run.log({"loss": 1.0, "word": "w"}, step=3)
    (log,) = (run.dir / "wandb").rglob("*.wandb")
    reporter = WandbReporter()
    for source in (log, log.parent, tmp_path):
        (native,) = reporter.find_runs(str(source))
        found = reporter.read(native)
        assert (found.run_id, found.config, found.tags, found.status) == (run.id, {"a": 1}, ("t",), "completed")
        assert found.metrics["loss"][0].step == 3


def test_nothing_to_find_says_what_was_looked_for(tmp_path: Path) -> None:
    """A folder without W&B's files is an error with words."""
    with pytest.raises(LookupError, match=r"no run-\*\.wandb"):
        WandbReporter().find_runs(str(tmp_path))
