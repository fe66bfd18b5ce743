"""Exactly once: whatever ends a courier or a call, wherever, a point is in the tracker once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import runcast
from runcast import supervisor
from runcast.courier import courier_alive, release_lock, take_lock
from runcast.delivery import deliveries, load_state
from runcast.errors import SessionLostError
from runcast.events import Metrics
from runcast.journal import FILE_NAME, Journal
from runcast.sync import deliver
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.couriers import wait_delivered, wait_until
from runcast.testing.faults import Fault, inject, strikes
from runcast.testing.lines import LinesReporter, lines_of
from runcast.verify import verify

STEPS = 30


def reported(folder: Path, *faults: Fault, call_timeout: float | None = None, steps: int = STEPS) -> runcast.Run:
    """A finished run of so many points, whose reporter had these faults."""
    reporter = inject(LinesReporter(), *faults, ledger=folder / "ledger", call_timeout=call_timeout)
    with runcast.start_run(
        reporter, dir=folder / "runs", config={"lr": 1}, delivery="process", finish_timeout=PATIENCE
    ) as run:
        for step in range(steps):
            run.log({"loss": step / 7, "accuracy": step / 11}, step=step)
        run.log_text("note", "hello", step=steps)
    return run


def stored(run: runcast.Run) -> Counter[tuple[str, int]]:
    """How often the tracker has each point, told by its own file."""
    assert run.dir is not None
    (path,) = run.dir.glob("lines/*.jsonl")
    return Counter(
        (name, line["step"]) for line in lines_of(path) if line["kind"] == "metrics" for name in line["values"]
    )


def once(steps: int = STEPS) -> Counter[tuple[str, int]]:
    """Every point once."""
    return Counter((name, step) for name in ("loss", "accuracy") for step in range(steps))


def assert_whole(run: runcast.Run, refused: int = 0) -> None:
    """Everything was delivered, once."""
    assert run.dir is not None
    state = load_state(run.dir, "lines")
    assert state is not None
    log = (run.dir / "trackers" / "lines.log").read_text()
    assert (state.state, state.refused) == ("complete", refused), f"{state}\n{log[-3000:]}"
    assert stored(run) == once()
    (result,) = verify(run.dir)
    assert result.matches, result


@pytest.mark.parametrize("action", ["kill", "exit", "segv", "raise", "reset", "500", "429", "disk full"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", ["open", "log", "flush", "close"])
def test_fault_costs_nothing_and_repeats_nothing(tmp_path, at, after, action):
    """The courier or the call ends at that point, and in the end the tracker has everything once."""
    run = reported(tmp_path, Fault(at, action, nth=8 if at == "log" else 1, after=after))
    assert strikes(tmp_path / "ledger") == [f"{at} {action}"]
    assert_whole(run)


@pytest.mark.parametrize("at", ["open", "log", "flush", "close"])
def test_hang_is_ended_and_gone_on_from(tmp_path, at):
    """A call that doesn't return costs its courier, which starts again; its stack is in the log."""
    run = reported(tmp_path, Fault(at, "hang", nth=5 if at == "log" else 1), call_timeout=1.5)
    assert strikes(tmp_path / "ledger") == [f"{at} hang"]
    assert_whole(run)
    log = (run.dir / "trackers" / "lines.log").read_text()
    assert "did not return within" in log
    assert "in _hang" in log


def test_hang_again_and_again_is_reported_as_stalled(tmp_path):
    """After a bounded number of starts the state says so, with what to do; and that works."""
    run = reported(tmp_path, Fault("flush", "hang", times=0), call_timeout=0.5)
    state = load_state(run.dir, "lines")
    assert state.state == "stalled"
    assert "flush did not return within" in state.error
    assert f"runcast sync {run.dir}" in state.error
    assert len(strikes(tmp_path / "ledger")) == 4
    deliver(run.dir, [LinesReporter()], PATIENCE)
    assert_whole(run)


