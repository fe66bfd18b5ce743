"""The run handle: what calls become, and how a run ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast import events
from runcast.errors import DeliveryError, RunFolderError
from runcast.folder import find_run
from runcast.journal import FILE_NAME, Journal
from runcast.record import Point
from runcast.reporter import Reporter
from runcast.testing.couriers import PATIENCE


class Kept(Reporter):
    """Keeps what it is given."""

    name = "kept"

    def __init__(self) -> None:
        self.metrics: list[tuple] = []
        self.closed: str | None = None

    def log_metrics(self, metrics, step, time):
        self.metrics.append((step, dict(metrics)))

    def close(self, status):
        self.closed = status


class Refusing(Reporter):
    """Takes nothing."""

    name = "refusing"

    def log_metrics(self, metrics, step, time):
        raise ValueError("not this one")


@pytest.fixture
def run():
    """A run that is reported to a thread of this process."""
    with runcast.start_run(Kept(), project="p", delivery="inline") as run:
        yield run


def record(run):
    return runcast.read_run(run.dir)


# -- what is logged ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 0.5), (3, 3.0), (True, 1.0), (np.float32(0.5), 0.5), (np.int64(7), 7.0), (np.array([2.0]), 2.0), (np.array(4), 4.0), (Decimal("0.25"), 0.25), (math.inf, math.inf), (2**70, float(2**70))],
)  # fmt: skip
def test_numbers_of_every_kind_are_metrics(run, value, expected):
    """Python and numpy scalars become numbers; so does what converts to one."""
    run.log({"x": value}, step=4)
    (point,) = record(run).metrics["x"]
    assert (point.step, point.value) == (4, expected)


def test_nan_is_a_number(run):
    """NaN survives the journal."""
    run.log({"x": math.nan, "y": 1.0}, step=0)
    assert math.isnan(record(run).metrics["x"][0].value)
    assert record(run).metrics["y"][0].value == 1.0


def test_texts_beside_numbers_are_texts(run):
    """One call may mix them; both carry the same step and time."""
    run.log({"loss": 0.5, "note": "warm"}, step=2)
    found = record(run)
    assert found.texts["note"][0].text == "warm"
    assert found.texts["note"][0].time == found.metrics["loss"][0].time


def test_value_that_cannot_be_logged_is_skipped_with_one_warning(run, caplog):
    """The rest of the call is logged; the warning names key and type, once."""
    for step in range(3):
        run.log({"bad": object(), "none": None, "list": [1, 2], "good": 1.0}, step=step)
    assert [point.step for point in record(run).metrics["good"]] == [0, 1, 2]
    assert set(record(run).metrics) == {"good"}
    warnings = [message for message in caplog.messages if "can't be logged" in message]
    assert len(warnings) == 3
    assert any("'bad'" in message and "object" in message for message in warnings)


@pytest.mark.parametrize("step", [1.0, "1", True, np.float64(1), [1]])
def test_step_that_is_no_integer_is_a_type_error(run, step):
    """The error names type and value; the call before it is kept."""
    run.log({"x": 1.0}, step=0)
    with pytest.raises(TypeError, match="step is an integer, not"):
        run.log({"x": 2.0}, step=step)
    assert len(record(run).metrics["x"]) == 1


def test_numpy_integer_is_a_step(run):
    """What counts as an index counts as a step."""
    run.log({"x": 1.0}, step=np.int32(3))
    assert record(run).metrics["x"][0].step == 3


def test_step_defaults_to_the_next(run):
    """Without a step each call is one further; media belong to the last step."""
    run.log({"x": 1.0})
    run.log({"x": 1.0})
    run.log({"x": 1.0}, step=10)
    run.log({"x": 1.0})
    run.log_text("t", "x")
    assert [point.step for point in record(run).metrics["x"]] == [0, 1, 10, 11]
    assert record(run).texts["t"][0].step == 11


@pytest.mark.parametrize("name", [7, None, ("a",), b"a"])
def test_name_that_is_no_string_is_a_type_error(run, name):
    """A wrong key is the caller's mistake."""
    with pytest.raises(TypeError, match="a name is a string"):
        run.log({name: 1.0})


