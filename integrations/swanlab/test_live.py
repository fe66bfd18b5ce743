"""What is special to SwanLab: its own log, read with its own means; offline, and nothing elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.delivery import load_state
from runcast.record import RunRecord
from runcast.reporter import NativeRun, RunInfo
from runcast.reporters.swanlab import SwanLabReporter
from runcast.sync import deliver
from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import deliver_again, kill_courier, native_of, python, wait_delivered
from runcast.testing.couriers import read as read_back
from runcast.verify import verify

from .backend import folder_of, log_of, points, stored

ODD_KEYS = (
    "plain/note",
    "loss (2)",
    "a~7e~",
    " edges. ",
    "nul\0byte",
    "tail/",
    "__swanlab__.cpu",
    "(1, -1)",
    "\x01" * 200,
)
"""What SwanLab would cut, refuse, keep for itself, or what looks like our own escapes; the last one is too long then."""


def read(run_dir: Path) -> RunRecord:
    return read_back(run_dir, "swanlab")


def assert_matches(run_dir: Path) -> None:
    """The reader finds what the journal has."""
    (result,) = verify(run_dir, ["swanlab"])
    assert result.matches, result


def info(folder: Path, run_id: str = "id") -> RunInfo:
    return RunInfo(run_id, "n", "p", None, folder, 1_700_000_000.0)


# -- what SwanLab has --------------------------------------------------------------------------------------------------


def test_swanlab_reads_its_log(tmp_path: Path) -> None:
    """SwanLab's own reader finds the run, its numbers, media, files and end."""
    with runcast.start_run(
        "swanlab", dir=tmp_path / "runs", project="my project", name="my run", group="g", tags=["t"], config={"lr": 0.1}
    ) as run:
        for step in range(5):
            run.log({"train/loss": step / 7, "lr": 0.1}, step=step)
        run.log_text("note", "hello", step=2)
        run.log_image("picture", np.zeros((4, 5, 3), dtype=np.uint8), step=3)
        run.log_table("rows", ["a", "a"], [[1, float("nan")]], step=4)
        run.log_histogram("weights", [1.0, 2.0, 2.5], step=4)
        run.log_artifact(Path(__file__), name="code", kind="model")
    folder = folder_of(run.dir)
    (start,) = stored(folder, "start")
    assert (start.id, start.name, start.project, start.group) == (run.id, "my run", "my+20+project", "g")
    assert list(start.tags) == ["t"]
    assert points(folder) == [(key, s, value) for s in range(5) for key, value in (("train/loss", s / 7), ("lr", 0.1))]
    media = stored(folder, "media")
    assert [(medium.key, medium.step) for medium in media] == [("note", 2), ("picture", 3), ("rows", 4), ("weights", 4)]
    assert all((folder / "media").rglob(medium.value.items[0].filename) for medium in media)
    (saved,) = [save for save in stored(folder, "save") if save.name != "config"]
    assert Path(saved.source_path) == folder / "files" / saved.name
    assert Path(saved.source_path).read_bytes() == Path(__file__).read_bytes()
    (end,) = stored(folder, "finish")
    assert (
        end.state == type(end).DESCRIPTOR.fields_by_name["state"].enum_type.values_by_name["RUN_STATE_FINISHED"].number
    )


@pytest.mark.parametrize(
    ("status", "state"),
    [("failed", "CRASHED"), ("crashed", "CRASHED"), ("killed", "ABORTED"), ("completed", "FINISHED")],
)
def test_status_in_swanlabs_words(status: str, state: str, tmp_path: Path) -> None:
    """SwanLab knows finished, crashed and aborted; its error text has our word."""
    reporter = SwanLabReporter()
    native = reporter.open(info(tmp_path), None)
    reporter.close(status)
    reporter.close(status)  # once more changes nothing
    (end,) = stored(Path(native.data["dirs"][0]), "finish")
    states = type(end).DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
    assert (states[end.state].name, end.error) == (f"RUN_STATE_{state}", "" if status == "completed" else status)
    assert reporter.read(native).status == status