def test_events_that_end_their_courier_are_set_aside_alone(tmp_path):
    """Each event that the SDK crashes on is set aside with the reason; those behind it arrive, in this life and in the next."""
    (tmp_path / "crashing.py").write_text(
        "import os, runcast\n"
        "from runcast.testing.lines import LinesReporter\n"
        "@runcast.register_reporter\n"
        "class Crashing(LinesReporter):\n"
        "    name = 'crashing'\n"
        "    def log_metrics(self, metrics, step, time):\n"
        "        if step in (7, 12, 13): os.kill(os.getpid(), 11)\n"
        "        super().log_metrics(metrics, step, time)\n"
    )
    code = (
        "import crashing, runcast, sys\n"
        "with runcast.start_run('crashing', resume=sys.argv[2] or None) as run:\n"
        "    for step in range(20): run.log({'loss': step / 7}, step=int(sys.argv[1]) + step)\n"
        "print(run.dir)\n"
    )
    run_dir = ""
    for first in (0, 20):
        result = subprocess.run(
            [sys.executable, "-c", code, str(first), run_dir],
            env={**os.environ, "PYTHONPATH": str(tmp_path), "RUNCAST_DIR": str(tmp_path / "runs")},
            capture_output=True,
            text=True,
            check=True,
        )
        run_dir = result.stdout.strip()
        state = load_state(Path(run_dir), "crashing")
        assert (state.state, state.refused) == ("complete", 3), state
        assert all("SIGSEGV" in item.reason for item in state.set_aside)
        (path,) = Path(run_dir).glob("lines/*.jsonl")
        steps = [line["step"] for line in lines_of(path) if line["kind"] == "metrics"]
        assert steps == [step for step in range(first + 20) if step not in (7, 12, 13)]


FORKING = """
import os, time, runcast
from runcast.testing.lines import LinesReporter

@runcast.register_reporter
class Forking(LinesReporter):
    name = "forking"

    def open(self, run, attach):
        if os.fork() == 0:
            place = run.dir / "helper"
            place.write_text(str(os.getpid()))
            while place.exists(): time.sleep(0.05)
            os._exit(0)
        return super().open(run, attach)
"""


@pytest.mark.parametrize("delivery", ["process", "thread"])
def test_helper_of_an_sdk_keeps_no_later_courier_away(tmp_path, delivery):
    """When all else of a run was killed, a process that its SDK had forked lives on, and what is left is delivered."""

    class Again(LinesReporter):
        name = "forking"

    (tmp_path / "forking.py").write_text(FORKING)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import forking, runcast\n"
        "run = runcast.start_run('forking', delivery=sys.argv[1])\n"
        "run.log({'loss': 0.5}, step=0)\n"
        "print(run.dir, flush=True)\n"
        "input()\n"
    )
    environment = {**os.environ, "RUNCAST_DIR": str(tmp_path / "runs")}
    with subprocess.Popen(
        [sys.executable, "-c", code, delivery, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as training:
        run_dir = Path(training.stdout.readline().strip())
        wait_delivered(run_dir, "forking")
        helper = psutil.Process(int((run_dir / "helper").read_text()))
        ours = psutil.Process(training.pid)
        for process in (ours, *ours.children(recursive=True)):
            if process != helper:
                process.kill()
    Journal(run_dir / FILE_NAME).append(
        Metrics(time=0.0, step=1, values={"loss": 0.25})
    )  # it was still to be delivered
    deadline = time.monotonic() + PATIENCE
    while courier_alive(run_dir, "forking") and time.monotonic() < deadline:
        time.sleep(0.02)
    deliver(run_dir, [Again()], PATIENCE)
    assert helper.is_running()
    (run_dir / "helper").unlink()
    state = load_state(run_dir, "forking")
    assert (state.state, state.status) == ("complete", "crashed")
    (path,) = run_dir.glob("lines/*.jsonl")
    assert [line["step"] for line in lines_of(path) if line["kind"] == "metrics"] == [0, 1]


def test_denied_tracker_keeps_everything_deliverable(tmp_path):
    """After 401 no event is set aside: the courier stops, and a later one delivers all."""
    run = reported(tmp_path, Fault("log", "401", nth=8, times=0))
    state = load_state(run.dir, "lines")
    assert (state.state, state.refused) == ("failed", 0)
    assert "401" in state.error
    deliver(run.dir, [LinesReporter()], PATIENCE)
    assert_whole(run)


def test_set_aside_event_is_tried_again_by_a_later_courier(tmp_path):
    """What was refused is delivered once the reason is gone, and then the run is whole."""
    run = reported(tmp_path, Fault("log", "refuse", nth=8, times=3))
    state = load_state(run.dir, "lines")
    assert (state.state, state.refused) == ("complete", 3)
    assert len(stored(run)) == len(once()) - 6
    deliver(run.dir, [LinesReporter()], PATIENCE)
    assert_whole(run)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("flush", "kill", after=True),
        Fault("log", "raise"),
        Fault("log", "reset", after=True),
        Fault("flush", "raise"),
    ],
    ids=lambda fault: f"{fault.at} {fault.action}",
)
def test_set_aside_event_that_is_tried_again_comes_once(tmp_path, fault):
    """Whatever ends the second try, each of these events is in the tracker once, and none is forgotten."""
    run = reported(tmp_path, Fault("log", "refuse", nth=5, times=2))
    assert load_state(run.dir, "lines").refused == 2
    deliver(run.dir, [inject(LinesReporter(), fault, ledger=tmp_path / "second")], PATIENCE)
    assert strikes(tmp_path / "second") == [f"{fault.at} {fault.action}"]
    assert_whole(run)