@pytest.mark.parametrize("name", ["", "/abs", "../up", "a/./b", "x" * 251])
def test_name_that_no_tracker_can_take_is_a_value_error(run, name):
    """Empty, absolute, escaping and endless names are refused."""
    with pytest.raises(ValueError, match="can't be a name"):
        run.log({name: 1.0})
    with pytest.raises(ValueError, match="can't be a name"):
        run.log_text(name, "x")


def test_log_of_no_mapping_is_a_type_error(run):
    """A number alone has no name."""
    with pytest.raises(TypeError, match="log takes a mapping"):
        run.log(0.5)


@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    hub_token: str = "hf_abcdefghijklmnopqrstuvwxyz"


def test_config_is_merged_nested_and_without_secrets():
    """Dataclasses and updates become one nested config; secrets are masked before the journal."""
    with runcast.start_run(Kept(), config={"a": {"b": 1}, "args": Settings()}, delivery="inline") as run:
        run.update_config({"a": {"c": 2}})
    assert record(run).config == {"a": {"b": 1, "c": 2}, "args": {"lr": 0.1, "hub_token": "***"}}
    assert b"hf_abc" not in (run.dir / FILE_NAME).read_bytes()


def test_no_way_of_logging_lets_a_secret_through(run):
    """Texts, tables, tags, summary and metadata are covered as well."""
    secret = "hf_abcdefghijklmnopqrstuvwxyz"
    run.log({"note": secret})
    run.log_text("t", f"token={secret}")
    run.log_table("table", ["api_key", "x"], [["plain", secret]])
    run.set_summary({"token": "plain-secret", "s": secret})
    run.add_tags(secret)
    path = run.dir.parent / "f.txt"
    path.write_text("x")
    run.log_artifact(path, metadata={"password": "plain-secret"})
    stored = b"".join(p.read_bytes() for p in run.dir.rglob("*") if p.is_file())
    assert secret.encode() not in stored
    assert b"plain-secret" not in stored


def test_media_read_back(run, tmp_path):
    """Image, table, histogram, artifact, summary and tags are in the record."""
    run.log_image("img", np.zeros((2, 3, 3), dtype=np.uint8), step=1)
    run.log_table("tab", ["a"], [[1]], step=1)
    run.log_histogram("h", [1.0, 2.0], step=1)
    (tmp_path / "f.bin").write_bytes(b"abc")
    run.log_artifact(tmp_path / "f.bin", kind="model", metadata={"m": 1}, step=1)
    run.set_summary({"best": 1})
    run.add_tags("t1", "t2")
    found = record(run)
    assert found.images["img"][0].image.read().startswith(b"\x89PNG")
    assert found.tables["tab"][0].rows == ((1,),)
    assert sum(found.histograms["h"][0].counts) == 2
    assert found.artifacts["f.bin"].files["f.bin"].read() == b"abc"
    assert found.summary == {"best": 1}
    assert found.tags == ("t1", "t2")
    with pytest.raises(ValueError, match="the kind of an artifact is one of"):
        run.log_artifact(tmp_path / "f.bin", kind="nonsense")
    with pytest.raises(TypeError, match="log_figure takes a matplotlib figure"):
        run.log_figure("f", "not a figure")


def test_threads_may_log(run):
    """Nothing is lost or torn when several threads log at once."""

    def work(thread: int) -> None:
        for step in range(200):
            run.log({f"t{thread}": float(step)}, step=step)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = record(run).metrics
    assert all([point.step for point in found[f"t{n}"]] == list(range(200)) for n in range(4))


# -- where it is written -------------------------------------------------------------------------------------------