def test_no_value_is_dropped(tmp_path: Path) -> None:
    """What SwanLab would drop, a second value at a step and steps beyond its limits, reads back, in order."""
    steps = (3, 3, -1, 0, 3, 2**48 - 1, 2**48, 2**60 + 5, -(2**60), 3)
    with runcast.start_run("swanlab", dir=tmp_path) as run:
        for number, step in enumerate(steps):
            run.log({"loss": float(number)}, step=step)
            run.log_text("note", str(number), step=step)
    assert_matches(run.dir)
    assert [(point.step, point.value) for point in read(run.dir).metrics["loss"]] == list(
        zip(steps, range(10), strict=True)
    )
    keys = [key for key, _, _ in points(folder_of(run.dir))]
    assert keys[:5] == ["loss", "loss (2)", "loss (1, -1)", "loss", "loss (3)"]


def test_one_name_of_every_kind(tmp_path: Path) -> None:
    """A key has one kind in SwanLab: values of another kind are beside it, and read back under their name."""
    with runcast.start_run("swanlab", dir=tmp_path) as run:
        for step in range(2):
            run.log({"x": 1.0}, step=step)
            run.log_text("x", "text", step=step)
            run.log_image("x", np.zeros((2, 2)), step=step)
            run.log_table("x", ["a"], [[1]], step=step)
            run.log_histogram("x", [1.0, 2.0], step=step)
    assert_matches(run.dir)


def test_odd_keys_read_back(tmp_path: Path) -> None:
    """A name that SwanLab would change has another key there, and its own when it is read back."""
    reporter = SwanLabReporter()
    native = reporter.open(info(tmp_path), None)
    for number, key in enumerate(ODD_KEYS):
        reporter.log_metrics({key: number}, 0, 1.0)
        reporter.log_text(key, str(number), 0, 1.0)
    reporter.flush()
    record = reporter.read(native)
    assert {key: point.value for key, (point,) in record.metrics.items()} == dict(zip(ODD_KEYS, range(9), strict=True))
    assert {key: point.text for key, (point,) in record.texts.items()} == dict(zip(ODD_KEYS, "012345678", strict=True))
    from swanlab.sdk.internal.run.fmt import validate_key

    keys = [key for key, _, _ in points(Path(native.data["dirs"][0]))]
    assert [validate_key(key) for key in keys] == keys


def test_times_are_exact(tmp_path: Path) -> None:
    """A wall time is the same floating-point number when it is read back."""
    times = [0.0, 1.25, 1_700_000_000.123456, 1_700_000_000.9999999, 1_700_000_001.1]
    reporter = SwanLabReporter()
    native = reporter.open(info(tmp_path), None)
    for step, time in enumerate(times):
        reporter.log_metrics({"loss": 1.0}, step, time)
    reporter.flush()
    assert [point.time for point in reporter.read(native).metrics["loss"]] == times


# -- exactly once ------------------------------------------------------------------------------------------------------


def test_delivering_again_repeats_nothing(tmp_path: Path) -> None:
    """Everything once more is found to be there."""
    with runcast.start_run("swanlab", dir=tmp_path, config={"lr": 1}) as run:
        for step in range(10):
            run.log({"loss": step / 7}, step=step)
        run.log({"loss": 0.5}, step=3)
        run.log_text("note", "hello", step=2)
        run.log_artifact(Path(__file__), name="code")
    before = points(folder_of(run.dir))
    deliver_again(run.dir, "swanlab")
    assert points(folder_of(run.dir)) == before
    assert_matches(run.dir)