def test_event_that_is_taken_after_all_is_not_set_aside(tmp_path):
    """An event is refused, the connection breaks behind it, and when the batch comes again it is accepted: once."""

    class Wavering(LinesReporter):
        name = "lines"
        in_trouble = True

        def log_metrics_batch(self, batch):
            steps = [event.step for event in batch]
            if self.in_trouble and 3 in steps:
                raise ValueError("not now")
            if self.in_trouble and steps == [7]:
                type(self).in_trouble = False
                raise ConnectionError("lost")
            super().log_metrics_batch(batch)

    run = runcast.start_run("console", dir=tmp_path / "runs", finish_timeout=PATIENCE)
    for step in range(10):
        run.log({"loss": float(step)}, step=step)
    run.finish()
    for _ in range(2):
        deliver(run.dir, [Wavering()], PATIENCE)
        state = load_state(run.dir, "lines")
        assert (state.state, state.refused, state.set_aside) == ("complete", 0, [])
        assert stored(run) == Counter({("loss", step): 1 for step in range(10)})


def test_flush_is_tried_some_times_whatever_failed_before(tmp_path):
    """An outage that is over takes nothing from the tries of a flush that fails for an odd reason."""
    run = reported(tmp_path, Fault("open", "raise", times=5), Fault("flush", "refuse", times=2))
    assert_whole(run)


def test_equal_points_are_not_taken_for_repeats(tmp_path, monkeypatch):
    """The same name, step and time logged three times is three points, also through a crash between them."""
    monkeypatch.setattr("runcast.run.time.time", lambda: 1_700_000_000.0)
    reporter = inject(LinesReporter(), Fault("log", "kill", nth=2, after=True), ledger=tmp_path / "ledger")
    with runcast.start_run(reporter, dir=tmp_path / "runs", delivery="process", finish_timeout=PATIENCE) as run:
        for _ in range(3):
            run.log({"loss": 1.0}, step=1)
    assert strikes(tmp_path / "ledger") == ["log kill"]
    assert stored(run) == Counter({("loss", 1): 3})


def test_equal_point_in_a_refused_batch_is_no_repeat(tmp_path, monkeypatch):
    """A batch that is refused for one event is tried one by one; what equals a point delivered before is delivered too."""
    monkeypatch.setattr("runcast.run.time.time", lambda: 1_700_000_000.0)

    class Batched(LinesReporter):
        name = "lines"

        def log_metrics_batch(self, batch):
            if any("bad" in event.values for event in batch):
                raise ValueError("bad")
            super().log_metrics_batch(batch)

    run = runcast.start_run("console", dir=tmp_path / "runs", finish_timeout=PATIENCE)
    run.log({"loss": 1.0}, step=1)
    run.log_text("note", "in between", step=1)
    run.log({"loss": 1.0}, step=1)
    run.log({"bad": 1.0}, step=1)
    run.log({"loss": 1.0}, step=1)
    run.finish()
    deliver(run.dir, [Batched()], PATIENCE)
    assert stored(run) == Counter({("loss", 1): 3})
    assert [item.type for item in load_state(run.dir, "lines").set_aside] == ["metrics"]


