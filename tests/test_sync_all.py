"""`runcast sync --all`, in processes of its own, beside others of its kind, and from cron."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import runcast
from runcast import registry
from runcast.courier import courier_alive
from runcast.delivery import TrackerState, load_state, save_state
from runcast.events import Metrics, RunStarted, Writer
from runcast.journal import FILE_NAME, Journal
from runcast.writer import QUIET
from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import wait_until

TRACKERS = '''
"""Two trackers that keep a run as lines of JSON in a hall, where files say how they behave."""

import json, os, time
from pathlib import Path

from runcast import NativeRun, Reporter


class Ledger(Reporter):
    name = "ledger"

    def __init__(self, hall):
        self.hall = Path(hall)

    def told(self, word):
        return (self.hall / word).exists()

    def until(self, there):
        """Waits for others; in vain if they never come."""
        for _ in range(2400):
            if there():
                return
            time.sleep(0.05)
        raise ValueError("nobody came")

    def open(self, run, attach):
        if self.told("closed"):
            raise ValueError("the hall is closed")
        if self.told("lost-" + run.name) or (self.told("waits-" + run.name) and not list(self.hall.glob("*.full"))):
            raise ConnectionError("no road to the hall")
        self.path = self.hall / f"{run.run_id}.{self.name}"
        inside = self.hall / "inside"
        inside.mkdir(exist_ok=True)
        self.place = inside / f"{run.run_id}.{self.name}.{os.getpid()}"
        self.place.touch()
        if self.told("meet"):
            wanted = int((self.hall / "meet").read_text())
            self.until(lambda: self.told("met") or len(list(inside.iterdir())) >= wanted)
            (self.hall / "met").touch()
        if self.told("mixed"):
            self.until(lambda: self.told("met") or len({path.suffixes[0] for path in inside.iterdir()}) == 2)
            (self.hall / "met").touch()
        self.until(lambda: not self.told("gate"))
        return NativeRun(id=run.run_id)

    def put(self, *values):
        with self.path.open("a") as file:
            print(json.dumps(values), file=file)

    def log_metrics(self, metrics, step, time):
        self.put("loss", metrics["loss"], step)

    def log_config(self, config):
        self.put("config", dict(config))

    def close(self, status):
        self.put("status", status)
        self.place.unlink()
        (self.hall / f"{self.path.name}.full").touch()


class Mirror(Ledger):
    name = "mirror"
'''
SYNC = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from runcast import dispatch
from runcast.cli import main
{before}
sys.exit(main(sys.argv[1:]))
"""
STEPS = 5