def test_killed_courier_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL leaves what was delivered readable, and the run goes on in the same log, where SwanLab reads all of it."""
    run = runcast.start_run("swanlab", dir=tmp_path, config={"a": 1}, tags=["t"], finish_timeout=PATIENCE)
    for step in range(50):
        run.log({"loss": step / 7}, step=step)
    run.log_text("note", "hello", step=2)
    run.set_summary({"best": 1})
    wait_delivered(run.dir, "swanlab")
    kill_courier(run.dir, "swanlab")
    left = read(run.dir)
    assert (left.status, left.summary, left.tags) == ("running", {"best": 1}, ("t",))
    assert [point.value for point in left.metrics["loss"]] == [step / 7 for step in range(50)]

    for step in range(50, 60):
        run.log({"loss": step / 7}, step=step)
    run.update_config({"a": 2})
    run.finish()
    assert_matches(run.dir)
    folder = folder_of(run.dir)
    assert points(folder) == [("loss", step, step / 7) for step in range(60)]
    assert len(stored(folder, "start")) == len(stored(folder, "finish")) == 1
    assert list(folder.parent.iterdir()) == [folder]


def test_torn_end_of_a_log_is_taken_off(tmp_path: Path) -> None:
    """After a kill amid a write, the log has what was flushed and what else is whole, and goes on behind that."""
    code = """
import os, signal, sys, time
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.swanlab import SwanLabReporter
run, reporter = RunInfo("id", "n", "p", None, Path(sys.argv[1]), 1_700_000_000.0), SwanLabReporter()
native = reporter.open(run, None)
for step in range(2000):
    reporter.log_metrics({"loss": step / 7}, step, 1.0)
    if step == 999: reporter.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    (folder,) = (tmp_path / "swanlab").iterdir()
    with log_of(folder).open("ab") as file:
        file.write(b"\0\1torn")
    there = points(folder)
    assert len(there) >= 1000
    assert there == [("loss", step, step / 7) for step in range(len(there))]
    native = NativeRun("id", None, {"dirs": [str(folder)], "home": None, "mode": "offline"})
    reporter = SwanLabReporter()
    assert len(reporter.read(native).metrics["loss"]) == len(there)
    reporter.open(info(tmp_path), native)
    for step in range(len(there), 2000):
        reporter.log_metrics({"loss": step / 7}, step, 1.0)
    reporter.close("completed")
    assert points(folder) == [("loss", step, step / 7) for step in range(2000)]
    assert len(stored(folder, "finish")) == 1


def test_end_while_the_log_is_written_anew_loses_nothing(tmp_path: Path) -> None:
    """A courier that ends while it goes on with a run leaves the log that it was to replace, and the next one takes that."""
    with runcast.start_run("swanlab", dir=tmp_path) as run:
        for step in range(20):
            run.log({"loss": step / 7}, step=step)
    folder = folder_of(run.dir)
    log = log_of(folder)
    whole = log.read_bytes()
    log.rename(f"{log}.before")
    log.write_bytes(whole[:200])
    assert_matches(run.dir)
    with runcast.start_run("swanlab", resume=run.dir, finish_timeout=PATIENCE) as again:
        again.log({"loss": 1.0}, step=20)
    assert_matches(run.dir)
    assert list(folder.glob("*.swanlab*")) == [log]


