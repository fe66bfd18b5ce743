"""Runs that were logged with plain trackio, read for an import."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sqlite3
from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.reporters.trackio import TrackioReporter
from runcast.testing.couriers import native_of

from .backend import plain

PLAIN = """
import sys, trackio, numpy as np
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "sound.wav").write_bytes(b"RIFF")
run = trackio.init(project="their project", name="their run", group="g", config={"lr": 0.1, "model": {"layers": [1, 2]}},
                   auto_log_cpu=False, auto_log_gpu=False)
for step in range(5):
    trackio.log({"loss": 1 / (step + 1), "nested": {"acc": step}, "step": step * 10}, step=step)
trackio.log({"nan": float("nan"), "word": "w", "flag": True, "list": [1, 2]}, step=9)
trackio.log({"report": trackio.Markdown("# hi"), "picture": trackio.Image(np.full((4, 5, 3), 7, dtype=np.uint8)),
             "weights": trackio.Histogram([1.0, 2.0, 2.5], num_bins=2), "sound": trackio.Audio(str(folder / "sound.wav"))}, step=9)
trackio.log({"rows": trackio.Table(columns=["a", "b"], data=[[1, "x"], [2, "y"]])}, step=9)
trackio.log({"chat": trackio.Trace(messages=[{"role": "user", "content": "hello"}])}, step=9)
trackio.log_system({"cpu": 0.5})
trackio.alert("Careful", text="it is hot", level=trackio.AlertLevel.ERROR)
(folder / "weights.bin").write_bytes(b"weights")
made = trackio.Artifact("model", type="model", metadata={"layers": 2})
made.add_file(folder / "weights.bin", name="sub/weights.bin")
trackio.log_artifact(made)
trackio.finish()
print(run.id)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A Trackio folder with a run of plain Trackio's, and that run's id."""
    folder = tmp_path_factory.mktemp("plain") / "trackio"
    folder.mkdir()
    return folder, plain(PLAIN, folder, str(folder.parent)).splitlines()[-1]


def test_plain_run_is_imported(store: tuple[Path, str], tmp_path: Path) -> None:
    """What plain Trackio logged is in the run folder: numbers, texts, images, tables, files and the rest."""
    folder, run_id = store
    reporter = TrackioReporter()
    (native,) = reporter.find_runs(str(folder))
    record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert (record.run_id, record.name, record.project, record.group) == (run_id, "their run", "theirproject", "g")
    assert (record.status, record.tags) == ("completed", ())
    assert record.config == {"lr": 0.1, "model": {"layers": [1, 2]}}
    assert [(point.step, point.value) for point in record.metrics["loss"]] == [(s, 1 / (s + 1)) for s in range(5)]
    assert [point.value for point in record.metrics["nested/acc"]] == [0, 1, 2, 3, 4]
    assert [point.value for point in record.metrics["step"]] == [0, 10, 20, 30, 40]
    assert math.isnan(record.metrics["nan"][0].value)
    assert record.metrics["flag"][0].value == 1.0
    assert [(point.step, point.text) for point in record.texts["word"]] == [(9, "w")]
    assert record.texts["list"][0].text == "[1, 2]"
    assert record.texts["report"][0].text == "# hi"
    assert json.loads(record.texts["chat"][0].text) == [{"role": "user", "content": "hello"}]
    assert [(point.step, point.text) for point in record.texts["alert/error"]] == [(9, "Careful\n\nit is hot")]
    ((step, picture, _),) = record.images["picture"]
    assert (step, picture.read()) == (9, next((folder / "media").rglob("*.png")).read_bytes())
    (table,) = record.tables["rows"]
    assert (table.columns, table.rows) == (("a", "b"), ((1, "x"), (2, "y")))
    (histogram,) = record.histograms["weights"]
    assert (histogram.counts, histogram.edges) == ((1.0, 2.0), (1.0, 1.75, 2.5))
    model = record.artifacts["model"]
    assert (model.kind, model.metadata, model.files["sub/weights.bin"].read()) == ("model", {"layers": 2}, b"weights")
    (sound,) = record.artifacts["sound/9"].files.values()
    assert sound.read() == b"RIFF"
    assert record.metrics["system/cpu"][0].value == 0.5
    times = [point.time for point in record.metrics["loss"]]
    assert record.started <= times[0] <= times[-1] <= record.finished


ODD = """
import os, sys, trackio, numpy as np
os.chdir(sys.argv[1])
open("saved.bin", "w").write("saved")
picture = lambda shade, caption=None: trackio.Image(np.full((4, 5, 3), shade, dtype=np.uint8), caption=caption)
trackio.init(project="p", name="n", config={"nan": float("nan"), "deep": {"inf": [float("-inf")]}, "word": "w"},
             auto_log_cpu=False, auto_log_gpu=False)