def test_lost_session_is_opened_again(tmp_path):
    """A reporter that says its session is gone is opened again, and asked what it has."""

    class Forgetful(LinesReporter):
        name = "lines"
        lost = 0

        def flush(self):
            if self.lost < 2:
                type(self).lost += 1
                raise SessionLostError("gone")
            super().flush()

    with runcast.start_run(Forgetful(), dir=tmp_path / "runs", finish_timeout=PATIENCE) as run:
        for step in range(STEPS):
            run.log({"loss": step / 7, "accuracy": step / 11}, step=step)
    assert Forgetful.lost == 2
    assert stored(run) == once()


def test_lost_session_that_is_refused_anew_repeats_nothing_later(tmp_path):
    """What was delivered before the session got lost is found by the courier that gets in again."""

    class Refused(LinesReporter):
        name = "lines"

        def open(self, run, attach):
            if attach is not None:
                raise ValueError("not now")
            return super().open(run, attach)

        def log_text(self, key, text, step, time):
            super().log_text(key, text, step, time)
            super().flush()
            raise SessionLostError("gone")

    with runcast.start_run(Refused(), dir=tmp_path / "runs", finish_timeout=PATIENCE) as run:
        for step in range(STEPS):
            run.log({"loss": step / 7, "accuracy": step / 11}, step=step)
        run.log_text("note", "hello", step=STEPS)
    assert load_state(run.dir, "lines").state == "failed"
    deliver(run.dir, [LinesReporter()], PATIENCE)
    assert_whole(run)


def test_resume_takes_back_what_came_after_the_checkpoint(tmp_path):
    """The tracker shows each step once: those before the checkpoint, and those of the second life."""
    run_dir = killed_at(tmp_path, 10)
    with runcast.start_run(
        LinesReporter(), resume=run_dir, resume_step=5, delivery="process", finish_timeout=PATIENCE
    ) as run:
        for step in range(6, 13):
            run.log({"loss": step * 2.0}, step=step)
    assert stored(run) == Counter({("loss", step): 1 for step in range(13)})
    (result,) = verify(run_dir)
    assert result.matches, result
    assert [point.value for point in runcast.read_run(run_dir).metrics["loss"]][5:8] == [5.0, 12.0, 14.0]


def test_resume_takes_back_what_a_dead_courier_has_delivered(tmp_path):
    """Points that were found to have arrived count as delivered like any others."""
    run_dir = killed_at(tmp_path, 10, report_to="console")
    reporter = inject(LinesReporter(), Fault("flush", "kill", after=True), ledger=tmp_path / "ledger")
    deliver(run_dir, [reporter], PATIENCE)
    assert strikes(tmp_path / "ledger") == ["flush kill"]
    with runcast.start_run(
        LinesReporter(), resume=run_dir, resume_step=5, delivery="process", finish_timeout=PATIENCE
    ) as run:
        for step in range(6, 13):
            run.log({"loss": step * 2.0}, step=step)
    assert stored(run) == Counter({("loss", step): 1 for step in range(13)})
    (result,) = [row for row in verify(run_dir) if row.name == "lines"]
    assert result.matches, result