def test_full_disk_is_noticed(tmp_path: Path) -> None:
    """What SwanLab can't write, of which it says nothing, doesn't count as delivered, and is there in the end."""
    code = """
import resource, signal, sys, time
from pathlib import Path
from runcast.errors import SessionLostError
from runcast.reporter import RunInfo
from runcast.reporters.swanlab import SwanLabReporter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run, reporter = RunInfo("id", "id", "p", None, Path(sys.argv[1]), time.time()), SwanLabReporter()
native = reporter.open(run, None)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
for step in range(2000): reporter.log_metrics({"loss": step / 7}, step, 1.0)
try: reporter.flush()
except OSError as error: print(type(error).__name__)
else: raise SystemExit("the disk was to be full")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
native = reporter.open(run, native)
there = {point.step for point in reporter.read(native).metrics["loss"]}
assert there  # all of it where Python keeps what it couldn't write (3.14) until there is room
for step in range(2000):
    if step not in there: reporter.log_metrics({"loss": step / 7}, step, 1.0)
reporter.flush()
reporter.close("completed")
"""
    python(code, str(tmp_path))
    (folder,) = (tmp_path / "swanlab").iterdir()
    assert sorted(points(folder)) == [("loss", step, step / 7) for step in range(2000)]


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_resumed_run_stays_one_log(tmp_path: Path) -> None:
    """Going on takes the end off the log and adds to it, so that `swanlab sync` of one folder uploads all."""
    with runcast.start_run("swanlab", dir=tmp_path, config={"part": 1}) as run:
        run.log({"loss": 1.0, "late": 1.0}, step=10)
        run.log_artifact(Path(__file__), name="code")
    with runcast.start_run("swanlab", resume=run.dir, finish_timeout=PATIENCE) as again:
        again.log({"late": 0.5}, step=5)
        again.update_config({"part": 2})
    assert_matches(run.dir)
    folder = folder_of(run.dir)
    assert points(folder) == [("loss", 10, 1.0), ("late", 10, 1.0), ("late", 5, 0.5)]
    assert len(stored(folder, "finish")) == 1
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(("run_id", "theirs"), [("a:b~c", "a~3a~b~7e~c"), ("plain-1.2", "plain-1.2")])
def test_id_stays_when_the_run_goes_on(run_id: str, theirs: str, tmp_path: Path) -> None:
    """An id with characters that SwanLab refuses is escaped, and the same after each start."""
    native = None
    for _ in range(3):
        reporter = SwanLabReporter()
        native = reporter.open(info(tmp_path, run_id), native)
        reporter.close("completed")
        (start,) = stored(Path(native.data["dirs"][0]), "start")
        assert start.id == native.id == theirs
        assert reporter.read(native).run_id == run_id


def test_resume_from_a_checkpoint_shows_each_step_once(tmp_path: Path) -> None:
    """Points behind the checkpoint are gone from the log, and those that were logged instead are there."""
    with runcast.start_run("swanlab", dir=tmp_path, config={"lr": 1}) as run:
        for step in range(10):
            run.log({"loss": step / 7}, step=step)
    with runcast.start_run("swanlab", resume=run.dir, resume_step=4, finish_timeout=PATIENCE) as again:
        for step in range(5, 8):
            again.log({"loss": -1.0}, step=step)
    assert_matches(run.dir)
    folder = folder_of(run.dir)
    assert points(folder) == [("loss", s, s / 7) for s in range(5)] + [("loss", s, -1.0) for s in range(5, 8)]
    assert list(folder.parent.iterdir()) == [folder]


# -- settings and places -----------------------------------------------------------------------------------------------


