"""What is special to Trackio: what its own command line, API and dashboard show; one store for all runs, and nothing elsewhere."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import runcast
from runcast.delivery import load_state
from runcast.events import StoredFile
from runcast.record import RunRecord
from runcast.reporter import LocalArtifact, NativeRun, RunInfo
from runcast.reporters.trackio import TrackioReporter
from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import deliver_again, kill_courier, native_of, python, wait_delivered
from runcast.testing.couriers import read as read_back
from runcast.verify import verify

from .backend import Server, cli, folder_of, plain, points, query, server

STARTED = 1_700_000_000.25
PIXELS = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3)
ODD_NAMES = (
    "project",
    "run",
    "timestamp",
    "step",
    "time",
    "metrics",
    "__step",
    "____x",
    "_hidden",
    "a.b",
    'q"uote',
    "\0",
)


def read(run_dir: Path) -> RunRecord:
    return read_back(run_dir, "trackio")


def assert_matches(run_dir: Path) -> None:
    """The reader finds what the journal has."""
    (result,) = verify(run_dir, ["trackio"])
    assert result.matches, result


def info(folder: Path, run_id: str = "id", project: str = "p") -> RunInfo:
    return RunInfo(run_id, "named", project, None, folder / "run", STARTED)


# -- what Trackio shows ------------------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """A run, and the dashboard of its folder."""

    dir: Path
    id: str
    folder: Path
    server: Server

    def rows(self) -> list[dict[str, Any]]:
        return self.server.ask("get_logs", project="mydemo", run="first run", run_id=self.id)

    def values(self, key: str) -> list[tuple[int, Any]]:
        return [(row["step"], row[key]) for row in self.rows() if key in row]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A run with something of everything."""
    top = tmp_path_factory.mktemp("shown")
    config = {"optimizer": {"name": "adam", "lr": 3e-5}, "_private": 1}
    with runcast.start_run(
        "trackio", dir=top, project="my demo", name="first run", group="g", config=config, tags=["b", "a"]
    ) as run:
        for step in range(10):
            run.log({"train/loss": step / 7, "time": float(step)}, step=step)
        run.log({"train/loss": math.nan}, step=10)
        run.log_text("note", "**hello**", step=2)
        run.log_image("picture", PIXELS, step=3)
        run.log_table("rows", ["a", "a"], [[1, math.nan], ["x", None]], step=4)
        run.log_histogram("weights", [1.0, 2.0, 2.5], step=4)
        run.log_artifact(Path(__file__), name="code", kind="model", metadata={"lines": 7})
        run.set_summary({"best": 1})
    assert run.dir is not None
    folder = folder_of(run.dir)
    with server(folder) as dashboard:
        yield Shown(run.dir, run.id, folder, dashboard)


def test_command_line_sees_the_run(shown: Shown) -> None:
    """`trackio list` and `trackio get` have project, run, names, and every value with its step, bit by bit."""
    assert cli(shown.folder, "list", "projects")["projects"] == ["mydemo"]
    assert cli(shown.folder, "list", "runs", "--project", "my demo")["runs"] == ["first run"]
    names = cli(shown.folder, "list", "metrics", "--project", "my demo", "--run", "first run")["metrics"]
    assert names == ["__time", "note", "picture", "rows", "train/loss", "weights"]
    found = points(shown.folder, "my demo", "first run", "train/loss")
    assert found[:10] == [(step, step / 7) for step in range(10)]
    assert (found[10][0], str(found[10][1])) == (10, "nan")


def test_python_api_sees_the_run(shown: Shown) -> None:
    """`trackio.Api` has the run under its id, with the settings nested and typed, and ours where people look."""
    code = (
        "import json, trackio\n"
        "(run,) = trackio.Api().runs('my demo')\n"
        "print(json.dumps([run.id, run.name, run.config]))\n"
    )
    run_id, name, config = json.loads(plain(code, shown.folder))
    assert (run_id, name) == (shown.id, "first run")
    assert (config["optimizer"], config["~_private"], config["_Group"]) == ({"name": "adam", "lr": 3e-5}, 1, "g")
    assert config["runcast/status"] == "completed"
    assert config["runcast/tags"] == ["a", "b"]
    assert config["runcast/summary"] == {"best": 1}