def test_run_that_is_gone_on_with_while_it_is_closed_is_delivered(tmp_path):
    """The old courier is closing the run, so the new one leaves; the old one's supervisor sees to the second life."""
    (tmp_path / "gated.py").write_text(
        "import time, runcast\n"
        "from pathlib import Path\n"
        "from runcast.testing.lines import LinesReporter\n"
        "HERE = Path(__file__).parent\n"
        "@runcast.register_reporter\n"
        "class Gated(LinesReporter):\n"
        "    name = 'gated'\n"
        "    def close(self, status):\n"
        "        (HERE / 'closing').touch()\n"
        "        while not (HERE / 'go').exists(): time.sleep(0.02)\n"
        "        super().close(status)\n"
    )
    code = (
        "import gated, os, psutil, runcast, signal, sys, time\n"
        "run = runcast.start_run('gated', dir=sys.argv[1], resume=sys.argv[3] or None)\n"
        "print(run.dir, flush=True)\n"
        "for step in range(5): run.log({'loss': step / 7}, step=int(sys.argv[2]) + step)\n"
        "def left(): return all(p.status() == psutil.STATUS_ZOMBIE for p in psutil.Process().children())\n"
        "while sys.argv[3] and not left(): time.sleep(0.02)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run_dir = ""
    for first in ("0", "5"):
        command = [sys.executable, "-c", code, str(tmp_path / "runs"), first, run_dir]
        died = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        run_dir = died.stdout.strip()
        wait_until((tmp_path / "closing").exists)
    assert load_state(Path(run_dir), "gated").state == "delivering"
    (tmp_path / "go").touch()
    wait_until(lambda: deliveries(Path(run_dir), ["gated"])[0].done)
    (path,) = Path(run_dir).glob("lines/*.jsonl")
    assert [line["step"] for line in lines_of(path) if line["kind"] == "metrics"] == list(range(10))
    assert load_state(Path(run_dir), "gated").status == "crashed"


@pytest.mark.parametrize("writing", [True, False])
def test_nobody_gives_up_while_the_run_is_written(tmp_path, monkeypatch, writing):
    """However long the tracker is away, its courier waits for it as long as there is training; the limit counts from its end."""
    stop = threading.Event()

    class Away(LinesReporter):
        name = "lines"
        calls = 0

        def open(self, run, attach):
            type(self).calls += 1
            if self.calls < 4:
                raise ConnectionError("away")
            stop.set()
            return super().open(run, attach)

    monkeypatch.setattr(supervisor, "GIVE_UP_AFTER", 0.0)
    monkeypatch.setattr(supervisor, "reporter_of", lambda spec: Away())
    if writing:
        run_dir = runcast.start_run("console", dir=tmp_path / "runs").dir
    else:
        run_dir = killed_at(tmp_path, 3, report_to="console")
    lock = take_lock(run_dir, "lines")
    spec = {"run_dir": str(run_dir), "name": "lines"}
    code = supervisor._deliver(spec, supervisor._Mark(), stop, {}, careful=False, lock=lock)
    release_lock(lock)
    assert code == 0
    assert stop.is_set() == writing
    assert Away.calls == (4 if writing else 2)


def test_resume_is_one_run_when_replace_dies(tmp_path):
    """A courier killed between beginning anew and its first commit begins anew once more."""
    run_dir = killed_at(tmp_path, 10)
    reporter = inject(LinesReporter(), Fault("open", "kill", after=True), ledger=tmp_path / "ledger")
    with runcast.start_run(reporter, resume=run_dir, resume_step=5, delivery="process", finish_timeout=PATIENCE) as run:
        run.log({"loss": 6.0}, step=6)
    assert strikes(tmp_path / "ledger") == ["open kill"]
    assert stored(run) == Counter({("loss", step): 1 for step in range(7)})


def test_resume_from_the_last_step_goes_on_with_the_same_file(tmp_path):
    """Nothing is superseded, so nothing is delivered again."""
    run_dir = killed_at(tmp_path, 10)
    (path,) = run_dir.glob("lines/*.jsonl")
    before = path.read_bytes()
    with runcast.start_run(
        LinesReporter(), resume=run_dir, resume_step=9, delivery="process", finish_timeout=PATIENCE
    ) as run:
        run.log({"loss": 10.0}, step=10)
    assert path.read_bytes().startswith(before)
    assert stored(run) == Counter({("loss", step): 1 for step in range(11)})


def test_resumed_run_reaches_a_new_tracker_without_what_was_taken_back(tmp_path):
    """A replay into a tracker that never knew the run has each step once."""
    run_dir = killed_at(tmp_path, 10, report_to="console")
    with runcast.start_run("console", resume=run_dir, resume_step=5, finish_timeout=PATIENCE) as run:
        run.log({"loss": 6.5}, step=6)
    deliver(run_dir, [LinesReporter()], PATIENCE)
    assert stored(run) == Counter({("loss", step): 1 for step in range(7)})


def killed_at(folder: Path, steps: int, report_to: str = "lines") -> Path:
    """A run folder of a process that killed itself after so many steps, and was delivered."""
    code = (
        "import os, signal, sys, runcast, runcast.testing.lines\n"
        f"run = runcast.start_run({report_to!r}, dir=sys.argv[1], delivery='process')\n"
        "print(run.dir, flush=True)\n"
        f"for step in range({steps}): run.log({{'loss': float(step)}}, step=step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder / "runs")], capture_output=True, text=True, check=False
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    run_dir = Path(result.stdout.splitlines()[0])
    if report_to == "lines":
        wait_until_through(run_dir, "lines")
    return run_dir