@pytest.fixture
def hall(tmp_path):
    """Where the two trackers keep what they get."""
    folder = tmp_path / "hall"
    folder.mkdir()
    return folder


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A distribution with the two trackers, installed here and known to the commands."""
    folder = tmp_path / "site"
    info = folder / "trackers-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trackers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[runcast.reporters]\nledger = hall_trackers:Ledger\nmirror = hall_trackers:Mirror\n"
    )
    (folder / "hall_trackers.py").write_text(TRACKERS)
    monkeypatch.syspath_prepend(str(folder))
    registry._entry_points.cache_clear()
    yield folder
    registry._entry_points.cache_clear()


@pytest.fixture
def runs(tmp_path):
    """The folder that is synced."""
    return tmp_path / "runs"


@pytest.fixture
def pending_run(site, hall, runs):
    """Writes a finished run that its trackers have nothing of; returns its folder."""

    def make(name="pending", trackers=("ledger",), parent=runs):
        (hall / "closed").touch()
        report_to = {tracker: {"hall": str(hall)} for tracker in trackers}
        run = runcast.start_run(
            report_to, name=name, dir=parent, delivery="inline", config={"lr": 0.1}, finish_timeout=0.0
        )
        for step in range(STEPS):
            run.log({"loss": step / 2}, step=step)
        run.finish()
        (hall / "closed").unlink()
        return run.dir

    return make


@pytest.fixture
def start(site, tmp_path):
    """Starts `runcast sync --all` as a process of its own, after so much Python."""
    started = []

    def call(*arguments, before="", **options):
        process = subprocess.Popen(
            [sys.executable, "-c", SYNC.format(before=before), str(site), "sync", "--all", *map(str, arguments)],
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def sync(start):
    """Runs `runcast sync --all` to its end: exit code, standard output, standard error."""

    def call(*arguments, **options):
        process = start(*arguments, **options)
        out, err = process.communicate()
        return process.returncode, out, err

    return call


def inside(hall):
    """Who is in the hall just now."""
    return list((hall / "inside").iterdir()) if (hall / "inside").exists() else []


def stored(hall, run_dir, tracker="ledger"):
    """What a tracker was given of a run."""
    return [json.loads(line) for line in (hall / f"{run_dir.name}.{tracker}").read_text().splitlines()]


EACH_ONCE = [["config", {"lr": 0.1}], *(["loss", step / 2, step] for step in range(STEPS)), ["status", "completed"]]


def places(number):
    """Code that fixes how many couriers may be at work at once."""
    return f"dispatch.places = lambda: {number}"


def test_runs_and_trackers_are_delivered_at_the_same_time(sync, pending_run, hall, runs):
    """Couriers of two runs, each with two trackers, all meet before one of them goes on."""
    both = [pending_run(trackers=("ledger", "mirror")) for _ in range(2)]
    (hall / "meet").write_text("4")
    code, _, err = sync(runs, before=places(4))
    assert code == 0, err
    assert [stored(hall, run_dir, tracker) for run_dir in both for tracker in ("ledger", "mirror")] == [EACH_ONCE] * 4


TICKS = """
from pathlib import Path
from types import SimpleNamespace
from time import monotonic, sleep
import psutil
hall, children = Path({hall!r}), []
def tick(seconds):
    children.append(len(psutil.Process().children()))
    (hall / "couriers").write_text(str(max(children)))
    if len(children) > 20 and len(list(hall.glob("inside/*"))) == 2: (hall / "gate").unlink(missing_ok=True)
    sleep(seconds)
dispatch.time = SimpleNamespace(monotonic=monotonic, sleep=tick)
"""


def test_couriers_are_never_more_than_places(sync, pending_run, hall, runs):
    """Six runs go through two places: there are two couriers' processes, and no third while the two are busy."""
    six = [pending_run() for _ in range(6)]
    (hall / "gate").touch()
    code, _, err = sync(runs, before=places(2) + TICKS.format(hall=str(hall)))
    assert code == 0, err
    assert (hall / "couriers").read_text() == "2"
    assert [stored(hall, run_dir) for run_dir in six] == [EACH_ONCE] * 6


def test_trackers_take_turns(sync, pending_run, hall, runs):
    """However many runs one tracker lacks, another one gets its share of the places."""
    four = [pending_run(parent=runs / "a") for _ in range(3)] + [pending_run(trackers=["mirror"], parent=runs / "b")]
    (hall / "mixed").touch()
    code, _, err = sync(runs, before=places(2))
    assert code == 0, err
    names = ["ledger", "ledger", "ledger", "mirror"]
    assert [stored(hall, run_dir, name) for run_dir, name in zip(four, names, strict=True)] == [EACH_ONCE] * 4


def test_two_at_once_deliver_everything_once(start, pending_run, hall, runs):
    """Two commands that overlap, the second of which waits for couriers of the first, both end well."""
    six = [pending_run() for _ in range(6)]
    (hall / "gate").touch()
    first = start(runs, before=places(2))
    wait_until(lambda: inside(hall))
    looked = (
        "begin = dispatch.Turn.begin\n"
        "def told(turn):\n"
        "    begin(turn)\n"
        f"    if turn.phase == 'watched': open({str(hall / 'watched')!r}, 'w').close()\n"
        "dispatch.Turn.begin = told"
    )
    second = start(runs, before=f"{places(2)}\n{looked}")
    wait_until(lambda: (hall / "watched").exists())
    (hall / "gate").unlink()
    ends = [(*process.communicate(), process.returncode) for process in (first, second)]
    assert [code for *_, code in ends] == [0, 0], ends
    assert [stored(hall, run_dir) for run_dir in six] == [EACH_ONCE] * 6


