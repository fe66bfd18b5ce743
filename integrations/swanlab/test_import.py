"""Runs that were logged with plain swanlab, read for an import."""

from __future__ import annotations

import json
import logging
import struct
import zlib
from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.reporters.swanlab import SwanLabReporter
from runcast.testing.couriers import python

PLAIN = """
import sys, swanlab, numpy as np
from pathlib import Path
folder, state = sys.argv[1:]
off = dict.fromkeys(("hardware", "runtime", "requirements", "git", "swanlab", "monitor"), False)
settings = swanlab.Settings(interactive=False, terminal={"proxy_type": "none"}, probe=off)
swanlab.init(mode="offline", log_dir=folder, id="abc", project="p", name="n", group="g", tags=["b", "a"],
             description="What it is about", job_type="trial",
             config={"lr": 0.1, "model": {"layers": [1, 2]}}, settings=settings)
for step in range(5):
    swanlab.log({"loss": 1 / (step + 1), "nested": {"acc": step}}, step=step)
table = swanlab.echarts.Table()
table.add(["a", "b"], [[1, "x"], [2, "y"]])
pictures = [swanlab.Image(np.full((4, 5, 3), grey, dtype=np.uint8)) for grey in (0, 1, 2)]
swanlab.log({"nan": float("nan"), "word": swanlab.Text("w"), "picture": pictures[0], "both": pictures[1:],
             "table": table, "chart": swanlab.echarts.Bar().add_xaxis(["x"]).add_yaxis("y", [1])}, step=9)
swanlab.config.update({"later": True})
Path(folder, "secret.txt").write_text("not to be read through a link")
swanlab.save(f"{folder}/secret.txt", base_path=folder)
swanlab.finish(state="success" if state == "completed" else "crashed", error=None if state == "completed" else "broken")
"""


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_plain_run_is_imported(status: str, tmp_path: Path) -> None:
    """What plain swanlab logged is in the run folder: numbers, texts, images, tables, files and the rest."""
    logs = tmp_path / "swanlog"
    logs.mkdir()
    python(PLAIN, str(logs), status)
    reporter = SwanLabReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    assert native.id == "abc"
    record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert (record.run_id, record.name, record.project, record.group) == ("abc", "n", "p", "g")
    assert (record.status, record.tags) == (status, ("a", "b"))
    assert record.config == {
        "lr": 0.1,
        "model": {"layers": [1, 2]},
        "later": True,
        "swanlab.job_type": "trial",
    }
    assert [(point.step, point.text) for point in record.texts["description"]] == [(0, "What it is about")]
    assert [(point.step, point.value) for point in record.metrics["loss"]] == [(s, 1 / (s + 1)) for s in range(5)]
    assert [point.value for point in record.metrics["nested/acc"]] == [0, 1, 2, 3, 4]
    assert record.metrics["nan"][0].value != record.metrics["nan"][0].value
    assert [(point.step, point.text) for point in record.texts["word"]] == [(9, "w")]
    assert (len(record.images["picture"]), len(record.images["both"])) == (1, 2)
    (table,) = record.tables["table"]
    assert (table.columns, table.rows) == (("a", "b"), ((1, "x"), (2, "y")))
    assert list(record.artifacts) == ["chart/9"]
    assert json.loads(next(iter(record.artifacts["chart/9"].files.values())).read())["series"][0]["name"] == "y"
    times = [point.time for point in record.metrics["loss"]]
    assert record.started <= times[0] <= times[-1] <= record.finished


def test_image_that_is_none_is_left_out_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others of that step are there, and the warning names it."""
    python(PLAIN, str(tmp_path), "completed")
    first = sorted((tmp_path).rglob("media/image/*"))[0]
    first.write_bytes(b"no image")
    reporter = SwanLabReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    with caplog.at_level(logging.WARNING, "runcast"):
        record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert sum(map(len, record.images.values())) == 2
    assert len(record.metrics["loss"]) == 5
    assert "at step 9 is left out" in caplog.text


def test_runs_are_found_by_file_folder_and_store(tmp_path: Path) -> None:
    """A log, a run's folder and a folder of runs lead to the same; sessions of one id are one run."""
    for _ in range(2):
        python(PLAIN, str(tmp_path), "completed")
    reporter = SwanLabReporter()
    (both,) = reporter.find_runs(str(tmp_path))
    assert len(both.data["dirs"]) == 2
    assert [point.step for point in reporter.read(both).metrics["loss"]] == [*range(5), *range(5)]
    for folder in both.data["dirs"]:
        for source in (folder, str(next(Path(folder).glob("*.swanlab")))):
            (one,) = reporter.find_runs(source)
            assert one.data["dirs"] == [folder]
    with pytest.raises(LookupError, match=r"\*\.swanlab"):
        reporter.find_runs(str(tmp_path / "elsewhere"))


