"""Whether a journal is still written: by a process of this machine, of an earlier boot, of a container, of another machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import msgspec
import psutil
import pytest

import runcast
from runcast import events
from runcast.courier import Courier
from runcast.delivery import load_state
from runcast.journal import FILE_NAME, Journal
from runcast.writer import QUIET, is_written, this_writer, writer_alive
from runcast.testing.lines import LinesReporter

changed = msgspec.structs.replace
boot_is_known = pytest.mark.skipif(this_writer().boot is None, reason="the system doesn't say which boot this is")


@pytest.fixture
def other():
    """Another process of this machine, as a journal names its writer."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield changed(this_writer(), pid=process.pid, started=psutil.Process(process.pid).create_time())
        process.kill()


def end(writer):
    """Kills the process, which stays a zombie for a while."""
    psutil.Process(writer.pid).kill()
    while writer_alive(writer):
        time.sleep(0.01)


def elsewhere(writer):
    """The same process, were it one of another machine."""
    return changed(writer, host="node17", boot=writer.boot and "b" * 36)


def run_of(folder, writer):
    """A run folder whose journal has no end."""
    journal = Journal(folder / FILE_NAME)
    journal.append(events.RunStarted(time=0.0, run_id="r", project="p", name="n", writer=writer))
    journal.append(events.Metrics(time=1.0, step=1, values={"loss": 0.5}))
    journal.close()
    return folder


def quiet(folder):
    """Nothing was written for long."""
    past = time.time() - 2 * QUIET
    os.utime(folder / FILE_NAME, (past, past))
    return folder


def test_process_of_this_machine_is_known_by_id_and_start(other):
    """Not by its id alone, which is given again."""
    assert writer_alive(other) is True
    assert writer_alive(changed(other, started=other.started - 100)) is False
    end(other)
    assert writer_alive(other) is False


@boot_is_known
def test_name_of_the_machine_may_change_meanwhile(other, tmp_path):
    """A laptop comes into another network; its training is then killed, and the tracker's run closed as crashed."""
    writer = changed(other, host="laptop-at-home")
    courier = Courier(run_of(tmp_path, writer), LinesReporter())
    while courier.advance() == 0:
        pass
    assert runcast.read_run(tmp_path).status == "running"
    end(writer)
    while courier.advance() is not None:
        pass
    assert load_state(tmp_path, "lines").status == "crashed"
    assert runcast.read_run(tmp_path).status == "crashed"


@boot_is_known
def test_process_of_an_earlier_boot_has_ended():
    """Whatever process has its id now."""
    assert writer_alive(changed(this_writer(), boot="b" * 36)) is False


@boot_is_known
def test_process_of_another_container_can_not_be_seen():
    """Its id means another process there, also where both have the machine's name."""
    assert writer_alive(changed(this_writer(), namespace=1)) is None


def test_writer_of_an_older_journal_is_told_by_host_alone():
    """Boot and namespace weren't written down."""
    old = changed(this_writer(), boot=None, namespace=None)
    assert writer_alive(old) is True
    assert writer_alive(changed(old, started=0.0)) is False
    assert writer_alive(changed(old, host="node17")) is None
    assert (
        events.decode(b'{"type":"run_resumed","time":1.0,"writer":{"pid":7,"started":2.5,"host":"here"}}').writer.boot
        is None
    )


def test_writer_on_another_machine_writes_until_it_has_been_quiet_for_long(tmp_path):
    """Nobody here can see whether it runs; what counts is when the journal was written last."""
    writer = elsewhere(this_writer())
    run_of(tmp_path, writer)
    assert writer_alive(writer) is None
    assert is_written(tmp_path / FILE_NAME, writer)
    assert runcast.read_run(tmp_path).status == "running"
    quiet(tmp_path)
    assert not is_written(tmp_path / FILE_NAME, writer)
    assert runcast.read_run(tmp_path).status == "crashed"


def test_quiet_says_nothing_of_a_process_that_can_be_seen(tmp_path):
    """An evaluation may take as long as it likes."""
    run_of(tmp_path, this_writer())
    assert runcast.read_run(quiet(tmp_path)).status == "running"


def test_courier_ends_with_a_run_of_another_machine_that_became_quiet(tmp_path):
    """It closes the run as crashed; when that turns out to be wrong, the next one goes on and closes it rightly."""
    run_of(tmp_path, elsewhere(this_writer()))
    courier = Courier(tmp_path, LinesReporter())
    while (pause := courier.advance()) == 0:
        pass
    assert pause is not None
    quiet(tmp_path)
    while courier.advance() is not None:
        pass
    assert load_state(tmp_path, "lines").status == "crashed"
    journal = Journal(tmp_path / FILE_NAME)
    journal.append(events.Metrics(time=2.0, step=2, values={"loss": 0.4}))
    journal.append(events.RunFinished(time=3.0, status="completed"))
    courier = Courier(tmp_path, LinesReporter())
    while courier.advance() is not None:
        pass
    state = load_state(tmp_path, "lines")
    assert (state.state, state.status) == ("complete", "completed")
    record = LinesReporter().read(state.native)
    assert (record.status, [point.step for point in record.metrics["loss"]]) == ("completed", [1, 2])


def test_resume_takes_a_run_over_from_another_machine(tmp_path, caplog):
    """A job goes on where there is room; who wrote before, and that nobody can see it, is said."""
    writer = elsewhere(this_writer())
    run_dir = run_of(tmp_path, writer)
    with runcast.start_run(LinesReporter(), resume=run_dir, resume_step=1, delivery="inline") as run:
        run.log({"loss": 0.25}, step=2)
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert f"process {writer.pid} on node17" in warning
    record = runcast.read_run(run_dir)
    assert (record.status, [point.step for point in record.metrics["loss"]]) == ("completed", [1, 2])


def test_resume_of_a_run_that_another_process_writes_is_refused(other, tmp_path):
    """The two would write into one journal."""
    with pytest.raises(runcast.RunFolderError, match=f"is being written by process {other.pid}"):
        runcast.start_run("console", resume=run_of(tmp_path, other))
    end(other)
    with runcast.start_run(LinesReporter(), resume=tmp_path, delivery="inline"):
        pass
    assert runcast.read_run(tmp_path).status == "completed"