trackio.log({"rows": trackio.Table(columns=["a", "b"], data=[[1, "x"], [float("nan"), None]])}, step=1)
rows = [["one", picture(1, "first")], ["two", [picture(2, "second"), picture(3)]], ["three", None]]
trackio.log({"seen": trackio.Table(columns=["name", "image"], data=rows)}, step=2)
trackio.save("saved.bin")
trackio.finish()
"""


def test_tables_with_gaps_and_images_are_imported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is missing is NaN, as Trackio has it; images in a table are images. Files of the project are said."""
    folder = tmp_path / "trackio"
    folder.mkdir()
    plain(ODD, folder, str(tmp_path))
    reporter = TrackioReporter()
    (native,) = reporter.find_runs(str(folder))
    with caplog.at_level(logging.WARNING, "runcast"):
        record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert repr(record.config) == repr({"nan": math.nan, "deep": {"inf": [-math.inf]}, "word": "w"})
    (rows,) = record.tables["rows"]
    assert repr(rows.rows) == repr(((1, "x"), (math.nan, None)))
    (seen,) = record.tables["seen"]
    assert (seen.columns, seen.rows[0], seen.rows[2]) == (("name", "image"), ("one", "first"), ("three", None))
    name, both = seen.rows[1]
    caption, _, file = both.partition(", ")
    assert (name, caption, file[-4:]) == ("two", "second", ".png")
    assert [point.step for point in record.images["seen/image"]] == [2, 2, 2]
    stored = {path.read_bytes() for path in (folder / "media").rglob("*.png")}
    assert {point.image.read() for point in record.images["seen/image"]} == stored
    assert "files that belong to the project 'p', not to a run, are left out: ['saved.bin']" in caplog.text


