"""What is true of Comet alone, proven with its own SDK and its own offline archives."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.delivery import state_path
from runcast.reporters.comet import CometReporter, experiment_key
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

from .backend import archives, assets, experiment, messages, points

LONG = "long/" + "k" * 200
CONFIG = {
    "lr": 0.1,
    "curr_step": 7,
    "epochs": "3",
    "nested": {"gone": {"soon": 1}, "kept": None},
    "text": "é" * 5000,
    LONG: {LONG: ["x" * 5000]},
    "": "no name",
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with what is special to Comet, delivered by a courier whose every connection is noted."""
    folder = tmp_path_factory.mktemp("comet")
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "def note(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo') and not isinstance(args[-1], (str, bytes)):\n"
        f"        open({str(folder / 'connections')!r}, 'a').write(f'{{event}} {{args}}\\n')\n"
        "sys.addaudithook(note)\n"
        f"open({str(folder / 'watched')!r}, 'w').close()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        run = runcast.start_run(
            "comet", dir=folder / "runs", project="p", name="n", group="g", tags=["one"], config=CONFIG
        )
        for step in range(20):
            run.log({"train/loss": 1 / (step + 1), "process duration": float(step)}, step=step)
        run.log({LONG: 1.0, LONG + "!": 2.0, "line\nbreak": 3.0, "tab\t": 4.0}, step=0)
        run.log({"same": 1.0}, step=0)
        run.log({"same": 1.0}, step=0)
        run.log({"same": 2.0}, step=0)
        run.update_config({"nested": {"gone": {}}, "lr": 0.2})
        run.log_text("~/empty", "", step=1)
        run.log_image("~/picture", np.arange(60, dtype=np.uint8).reshape(4, 5, 3), step=3)
        run.log_table("no rows", ["a", "a"], [], step=3)
        run.log_table("texts", ["1", ""], [["1", 1], ["null", None], ["true", True], ["", "a,\r\nb"]], step=3)
        run.set_summary({LONG: "y" * 5000, "status": "mine", "Name": 1})
        (folder / "empty").touch()
        run.log_artifact(folder / "empty", name="models/empty", kind="model")
        run.log_artifact(folder / "sitecustomize.py", name="again")
        run.log_artifact(folder / "empty", name="again", kind="dataset")
        run.finish("failed")
    assert run.dir is not None
    return run.dir


def test_reads_back_as_the_journal_has_it(run_dir: Path) -> None:
    """Long, odd and reserved names and values, changed configs and repeated artifacts all come back as they were."""
    (result,) = verify(run_dir)
    assert result.error is None
    assert result.differences == []
    found = read(run_dir, "comet")
    assert (found.name, found.project, found.group, found.status) == ("n", "p", "g", "failed")
    assert found.run_id == run_dir.name
    assert found.config["nested"] == {"gone": {}, "kept": None}
    assert [point.value for point in found.metrics["same"]] == [1.0, 1.0, 2.0]
    assert found.started == runcast.read_run(run_dir).started


def test_courier_makes_no_connection(run_dir: Path) -> None:
    """Offline means that nothing is looked up and nothing is connected to."""
    folder = run_dir.parents[1]
    assert (folder / "watched").exists()
    assert not (folder / "connections").exists(), (folder / "connections").read_text()


def test_archive_is_what_comet_uploads(run_dir: Path) -> None:
    """Comet's own check before an upload accepts the archive and every message in it."""
    (archive,) = archives(run_dir)
    python(
        """
import json, sys, zipfile
from comet_ml import schemas

checks = {
    "metric_msg": schemas.get_metric_msg_validator(),
    "parameter_msg": schemas.get_parameter_msg_validator(),
    "log_other": schemas.get_log_other_msg_validator(),
    "file_upload": schemas.get_upload_msg_validator(),
}
with zipfile.ZipFile(sys.argv[1]) as archive:
    schemas.get_experiment_file_validator().validate(json.loads(archive.read("experiment.json")))
    for line in archive.read("messages.json").splitlines():
        message = json.loads(line)
        checks[message["type"]].validate(message["payload"])
        assert message["payload"].get("file_path", "messages.json") in archive.namelist()
""",
        str(archive),
    )


def test_nothing_is_longer_than_comet_keeps(run_dir: Path) -> None:
    """No name or value is left to the SDK to cut."""
    (archive,) = archives(run_dir)
    for message in messages(archive):
        payload = message["payload"]
        names = {
            "metric_msg": lambda p: [p["metric"]["metricName"]],
            "parameter_msg": lambda p: [p["param"]["paramName"], str(p["param"]["paramValue"])[900:]],
            "log_other": lambda p: [p["key"], str(p["value"])[900:]],
            "file_upload": lambda p: [],
        }[message["type"]](payload)
        assert all(len(name) <= 100 for name in names), message