def test_our_own_run_is_found_too(tmp_path: Path) -> None:
    """A run that runcast delivered is read with all that only runcast knows of it."""
    with runcast.start_run("swanlab", dir=tmp_path, config={"a/b": [1]}, tags=["t"]) as run:
        run.log({"loss": 1.0}, step=2**60)
        run.set_summary({"best": 1})
    reporter = SwanLabReporter()
    (native,) = reporter.find_runs(str(run.dir))
    record = reporter.read(native)
    assert (record.run_id, record.config, record.summary, record.tags) == (run.id, {"a/b": [1]}, {"best": 1}, ("t",))
    assert record.metrics["loss"][0].step == 2**60


def test_log_from_before_swanlab_0_8_is_read(tmp_path: Path) -> None:
    """The older logs, of JSON, are read as far as they go."""
    moment = "2026-01-01T00:00:00.500000+00:00"
    folder = tmp_path / "run-20260101_000000-abc"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "config.yaml").write_text("lr:\n  desc: ''\n  sort: 0\n  value: 0.1\n")
    (folder / "media" / "1").mkdir(parents=True)
    (folder / "media" / "1" / "sound.wav").write_bytes(b"RIFF")
    media = {"metric": {"data": ["hello"], "create_time": moment, "more": [None]}, "key": "note", "kid": 2, "step": 5}
    sound = {"metric": {"data": ["sound.wav"], "create_time": moment, "more": [{"caption": "bang"}]}, "key": "sound"}
    lines = [
        {"model_type": "Header", "data": {"backup_type": "DEFAULT", "create_time": moment}},
        {"model_type": "Project", "data": {"name": "p", "workspace": None, "public": None}},
        {"model_type": "Experiment", "data": {"id": "abc", "name": "n", "description": "d", "tags": ["b", "a"]}},
        {"model_type": "Column", "data": {"key": "loss", "kid": "0", "cls": "CUSTOM", "column_type": "FLOAT"}},
        *(
            {"model_type": "Scalar", "data": {"metric": {"data": v, "create_time": moment}, "key": "loss", "step": s}}
            for s, v in enumerate([0.1, "NaN", 0.30000000000000004])
        ),
        {"model_type": "Media", "data": {**media, "buffers_name": None}},
        {"model_type": "Media", "data": {**sound, "kid": 1, "step": 6, "buffers_name": ["sound.wav"]}},
        {"model_type": "Footer", "data": {"success": False, "create_time": moment}},
    ]
    payloads = [f"{json.dumps(line)}\n".encode() for line in lines]
    records = [struct.pack("<IHB", zlib.crc32(p, zlib.crc32(b"\1")), len(p), 1) + p for p in payloads]
    torn = struct.pack("<IHB", 0, 100, 1) + b"{"
    (folder / "backup.swanlab").write_bytes(struct.pack("<4sHB", b":SWL", 0xE1D6, 1) + b"".join(records) + torn)
    reporter = SwanLabReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    record = reporter.read(native)
    assert (record.run_id, record.name, record.project, record.status) == ("abc", "n", "p", "failed")
    assert (record.tags, record.config) == (("a", "b"), {"lr": 0.1})
    assert [point.step for point in record.metrics["loss"]] == [0, 1, 2]
    assert record.metrics["loss"][2].value == 0.30000000000000004
    assert [(point.step, point.text) for point in record.texts["note"]] == [(5, "hello")]
    assert [(point.step, point.text) for point in record.texts["description"]] == [(0, "d")]
    assert record.artifacts["sound/6"].files["sound.wav"].read() == b"RIFF"
    assert record.artifacts["sound/6"].metadata == {"type": "file", "caption": "bang"}
    assert record.started == record.finished == record.metrics["loss"][0].time == 1767225600.5


def test_a_strangers_log_reads_no_file_elsewhere(tmp_path: Path) -> None:
    """A log that names media outside its folder is not followed there."""
    (tmp_path / "secret.txt").write_text("secret")
    with runcast.start_run("swanlab", dir=tmp_path / "runs") as run:
        run.log_text("note", "hello", step=0)
    reporter = SwanLabReporter()
    (native,) = reporter.find_runs(str(run.dir))
    (text,) = Path(native.data["dirs"][0]).rglob("*.txt")
    text.unlink()
    text.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="leads out of"):
        reporter.read(native)