def test_race_for_the_same_runs_delivers_everything_once(start, pending_run, hall, runs):
    """Three commands that start together deliver each event once, and all of them end well."""
    six = [pending_run() for _ in range(6)]
    racers = [start(runs, before=places(4)) for _ in range(3)]
    ends = [(*process.communicate(), process.returncode) for process in racers]
    assert [code for *_, code in ends] == [0, 0, 0], ends
    assert [stored(hall, run_dir) for run_dir in six] == [EACH_ONCE] * 6


LIVE = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
import runcast
with runcast.start_run({"ledger": {"hall": sys.argv[2]}}, name="live", dir=sys.argv[3], config={"lr": 0.1}) as run:
    for step in range(5):
        run.log({"loss": step / 2}, step=step)
        while step == 2 and not (pathlib.Path(sys.argv[2]) / "go-on").exists():
            time.sleep(0.02)
"""


def test_live_run_keeps_its_courier(sync, pending_run, site, hall, runs):
    """Beside a run that goes on, what is pending is delivered; its own tracker counts as delivered when it has caught up."""
    live = subprocess.Popen([sys.executable, "-c", LIVE, str(site), str(hall), str(runs)], stdin=subprocess.DEVNULL)
    wait_until(lambda: inside(hall))
    waiting = pending_run()
    code, out, err = sync(runs, "--json")
    assert code == 0, err
    states = {run["dir"]: [row["state"] for row in run["deliveries"]] for run in json.loads(out)}
    (live_dir,) = states.keys() - {str(waiting)}
    assert states == {str(waiting): ["complete"], live_dir: ["delivering"]}
    (hall / "go-on").touch()
    assert live.wait() == 0
    assert [stored(hall, Path(run_dir)) for run_dir in states] == [EACH_ONCE] * 2


def test_run_that_has_just_begun_is_left_to_its_own_courier(sync, site, hall, runs):
    """No courier is started for a run that is being written and whose own is on its way: ours may lack its secrets."""
    (hall / "closed").touch()
    with runcast.start_run({"ledger": {"hall": str(hall)}}, dir=runs, delivery="inline", finish_timeout=0.0) as run:
        save_state(run.dir, TrackerState("ledger", options={"hall": str(hall)}))  # as if it had not got the lock yet
        code, out, err = sync(runs, "--timeout", "2", "--json")
        assert (code, err) == (1, "")  # a courier that was started would have ended as failed, or be said to go on
        assert [row["state"] for row in json.loads(out)[0]["deliveries"]] == ["pending"]


@pytest.mark.parametrize("left", ["starting", "delivering"])
def test_run_that_was_left_on_another_machine_comes_to_its_end(sync, site, hall, runs, left):
    """Its node has gone, courier and all: once it has been quiet for long it is delivered as crashed, and nothing stays."""
    run_dir = runs / "lost"
    run_dir.mkdir(parents=True)
    journal = Journal(run_dir / FILE_NAME)
    writer = Writer(pid=os.getpid(), started=1.0, host="node17", boot="b" * 36, namespace=1)
    journal.append(RunStarted(time=1.0, run_id="lost", project="p", name="n", writer=writer))
    journal.append(Metrics(time=2.0, step=1, values={"loss": 0.5}))
    save_state(run_dir, TrackerState("ledger", options={"hall": str(hall)}, state=left, writer=writer))
    past = time.time() - 2 * QUIET
    os.utime(journal.path, (past, past))
    code, _, err = sync(runs)
    assert code == 0, err
    wait_until(lambda: not courier_alive(run_dir, "ledger"))
    assert stored(hall, run_dir) == [["loss", 0.5, 1], ["status", "crashed"]]
    assert load_state(run_dir, "ledger").state == "complete"


def test_interruption_leaves_couriers_at_work(start, sync, pending_run, hall, runs):
    """Ctrl-C ends the wait at once and says what is left; a courier that has begun goes on, others are not started."""
    two = [pending_run() for _ in range(2)]
    (hall / "gate").touch()
    process = start(runs, before=places(1))
    wait_until(lambda: inside(hall))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()  # the gate is still closed
    assert process.returncode == 130
    assert out == ""
    begun, other = sorted(two, key=lambda run_dir: not courier_alive(run_dir, "ledger"))
    assert f"{begun}: ledger " in err
    assert "deliveries that had no turn yet: 1\n" in err
    assert "interrupted; couriers that go on by themselves: 1\n" in err
    (hall / "gate").unlink()
    wait_until(lambda: load_state(begun, "ledger").state == "complete" and not courier_alive(begun, "ledger"))
    assert load_state(other, "ledger").state == "failed"  # as it was
    assert sync(runs)[0] == 0
    assert [stored(hall, run_dir) for run_dir in two] == [EACH_ONCE] * 2


def test_tracker_out_of_reach_keeps_nobody_from_being_delivered(sync, pending_run, hall, runs):
    """A courier that only retries gives the one place to a run that had none yet, and has its turn again later."""
    names = ["first", "second"]
    two = [pending_run(name) for name in names]
    two.sort()
    (hall / f"waits-{runcast.read_run(two[0]).name}").touch()  # till another run is in the hall
    code, _, err = sync(runs, before=f"{places(1)}\ndispatch.PATIENCE = 0.0")
    assert code == 0, err
    assert [stored(hall, run_dir) for run_dir in two] == [EACH_ONCE] * 2


def test_couriers_that_only_retry_end_with_the_time(sync, pending_run, hall, runs):
    """When time is up a courier that can't reach its tracker is stopped; the next command delivers."""
    run_dir = pending_run("lost")
    (hall / "lost-lost").touch()
    jump = (
        "from types import SimpleNamespace\n"
        "from time import monotonic, sleep\n"
        "look = dispatch.Turn.look\n"
        "def told(turn):\n"
        "    look(turn)\n"
        "    if turn.retries(): dispatch.time = SimpleNamespace(monotonic=lambda: monotonic() + 1000, sleep=sleep)\n"
        "dispatch.Turn.look = told"
    )
    code, out, err = sync(runs, before=jump)
    assert (code, out) == (1, "")
    assert f"{run_dir}: ledger" in err
    wait_until(lambda: not courier_alive(run_dir, "ledger"))
    (hall / "lost-lost").unlink()
    assert sync(runs)[0] == 0
    assert stored(hall, run_dir) == EACH_ONCE


