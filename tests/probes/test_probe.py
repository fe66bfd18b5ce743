"""Probes measure beside the training, and never get in its way."""

from __future__ import annotations

import logging
import threading
import time

import pytest

import runcast
from runcast import events, probe
from runcast.journal import Journal
from runcast.probe import Probe, known_probes, probe_names, resolve_probes
from runcast.probes import CodeCarbon, SystemMetrics
from runcast.reporter import Requirement


class Counter(Probe):
    """Counts its measurements."""

    name = "counter"

    def __init__(self, interval=0.001):
        super().__init__(interval)
        self.calls = []

    def start(self):
        self.calls.append("start")

    def measure(self):
        self.calls.append("measure")
        return {"system/count": self.calls.count("measure")}

    def stop(self):
        self.calls.append("stop")
        return {"counted": self.calls.count("measure")}

    def wait(self, more):
        """Until it has measured that often again."""
        wanted = self.calls.count("measure") + more
        deadline = time.monotonic() + 30
        while self.calls.count("measure") < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_points_stand_at_the_latest_step_which_they_do_not_move():
    """What a probe measures is at the step of the training then; the next step of a loop without steps is one more."""
    counter = Counter()
    with runcast.start_run(report_to=[], probes=counter) as run:
        pass
    assert counter.calls == []
    with runcast.start_run(report_to="console", probes=counter) as run:
        counter.wait(2)
        run.log({"loss": 1.0})
        run.log({"loss": 2.0})
        counter.wait(2)
        run.log({"loss": 3.0}, step=40)
        counter.wait(2)
    record = runcast.read_run(run.dir)
    assert [point.step for point in record.metrics["loss"]] == [0, 1, 40]
    steps = [point.step for point in record.metrics["system/count"]]
    assert steps == sorted(steps)
    assert set(steps) == {0, 1, 40}


def test_each_measurement_is_a_point_of_its_own():
    """At a step that lasts long there are many points, told apart by their times, and none is lost."""
    counter = Counter()
    with runcast.start_run(report_to="console", probes=counter) as run:
        run.log({"loss": 1.0}, step=7)
        counter.wait(20)
    points = runcast.read_run(run.dir).metrics["system/count"]
    assert [point.value for point in points] == list(range(1, counter.calls.count("measure") + 1))
    times = [point.time for point in points]
    assert times == sorted(times)
    assert len(set(times)) == len(times)


def test_short_run_is_measured_once():
    """A run that is over before the first interval has a measurement all the same, and the summary."""
    counter = Counter(interval=3600)
    with runcast.start_run(report_to="console", probes=counter) as run:
        pass
    assert counter.calls == ["start", "measure", "stop"]
    assert runcast.read_run(run.dir).summary == {"counted": 1}


def test_last_words_come_before_the_end():
    """The run's end is the last event: nothing of a probe is behind it."""
    counter = Counter()
    with runcast.start_run(report_to="console", probes=counter) as run:
        counter.wait(1)
    stream = [entry.event for entry in Journal(run.dir / "journal.jsonl").read()]
    assert isinstance(stream[-1], events.RunFinished)
    assert isinstance(stream[-2], events.Summary)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("runcast-probe")]


def test_probe_ends_with_a_run_that_fails():
    """An exception in training ends the probes too, with their summary."""
    counter = Counter()
    with pytest.raises(ZeroDivisionError), runcast.start_run(report_to="console", probes=counter) as run:
        counter.wait(1)
        raise ZeroDivisionError
    record = runcast.read_run(run.dir)
    assert (record.status, record.summary) == ("failed", {"counted": counter.calls.count("measure")})


def test_finishing_twice_stops_once():
    """A second `finish` does nothing."""
    counter = Counter()
    run = runcast.start_run(report_to="console", probes=counter)
    run.finish()
    run.finish()
    assert counter.calls.count("stop") == 1


def test_instance_serves_one_run_after_the_other():
    """A probe that was stopped starts again."""
    counter = Counter(interval=3600)
    for _ in range(2):
        with runcast.start_run(report_to="console", probes=counter):
            pass
    assert counter.calls == ["start", "measure", "stop"] * 2