def test_run_folder_is_private_and_complete(run):
    """Folder and files belong to the user alone; the first line names format and writer."""
    run.log({"x": 1.0})
    assert stat.S_IMODE(run.dir.stat().st_mode) == 0o700
    first = json.loads((run.dir / FILE_NAME).read_text().splitlines()[0])
    assert first["type"] == "run_started"
    assert first["format"] == 1
    assert first["writer"]["pid"] == os.getpid()
    files = [path for path in run.dir.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_run_folder_that_cannot_be_written_says_so(tmp_path):
    """The error has the path and the way out; no tracker is started."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match=r"can't create a run folder .*dir= or \$RUNCAST_DIR.*file/runs"):
        runcast.start_run("console", dir=tmp_path / "file" / "runs")
    assert runcast.current_run() is None


def test_none_makes_nothing(tmp_path):
    """Neither folder nor thread nor process; every call is accepted and does nothing."""
    before = threading.active_count()
    with runcast.start_run("none", dir=tmp_path / "runs") as run:
        run.log({"x": 1.0})
        run.log_text("t", "x")
        run.log_image("i", "no such file")
        run.log_artifact("no such file")
        run.update_config({"a": 1})
        run.set_summary({"a": 1})
        run.add_tags("a")
        run.wait_started()
        assert not run.enabled
        assert run.dir is None
        assert runcast.current_run() is None
    assert not (tmp_path / "runs").exists()
    assert threading.active_count() == before


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"])
def test_only_rank_zero_writes(variable, monkeypatch, tmp_path):
    """On every other rank the handle does nothing."""
    monkeypatch.setenv(variable, "1")
    with runcast.start_run("console", dir=tmp_path / "runs") as run:
        run.log({"x": 1.0})
        assert not run.enabled
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv(variable, "0")
    with runcast.start_run(Kept(), dir=tmp_path / "runs", delivery="inline") as run:
        assert run.enabled


class Slow:
    """`os.write`, which in one thread doesn't come to its end before `go`."""

    def __init__(self, monkeypatch) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor, data):
        if threading.current_thread() is self.thread:
            self.inside.set()
            assert self.go.wait(PATIENCE)
        return self._write(descriptor, data)

    def begin(self, target) -> None:
        """Calls `target` in that thread; returns when it is writing."""
        self.thread = threading.Thread(target=target)
        self.thread.start()
        assert self.inside.wait(PATIENCE)

    def end(self) -> None:
        """Lets it write."""
        self.go.set()
        self.thread.join()


def test_finish_waits_for_the_event_that_a_thread_is_writing(run, monkeypatch):
    """The end is the journal's last event, and no late event goes to a file that got the journal's number."""
    slow = Slow(monkeypatch)
    slow.begin(lambda: run.log({"x": 1.0}, step=0))
    finishing = threading.Thread(target=run.finish)
    finishing.start()
    finishing.join(0.5)  # as good as for ever for one that doesn't wait
    slow.end()
    finishing.join()
    with pytest.raises(RuntimeError, match="is finished"):
        run.log({"x": 2.0}, step=1)
    found = [type(entry.event) for entry in Journal(run.dir / FILE_NAME).read()]
    assert found == [events.RunStarted, events.Metrics, events.RunFinished]


def test_child_that_is_forked_while_a_thread_writes_does_not_wait_for_it(run, monkeypatch):
    """That thread isn't there to come to its end: the child's calls return at once."""
    slow = Slow(monkeypatch)
    slow.begin(lambda: run.log({"x": 1.0}, step=0))
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))
        run.log({"x": 99.0}, step=1)
        run.finish()
        os._exit(0)
    slow.end()
    assert os.waitpid(child, 0)[1] == 0
    assert [point.value for point in record(run).metrics["x"]] == [1.0]


def test_forked_child_never_writes(run):
    """A data loader's worker that logs, finishes and exits leaves the run alone."""
    run.log({"x": 1.0}, step=0)
    child = os.fork()
    if child == 0:
        run.log({"x": 99.0}, step=1)
        run.finish("failed")
        os._exit(0 if runcast.current_run() is None and not run.enabled else 1)
    assert os.waitpid(child, 0)[1] == 0
    run.log({"x": 2.0}, step=2)
    assert [point.value for point in record(run).metrics["x"]] == [1.0, 2.0]
    assert record(run).status == "running"