def test_dashboard_lists_the_run_and_its_pages(shown: Shown) -> None:
    """By name and id, since it was started; with a page for each kind of what was logged."""
    (run,) = shown.server.ask("get_runs_for_project", project="mydemo")
    assert (run["id"], run["name"]) == (shown.id, "first run")
    assert abs(datetime.fromisoformat(run["created_at"]).timestamp() - read(shown.dir).started) < 1e-5
    tabs = shown.server.ask("get_tab_availability", project="mydemo")
    assert {name for name, there in tabs.items() if there} >= {"metrics", "media", "reports", "artifacts"}
    assert not tabs["system"]


def test_dashboard_has_metrics_at_their_steps_and_times(shown: Shown) -> None:
    """Steps are the x-axis, times those at which the values were logged."""
    rows = [row for row in shown.rows() if "train/loss" in row]
    journal = runcast.read_run(shown.dir).metrics["train/loss"]
    assert [row["step"] for row in rows] == list(range(11))
    assert [row["train/loss"] for row in rows[:10]] == [step / 7 for step in range(10)]
    times = [datetime.fromisoformat(row["timestamp"]).timestamp() for row in rows]
    assert times == pytest.approx([point.time for point in journal], abs=1e-6, rel=0)
    assert [row["__time"] for row in rows[:10]] == list(range(10))


def test_dashboard_shows_texts_images_tables_and_histograms(shown: Shown) -> None:
    """As Trackio's own objects, which its pages draw; the image is the PNG, byte by byte."""
    assert shown.values("note") == [(2, {"_type": "trackio.markdown", "_value": "**hello**"})]
    ((step, picture),) = shown.values("picture")
    assert (step, picture["_type"]) == (3, "trackio.image")
    (point,) = runcast.read_run(shown.dir).images["picture"]
    assert shown.server.file(shown.folder / "media" / picture["file_path"]) == point.image.read()
    ((step, table),) = shown.values("rows")
    assert (step, table["_type"]) == (4, "trackio.table")
    assert table["_value"] == [{"a": 1, "a (2)": "NaN"}, {"a": "x", "a (2)": None}]
    ((step, histogram),) = shown.values("weights")
    assert (step, histogram["_type"], sum(histogram["values"])) == (4, "trackio.histogram", 3)
    assert (histogram["bins"][0], histogram["bins"][-1]) == (1.0, 2.5)


def test_artifact_is_a_version_of_the_runs(shown: Shown, tmp_path: Path) -> None:
    """The dashboard names it among what the run made, and Trackio downloads it."""
    found = shown.server.ask("get_run_artifacts", project="mydemo", run="first run", run_id=shown.id)
    assert [(made["name"], made["type"], made["version"]) for made in found["output"]] == [("code", "model", 0)]
    assert cli(shown.folder, "get", "artifact", "--project", "mydemo", "--name", "code")["metadata"] == {"lines": 7}
    code = (
        "import sys, trackio\n"
        "run = trackio.init(project='mydemo', name='other', auto_log_cpu=False, auto_log_gpu=False)\n"
        "run.use_artifact('code:latest').download(sys.argv[1])\n"
        "trackio.finish()\n"
    )
    plain(code, shown.folder, str(tmp_path))
    assert (tmp_path / Path(__file__).name).read_bytes() == Path(__file__).read_bytes()


def test_everything_reads_back(shown: Shown) -> None:
    """Also what Trackio doesn't show."""
    assert_matches(shown.dir)
    record = read(shown.dir)
    assert (record.run_id, record.name, record.project, record.group) == (shown.id, "first run", "my demo", "g")
    assert record.artifacts["code"].step is None


# -- values ------------------------------------------------------------------------------------------------------------


def test_odd_names_read_back(tmp_path: Path) -> None:
    """Names that Trackio keeps for itself are others there, and themselves when they are read back."""
    reporter = TrackioReporter()
    native = reporter.open(info(tmp_path), None)
    for number, name in enumerate(ODD_NAMES):
        reporter.log_metrics({name: number}, number, STARTED)
        reporter.log_text(name, str(number), number, STARTED)
    record = reporter.read(native)
    assert {name: (point.step, point.value) for name, (point,) in record.metrics.items()} == {
        name: (number, number) for number, name in enumerate(ODD_NAMES)
    }
    assert {name: point.text for name, (point,) in record.texts.items()} == {
        name: str(number) for number, name in enumerate(ODD_NAMES)
    }


