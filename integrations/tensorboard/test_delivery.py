"""Exactly once in TensorBoard's event files, told by TensorBoard's own reader, whatever breaks; and nothing elsewhere."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.delivery import load_state
from runcast.reporter import NativeRun, RunInfo
from runcast.reporters.tensorboard import TensorBoardReporter
from runcast.sync import deliver
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.faults import Fault, inject, strikes
from runcast.verify import verify

from .backend import Files

STEPS = 30


def files(run_dir: Path) -> Files:
    return Files(run_dir / "tensorboard")


def once(*steps: int, name: str = "loss") -> Counter[tuple[str, int]]:
    """Every step once."""
    return Counter((name, step) for step in steps)


def assert_matches(run_dir: Path) -> None:
    """The reader finds what the journal has."""
    (result,) = verify(run_dir)
    assert result.matches, result


def info(run_dir: Path, run_id: str = "id") -> RunInfo:
    """A run in this folder."""
    return RunInfo(run_id, "name", "project", None, run_dir, 0.0)


def resumed(run_dir: Path, step: int | None, reporter: TensorBoardReporter | None = None) -> runcast.Run:
    """The run, gone on with from a checkpoint."""
    return runcast.start_run(
        reporter or TensorBoardReporter(), resume=run_dir, resume_step=step, finish_timeout=PATIENCE, strict=True
    )


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A run whose process killed itself after steps 0 to 9, and whose courier said so."""
    code = (
        "import os, signal, sys, runcast\n"
        "run = runcast.start_run('tensorboard', dir=sys.argv[1], config={'lr': 1})\n"
        "print(run.dir, flush=True)\n"
        "for step in range(10): run.log({'loss': step / 7}, step=step)\n"
        "run.log_artifact(__import__('runcast').__file__, name='first life')\n"
        "run.log_text('note', 'hello', step=9)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "runs")], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    run_dir = Path(done.stdout.decode().strip())
    wait_until_through(run_dir, "tensorboard")
    return run_dir


@pytest.mark.parametrize(
    "faults",
    [
        (Fault("open", "kill", after=True), Fault("flush", "kill"), Fault("close", "exit")),
        (Fault("log", "kill", nth=8), Fault("close", "kill", after=True)),
        (Fault("log", "exit", nth=20, after=True), Fault("close", "kill")),
        (Fault("log", "segv", nth=12), Fault("flush", "kill", nth=20, after=True)),
        (Fault("log", "hang", nth=9), Fault("flush", "hang")),
        (Fault("log", "reset", nth=9, after=True), Fault("flush", "disk full"), Fault("close", "refuse", after=True)),
        (Fault("log", "disk full", nth=9), Fault("flush", "raise", after=True), Fault("close", "raise")),
    ],
    ids=lambda faults: ", ".join(f"{fault.action} {'after' if fault.after else 'at'} {fault.at}" for fault in faults),
)
def test_every_point_is_in_the_event_files_once(faults: tuple[Fault, ...], tmp_path: Path) -> None:
    """Wherever a courier ends or a call fails, TensorBoard has each point, image and text once, and the status."""
    reporter = inject(TensorBoardReporter(), *faults, ledger=tmp_path / "struck", call_timeout=3.0)
    with runcast.start_run(reporter, dir=tmp_path / "runs", config={"lr": 1}, finish_timeout=PATIENCE) as run:
        for step in range(STEPS):
            run.log({"loss": step / 7}, step=step)
            if step % 10 == 0:
                run.log_text("note", f"at {step}", step=step)
                run.log_image("picture", np.full((4, 4), step, dtype=np.uint8), step=step)
                run.log_histogram("weights", [1.0, step], step=step)
                run.log_table("rows", ["a"], [[step]], step=step)
    assert sorted(strikes(tmp_path / "struck")) == sorted(f"{fault.at} {fault.action}" for fault in faults)
    assert run.deliveries()[0].done, run.deliveries()
    found = files(run.dir)
    assert found.points == once(*range(STEPS))
    assert found.others == Counter(dict.fromkeys(("note", "picture", "weights", "rows"), 3))
    assert found.status == "STATUS_SUCCESS"
    assert_matches(run.dir)


def test_resume_from_a_checkpoint_shows_each_step_once(killed: Path) -> None:
    """The points behind the checkpoint are gone from the event files, and so are the status and files of before."""
    assert files(killed).status == "STATUS_FAILURE"
    (kept,) = (killed / "tensorboard" / "artifacts").iterdir()
    with resumed(killed, 5) as run:
        for step in range(6, 13):
            run.log({"loss": step * 2.0}, step=step)
    found = files(killed)
    assert found.points == once(*range(13))
    assert not found.others  # the text was at step 9
    assert found.status == "STATUS_SUCCESS"
    assert list((killed / "tensorboard" / "artifacts").iterdir()) == [kept]
    assert_matches(killed)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_courier_killed_while_it_begins_anew_begins_anew_once_more(killed: Path, tmp_path: Path, after: bool) -> None:
    """Nothing is left of the old run, nor of the first try."""
    reporter = inject(TensorBoardReporter(), Fault("open", "kill", after=after), ledger=tmp_path / "struck")
    with resumed(killed, 5, reporter) as run:
        run.log({"loss": 6.0}, step=6)
    assert strikes(tmp_path / "struck") == ["open kill"]
    assert files(killed).points == once(*range(7))
    assert_matches(killed)


def test_resume_of_a_completed_run_without_points_to_take_back_goes_on_beside_it(tmp_path: Path) -> None:
    """The first event file stays as it is, and the HParams page has the status of the last end."""
    with runcast.start_run("tensorboard", dir=tmp_path, finish_timeout=PATIENCE) as run:
        run.log({"loss": 0.0}, step=0)
    (before,) = (path for path in (run.dir / "tensorboard").iterdir() if ".end." not in path.name)
    stored = before.read_bytes()
    again = resumed(run.dir, 0)
    again.log({"loss": 1.0}, step=1)
    again.finish("failed")
    assert before.read_bytes() == stored
    assert files(run.dir).points == once(0, 1)
    assert files(run.dir).status == "STATUS_FAILURE"
    assert_matches(run.dir)


def test_lost_state_file_doubles_nothing(killed: Path) -> None:
    """Delivering all over again replaces what the folder has."""
    (killed / "trackers" / "tensorboard.json").unlink()
    deliver(killed, [TensorBoardReporter()], PATIENCE)
    assert files(killed).points == once(*range(10))
    assert_matches(killed)


def test_event_files_of_others_stay(killed: Path) -> None:
    """Beginning anew removes what was written by us, and nothing else."""
    theirs = killed / "tensorboard" / "events.out.tfevents.0000000001.host"
    theirs.write_bytes(b"")
    with resumed(killed, 5):
        pass
    assert theirs.exists()


def test_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    """What doesn't fit is taken back to the last whole record, and written when there is room again."""
    code = (
        "import resource, signal, sys, pathlib, time\n"
        "from runcast.reporter import RunInfo\n"
        "from runcast.reporters.tensorboard import TensorBoardReporter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "reporter = TensorBoardReporter()\n"
        "reporter.open(RunInfo('id', 'id', 'p', None, pathlib.Path(sys.argv[1]), time.time()), None)\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))\n"
        "for step in range(100): reporter.log_metrics({'loss': 1.0}, step, 1.0)\n"
        "try: reporter.flush()\n"
        "except OSError: pass\n"
        "else: raise SystemExit('the disk was to be full')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "reporter.flush()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert files(tmp_path).points == once(*range(100))


def test_clock_that_goes_back_does_not_mix_up_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later file sorts behind an earlier one, as TensorBoard reads them, also within a second."""
    run = runcast.start_run("none")
    for number, now in enumerate((2_000_000_000.0, 1_000_000_000.0, 2_000_000_000.0)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        run = runcast.start_run(
            "tensorboard", dir=tmp_path, delivery="inline", resume=run.dir, resume_step=None, finish_timeout=PATIENCE
        )
        run.log({"loss": float(number)}, step=number)
        run.finish()
    names = sorted(path.name for path in (run.dir / "tensorboard").iterdir() if ".end." not in path.name)
    assert [name.split(".")[3] for name in names] == ["2000000000", "2000000001", "2000000002"]
    assert [
        point.value for point in TensorBoardReporter().read(load_state(run.dir, "tensorboard").native).metrics["loss"]
    ] == [0.0, 1.0, 2.0]


class TestHostileRunFolder:
    """A run folder from a stranger makes the reporter write nowhere else: there is an error that says why."""

    def refused(self, run: RunInfo, data: dict[str, object] | None = None, logdir: Path | None = None) -> str:
        """Why the run is not begun, nor gone on with, nor begun anew."""
        reporter = TensorBoardReporter(logdir=logdir and str(logdir))
        native = None if data is None else NativeRun(run.run_id, None, data)
        with pytest.raises(ValueError, match=".+") as error:
            reporter.open(run, native)
        if native is not None:
            with pytest.raises(ValueError, match=re.escape(str(error.value))):
                reporter.replace(run, native)
        return str(error.value)

    def test_recorded_folder_elsewhere_is_no_place_to_write(self, tmp_path: Path) -> None:
        """Event files go to the run folder, or to the log folder of the user's own settings."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        said = self.refused(info(tmp_path), {"dir": str(elsewhere / "x"), "logdir": str(elsewhere)})
        assert "to go on there, say so: logdir=" in said
        assert list(elsewhere.iterdir()) == []
        TensorBoardReporter().replace(info(tmp_path), NativeRun("id", None, {"dir": str(elsewhere), "logdir": None}))
        assert list(elsewhere.iterdir()) == []
        assert files(tmp_path).status is None

    @pytest.mark.parametrize("linked", ["tensorboard", "tensorboard/artifacts"])
    def test_link_to_elsewhere_is_refused(self, linked: str, killed: Path, tmp_path: Path) -> None:
        """Neither are files written through a link, nor those behind it removed."""
        elsewhere = tmp_path / "elsewhere"
        (killed / linked).rename(elsewhere)
        (killed / linked).symlink_to(elsewhere)
        before = sorted(elsewhere.rglob("*"))
        assert "is a link" in self.refused(info(killed), {"dir": str(killed / "tensorboard"), "logdir": None})
        assert "is a link" in self.refused(info(killed))
        assert sorted(elsewhere.rglob("*")) == before

    @pytest.mark.parametrize("run_id", ["../victim", "..", ".", "", "a/b"])
    def test_run_id_is_no_path(self, run_id: str, tmp_path: Path) -> None:
        """With a log folder, the run id is the name of a folder in it."""
        assert "is no name for a folder" in self.refused(info(tmp_path, run_id), logdir=tmp_path / "logs")
        assert not list(tmp_path.iterdir())

    def test_files_of_an_artifact_stay_in_its_folder(self, killed: Path) -> None:
        """A path that leads out is set aside, with everything else delivered."""
        journal = killed / "journal.jsonl"
        journal.write_text(journal.read_text().replace('"path":"__init__.py"', '"path":"../../../__init__.py"'))
        (killed / "trackers" / "tensorboard.json").unlink()
        deliver(killed, [TensorBoardReporter()], PATIENCE)
        state = load_state(killed, "tensorboard")
        assert [item.type for item in state.set_aside] == ["artifact"]
        assert "leads out of" in state.set_aside[0].reason
        assert files(killed).points == once(*range(10))


def test_run_folder_that_was_moved_goes_on_where_it_is(killed: Path, tmp_path: Path) -> None:
    """Its event files moved with it."""
    moved = killed.rename(tmp_path / "moved")
    with resumed(moved, None) as run:
        run.log({"loss": 10.0}, step=10)
    assert not killed.exists()
    assert files(moved).points == once(*range(11))
    assert_matches(moved)


def test_log_folder_is_private(tmp_path: Path) -> None:
    """Nobody else reads what is written outside the run folder."""
    source = tmp_path / "model"
    source.mkdir()
    (source / "weights.bin").write_bytes(b"x")
    old = os.umask(0o022)
    try:
        with runcast.start_run(
            {"tensorboard": {"logdir": str(tmp_path / "logs")}}, dir=tmp_path / "runs", finish_timeout=PATIENCE
        ) as run:
            run.log({"loss": 1.0}, step=0)
            run.log_artifact(source)
    finally:
        os.umask(old)
    folder = tmp_path / "logs" / run.id
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder)] == [0o700, 0o700]
    written = list(folder.glob("events.out.tfevents.*"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in written] == [0o600, 0o600]