def test_current_run_is_the_innermost():
    """Runs nest; finishing one gives back the one around it."""
    assert runcast.current_run() is None
    with runcast.start_run(Kept(), delivery="inline") as outer:
        with runcast.start_run(Kept(), delivery="inline") as inner:
            assert runcast.current_run() is inner
        assert runcast.current_run() is outer
    assert runcast.current_run() is None


def test_environment_gives_the_defaults(monkeypatch, tmp_path):
    """RUNCAST_DIR, RUNCAST_PROJECT, RUNCAST_REPORT_TO and RUNCAST_DELIVERY are used where nothing is said."""
    monkeypatch.setenv("RUNCAST_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("RUNCAST_PROJECT", "from-env")
    monkeypatch.setenv("RUNCAST_REPORT_TO", "console")
    monkeypatch.setenv("RUNCAST_DELIVERY", "inline")
    with runcast.start_run() as run:
        assert run.dir.parent == tmp_path / "elsewhere"
        assert run.project == "from-env"
        assert [row.name for row in run.deliveries()] == ["console"]
    monkeypatch.setenv("RUNCAST_DELIVERY", "pigeon")
    with pytest.raises(ValueError, match="delivery is one of process, thread, inline, not 'pigeon'"):
        runcast.start_run("console")


# -- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"), [(None, "completed"), (ValueError("x"), "failed"), (KeyboardInterrupt(), "killed"), (SystemExit(0), "completed"), (SystemExit(3), "failed")]
)  # fmt: skip
def test_with_chooses_the_status(error, status):
    """The exception that leaves the block decides, and is the one the user sees."""
    kept = Kept()
    try:
        with runcast.start_run(kept, delivery="inline") as run:
            if error is not None:
                raise error
    except BaseException as caught:
        assert caught is error
    assert record(run).status == status
    assert kept.closed == status


def test_finish_twice_is_once(run):
    """A second call changes nothing."""
    run.finish("failed")
    run.finish("completed")
    assert record(run).status == "failed"
    assert sum(entry.event.__class__.__name__ == "RunFinished" for entry in Journal(run.dir / FILE_NAME).read()) == 1


def test_finish_wants_a_final_status(run):
    """`running` is no end."""
    with pytest.raises(ValueError, match="a run ends as one of"):
        run.finish("running")


def test_logging_to_a_finished_run_says_how_to_go_on(run):
    """The error has the call that resumes it."""
    run.finish()
    with pytest.raises(RuntimeError, match="resume="):
        run.log({"x": 1.0})


def test_strict_makes_what_is_undelivered_an_error():
    """With strict, a refused event is an error at the end; without, it is said and no error."""
    with pytest.raises(DeliveryError, match="refusing complete 2/3 metrics at byte .*not this one"):
        with runcast.start_run(Refusing(), delivery="inline", strict=True) as run:
            run.log({"x": 1.0})
    with runcast.start_run(Refusing(), delivery="inline") as run:
        run.log({"x": 1.0})
    assert run.deliveries()[0].refused == 1


def test_finish_prints_a_table(capsys):
    """Tracker, state, counts and where to look are on standard error; standard output stays the user's."""
    with runcast.start_run(Kept(), delivery="inline") as run:
        run.log({"x": 1.0})
    out, err = capsys.readouterr()
    assert out == ""
    assert "kept" in err and "complete" in err and "3/3" in err and run.id in err


def test_disk_full_costs_events_and_not_the_training(run, monkeypatch, caplog):
    """Losses are counted and said; what comes after is written."""
    write = os.write
    run.log({"x": 1.0}, step=0)

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    run.log({"x": 2.0}, step=1)
    run.log({"x": 3.0}, step=2)
    monkeypatch.setattr(os, "write", write)
    run.log({"x": 4.0}, step=3)
    run.finish()
    assert [point.value for point in record(run).metrics["x"]] == [1.0, 4.0]
    assert any("2 events of this run could not be written" in message for message in caplog.messages)