def test_times_are_exact_to_the_microsecond(tmp_path: Path) -> None:
    """Also at a full second, at the epoch and before it."""
    times = [0.0, -1.5, 1.25, STARTED, 1_700_000_000.123456, 1_700_000_001.0]
    reporter = TrackioReporter()
    native = reporter.open(info(tmp_path), None)
    for step, moment in enumerate(times):
        reporter.log_metrics({"loss": 1.0}, step, moment)
    found = [point.time for point in reporter.read(native).metrics["loss"]]
    assert found == pytest.approx(times, abs=1e-6, rel=0)


def test_integers_beyond_64_bits_and_nan_read_back_from_everywhere(tmp_path: Path) -> None:
    """Trackio's JSON has neither: in config, summary, tables and metadata they are told apart from texts."""
    odd = {
        "big": 2**200,
        "least": -(2**63),
        "nan": math.nan,
        "word": "NaN",
        "$int": {"$int": "1"},
        "deep": [[-(2**64)]],
    }
    with runcast.start_run("trackio", dir=tmp_path, config={"odd": odd, "runcast/status": 1, "~_": 2, "~": 3}) as run:
        run.set_summary(odd)
        run.log_table("t", ["a", ""], [[cell, 1] for cell in odd.values()], step=0)
        run.log_artifact(Path(__file__), name="code", metadata=odd)
    assert_matches(run.dir)
    assert read(run.dir).config["odd"]["big"] == 2**200


def test_a_step_beyond_64_bits_is_set_aside(tmp_path: Path) -> None:
    """With its reason; the largest that fits is there, and the events around it are too."""
    with runcast.start_run("trackio", dir=tmp_path) as run:
        for step in (0, 2**63, -(2**63), 2**63 - 1):
            run.log({"loss": 1.0}, step=step)
    (row,) = run.deliveries()
    assert (row.state, row.refused) == ("complete", 1)
    state = load_state(run.dir, "trackio")
    assert state is not None
    assert "beyond 64 bits" in state.set_aside[0].reason
    assert [point.step for point in read(run.dir).metrics["loss"]] == [0, -(2**63), 2**63 - 1]


def test_same_artifact_name_of_two_kinds(tmp_path: Path) -> None:
    """In Trackio a name is of one kind for ever; both read back, and equal files are one version of several runs."""
    for number, kind in enumerate(("model", "checkpoint", "model")):
        with runcast.start_run("trackio", dir=tmp_path, project="p", name=f"r{number}") as run:
            run.log_artifact(Path(__file__), name="best", kind=kind, step=number, metadata={"run": number})
        assert_matches(run.dir)
        assert read(run.dir).artifacts["best"].step == number
    found = cli(folder_of(run.dir), "list", "artifacts", "--project", "p")["artifacts"]
    assert {made["name"]: (made["type"], made["num_versions"]) for made in found} == {
        "best": ("model", 1),
        "best-checkpoint": ("checkpoint", 1),
    }


@pytest.mark.parametrize("project", ["", "a/../b", "registry-x", "my_system", "x" * 300, "漢" * 300, "demo.v2"])
def test_any_project_has_a_place(project: str, tmp_path: Path) -> None:
    """One that Trackio takes, inside its folder; the run reads back with its own."""
    reporter = TrackioReporter()
    native = reporter.open(info(tmp_path, project=project), None)
    reporter.log_metrics({"loss": 1.0}, 0, STARTED)
    reporter.close("completed")
    assert reporter.read(native).project == project
    assert cli(tmp_path / "trackio", "list", "runs", "--project", native.data["project"])["runs"] == ["named"]
    code = "import sys, trackio; trackio.init(project=sys.argv[1], auto_log_cpu=False); trackio.finish()"
    plain(code, tmp_path / "trackio", native.data["project"])


# -- exactly once ------------------------------------------------------------------------------------------------------