def test_names_and_values_are_where_people_look(run_dir: Path) -> None:
    """The experiment has its name, project and tags; settings are parameters; the ending is Comet's own too."""
    (archive,) = archives(run_dir)
    about = experiment(archive)
    assert (about["project_name"], about["tags"]) == ("p", ["one"])
    assert about["customer_error_reported"] and about["customer_error_message"] == "the run failed"
    payloads = [(message["type"], message["payload"]) for message in messages(archive)]
    others = {p["key"]: p["value"] for kind, p in payloads if kind == "log_other"}
    assert others["Name"] == "n"
    assert others["status"] == "failed"
    parameters = {p["param"]["paramName"]: p["param"]["paramValue"] for kind, p in payloads if kind == "parameter_msg"}
    assert parameters["lr"] == "0.2"
    assert parameters["epochs"] == '"3"'
    shown = {(p["upload_type"], p["additional_params"].get("figName")) for kind, p in payloads if kind == "file_upload"}
    assert "visualization" in {kind for kind, _ in shown}
    assert "model-element" in {kind for kind, _ in shown}


def test_nothing_comes_twice(tmp_path: Path) -> None:
    """What Comet has is left out when delivery starts over; with its state lost too, the archives are made anew."""
    with runcast.start_run("comet", dir=tmp_path, config={"a": 1, LONG: "z" * 2000}, tags=["t"]) as run:
        for step in range(5):
            run.log({"loss": float("nan") if step == 3 else step / 3}, step=step)
            run.log({"same": 1.0}, step=0)
        run.log_text("note", "hello", step=2)
        run.log_histogram("weights", [1.0, 2.0, 2.5], step=2)
        run.log_artifact(Path(__file__), name="models/this", kind="model")
    before = archives(run.dir)[0].read_bytes()
    deliver_again(run.dir, "comet")
    first, second = archives(run.dir)
    assert first.read_bytes() == before
    assert (points(second), assets(second)) == ([], [])
    assert compare("comet", runcast.read_run(run.dir), read(run.dir, "comet")).differences == []

    state_path(run.dir, "comet").unlink()
    (row,) = replay(run.dir, "comet", timeout=PATIENCE)
    assert row.done
    (third,) = archives(run.dir)
    assert list(third.parent.glob("*.zip")) == [third]
    assert len(points(third)) == 10
    assert compare("comet", runcast.read_run(run.dir), read(run.dir, "comet")).differences == []


def test_killed_courier_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL of the courier, even amid a write, leaves what it delivered readable, and the next one makes it an archive."""
    run = runcast.start_run("comet", dir=tmp_path, config={"a": 1}, tags=["t"])
    for step in range(50):
        run.log({"loss": step / 7}, step=step)
    run.log_text("note", "hello", step=2)
    wait_delivered(run.dir, "comet")
    kill_courier(run.dir, "comet")
    live = Path(native_of(run.dir, "comet").data["sessions"][0]["live"])
    (live / "experiment.json").write_text('{"offline_id": ')
    with (live / "messages.json").open("a") as file:
        file.write('{"payload": {"metric')
    left = read(run.dir, "comet")
    assert left.status == "running"
    assert [point.value for point in left.metrics["loss"]] == [step / 7 for step in range(50)]
    assert left.texts["note"][0].text == "hello"
    assert left.tags == ("t",)

    for step in range(50, 60):
        run.log({"loss": step / 7}, step=step)
    run.update_config({"a": 2, "b": 3})
    run.finish()
    assert compare("comet", runcast.read_run(run.dir), read(run.dir, "comet")).differences == []
    first, second = archives(run.dir)
    for archive in (first, second):
        assert experiment(archive)["offline_id"] == native_of(run.dir, "comet").id
    assert sum(message["type"] == "metric_msg" for message in messages(first)) == 50
    assert list((run.dir / "comet" / "live").iterdir()) == []


def test_terminated_courier_ends_in_order(tmp_path: Path) -> None:
    """SIGTERM still reaches the courier: what it delivered reads back, and the run is gone on with later."""
    run = runcast.start_run("comet", dir=tmp_path)
    run.log({"loss": 1.0}, step=0)
    wait_delivered(run.dir, "comet")
    process = courier_of(run.dir, "comet")
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    left = read(run.dir, "comet")
    assert (left.status, len(left.metrics["loss"])) == ("running", 1)
    run.log({"loss": 2.0}, step=1)
    run.finish()
    sync(run.dir, timeout=PATIENCE)
    assert compare("comet", runcast.read_run(run.dir), read(run.dir, "comet")).differences == []
    assert sorted(points(*archives(run.dir))) == [("loss", 0, 1.0), ("loss", 1, 2.0)]


def test_refused_event_is_set_aside_and_told(tmp_path: Path) -> None:
    """What Comet only logs as an error, a missing file, is no silent loss, no crash, and loses nothing else."""
    with runcast.start_run("comet", dir=tmp_path / "runs") as run:
        run.log_image("picture", np.zeros((2, 2)), step=0)
        run.log({"loss": 1.0}, step=1)
    copy = tmp_path / "copy"
    shutil.copytree(run.dir, copy, ignore=shutil.ignore_patterns("trackers", "comet", "images"))
    (row,) = replay(copy, "comet", timeout=PATIENCE)
    assert (row.state, row.refused) == ("complete", 1)
    assert "refused" in row.detail
    assert read(copy, "comet").metrics["loss"][0].value == 1.0
    (archive,) = archives(copy)
    assert not experiment(archive)["customer_error_reported"]


def test_environment_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COMET_PROJECT_NAME, COMET_WORKSPACE, COMET_OFFLINE_DIRECTORY and COMET_EXPERIMENT_KEY do what Comet says."""
    monkeypatch.setenv("COMET_PROJECT_NAME", "from-environment")
    monkeypatch.setenv("COMET_WORKSPACE", "team")
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "archives"))
    monkeypatch.setenv("COMET_EXPERIMENT_KEY", "k" * 40)
    monkeypatch.setenv("COMET_MODE", "create")
    with runcast.start_run("comet", dir=tmp_path / "runs", project="p") as run:
        run.log({"loss": 1.0}, step=0)
    (archive,) = archives(run.dir)
    assert archive.parent == tmp_path / "archives"
    about = experiment(archive)
    assert (about["project_name"], about["workspace"], about["offline_id"]) == ("from-environment", "team", "k" * 40)
    assert not about["customer_error_reported"]
    assert read(run.dir, "comet").project == "p"
    assert native_of(run.dir, "comet").url == f"comet upload {tmp_path}/archives/{'k' * 40}*.zip"