@pytest.mark.parametrize("delivery", ["inline", "thread"])
def test_run_folder_that_was_deleted_meanwhile_is_said_and_no_error(delivery, caplog):
    """Neither logging nor the end of the run raises; with `strict` the end does, since nobody knows what was delivered."""
    for strict in (False, True):
        run = runcast.start_run(Kept(), delivery=delivery, strict=strict)
        run.log({"x": 1.0}, step=0)
        run.dir.rename(run.dir.with_name("elsewhere"))  # at once, unlike rmtree beside a courier
        shutil.rmtree(run.dir.with_name("elsewhere"), ignore_errors=True)
        run.log({"x": 2.0}, step=1)
        run.log_table("t", ["a"], [[1]])
        with pytest.raises(DeliveryError, match="nobody knows") if strict else contextlib.nullcontext():
            run.finish()
        assert run.status == "completed"
        assert runcast.current_run() is None
        assert any("If it was deleted, what this run logged is lost" in message for message in caplog.messages)
        caplog.clear()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds a descriptor's file by /proc")
def test_finish_puts_the_run_on_the_disk(run, tmp_path, monkeypatch):
    """The journal, the files beside it, and all entries of folders: a power loss then takes nothing of a finished run."""
    synced, sync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.add(Path(f"/proc/self/fd/{fd}").readlink()) or sync(fd))
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.bin").write_bytes(b"abc")
    run.log_image("i", np.zeros((2, 2, 3), dtype=np.uint8))
    run.log_table("t", ["a"], [[1]])
    run.log_artifact(tmp_path / "checkpoint")
    assert not synced & {run.dir / FILE_NAME, *(run.dir / "artifacts").rglob("*")}, "training doesn't wait for its disk"
    run.finish()
    assert synced >= {
        run.dir / FILE_NAME,
        run.dir,
        run.dir.parent,
        run.dir / "artifacts",
        *(run.dir / "artifacts").rglob("*"),
    }


SCRIPT = """
import os, signal, sys, runcast
class Quiet(runcast.Reporter):
    name = "quiet"
    def log_metrics(self, metrics, step, time): pass
run = runcast.start_run(Quiet, delivery="thread")
print(run.dir, flush=True)
run.log({"x": 1.0}, step=0)
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", "completed"),
        ("raise ValueError('boom')", "failed"),
        ("raise KeyboardInterrupt", "killed"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "killed"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crashed"),
        ("os._exit(3)", "crashed"),
        ("sys.exit()", "completed"),
        ("sys.exit(1)", "failed"),
        ("sys.exit('no data')", "failed"),
        ("import typer\ndef main(): raise typer.Exit(2)\ntyper.run(main)", "failed"),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); os.kill(os.getpid(), signal.SIGTERM)", "killed"),
        (
            "import threading; other = threading.Thread(target=sys.exit, args=(1,)); other.start(); other.join()",
            "completed",
        ),
    ],
)
def test_process_that_ends_without_finish_has_the_right_status(python, end, status):
    """However the interpreter ends, the journal tells how."""
    result = python(SCRIPT + end)
    found = runcast.read_run(result.stdout.splitlines()[0])
    assert found.status == status, result.stderr
    assert found.metrics["x"] == [Point(0, 1.0, found.metrics["x"][0].time)]


def test_sigterm_still_ends_the_process_and_a_users_handler_stays(python):
    """The process dies of SIGTERM as it would have; somebody else's handler is not replaced."""
    assert python(SCRIPT + "os.kill(os.getpid(), signal.SIGTERM)").returncode == -signal.SIGTERM
    code = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))" + SCRIPT.replace(
        "import os", "import os", 1
    )
    assert python("import sys\n" + code + "os.kill(os.getpid(), signal.SIGTERM)").returncode == 7