def test_delivering_again_repeats_nothing(tmp_path: Path) -> None:
    """Everything once more is found to be there; two equal points of one moment stay two."""
    with runcast.start_run("trackio", dir=tmp_path, project="p", config={"lr": 1}) as run:
        for step in range(10):
            run.log({"loss": step / 7}, step=step)
        run.log_text("note", "hello", step=2)
        run.log_image("picture", PIXELS, step=3)
        run.log_artifact(Path(__file__), name="code")
    folder = folder_of(run.dir)
    before = query(folder, "p", "SELECT * FROM metrics ORDER BY id")
    deliver_again(run.dir, "trackio")
    assert query(folder, "p", "SELECT * FROM metrics ORDER BY id") == before
    assert query(folder, "p", "SELECT COUNT(*) AS n FROM artifact_versions") == [{"n": 1}]
    assert_matches(run.dir)


def test_points_that_are_equal_in_everything_are_all_there(tmp_path: Path) -> None:
    """Equal name, step, value and time, as in imported runs: they are not taken for repeats."""
    reporter = TrackioReporter()
    native = reporter.open(info(tmp_path), None)
    for _ in range(3):
        reporter.log_metrics({"loss": 1.0}, 0, STARTED)
    assert len(reporter.read(native).metrics["loss"]) == 3


def test_killed_courier_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL leaves what was delivered readable, and the run goes on as the same run."""
    run = runcast.start_run(
        "trackio", dir=tmp_path, project="p", name="n", config={"a": 1}, tags=["t"], finish_timeout=PATIENCE
    )
    for step in range(50):
        run.log({"loss": step / 7}, step=step)
    run.set_summary({"best": 1})
    wait_delivered(run.dir, "trackio")
    kill_courier(run.dir, "trackio")
    left = read(run.dir)
    assert (left.status, left.summary, left.tags) == ("running", {"best": 1}, ("t",))
    assert [point.value for point in left.metrics["loss"]] == [step / 7 for step in range(50)]
    for step in range(50, 60):
        run.log({"loss": step / 7}, step=step)
    run.update_config({"a": 2})
    run.finish()
    assert_matches(run.dir)
    assert points(folder_of(run.dir), "p", "n", "loss") == [(step, step / 7) for step in range(60)]


def test_kill_amid_writing_leaves_whole_batches(tmp_path: Path) -> None:
    """Whatever the moment, a batch is there with all its rows or not at all, and Trackio opens the database."""
    code = """
import sys
from pathlib import Path
from runcast.events import Metrics
from runcast.reporter import RunInfo
from runcast.reporters.trackio import TrackioReporter
reporter = TrackioReporter()
reporter.open(RunInfo("id", "n", "p", None, Path(sys.argv[1]) / "run", 1.0), None)
print("open", flush=True)
step = 0
while True:
    reporter.log_metrics_batch([Metrics(time=1.0, step=step + i, values={"loss": 1.0}) for i in range(100)])
    step += 100
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    deadline = time.monotonic() + PATIENCE
    reporter, native = TrackioReporter(), NativeRun("id", None, {"dir": str(tmp_path / "trackio"), "project": "p"})
    while len(reporter.read(native).metrics.get("loss", ())) < 500:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = [point.step for point in reporter.read(native).metrics["loss"]]
    assert found == list(range(len(found)))
    assert len(found) % 100 == 0
    assert query(tmp_path / "trackio", "p", "SELECT COUNT(*) AS n FROM metrics") == [{"n": len(found) + 1}]


def test_many_couriers_write_to_one_project(tmp_path: Path) -> None:
    """Runs that begin and end at the same time in a project that is new are all there, apart from each other."""
    runs = [
        runcast.start_run("trackio", dir=tmp_path, project="p", name="same", finish_timeout=PATIENCE) for _ in range(4)
    ]
    for step in range(100):
        for number, run in enumerate(runs):
            run.log({"loss": number + step / 7}, step=step)
    for run in runs:
        run.finish()
    for number, run in enumerate(runs):
        assert_matches(run.dir)
        assert [point.value for point in read(run.dir).metrics["loss"]] == [number + step / 7 for step in range(100)]
    assert cli(folder_of(runs[0].dir), "list", "runs", "--project", "p")["runs"] == ["same"] * 4