def test_options_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option of the reporter counts more than the environment variable."""
    monkeypatch.setenv("COMET_PROJECT_NAME", "from-environment")
    options = {"project_name": "option", "workspace": "team", "offline_directory": str(tmp_path / "here")}
    with runcast.start_run({"comet": options}, dir=tmp_path / "runs") as run:
        pass
    (archive,) = archives(run.dir)
    assert archive.parent == tmp_path / "here"
    assert (experiment(archive)["project_name"], experiment(archive)["workspace"]) == ("option", "team")


@pytest.mark.parametrize(
    ("variables", "file", "status", "mode", "reason"),
    [
        ({}, None, "ready", "offline", "no API key.*COMET_API_KEY"),
        ({"COMET_API_KEY": "k"}, None, "ready", "online", ""),
        ({"COMET_API_KEY": "k", "COMET_START_ONLINE": "0"}, None, "ready", "offline", "COMET_START_ONLINE"),
        ({"COMET_MODE": "DISABLED"}, None, "inactive", None, "COMET_MODE"),
        ({}, (".comet.config", "[comet]\napi_key = k\n"), "ready", "online", ""),
        ({}, (".comet.config", "[comet]\nworkspace = w\n"), "ready", "offline", "no API key"),
        ({}, (".env", "COMET_API_KEY=k\n"), "ready", "online", ""),
        ({"COMET_CONFIG": "elsewhere"}, ("elsewhere", "[comet]\napi_key=k\n"), "ready", "online", ""),
    ],
)
def test_availability(
    variables: dict[str, str],
    file: tuple[str, str] | None,
    status: str,
    mode: str | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Comet goes online where it is configured as Comet itself reads it, else offline, and says so in one line."""
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if file:
        (tmp_path / file[0]).write_text(file[1])
    found = CometReporter.availability()
    assert (found.status, found.mode) == (status, mode)
    assert re.search(reason, found.reason) and "\n" not in found.reason


def test_keys_are_what_comet_takes() -> None:
    """Every run id becomes a key of its own, of 32 to 50 letters and digits."""
    keys = [experiment_key(run_id) for run_id in ("a", "a-", "-a", "ü", "x" * 300, "20260101-120000-abcdef")]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch("[A-Za-z0-9]{32,50}", key) for key in keys)


def test_process_is_left_as_it_was(tmp_path: Path) -> None:
    """Opening and closing changes no hook, stream, handler, variable or temporary folder, and patches no library."""
    python(
        """
import os, signal, sys, tempfile, threading, time
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.comet import CometReporter

def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    streams = sys.stdin, sys.stdout, sys.stderr, sys.stdout.write, sys.stderr.write
    return handlers, streams, sys.exit, sys.excepthook, __import__, dict(os.environ), tempfile.tempdir, os.getcwd()

signal.signal(signal.SIGTERM, lambda *_: None)
import wsgiref.util  # any module that is imported before
before, threads = state(), threading.active_count()
reporter = CometReporter()
reporter.open(RunInfo("id", "n", "p", None, Path(sys.argv[1]), time.time()), None)
assert state() == before
assert "matplotlib" not in sys.modules or "matplotlib.axes" not in sys.modules
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("comet")]
reporter.close("completed")
assert state() == before
assert threading.active_count() == threads
""",
        str(tmp_path),
    )


def test_example_runs(tmp_path: Path) -> None:
    """The example delivers everything and says where to look."""
    done = python(Path(__file__).with_name("example.py").read_text(), str(tmp_path))
    assert "comet: 104 of 104 events. Look at them with: comet upload" in done.stdout
    (run_dir,) = tmp_path.iterdir()
    assert len(read(run_dir, "comet").metrics["train/loss"]) == 100