WORK = """
import os, sys, runcast
class Quiet(runcast.Reporter):
    name = "quiet"
    def log_metrics(self, metrics, step, time): pass
def work(end):
    run = runcast.start_run(Quiet, delivery="thread")
    print(run.dir, flush=True)
    exec(end)
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [("", "completed", None), ("raise ValueError('boom')", "failed", "ValueError: boom"), ("sys.exit(3)", "failed", "SystemExit: 3")],
)  # fmt: skip
def test_child_of_multiprocessing_has_the_right_status(python, tmp_path, method, end, status, reason):
    """Such a child ends on a path of its own: an open run learns there how."""
    if sys.version_info >= (3, 13) and "raise" in end:
        if method == "fork":
            pytest.skip("Python 3.13 forgets the exception before it runs what is registered for the child's end")
        reason = "SystemExit: 1"  # all that is left of it
    (tmp_path / "child.py").write_text(WORK)
    result = python(
        "import multiprocessing, sys, child\n"
        "process = multiprocessing.get_context(sys.argv[1]).Process(target=child.work, args=(sys.argv[2],))\n"
        "process.start(); process.join()",
        method,
        end,
    )
    *_, last = Journal(Path(result.stdout.splitlines()[0]) / FILE_NAME).read()
    assert (last.event.status, last.event.reason) == (status, reason), result.stderr


def test_what_an_open_run_sets_is_given_back():
    """After the last run SIGTERM and `sys.exit` are as they were, in a forked child at once."""
    leave = sys.exit
    with runcast.start_run(Kept(), delivery="inline"):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        child = os.fork()
        if child == 0:
            os._exit(0 if sys.exit is leave and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert sys.exit is leave


def test_run_that_is_open_beside_it_keeps_what_somebody_else_set(monkeypatch):
    """Who wrapped `sys.exit` after us keeps it; the next run sees exit codes all the same, and each run gives its own back."""
    first = runcast.start_run(Kept(), delivery="inline")
    ours = sys.exit
    theirs = lambda status=None: ours(status)  # noqa: E731 -- it is told by its identity
    monkeypatch.setattr(sys, "exit", theirs)
    first.finish()
    assert sys.exit is theirs
    with runcast.start_run(Kept(), delivery="inline"):
        assert sys.exit is not theirs
    assert sys.exit is theirs


def test_ctrl_c_in_a_real_process_is_killed(tmp_path):
    """SIGINT from outside ends the run as killed."""
    code = SCRIPT + "import time\nprint('ready', flush=True)\ntime.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stdout.readline().strip()]
    while lines[-1] != "ready":
        lines.append(process.stdout.readline().strip())
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert runcast.read_run(lines[0]).status == "killed"


# -- resume --------------------------------------------------------------------------------------------------------


def test_resume_appends_to_the_same_journal():
    """By id, by folder and by the beginning of an id; steps go on."""
    with runcast.start_run(Kept(), project="p", name="n", delivery="inline") as first:
        first.log({"x": 1.0}, step=5)
    for again in (first.id, first.dir, first.id[:-1]):
        with runcast.start_run(Kept(), resume=again, delivery="inline") as run:
            run.log({"x": 2.0})
            assert (run.id, run.project, run.name) == (first.id, "p", "n")
    assert [point.step for point in record(first).metrics["x"]] == [5, 6, 7, 8]
    assert record(first).status == "completed"


def test_resume_from_a_checkpoint_supersedes_what_came_after_it():
    """No step shows twice."""
    with runcast.start_run(Kept(), delivery="inline") as first:
        for step in range(10):
            first.log({"x": float(step)}, step=step)
    with runcast.start_run(Kept(), resume=first.id, resume_step=4, delivery="inline") as run:
        for step in range(5, 7):
            run.log({"x": step + 0.5}, step=step)
    assert [point.value for point in record(first).metrics["x"]] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.5, 6.5]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"config": 5}, "a config is"), ({"resume_step": 0.5}, "step is an integer"), ({"tags": 5}, "iterable"), ({"finish_timeout": None}, "finish_timeout is a number of seconds, math.inf for no end, not NoneType")],
)  # fmt: skip
def test_wrong_call_begins_nothing(wrong, error, tmp_path):
    """What can't be right is an error before anything is written: no folder, and a run that is resumed stays as it is."""
    if "resume_step" not in wrong:
        with pytest.raises(TypeError, match=error):
            runcast.start_run(Kept(), dir=tmp_path / "new", **wrong)
        assert not (tmp_path / "new").exists()
    with runcast.start_run(Kept(), delivery="inline") as first:
        first.log({"x": 1.0}, step=0)
    before = (first.dir / FILE_NAME).read_bytes()
    with pytest.raises(TypeError, match=error):
        runcast.start_run(Kept(), resume=first.id, **wrong)
    assert (first.dir / FILE_NAME).read_bytes() == before
    runcast.start_run(Kept(), resume=first.id, config={"a": 1}, delivery="inline").finish()
    assert record(first).config == {"a": 1}