def test_store_that_others_keep_locked_is_waited_for(tmp_path: Path) -> None:
    """Trackio gives up on its lock after ten seconds; the delivery doesn't."""
    with runcast.start_run("trackio", dir=tmp_path, project="p") as first:
        first.log({"loss": 1.0}, step=0)
    run = runcast.start_run("trackio", dir=tmp_path, project="p", finish_timeout=PATIENCE)
    run.log({"loss": 1.0}, step=0)
    wait_delivered(run.dir, "trackio")
    with (folder_of(run.dir) / "p.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run.log({"loss": 2.0}, step=1)
        deadline = time.monotonic() + PATIENCE
        while (state := load_state(run.dir, "trackio")) is None or state.error is None:
            assert time.monotonic() < deadline, state
            time.sleep(0.1)
        assert "lock" in state.error
    run.finish()
    assert run.deliveries()[0].done
    assert_matches(run.dir)


def test_full_disk_is_waited_for(tmp_path: Path) -> None:
    """What doesn't fit is not there by half, counts as passing, and is there once when it is written again."""
    code = """
import resource, signal, sys
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.trackio import TrackioReporter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run, reporter = RunInfo("id", "n", "p", None, Path(sys.argv[1]) / "run", 1.0), TrackioReporter()
native = reporter.open(run, None)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ((Path(native.data["dir"]) / "p.db").stat().st_size + 60_000, hard))
step = 0
try:
    while step < 1000:
        reporter.log_text("note", "x" * 5000, step, 1.0)
        step += 1
except Exception as error: assert reporter.is_transient(error) is True, repr(error)
else: raise SystemExit("the disk was to be full")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert [point.step for point in reporter.read(native).texts["note"]] == list(range(step)), step
for again in range(step, step + 5): reporter.log_text("note", "x" * 5000, again, 1.0)
reporter.close("completed")
assert [point.step for point in reporter.read(native).texts["note"]] == list(range(step + 5))
"""
    python(code, str(tmp_path))


def test_refused_event_loses_nothing_else(tmp_path: Path) -> None:
    """A file that is gone is an error, and not half there."""
    reporter = TrackioReporter()
    native = reporter.open(info(tmp_path), None)
    gone = LocalArtifact("gone", "file", tmp_path / "gone", (StoredFile("gone", 1, "0" * 64),), {})
    with pytest.raises(FileNotFoundError):
        reporter.log_artifact(gone, 0, STARTED)
    with pytest.raises(FileNotFoundError):
        reporter.log_image("gone", tmp_path / "gone.png", 0, STARTED)
    reporter.log_metrics({"loss": 1.0}, 0, STARTED)
    reporter.close("failed")
    record = reporter.read(native)
    assert (record.status, list(record.metrics), record.artifacts, record.images) == ("failed", ["loss"], {}, {})


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_resumed_run_stays_one_run(tmp_path: Path) -> None:
    """Trackio's list has it once, and its name, if it was changed there, stays."""
    with runcast.start_run("trackio", dir=tmp_path, project="p", name="n", config={"part": 1}) as run:
        run.log({"loss": 1.0}, step=0)
        run.log_artifact(Path(__file__), name="code")
    folder = folder_of(run.dir)
    plain("import trackio; trackio.Api().runs('p')[0].rename('better')", folder)
    with runcast.start_run("trackio", resume=run.dir, finish_timeout=PATIENCE) as again:
        again.log({"loss": 0.5}, step=1)
        again.update_config({"part": 2})
    assert_matches(run.dir)
    assert read(run.dir).name == "better"
    assert cli(folder, "list", "runs", "--project", "p")["runs"] == ["better"]
    assert points(folder, "p", "better", "loss") == [(0, 1.0), (1, 0.5)]


def test_resume_from_a_checkpoint_shows_each_step_once(tmp_path: Path) -> None:
    """Points behind the checkpoint are gone, their images too; the other runs of the project are as they were."""
    with runcast.start_run("trackio", dir=tmp_path, project="p", name="other") as other:
        other.log({"loss": 1.0}, step=9)
        other.log_image("picture", PIXELS, step=9)
    with runcast.start_run("trackio", dir=tmp_path, project="p", name="n", config={"lr": 1}) as run:
        for step in range(10):
            run.log({"loss": step / 7}, step=step)
        run.log_image("picture", PIXELS, step=9)
        run.log_artifact(Path(__file__), name="code")
    with runcast.start_run("trackio", resume=run.dir, resume_step=4, finish_timeout=PATIENCE) as again:
        for step in range(5, 8):
            again.log({"loss": -1.0}, step=step)
    assert_matches(run.dir)
    assert_matches(other.dir)
    folder = folder_of(run.dir)
    expected = [(step, step / 7) for step in range(5)] + [(step, -1.0) for step in range(5, 8)]
    assert points(folder, "p", "n", "loss") == expected
    assert [path.parts[-3] for path in (folder / "media").rglob("*.png")] == [other.id]
    assert query(folder, "p", "SELECT COUNT(*) AS n FROM artifact_versions") == [{"n": 1}]


def test_run_that_was_deleted_in_trackio_is_not_begun_again(tmp_path: Path) -> None:
    """Half a run would look whole: the delivery fails and says why."""
    with runcast.start_run("trackio", dir=tmp_path, project="p") as run:
        run.log({"loss": 1.0}, step=0)
    plain("import trackio; trackio.Api().runs('p')[0].delete()", folder_of(run.dir))
    with runcast.start_run("trackio", resume=run.dir, finish_timeout=PATIENCE) as again:
        again.log({"loss": 1.0}, step=1)
    (row,) = again.deliveries()
    assert row.state == "failed"
    assert "any more" in (row.detail or "")


# -- on a network file system ------------------------------------------------------------------------------------------


def test_network_file_systems_get_lines_that_a_dashboard_takes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There Trackio leaves SQLite alone: the run reads back the same before and after the dashboard has it."""
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    run = runcast.start_run("trackio", dir=tmp_path, project="p", name="n", config={"lr": 1}, finish_timeout=PATIENCE)
    for step in range(10):
        run.log({"loss": step / 7}, step=step)
    run.log_image("picture", PIXELS, step=3)
    run.log_table("t", ["a"], [[math.nan]], step=3)
    wait_delivered(run.dir, "trackio")
    kill_courier(run.dir, "trackio")
    run.log({"loss": 1.0}, step=10)
    run.update_config({"lr": 2})
    run.finish()
    folder = folder_of(run.dir)
    assert not (folder / "p.db").exists()
    assert_matches(run.dir)
    plain("from trackio import fragments; fragments.import_inbox_dir()", folder)  # as a dashboard does now and then
    assert points(folder, "p", "n", "loss") == [*((step, step / 7) for step in range(10)), (10, 1.0)]
    assert cli(folder, "get", "run", "--project", "p", "--run", "n")["config"]["lr"] == 2
    assert list((folder / "inbox").rglob("*.jsonl")) == []
    assert_matches(run.dir)

    with runcast.start_run("trackio", resume=run.dir, resume_step=4, finish_timeout=PATIENCE) as again:
        again.log({"loss": -1.0}, step=5)
    assert_matches(run.dir)
    assert [point.value for point in read(run.dir).metrics["loss"]] == [*(step / 7 for step in range(5)), -1.0]
    with runcast.start_run("trackio", resume=run.dir, resume_step=3, finish_timeout=PATIENCE) as once_more:
        once_more.log({"loss": -2.0}, step=4)
    assert_matches(run.dir)


# -- settings and places -----------------------------------------------------------------------------------------------


def test_environment_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACKIO_DIR is where the run is, beside those of plain Trackio, and the command that the run names shows it."""
    folder = tmp_path / "a folder"
    monkeypatch.setenv("TRACKIO_DIR", str(folder))
    plain("import trackio; trackio.init(project='p', name='theirs'); trackio.log({'a': 1}); trackio.finish()", folder)
    with runcast.start_run("trackio", dir=tmp_path / "runs", project="p", name="ours") as run:
        run.log({"loss": 1.0}, step=0)
    assert folder_of(run.dir) == folder
    assert native_of(run.dir, "trackio").url == f"TRACKIO_DIR='{folder}' trackio show --project p"
    assert cli(folder, "list", "runs", "--project", "p")["runs"] == ["theirs", "ours"]
    assert not (tmp_path / "runs" / "trackio").exists()


def test_options_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option of the reporter counts more than the environment variable."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "there"))
    options = {"dir": str(tmp_path / "here"), "project": "option"}
    with runcast.start_run({"trackio": options}, dir=tmp_path / "runs", project="p") as run:
        pass
    assert (tmp_path / "here" / "option.db").is_file()
    assert not (tmp_path / "there").exists()
    assert read(run.dir).project == "p"


def test_a_run_folder_does_not_say_where_we_write(tmp_path: Path) -> None:
    """A run that claims to have begun elsewhere goes on there only if the user says so, and never through a link."""
    elsewhere = tmp_path / "elsewhere"
    data = {"dir": str(elsewhere), "home": str(elsewhere), "project": "p"}
    with pytest.raises(ValueError, match="dir="):
        TrackioReporter().open(info(tmp_path), NativeRun("id", None, data))
    with pytest.raises(LookupError, match="no run 'id'"):
        TrackioReporter().open(info(tmp_path), NativeRun("id", None, {**data, "home": None}))
    elsewhere.mkdir(exist_ok=True)
    assert list(elsewhere.iterdir()) == []
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "trackio").symlink_to(elsewhere)
    with pytest.raises(OSError, match="is a link"):
        TrackioReporter().open(info(tmp_path / "linked"), None)
    store = tmp_path / "store" / "trackio"
    store.mkdir(parents=True)
    (store / "p.db").symlink_to(elsewhere / "victim.db")
    with pytest.raises(OSError, match="is a link"):
        TrackioReporter().open(info(tmp_path / "store"), None)
    (store / "p.db").unlink()
    (store / "media").symlink_to(elsewhere)
    with pytest.raises(OSError, match="link that leads out"):
        TrackioReporter().open(info(tmp_path / "store"), None)
    assert list(elsewhere.iterdir()) == []