@pytest.mark.parametrize("where", ["start", "measure", "stop"])
def test_error_is_said_once_and_ends_that_probe_alone(where, caplog, monkeypatch):
    """Whatever a probe raises: training goes on, the other probes too, and there is one warning."""

    class Broken(Counter):
        name = "broken"

    def fail(self):
        raise LookupError("no such sensor")

    monkeypatch.setattr(Broken, where, fail)
    broken, counter = Broken(), Counter()
    with caplog.at_level(logging.WARNING), runcast.start_run(report_to="console", probes=[broken, counter]) as run:
        counter.wait(20)
        run.log({"loss": 1.0})
    warnings = [record.getMessage() for record in caplog.records if "broken" in record.getMessage()]
    assert warnings == ["probe 'broken' ends: LookupError: no such sensor"]
    record = runcast.read_run(run.dir)
    assert (record.status, len(record.metrics["loss"])) == ("completed", 1)
    assert len(record.metrics["system/count"]) >= 20
    if where == "measure":
        assert broken.calls == ["start", "stop"]  # what it holds is let go of


@pytest.mark.parametrize("measured", [{"system/x": "much"}, {"": 1.0}, {7: 1.0}, [1.0], {"system/x": None}])
def test_what_is_no_measurement_ends_the_probe(measured, caplog, monkeypatch):
    """A value that is no number, or a name that is none, is an error like any other."""
    monkeypatch.setattr(Counter, "measure", lambda self: measured)
    with caplog.at_level(logging.WARNING), runcast.start_run(report_to="console", probes=Counter()) as run:
        run.log({"loss": 1.0})
    assert [record.getMessage()[:20] for record in caplog.records] == ["probe 'counter' ends"]
    assert set(runcast.read_run(run.dir).metrics) == {"loss"}


def test_probe_that_hangs_delays_the_end_no_longer_than_said(caplog, monkeypatch):
    """The run ends without it, and what it measures later is not written."""
    monkeypatch.setattr(probe, "STOP_TIMEOUT", 0.05)
    go, done = threading.Event(), threading.Event()

    class Hanging(Counter):
        def measure(self):
            go.wait(30)
            return {"system/late": 1.0}

        def stop(self):
            done.set()
            return {"late": True}

    with caplog.at_level(logging.WARNING), runcast.start_run(report_to="console", probes=Hanging()) as run:
        run.log({"loss": 1.0})
    assert "probe 'counter' doesn't end" in caplog.text
    size = (run.dir / "journal.jsonl").stat().st_size
    go.set()
    assert done.wait(30)
    for thread in threading.enumerate():
        if thread.name == "runcast-probe-counter":
            thread.join(30)
    assert (run.dir / "journal.jsonl").stat().st_size == size
    assert runcast.read_run(run.dir).status == "completed"


def test_resume_takes_back_what_was_measured_behind_the_checkpoint():
    """A probe's points are superseded like all the others."""
    counter = Counter()
    with runcast.start_run(report_to="console", probes=counter) as run:
        for step in (10, 20):
            run.log({"loss": 1.0}, step=step)
            counter.wait(2)
    with runcast.start_run(report_to="console", resume=run.dir, resume_step=10, probes=counter) as run:
        counter.wait(1)
    steps = {point.step for point in runcast.read_run(run.dir).metrics["system/count"]}
    assert steps - {0} == {10}


@pytest.mark.parametrize("delivery", ["inline", "thread"])
def test_every_point_is_delivered(delivery, tmp_path):
    """A reporter gets all of them, in order, wherever its courier runs."""

    class Keep(runcast.Reporter):
        name = "keep"

        def __init__(self):
            self.values = []

        def log_metrics(self, metrics, step, time):
            self.values += [value for key, value in metrics.items() if key == "system/count"]

    counter, keep = Counter(), Keep()
    with runcast.start_run(report_to=keep, delivery=delivery, probes=counter) as run:
        for step in range(200):
            run.log({"loss": 1.0}, step=step)
        counter.wait(5)
    assert keep.values == list(range(1, counter.calls.count("measure") + 1))


# -- which probes ------------------------------------------------------------------------------------------------------


def test_names_classes_and_instances_are_probes():
    """They may be mixed, and of a name the last one counts."""
    counter = Counter()
    found = resolve_probes(["system", Counter, counter])
    assert [type(probe) for probe in found] == [SystemMetrics, Counter]
    assert found[1] is counter
    assert [type(probe) for probe in resolve_probes("system, system")] == [SystemMetrics]
    assert resolve_probes(SystemMetrics(interval=3.0))[0].interval == 3.0
    assert resolve_probes("") == resolve_probes(()) == []


