"""What is true of ClearML alone, proven with its own SDK and its own offline task folders."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.delivery import state_path
from runcast.media import png
from runcast.reporters._clearml_record import name_of, title_and_series
from runcast.reporters.clearml import ClearMLReporter
from runcast.sync import replay, sync
from runcast.testing.couriers import (
    PATIENCE,
    courier_of,
    deliver_again,
    kill_courier,
    native_of,
    python,
    read,
    wait_delivered,
)
from runcast.verify import compare, verify

from .backend import events, folders, points, task

LONG = "long/" + "漢" * 200
ODD = (
    "x",
    "x/x",
    "x/value",
    "x/%value",
    "x/",
    "x/%",
    "x/%%",
    "x/%NaN value",
    "x/%NaN x",
    "Summary/x",
    "%",
    "%/%",
    "value",
)
SPECIAL = (math.nan, math.inf, -math.inf, 1.5)
CONFIG = {"lr": 0.1, "epochs": "3", "nested": {"gone": {"soon": 1}, "kept": None}, "a/b": "é" * 5000, "": "no name"}


def picture(number: int) -> np.ndarray:
    return np.full((4, 5, 3), number, dtype=np.uint8)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with what is special to ClearML, delivered by a courier whose every connection is noted."""
    folder = tmp_path_factory.mktemp("clearml")
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def note(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo') and not isinstance(args[-1], (str, bytes)):\n"
        f"        open({str(folder / 'connections')!r}, 'a').write(f'{{event}} {{args}}\\n')\n"
        "    forks = 'os.fork', 'os.forkpty', 'os.posix_spawn', 'subprocess.Popen'\n"
        "    if event in forks and 'clearml' in sys.modules:\n"  # the supervisor itself forks before
        f"        open({str(folder / 'forks')!r}, 'a').write(f'{{event}} {{args}}\\n')\n"
        "sys.addaudithook(note)\n"
        f"open({str(folder / 'watched')!r}, 'w').close()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        # As inside a user's own ClearML task, and under torchrun.
        patch.setenv("CLEARML_PROC_MASTER_ID", "1:0123456789abcdef")
        patch.setenv("LOCAL_RANK", "0")
        run = runcast.start_run(
            "clearml", dir=folder / "runs", project="p/sub", name="n", group="g", tags=["one"], config=CONFIG
        )
        for step, value in enumerate(SPECIAL):
            run.log({name: value for name in ODD}, step=step)
        run.log({"train/loss": 0.5}, step=7)
        run.log({"same": 1.0}, step=0)
        run.log({"same": 1.0}, step=0)
        run.log({"same": 2.0}, step=0)
        run.update_config({"nested": {"gone": {}}, "lr": 0.2})
        for step in range(8):
            run.log_image("pictures/all", picture(step), step=step)
            run.log_text("pictures/all", f"about {step}", step=step)
        run.log_text(LONG, "", step=1)
        run.log_image(LONG, picture(9), step=3)
        run.log_table("a/table", ["a", "a"], [], step=3)
        run.log_table("a/table", ["1", ""], [["1", 1], ["null", None], [math.inf, "a,\r\nb"]], step=4)
        run.log_histogram("a/histogram", [1.0, 1.0, 2.0], step=4)
        run.set_summary({"x": 1, "best": "step-7", "status": None, "nan": math.nan, "flag": True})
        (folder / "file").write_bytes(b"once")
        run.log_artifact(folder / "file", name=LONG, kind="model")
        run.log_artifact(folder / "file", name="again")
        (folder / "file").write_bytes(b"twice")
        run.log_artifact(folder / "file", name="again", kind="dataset")
        run.finish("failed")
    assert run.dir is not None
    return run.dir


def test_reads_back_as_the_journal_has_it(run_dir: Path) -> None:
    """Odd names, special values, changed configs and repeated artifacts all come back as they were."""
    (result,) = verify(run_dir)
    assert result.error is None
    assert result.differences == []
    found = read(run_dir, "clearml")
    assert (found.name, found.project, found.group, found.status) == ("n", "p/sub", "g", "failed")
    assert found.run_id == run_dir.name
    assert found.config["nested"] == {"gone": {}, "kept": None}
    assert [point.value for point in found.metrics["same"]] == [1.0, 1.0, 2.0]
    assert found.started == runcast.read_run(run_dir).started


def test_courier_makes_no_connection_and_no_process(run_dir: Path) -> None:
    """Offline means that nothing is looked up; and the SDK forks no writer of its own."""
    folder = run_dir.parents[1]
    assert (folder / "watched").exists()
    assert not (folder / "connections").exists(), (folder / "connections").read_text()
    assert not (folder / "forks").exists(), (folder / "forks").read_text()


def test_folder_is_what_clearml_imports(run_dir: Path) -> None:
    """ClearML's own types accept the task and every event, as its import makes them."""
    (folder,) = folders(run_dir)
    python(
        """
import json, sys
from pathlib import Path
from clearml.backend_api.services import events, tasks

folder = Path(sys.argv[1])
stored = json.loads((folder / "task.json").read_text())
assert tasks.Task(**stored).id == stored["id"] == sys.argv[2]
for line in (folder / "metrics.jsonl").read_text().splitlines():
    assert events.AddBatchRequest(requests=json.loads(line)).requests
""",
        str(folder),
        native_of(run_dir, "clearml").id,
    )
    with zipfile.ZipFile(folder.with_suffix(".zip")) as archive:
        assert json.loads(archive.read("task.json"))["hyperparams"]["properties"]["status"]["value"] == "failed"
        names = set(archive.namelist())
    assert {f"data/{event['key']}" for event in events(folder) if event.get("key")} <= names


def test_values_are_where_people_look(run_dir: Path) -> None:
    """Scalars by title and series, settings as hyper-parameters, tags, user properties and single values."""
    (folder,) = folders(run_dir)
    stored, reported = task(folder), events(folder)
    assert (stored["name"], stored["project_name"], stored["tags"]) == ("n", "p/sub", ["one"])
    parameters = {key: item["value"] for key, item in stored["hyperparams"]["config"].items()}
    assert parameters["lr"] == "0.2"
    assert parameters["epochs"] == '"3"'
    assert parameters["nested/gone"] == "{}"
    assert parameters["nested/gone/soon"] == "(removed)"
    assert {key: item["value"] for key, item in stored["hyperparams"]["properties"].items()}["group"] == "g"
    (loss,) = [e for e in reported if (e["metric"], e["variant"]) == ("train", "loss")]
    assert (loss["iter"], loss["value"]) == (7, 0.5)
    single = {e["variant"]: e["value"] for e in reported if e.get("iter") == -(2**31)}
    assert single == {"x": 1.0, "flag": 1.0}
    table = [json.loads(e["plot_str"]) for e in reported if (e["type"], e["variant"]) == ("plot", "table")][1]
    assert table["data"][0]["header"]["values"] == ["1", ""]
    assert table["data"][0]["cells"]["values"][0] == ['"1"', '"null"', '{"$float": "Infinity"}']


def test_non_finite_values_are_no_zeros(run_dir: Path) -> None:
    """ClearML would draw NaN and infinities as 0: they are in a series of their own, which says what they are."""
    (folder,) = folders(run_dir)
    series = {}
    for event in events(folder):
        if event["metric"] == "x":
            series.setdefault(event["variant"], []).append((event["iter"], event["value"]))
    assert series["value"] == [(3, 1.5)]
    assert series["%NaN value"] == [(0, 0.0)]
    assert series["%Infinity value"] == [(1, 0.0)]
    assert series["%-Infinity value"] == [(2, 0.0)]


def test_images_are_kept_as_they_are(run_dir: Path) -> None:
    """Every image of a series is kept, as the PNG that was logged: the SDK alone keeps five, as JPEG."""
    (folder,) = folders(run_dir)
    found = [e for e in events(folder) if e["type"] == "training_debug_image" and e["key"].endswith(".png")]
    stored = [
        hashlib.sha256((folder / "data" / e["key"]).read_bytes()).digest() for e in found if e["variant"] == "all"
    ]
    assert stored == [hashlib.sha256(png(picture(number))).digest() for number in range(8)]


def test_names_never_meet() -> None:
    """Title and series are the name in two parts, and lead back to it."""
    names = [*ODD, "a", "a/b", "a/b/c", "a//b", "a/value", "a/%value", "a/%", "a/", "%NaN value", "a/%Infinity b"]
    parts = {title_and_series(name) for name in names}
    assert len(parts) == len(set(names))
    assert {name_of(*part) for part in parts} == set(names)
    assert title_and_series("train/loss") == ("train", "loss")


def test_nothing_comes_twice(tmp_path: Path) -> None:
    """What ClearML has is left out when delivery starts over; with its state lost too, the task is made anew."""
    with runcast.start_run("clearml", dir=tmp_path, config={"a": 1}, tags=["t"]) as run:
        for step in range(5):
            run.log({"loss": math.nan if step == 3 else step / 3}, step=step)
            run.log({"same": 1.0}, step=0)
        run.log_text("note", "hello", step=2)
        run.log_histogram("weights", [1.0, 2.0, 2.5], step=2)
        run.set_summary({"best": 1, "word": "x"})
    (first,) = folders(run.dir)
    before = (first / "metrics.jsonl").read_bytes()
    deliver_again(run.dir, "clearml")
    first, second = folders(run.dir)
    assert (first / "metrics.jsonl").read_bytes() == before
    assert events(second) == []
    assert compare("clearml", runcast.read_run(run.dir), read(run.dir, "clearml")).differences == []

    state_path(run.dir, "clearml").unlink()
    (row,) = replay(run.dir, "clearml", timeout=PATIENCE)
    assert row.done
    (third,) = folders(run.dir)
    assert sorted(third.parent.iterdir()) == [third, third.with_suffix(".zip")]
    assert len(points(third)) == 11
    assert compare("clearml", runcast.read_run(run.dir), read(run.dir, "clearml")).differences == []


def test_killed_courier_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL of the courier, even amid a write, leaves what it delivered readable and importable."""
    run = runcast.start_run("clearml", dir=tmp_path, config={"a": 1}, tags=["t"])
    for step in range(50):
        run.log({"loss": step / 7}, step=step)
    run.log_text("note", "hello", step=2)
    wait_delivered(run.dir, "clearml")
    kill_courier(run.dir, "clearml")
    (folder,) = folders(run.dir)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('[{"type": "training_stats_sc')
    whole = (folder / "task.json").read_text()
    (folder / "task.json").write_text(whole[: len(whole) // 2])
    left = read(run.dir, "clearml")
    assert left.status == "running"
    assert [point.value for point in left.metrics["loss"]] == [step / 7 for step in range(50)]
    assert left.texts["note"][0].text == "hello"
    assert (left.tags, left.config) == (("t",), {"a": 1})

    for step in range(50, 60):
        run.log({"loss": step / 7}, step=step)
    run.update_config({"b": 3})
    run.finish()
    assert compare("clearml", runcast.read_run(run.dir), read(run.dir, "clearml")).differences == []
    first, second = folders(run.dir)
    assert first == folder
    assert len(events(first)) == 51  # and no torn line, at which ClearML's import would send the one before again
    assert task(first)["id"] == native_of(run.dir, "clearml").id
    assert task(second)["hyperparams"]["properties"]["status"]["value"] == "completed"


def test_terminated_courier_ends_in_order(tmp_path: Path) -> None:
    """SIGTERM still reaches the courier, not ClearML's handler; the run is gone on with later."""
    run = runcast.start_run("clearml", dir=tmp_path)
    run.log({"loss": 1.0}, step=0)
    wait_delivered(run.dir, "clearml")
    process = courier_of(run.dir, "clearml")
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    left = read(run.dir, "clearml")
    assert (left.status, len(left.metrics["loss"])) == ("running", 1)
    run.log({"loss": 2.0}, step=1)
    run.finish()
    sync(run.dir, timeout=PATIENCE)
    assert compare("clearml", runcast.read_run(run.dir), read(run.dir, "clearml")).differences == []
    assert sorted(points(*folders(run.dir))) == [("loss", "value", 0, 1.0), ("loss", "value", 1, 2.0)]


def test_refused_event_is_set_aside_and_told(tmp_path: Path) -> None:
    """What ClearML only warns of, an artifact that is gone, is no silent loss, and loses nothing else."""
    (tmp_path / "file").write_text("x")
    with runcast.start_run("clearml", dir=tmp_path / "runs") as run:
        run.log_artifact(tmp_path / "file")
        run.log({"loss": 1.0}, step=1)
    copy = tmp_path / "copy"
    shutil.copytree(run.dir, copy, ignore=shutil.ignore_patterns("trackers", "clearml", "files"))
    (row,) = replay(copy, "clearml", timeout=PATIENCE)
    assert (row.state, row.refused) == ("complete", 1)
    assert "artifact" in row.detail
    assert read(copy, "clearml").metrics["loss"][0].value == 1.0
    assert read(copy, "clearml").artifacts == {}


def test_environment_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLEARML_PROJECT, CLEARML_TASK and CLEARML_CACHE_DIR do what they do elsewhere; an option counts more."""
    monkeypatch.setenv("CLEARML_PROJECT", "from-environment")
    monkeypatch.setenv("CLEARML_TASK", "from-environment")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))
    with runcast.start_run({"clearml": {"task_name": "option"}}, dir=tmp_path / "runs", project="p") as run:
        run.log({"loss": 1.0}, step=0)
    (folder,) = folders(run.dir)
    assert folder.parent == tmp_path / "cache" / "offline"
    assert (task(folder)["project_name"], task(folder)["name"]) == ("from-environment", "option")
    assert (read(run.dir, "clearml").project, read(run.dir, "clearml").name) == ("p", run.name)


@pytest.mark.parametrize(
    ("variables", "file", "mode", "reason"),
    [
        ({}, None, "offline", "no server.*clearml-init"),
        ({"CLEARML_API_HOST": "h", "CLEARML_API_ACCESS_KEY": "k"}, None, "online", ""),
        ({"CLEARML_API_HOST": "h"}, None, "offline", "no server"),
        ({"CLEARML_CONFIG_FILE": "own"}, ("own", 'api { credentials { "access_key" = "k" } }'), "online", ""),
        ({"CLEARML_CONFIG_FILE": "own"}, ("own", "sdk {}"), "offline", "no server"),
        (
            {"CLEARML_CONFIG_FILE": "own", "CLEARML_OFFLINE_MODE": "1"},
            ("own", 'api { credentials { "access_key" = "k" } }'),
            "offline",
            "CLEARML_OFFLINE_MODE",
        ),
    ],
)
def test_availability(
    variables: dict[str, str],
    file: tuple[str, str] | None,
    mode: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ClearML goes online where it is configured as ClearML itself reads it, else offline, and says so in one line."""
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if file:
        (tmp_path / file[0]).write_text(file[1])
    found = ClearMLReporter.availability()
    assert (found.status, found.mode) == ("ready", mode)
    assert re.search(reason, found.reason) and "\n" not in found.reason


def test_errors_of_the_server_are_judged() -> None:
    """The SDK's own error says by its code whether to try again."""
    python(
        """
from clearml.backend_api.session.callresult import CallResult
from clearml.backend_api.session.response import ResponseMeta
from clearml.backend_interface.session import SendError
from runcast.reporters.clearml import ClearMLReporter

for code, again in {400: False, 401: False, 408: True, 429: True, 500: True, 503: True}.items():
    meta = ResponseMeta.from_raw_data(status_code=code, text="words", endpoint="events.add_batch")
    assert ClearMLReporter().is_transient(SendError(CallResult(meta), "words")) is again, code
"""
    )


def test_server_that_is_down_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured server that doesn't answer is an error that passes, where the SDK would hang; nothing goes offline."""
    for name in ("API", "WEB", "FILES"):
        monkeypatch.setenv(f"CLEARML_{name}_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "key")
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "secret")
    python(
        """
import sys, time
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.clearml import ClearMLReporter

reporter = ClearMLReporter()
assert reporter.availability().mode == "online"
try:
    reporter.open(RunInfo("id", "n", "p", None, Path(sys.argv[1]), time.time()), None)
except Exception as error:
    assert reporter.is_transient(error) is True, repr(error)
else:
    raise AssertionError("it opened without a server")
""",
        str(tmp_path),
    )


def test_process_is_left_as_it_was(tmp_path: Path) -> None:
    """Opening and closing changes no hook, stream, handler, variable or temporary folder, and starts no process."""
    python(
        """
import argparse, os, signal, sys, tempfile, time
from pathlib import Path
import psutil
from runcast.reporter import LocalArtifact, RunInfo
from runcast.events import StoredFile
from runcast.reporters.clearml import ClearMLReporter

def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    streams = sys.stdin, sys.stdout, sys.stderr, sys.stdout.write, sys.stderr.write
    hooks = sys.exit, sys.excepthook, __import__, argparse.ArgumentParser.parse_args, os.fork
    return handlers, streams, hooks, dict(os.environ), tempfile.tempdir, os.getcwd()

folder = Path(sys.argv[1])
(folder / "file").write_text("x")
signal.signal(signal.SIGTERM, lambda *_: None)
temporary = set(os.listdir(tempfile.gettempdir()))
before = state()
reporter = ClearMLReporter()
reporter.open(RunInfo("id", "n", "p", None, folder, time.time()), None)
assert state() == before
# From Python 3.14 on, multiprocessing's semaphores have a process that clears up after them, and ends with this one.
started = [child.cmdline() for child in psutil.Process().children()]
assert [line for line in started if "resource_tracker" not in " ".join(line)] == []
reporter.log_artifact(LocalArtifact("file", "file", folder / "file", (StoredFile("file", 1, ""),), {}), None, 1.0)
assert state() == before
reporter.close("completed")
assert state() == before
assert not [name for name in set(os.listdir(tempfile.gettempdir())) - temporary if "clearml" in name]
assert not list((folder / "clearml" / "tmp").glob("*.lock"))
""",
        str(tmp_path),
    )


def test_example_runs(tmp_path: Path) -> None:
    """The example delivers everything and says where to look."""
    done = python(Path(__file__).with_name("example.py").read_text(), str(tmp_path))
    assert "clearml: 104 of 104 events. Look at them with: " in done.stdout
    assert "import_offline_session" in done.stdout
    (run_dir,) = tmp_path.iterdir()
    assert len(read(run_dir, "clearml").metrics["train/loss"]) == 100
