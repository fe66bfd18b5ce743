"""Runs that the user opened with MLflow itself: joined, logged to beside the user's own calls, and not ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runcast.delivery import load_state
from runcast.reporters.mlflow import MlflowReporter
from runcast.sync import sync
from runcast.testing.contract import PATIENCE

from .backend import prepare
from .store import Store

HEAD = """
import json, os, signal, sys, threading
import mlflow, runcast
mlflow.set_experiment("theirs")
def ours(name, steps=5, **options):
    return runcast.start_run("mlflow", project="ours", name=name, dir="runs", delivery="process", **options)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    prepare(tmp_path)
    return Store(tmp_path, "mlruns/*/{}/artifacts")


def script(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs a user's script, with MLflow's database in its working directory."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "RUNCAST_"))}
    environment |= {
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return subprocess.run(
        [sys.executable, "-c", HEAD + code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def result(done: subprocess.CompletedProcess[str]) -> Any:
    """What it printed last."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LIFE = """
def hooks():
    return (dict(os.environ), sys.stdout.write, sys.excepthook, signal.getsignal(signal.SIGINT),
            mlflow.get_tracking_uri(), {t.name for t in threading.enumerate()})

with mlflow.start_run(run_name="their name", tags={"note": "mine"}) as theirs:
    mlflow.log_param("lr", 1)
    mlflow.log_metric("by hand", 0.0, step=0)
    mlflow.log_table({"a": [1]}, "before.json")
    native, dirs = theirs.info.run_id, []
    before = hooks()
    for number, part in enumerate(("one", "two")):
        with ours(part, config={"lr": 2, "part": part}, tags=[part]) as run:
            for step in range(5):
                run.log({f"{part}/loss": 1 / (step + 1)}, step=step)
                mlflow.log_metric("by hand", float(step), step=10 * (number + 1) + step)
            mlflow.log_param(f"during {part}", "theirs")
            run.update_config({f"during {part}": "ours"})
            run.log_text("note", part, step=1)
            run.log_table("table", ["n"], [[number]], step=1)
            run.set_summary({f"best {part}": 0.5})
            mlflow.log_text("by hand", f"{part}.txt")
        assert [row.done for row in run.deliveries()] == [True], run.deliveries()
        assert mlflow.active_run().info.run_id == native
        dirs.append(str(run.dir))
    assert hooks() == before, "something in the user's process was changed"
    status = mlflow.get_run(native).info.status
    mlflow.log_metric("by hand", 9.0, step=99)
print(json.dumps({"native": native, "status": status, "dirs": dirs}))
"""


def test_run_of_the_users_gets_both_kinds_of_points_and_is_the_users_to_end(store: Store, tmp_path: Path) -> None:
    """Two of our runs after each other in one of theirs: one run, nothing of theirs lost, nothing of the SDK's changed."""
    found = result(script(tmp_path, LIFE))
    native = found["native"]
    assert found["status"] == "RUNNING"
    assert store.runs() == [(native, "FINISHED", "active")]
    by_hand = {("by hand", step): 1 for step in (0, *range(10, 15), *range(20, 25), 99)}
    assert store.points(native) == {**by_hand, **{(f"{part}/loss", i): 1 for part in ("one", "two") for i in range(5)}}
    assert store.summary(native) == [("summary/best one", 0.5), ("summary/best two", 0.5)]
    params, tags = store.named("params", native), store.named("tags", native)
    assert params == {"lr": "1", "during one": "theirs", "part": "one", "during two": "theirs"}
    assert {key: text for key, text in tags.items() if key.startswith("config.")} == {
        "config.lr": "2",
        "config.during one": "ours",
        "config.part": "two",
        "config.during two": "ours",
    }
    assert (tags["mlflow.runName"], tags["note"], tags["runcast.name"]) == ("their name", "mine", "two")
    tables = [table["path"] for table in json.loads(tags["mlflow.loggedArtifacts"])]
    assert tables[0] == "before.json"
    assert len(tables) == 3
    assert {"before.json", "one.txt", "two.txt"} < set(store.files(native))
    for run_dir in found["dirs"]:
        assert load_state(Path(run_dir), "mlflow").native.id == native
    record = MlflowReporter().read(load_state(Path(found["dirs"][1]), "mlflow").native)
    assert (record.status, record.name, [text.text for text in record.texts["note"]]) == (
        "completed",
        "two",
        ["one", "two"],
    )


THREADS = """
found = {}
def work(name):
    with mlflow.start_run() as parent, mlflow.start_run(nested=True) as child:
        with ours(name) as run:
            run.log({"loss": 1.0}, step=1)
        found[name] = [parent.info.run_id, child.info.run_id, str(run.dir)]
workers = [threading.Thread(target=work, args=[name]) for name in ("a", "b")]
for worker in workers: worker.start()
for worker in workers: worker.join()
with mlflow.start_run() as mine:
    with runcast.start_run({"mlflow": {"tracking_uri": "sqlite:///other.db"}}, dir="runs", delivery="process") as run:
        run.log({"loss": 1.0}, step=1)
    found["mine"] = [mine.info.run_id, None, str(run.dir)]
print(json.dumps(found))
"""


def test_active_run_is_the_innermost_of_the_calling_thread(store: Store, tmp_path: Path) -> None:
    """Each thread joins its own nested run; one that names another store has a run of its own there."""
    (tmp_path / "other.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    found = result(script(tmp_path, THREADS))
    for name in ("a", "b"):
        parent, child, run_dir = found[name]
        assert load_state(Path(run_dir), "mlflow").native.id == child
        assert store.points(child) == {("loss", 1): 1}
        assert not store.points(parent)
    mine, _, run_dir = found["mine"]
    assert not store.points(mine)
    assert load_state(Path(run_dir), "mlflow").native.data == {"tracking_uri": f"sqlite:///{tmp_path}/other.db"}


KILLED = """
theirs = mlflow.start_run()
run = ours("killed")
run.wait_started()
print(json.dumps([theirs.info.run_id, str(run.dir)]), flush=True)
for step in range(200): run.log({"loss": step / 7, "same": 0.5}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_joined_run_whose_process_was_killed_is_delivered_by_a_sync(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The courier died with the training; a sync brings the rest, each point once, and leaves the run's end to the user."""
    done = script(tmp_path, KILLED)
    native, run_dir = json.loads(done.stdout)
    assert done.returncode < 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (row,) = sync(Path(run_dir), PATIENCE)
    assert row.done, row
    assert store.runs() == [(native, "RUNNING", "active")]
    assert store.points(native) == {(key, step): 1 for key in ("loss", "same") for step in range(200)}
    assert store.named("tags", native)["runcast.status"] == "crashed"