def test_ours_are_known_by_name():
    """Probes are found through their entry points; only those that a name makes again have one."""
    assert known_probes() == ["codecarbon", "system"]
    assert probe_names([SystemMetrics(), CodeCarbon(), Counter()]) == ["system", "codecarbon"]


def test_unknown_name_is_an_error_with_the_nearest():
    """Before anything starts."""
    with pytest.raises(ValueError, match="no probe is called 'system_'. Did you mean 'system'"):
        runcast.start_run(report_to="console", probes="system_")


def test_probe_that_is_not_installed_is_an_error_before_training(tmp_path):
    """With the line that installs it, and without a run folder."""

    class Absent(Counter):
        requires = Requirement("no-such-distribution-at-all", "nothing", "1.0", "1.0")

    class Old(Counter):
        requires = Requirement("msgspec", "msgspec", "999.0", "999.0", extra="new")

    with pytest.raises(runcast.MissingDependencyError, match='pip install "no-such-distribution-at-all>=1.0"'):
        runcast.start_run(report_to="console", probes=Absent)
    with pytest.raises(
        runcast.MissingDependencyError, match=r'needs msgspec 999.0, not .*pip install "runcast\[new\]"'
    ):
        runcast.start_run(report_to="console", probes=Old)
    assert not (tmp_path / "runs").exists()


def test_incomplete_probe_is_an_error():
    """So is what is none, and an interval that is no time."""

    class Nameless(Probe):
        def measure(self):
            return {}

    class Idle(Probe):
        name = "idle"

    for wrong in (Nameless, Idle(), Idle):
        with pytest.raises(TypeError, match="needs a class attribute `name` and a method `measure"):
            resolve_probes(wrong)
    for wrong in (7, object, {"system": {}}.items()):
        with pytest.raises(TypeError, match="expected names, Probe classes or instances"):
            resolve_probes(wrong)
    for interval in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected seconds, more than 0"):
            resolve_probes(Counter(interval))


def test_environment_names_the_probes_of_who_says_nothing(monkeypatch):
    """$RUNCAST_PROBES counts unless the call says which, or that there are none."""
    monkeypatch.setenv("RUNCAST_PROBES", "system")
    with runcast.start_run(report_to="console") as run:
        pass
    assert "system/cpu_percent" in runcast.read_run(run.dir).metrics
    with runcast.start_run(report_to="console", probes=()) as run:
        pass
    assert runcast.read_run(run.dir).metrics == {}


def test_other_ranks_measure_nothing(monkeypatch):
    """Only the first one writes."""
    monkeypatch.setenv("RANK", "1")
    counter = Counter()
    with runcast.start_run(report_to="console", probes=counter) as run:
        pass
    assert not run.enabled
    assert counter.calls == []


def test_tracker_that_is_a_probe_says_so():
    """Who looks for CodeCarbon among the trackers, where other libraries have it, is told where it is."""
    with pytest.raises(runcast.UnknownTrackerError, match=r"""That is a probe: probes=\["codecarbon"\]"""):
        runcast.start_run(report_to="codecarbon")


# -- processes ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, threading, time
import runcast

class Marks(runcast.Probe):
    name = "marks"
    measured = threading.Event()
    def measure(self):
        self.measured.set()
        return {"system/mark": 1.0}
    def stop(self):
        return {"stopped": True}

run = runcast.start_run(report_to="console", probes=Marks(0.001))
assert Marks.measured.wait(30)
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [("", "completed"), ("raise OSError", "failed"), ("os.kill(os.getpid(), signal.SIGTERM)", "killed")],
)
def test_process_that_just_ends_lets_probes_have_their_last_words(end, status, python, tmp_path):
    """At the interpreter's end, by an exception, by SIGTERM: none hangs, and the summary is there."""
    python(SCRIPT + end)
    (folder,) = (tmp_path / "runs").iterdir()
    record = runcast.read_run(folder)
    assert (record.status, record.summary) == (status, {"stopped": True})


def test_forked_child_measures_nothing(python, tmp_path):
    """No probe lives on in a data loader's worker, which may finish the run's handle, too; the parent's goes on."""
    code = """
pid = os.fork()
if not pid:
    run.finish()
    os._exit(len([t for t in threading.enumerate() if t.name.startswith("runcast-probe")]))
_, status = os.waitpid(pid, 0)
Marks.measured.clear()
assert Marks.measured.wait(30)
run.finish()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    result = python(SCRIPT + code)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert runcast.read_run(folder).summary == {"stopped": True}