@pytest.mark.parametrize("configured", ["TRACKIO_DIR", "HF_HOME"])
def test_runs_are_found_by_path_and_by_name(
    configured: str, store: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database, a Trackio folder, one above it, a project, a run in it by name and by id, and an id alone."""
    folder, run_id = store
    monkeypatch.setenv(configured, str(folder if configured == "TRACKIO_DIR" else folder.parent))
    reporter = TrackioReporter()
    paths = [str(folder / "theirproject.db"), str(folder), str(folder.parent)]
    names = ["their project", "theirproject", "their project/their run", f"theirproject/{run_id}", run_id]
    for source in (*paths, *names):
        assert [native.id for native in reporter.find_runs(source)] == [run_id], source


@pytest.mark.parametrize("source", ["nowhere", "their project/nobody", "."])
def test_nothing_found_says_what_is_expected(
    source: str, store: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what was looked for, and what it may be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(store[0]))
    with pytest.raises(LookupError, match=r"\*\.db.*project/run") as raised:
        TrackioReporter().find_runs(source)
    assert source in str(raised.value)


def test_looking_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no store, there is none afterwards."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "none"))
    with pytest.raises(LookupError):
        TrackioReporter().find_runs("p/r")
    assert list(tmp_path.iterdir()) == []


def test_our_own_run_is_found_too(tmp_path: Path) -> None:
    """By its run folder, by the folder of runs: with all that only runcast knows of it."""
    with runcast.start_run("trackio", dir=tmp_path, project="a b", config={"a/b": [1]}, tags=["t"]) as run:
        run.log({"loss": 1.0}, step=2**60)
        run.set_summary({"best": 1})
    with runcast.start_run("trackio", dir=tmp_path, project="a b") as other:
        pass
    reporter = TrackioReporter()
    (native,) = reporter.find_runs(str(run.dir))
    record = reporter.read(native)
    assert (record.run_id, record.config, record.summary, record.tags) == (run.id, {"a/b": [1]}, {"best": 1}, ("t",))
    assert (record.project, record.metrics["loss"][0].step) == ("a b", 2**60)
    assert [found.id for found in reporter.find_runs(str(tmp_path))] == [run.id, other.id]


def test_rows_that_wait_for_a_dashboard_are_read(tmp_path: Path) -> None:
    """On a network file system, where Trackio has no database yet."""
    code = """
import trackio
trackio.init(project="p", name="n", config={"lr": 1}, auto_log_cpu=False, auto_log_gpu=False)
for step in range(5): trackio.log({"loss": step / 7}, step=step)
trackio.finish()
"""
    plain(code, tmp_path, TRACKIO_STORAGE_MODE="jsonl")
    assert list(tmp_path.glob("*.db")) == []
    reporter = TrackioReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    before = reporter.read(native)
    assert [(point.step, point.value) for point in before.metrics["loss"]] == [(step, step / 7) for step in range(5)]
    assert (before.name, before.config) == ("n", {"lr": 1})
    plain("from trackio import fragments; fragments.import_inbox_dir()", tmp_path)
    after = reporter.read(native)
    assert [point[:2] for point in after.metrics["loss"]] == [point[:2] for point in before.metrics["loss"]]


def test_database_from_before_run_ids_is_read(tmp_path: Path) -> None:
    """The tables of Trackio 0.2, where a run is its name."""
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.executescript(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT);"
            "CREATE TABLE configs (id INTEGER PRIMARY KEY, run_name TEXT, config TEXT, created_at TEXT);"
        )
        moment = "2026-01-01T00:00:00.500000"
        database.execute("INSERT INTO metrics VALUES (1, ?, 'r', 3, '{\"loss\": 0.5}')", (moment,))
        database.execute("INSERT INTO configs VALUES (1, 'r', '{\"lr\": 1}', ?)", (moment,))
    reporter = TrackioReporter()
    (native,) = reporter.find_runs(str(tmp_path / "old.db"))
    record = reporter.read(native)
    assert (record.run_id, record.name, record.project, record.config) == ("r", "r", "old", {"lr": 1})
    assert record.metrics["loss"] == [(3, 0.5, 1767225600.5)]


def test_a_strangers_store_reads_no_file_elsewhere(store: tuple[Path, str], tmp_path: Path) -> None:
    """Images and files of artifacts that are said to be elsewhere, or are links to there, are left out, and said."""
    folder = tmp_path / "trackio"
    shutil.copytree(store[0], folder)
    secret = tmp_path / "secret.png"
    picture, blob = next((folder / "media").rglob("*.png")), next((folder / "artifacts").rglob("[0-9a-f]" * 64))
    shutil.copy(picture, secret)
    blob.unlink()
    blob.symlink_to(secret)
    with sqlite3.connect(folder / "theirproject.db") as database:
        image = json.dumps({"stolen": {"_type": "trackio.image", "file_path": "../../secret.png"}})
        database.execute("UPDATE metrics SET metrics = ? WHERE CAST(metrics AS TEXT) LIKE '%trackio.image%'", (image,))
    reporter = TrackioReporter()
    (native,) = reporter.find_runs(str(folder))
    record = reporter.read(native)
    assert record.images == {}
    assert "model" not in record.artifacts
    assert len(record.metrics["loss"]) == 5


def test_damage_costs_what_is_damaged(tmp_path: Path) -> None:
    """What one row of ours has come to hold, and no longer makes sense, is left out alone."""
    with runcast.start_run("trackio", dir=tmp_path, project="p") as run:
        for step in range(6):
            run.log({"loss": 1.0}, step=step)
        run.log_table("rows", ["a"], [[1]], step=0)
    folder = Path(native_of(run.dir, "trackio").data["dir"])
    with sqlite3.connect(folder / "p.db") as database:
        database.execute('UPDATE metrics SET metrics = \'{"rows": {"_type": "trackio.table"}}\' WHERE step = 1')
        database.execute("UPDATE metrics SET metrics = '{\"loss\": [1]}' WHERE step = 2")
        database.execute("UPDATE metrics SET metrics = '{\"loss\": 1.0' WHERE step = 3")
        database.execute("UPDATE metrics SET timestamp = 'long ago' WHERE step = 4")
    (native,) = TrackioReporter().find_runs(str(run.dir))
    record = TrackioReporter().read(native)
    assert [point.step for point in record.metrics["loss"]] == [0, 5]
    assert [point.rows for point in record.tables["rows"]] == [((1,),)]