class Broken(Kept):
    """Can't even be asked where it runs."""

    name = "broken"

    def joins(self):
        raise LookupError("out of order")


@pytest.mark.parametrize("resume", [False, True])
def test_run_that_cannot_be_begun_whole_is_ended(resume, tmp_path):
    """Nobody gets a handle that could end it: it ends as failed, with the reason, and can be resumed."""
    options = {}
    if resume:
        with runcast.start_run(Kept(), delivery="inline") as first:
            options = {"resume": first.id}
    with pytest.raises(LookupError):
        runcast.start_run([Kept(), Broken()], delivery="inline", **options)
    assert runcast.current_run() is None
    (folder,) = (tmp_path / "runs").iterdir()
    *_, last = Journal(folder / FILE_NAME).read()
    assert (last.event.status, last.event.reason) == ("failed", "LookupError: out of order")
    runcast.start_run(Kept(), resume=folder, delivery="inline").finish()
    assert runcast.read_run(folder).status == "completed"


def test_resume_of_what_is_not_there_or_not_finished_is_an_error(run, tmp_path):
    """An unknown run, a foreign folder and a run that is being written are refused."""
    with pytest.raises(RunFolderError, match="no run 'nothing'"):
        runcast.start_run("console", resume="nothing")
    with pytest.raises(RunFolderError, match="no run"):
        runcast.start_run("console", resume=tmp_path)
    with pytest.raises(RunFolderError, match="is being written by process"):
        runcast.start_run("console", resume=run.id)


def test_run_left_running_by_nobody_is_crashed_when_read(run, caplog):
    """The record's status follows the writer, not the last line alone."""
    caplog.set_level(logging.INFO)
    assert record(run).status == "running"
    text = (run.dir / FILE_NAME).read_text().replace(f'"pid":{os.getpid()}', '"pid":4194304')
    (run.dir / FILE_NAME).write_text(text)
    assert record(run).status == "crashed"


def test_exact_id_is_no_beginning():
    """A run is found by its id also where a copy's name begins with it."""
    with runcast.start_run(Kept(), delivery="inline") as first:
        pass
    shutil.copytree(first.dir, first.dir.with_name(f"{first.id}-copy"))
    assert find_run(first.id) == first.dir
    with pytest.raises(RunFolderError, match="several runs"):
        find_run(first.id[:-1])


# -- reporters of an open run --------------------------------------------------------------------------------------


def test_reporter_added_late_gets_everything(run):
    """It starts at the first event; removed, it gets nothing more."""
    run.log({"x": 1.0}, step=0)

    class Late(Kept):
        name = "late"

    late = Late()
    run.add_reporter(late)
    assert late.metrics == [(0, {"x": 1.0})]
    with pytest.raises(ValueError, match="already reports to 'late'"):
        run.add_reporter(Late())
    assert run.remove_reporter("late")
    assert not run.remove_reporter("late")
    run.log({"x": 2.0}, step=1)
    assert late.metrics == [(0, {"x": 1.0})]


def test_resumed_run_keeps_its_trackers():
    """Without a `report_to`, a resumed run goes on in the trackers that it has."""
    with runcast.start_run(["console"], delivery="inline") as first:
        first.log({"x": 1.0}, step=0)
    with runcast.start_run(resume=first.id, delivery="inline") as again:
        again.log({"x": 2.0}, step=1)
    assert [row.name for row in again.deliveries()] == ["console"]
    assert again.deliveries()[0].done