def test_nothing_pending_costs_nothing(sync, pending_run, hall, runs):
    """Of a run that is delivered not even the journal is read; no courier starts, and nothing is said."""
    run_dir = pending_run()
    code, out, err = sync(runs)
    assert (code, err) == (0, "")
    assert "7/7" in out
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    journal = run_dir / "journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(bytes(len(content)))
    before[journal] = journal.stat().st_mtime_ns
    assert sync(runs) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_cron_needs_nothing_but_home_and_path(sync, pending_run, hall, runs, tmp_path):
    """Without a terminal, a standard input, settings and a folder of its own, the result is complete and tells all."""
    run_dir = pending_run(trackers=("ledger", "mirror"))
    environment = {"HOME": str(tmp_path), "PATH": os.defpath}
    if "PYTHONPATH" in os.environ:  # where the tests themselves find the package
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    code, out, err = sync(runs, "--json", env=environment, cwd="/", stdin=None, preexec_fn=lambda: os.close(0))
    assert (code, err) == (0, "")
    (run,) = json.loads(out)
    assert (run["run"], run["dir"], run["ok"]) == (run_dir.name, str(run_dir), True)
    assert [(row["name"], row["state"], row["delivered"], row["total"]) for row in run["deliveries"]] == [
        ("ledger", "complete", 7, 7),
        ("mirror", "complete", 7, 7),
    ]
    assert stored(hall, run_dir) == stored(hall, run_dir, "mirror") == EACH_ONCE
    assert sync(runs, env=environment, cwd="/", stdin=None, preexec_fn=lambda: os.close(0)) == (0, "", "")


def test_progress_is_for_terminals(start, pending_run, hall, runs):
    """Who watches sees the couriers at work, and in the end that all is well."""
    run_dir = pending_run()
    (hall / "gate").touch()
    screen, terminal = pty.openpty()
    process = start(runs, stderr=terminal)
    os.close(terminal)
    seen = ""
    while f"{run_dir.name}  ledger" not in seen:
        seen += os.read(screen, 4096).decode(errors="replace")
    (hall / "gate").unlink()
    while "runs: 1, not delivered: 0" not in seen:
        seen += os.read(screen, 4096).decode(errors="replace")
    assert process.wait() == 0
    os.close(screen)
    assert stored(hall, run_dir) == EACH_ONCE