def test_environment_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SwanLab's variables, and its files in the working directory, do what SwanLab says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWANLAB_PROJ_NAME", "from-environment")
    monkeypatch.setenv("SWANLAB_EXP_NAME", "named")
    monkeypatch.setenv("SWANLAB_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("SWANLAB_RUN_ID", "chosen")
    monkeypatch.setenv("SWANLAB_TAGS", "x,y")
    (tmp_path / ".env").write_text("SWANLAB_PROJECT_WORKSPACE=team\n")
    with runcast.start_run("swanlab", dir=tmp_path / "runs", project="p", tags=["t"]) as run:
        run.log({"loss": 1.0}, step=0)
    folder = folder_of(run.dir)
    assert folder.parent == tmp_path / "logs"
    (start,) = stored(folder, "start")
    assert (start.project, start.workspace, start.name, start.id) == ("from-environment", "team", "named", "chosen")
    assert list(start.tags) == ["x", "y", "t"]
    record = read(run.dir)
    assert (record.project, record.tags) == ("p", ("t",))
    assert native_of(run.dir, "swanlab").url == f"swanlab sync --id chosen {folder}"


def test_options_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option of the reporter counts more than the environment variable."""
    monkeypatch.setenv("SWANLAB_PROJ_NAME", "from-environment")
    monkeypatch.setenv("SWANLAB_MODE", "online")
    monkeypatch.setenv("SWANLAB_LOG_DIR", str(tmp_path / "there"))
    options = {"project": "option", "workspace": "team", "mode": "offline", "log_dir": str(tmp_path / "here")}
    with runcast.start_run({"swanlab": options}, dir=tmp_path / "runs") as run:
        pass
    folder = folder_of(run.dir)
    assert folder.parent == tmp_path / "here"
    (start,) = stored(folder, "start")
    assert (start.project, start.workspace) == ("option", "team")


def test_a_run_folder_does_not_say_where_we_write(tmp_path: Path) -> None:
    """A run that claims to have begun elsewhere goes on there only if the user says so, and never through a link."""
    native = NativeRun("id", None, {"dirs": [], "home": str(tmp_path / "elsewhere"), "mode": "offline"})
    with pytest.raises(ValueError, match="log_dir="):
        SwanLabReporter().open(info(tmp_path / "run"), native)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "swanlab").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link"):
        SwanLabReporter().open(info(tmp_path / "run"), None)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_another_run_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """What isn't this run is neither removed nor added to."""
    reporter = SwanLabReporter(log_dir=str(tmp_path))
    native = reporter.open(info(tmp_path, "a b"), None)
    reporter.close("completed")
    with pytest.raises(ValueError, match="is not this run"):
        SwanLabReporter(log_dir=str(tmp_path)).open(info(tmp_path, "a:b"), None)
    assert reporter.read(native).run_id == "a b"


def test_files_are_private(tmp_path: Path) -> None:
    """Nobody else may read them, whatever the umask."""
    before = os.umask(0)
    try:
        with runcast.start_run("swanlab", dir=tmp_path) as run:
            run.log_text("note", "hello", step=0)
            run.log_artifact(Path(__file__), name="code")
    finally:
        os.umask(before)
    top = run.dir / "swanlab"
    modes = {path.relative_to(top): stat.S_IMODE(path.stat().st_mode) for path in (top, *top.rglob("*"))}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.parametrize(
    ("variables", "file", "status", "mode", "reason"),
    [
        ({}, None, "ready", "offline", "SWANLAB_API_KEY"),
        ({"SWANLAB_API_KEY": "k"}, None, "ready", "online", ""),
        ({"SWANLAB_API_KEY": "k", "SWANLAB_MODE": "offline"}, None, "ready", "offline", "SWANLAB_MODE"),
        ({"SWANLAB_API_KEY": "k", "SWANLAB_MODE": "local"}, None, "ready", "offline", "SWANLAB_MODE"),
        ({"SWANLAB_MODE": "disabled"}, None, "inactive", None, "SWANLAB_MODE"),
        ({}, (".swanlab/config.yaml", "mode: disabled\n"), "inactive", None, "swanlab disabled"),
        ({}, ("swanlab.yaml", "api_key: k\n"), "ready", "online", ""),
        ({}, (".env", "SWANLAB_API_KEY='k'\n"), "ready", "online", ""),
        (
            {},
            (".swanlab/.netrc", "machine https://api.swanlab.cn login https://swanlab.cn password k\n"),
            "ready",
            "online",
            "",
        ),
        (
            {"SWANLAB_API_HOST": "https://other.example"},
            (".swanlab/.netrc", "machine https://api.swanlab.cn login https://swanlab.cn password k\n"),
            "ready",
            "offline",
            "SWANLAB_API_KEY",
        ),
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
    """SwanLab goes online where it is configured as SwanLab itself reads it, else offline, and says so in one line."""
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if file:
        (tmp_path / file[0]).parent.mkdir(exist_ok=True)
        (tmp_path / file[0]).write_text(file[1])
    found = SwanLabReporter.availability()
    assert (found.status, found.mode) == (status, mode)
    assert re.search(reason, found.reason) and "\n" not in found.reason
    if status == "ready":
        import swanlab

        assert (swanlab.Settings().api_key is not None) == (mode == "online" or "SWANLAB_MODE" in variables)


def test_online_without_a_key_is_refused_and_never_asked_for(tmp_path: Path) -> None:
    """With a terminal, SwanLab would ask."""
    with pytest.raises(ValueError, match="SWANLAB_API_KEY"):
        SwanLabReporter(mode="online").open(info(tmp_path), None)
    assert list(tmp_path.iterdir()) == []


def test_offline_touches_no_network_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    """No connection is tried; no hook, stream, handler, variable or thread is left, and runs in a process don't meet."""
    code = """
import os, signal, sys, threading, time
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.swanlab import SwanLabReporter

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {arguments}")

def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    streams = sys.stdin, sys.stdout, sys.stderr, sys.stdout.write, sys.stderr.write
    # The library that SwanLab watches files with has one idle thread a process.
    threads = [thread for thread in threading.enumerate() if not type(thread).__module__.startswith("watchdog.")]
    return handlers, streams, sys.excepthook, sys.meta_path[:], __import__, dict(os.environ), os.getcwd(), threads

sys.addaudithook(no_network)
before = state()
natives = {}
reporters = {name: SwanLabReporter() for name in ("a", "b")}
for name, reporter in reporters.items():
    natives[name] = reporter.open(RunInfo(name, name, "p", None, Path(sys.argv[1], name), time.time()), None)
assert state() == before
for step in range(10):
    for number, reporter in enumerate(reporters.values()):
        reporter.log_metrics({"loss": number + step / 7}, step, 1.0)
for number, (name, reporter) in enumerate(reporters.items()):
    reporter.close("completed")
    assert [point.value for point in reporter.read(natives[name]).metrics["loss"]] == [number + s / 7 for s in range(10)]
assert state() == before
"""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = python(code, str(tmp_path))
    assert done.stdout == ""


def test_the_users_own_run_goes_on_beside_ours(tmp_path: Path) -> None:
    """A run that the user has open in the training process is neither joined nor disturbed."""
    code = """
import sys, runcast, swanlab
theirs = swanlab.init(mode="offline", log_dir=f"{sys.argv[1]}/theirs", id="theirs",
                      settings=swanlab.Settings(interactive=False, probe={"monitor": False, "git": False}))
with runcast.start_run("swanlab", dir=f"{sys.argv[1]}/runs", delivery=sys.argv[2], finish_timeout=200) as run:
    swanlab.log({"theirs": 1.0}, step=0)
    run.log({"ours": 2.0}, step=0)
assert swanlab.get_run() is theirs and theirs.alive
swanlab.log({"theirs": 2.0}, step=1)
swanlab.finish()
print(run.dir)
"""
    for delivery in ("process", "thread"):
        place = tmp_path / delivery
        (place / "theirs").mkdir(parents=True)
        run_dir = Path(python(code, str(place), delivery, cwd=tmp_path).stdout.splitlines()[-1])
        assert points(folder_of(run_dir)) == [("ours", 0, 2.0)]
        (folder,) = (place / "theirs").glob("run-*")
        assert points(folder) == [("theirs", 0, 1.0), ("theirs", 1, 2.0)]
        assert_matches(run_dir)


def test_refused_event_is_set_aside(tmp_path: Path) -> None:
    """A file that is gone is no silent loss, and loses nothing else."""
    with runcast.start_run("swanlab", dir=tmp_path / "runs") as run:
        run.log_image("picture", np.zeros((2, 2)), step=0)
        run.log({"loss": 1.0}, step=1)
    copy = shutil.copytree(run.dir, tmp_path / "copy", ignore=shutil.ignore_patterns("trackers", "swanlab", "images"))
    deliver(copy, [SwanLabReporter()], PATIENCE)
    state = load_state(copy, "swanlab")
    assert [item.type for item in state.set_aside] == ["image"]
    assert points(folder_of(copy)) == [("loss", 1, 1.0)]


def test_example_runs(tmp_path: Path) -> None:
    """The example delivers everything and says where to look."""
    done = python(Path(__file__).with_name("example.py").read_text(), str(tmp_path))
    assert "swanlab: 104 of 104 events. Look at them with: swanlab sync --id" in done.stdout
    (run_dir,) = tmp_path.iterdir()
    assert len(read(run_dir).metrics["train/loss"]) == 100