def test_another_run_of_that_id_is_left_alone(tmp_path: Path) -> None:
    """Neither plain Trackio's nor one of ours, which began at another time, is removed or added to."""
    reporter = TrackioReporter()
    native = reporter.open(info(tmp_path), None)
    reporter.log_metrics({"loss": 1.0}, 0, STARTED)
    reporter.close("completed")
    stranger = RunInfo("id", "named", "p", None, tmp_path / "run", STARTED + 1)
    for start in (
        lambda r: r.open(stranger, None),
        lambda r: r.open(stranger, native),
        lambda r: r.replace(stranger, native),
    ):
        with pytest.raises(ValueError, match="another run with the id"):
            start(TrackioReporter())
    assert len(reporter.read(native).metrics["loss"]) == 1
    code = (
        "import trackio; r = trackio.Run(url=None, project='p', client=None, run_id='x'); r.log({'a': 1}); r.finish()"
    )
    plain(code, tmp_path / "trackio")
    with pytest.raises(ValueError, match="another run with the id"):
        TrackioReporter().open(info(tmp_path, "x"), None)
    assert points(
        tmp_path / "trackio", "p", cli(tmp_path / "trackio", "list", "runs", "--project", "p")["runs"][-1], "a"
    ) == [(0, 1)]


def test_files_are_private(tmp_path: Path) -> None:
    """Nobody else may read them, whatever the umask."""
    before = os.umask(0)
    try:
        with runcast.start_run("trackio", dir=tmp_path) as run:
            run.log_image("picture", PIXELS, step=3)
            run.log_artifact(Path(__file__), name="code")
    finally:
        os.umask(before)
    top = folder_of(run.dir)
    modes = {path.relative_to(top): stat.S_IMODE(path.stat().st_mode) for path in (top, *top.rglob("*"))}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "files beside the run folders: trackio show"),
        ({"TRACKIO_DIR": "/somewhere"}, "files in /somewhere: trackio show"),
        ({"TRACKIO_SPACE_ID": "me/space"}, "not where TRACKIO_SPACE_ID says"),
        ({"TRACKIO_SERVER_URL": "http://localhost:1"}, "not where TRACKIO_SERVER_URL says"),
    ],
)
def test_available_without_an_account(variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`"all"` takes it, with one line that says where."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = TrackioReporter.availability()
    assert (found.status, found.mode) == ("ready", "local")
    assert words in found.reason


@pytest.mark.parametrize(("version", "status"), [(None, "missing"), ("0.29.0", "unsupported")])
def test_unavailable_without_the_package(version: str | None, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed, or too old: the line that helps."""
    monkeypatch.setattr(type(TrackioReporter.requires), "installed_version", lambda _: version)
    found = TrackioReporter.availability()
    assert found.status == status
    assert 'pip install "runcast[trackio]"' in found.reason


def test_no_network_and_the_process_stays_as_it_was(tmp_path: Path) -> None:
    """Not even with a Space, a server and a bucket in the environment; no hook, variable, stream or thread is left."""
    code = """
import os, signal, socket, sys, threading
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.trackio import TrackioReporter
def refuse(*_, **__): raise SystemExit("a connection was tried")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
hooks = lambda: (sys.stdout, sys.stderr, sys.stdout.write, sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT),
                 signal.getsignal(signal.SIGTERM), threading.active_count(), dict(os.environ))
before = hooks()
for name in ("one", "two"):
    run, reporter = RunInfo(name, "n", "p", None, Path(sys.argv[1]) / name / "run", 1.0), TrackioReporter()
    native = reporter.open(run, None)
    reporter.log_metrics({"loss": 1.0}, 0, 1.0)
    reporter.close("completed")
    assert Path(native.data["dir"]) == Path(sys.argv[1]) / name / "trackio"
    assert len(reporter.read(native).metrics["loss"]) == 1
assert hooks() == before
from trackio import utils
assert str(utils.TRACKIO_DIR) == os.environ["HF_HOME"] + "/trackio", utils.TRACKIO_DIR
"""
    variables = {
        "TRACKIO_SPACE_ID": "me/space",
        "TRACKIO_SERVER_URL": "http://localhost:1",
        "TRACKIO_BUCKET_ID": "me/bucket",
        "HF_HOME": str(tmp_path / "hf"),
    }
    done = python(code, str(tmp_path), env={**os.environ, **variables})
    assert (done.stdout, done.stderr) == ("", "")
    assert not (tmp_path / "hf").exists()


def test_the_users_own_run_goes_on_beside_ours(tmp_path: Path) -> None:
    """A run that the user has open in the training process is neither joined nor disturbed."""
    code = """
import sys, runcast, trackio
own = trackio.init(project="p", name="own", auto_log_cpu=False, auto_log_gpu=False)
trackio.log({"mine": 1.0})
with runcast.start_run("trackio", dir=sys.argv[1], project="p", name="ours") as run:
    run.log({"loss": 1.0}, step=0)
    trackio.log({"mine": 2.0})
trackio.log({"mine": 3.0})
trackio.finish()
print(run.dir)
"""
    theirs = tmp_path / "theirs"
    variables = {"TRACKIO_DIR": str(theirs)}
    done = python(code, str(tmp_path / "runs"), env={**os.environ, **variables})
    run_dir = Path(done.stdout.splitlines()[-1])
    assert points(theirs, "p", "own", "mine") == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert points(theirs, "p", "ours", "loss") == [(0, 1.0)]
    assert [point.value for point in read(run_dir).metrics["loss"]] == [1.0]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """A store that can't be written is read all the same, and no file is made beside it."""
    with runcast.start_run("trackio", dir=tmp_path, project="p") as run:
        run.log({"loss": 1.0}, step=0)
    folder = folder_of(run.dir)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert len(read(run.dir).metrics["loss"]) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_reads_while_a_dashboard_is_open_and_rows_come_in(tmp_path: Path) -> None:
    """The write-ahead log is read too, before anybody has folded it into the database."""
    with runcast.start_run("trackio", dir=tmp_path, project="p") as run:
        run.log({"loss": 1.0}, step=0)
    database = folder_of(run.dir) / "p.db"
    holder = sqlite3.connect(database)
    holder.execute("BEGIN")
    holder.execute("SELECT COUNT(*) FROM metrics").fetchone()
    try:
        with runcast.start_run("trackio", resume=run.dir, finish_timeout=PATIENCE) as again:
            again.log({"loss": 2.0}, step=1)
        assert database.with_name("p.db-wal").stat().st_size > 0
        assert_matches(run.dir)
    finally:
        holder.close()


def test_example_runs(tmp_path: Path) -> None:
    """The example delivers everything and says where to look."""
    done = python(Path(__file__).with_name("example.py").read_text(), str(tmp_path))
    assert "trackio: 105 of 105 events. Look at them with: TRACKIO_DIR=" in done.stdout
    (run_dir,) = [path for path in tmp_path.iterdir() if path.name != "trackio"]
    assert len(read(run_dir).metrics["train/loss"]) == 100
