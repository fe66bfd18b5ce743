"""Exactly once in W&B's own files, whatever breaks; the runs of the user; and nothing elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

import runcast
from runcast.delivery import load_state, save_state
from runcast.reporter import NativeRun, RunInfo
from runcast.reporters.wandb import WandbReporter
from runcast.sync import deliver, how_far
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.couriers import native_of
from runcast.testing.faults import Fault, inject, strikes
from runcast.verify import verify

from .backend import logs, points, records, rows

STEPS = 30


def once(*steps: int, name: str = "loss") -> Counter[tuple[str, int]]:
    """Every step once."""
    return Counter((name, step) for step in steps)


def assert_matches(run_dir: Path) -> None:
    """The reader finds what the journal has."""
    (result,) = verify(run_dir)
    assert result.matches, result


def resumed(run_dir: Path, step: int | None, reporter: WandbReporter | None = None) -> runcast.Run:
    """The run, gone on with from a checkpoint."""
    return runcast.start_run(
        reporter or WandbReporter(), resume=run_dir, resume_step=step, finish_timeout=PATIENCE, strict=True
    )


def run_script(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a training script of somebody's, where `runs` is the folder for runs."""
    head = "import os, signal, sys, runcast, wandb\nruns = sys.argv[1]\n"
    return subprocess.run(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        env={**os.environ, "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose process killed itself after steps 0 to 9, and whose courier said so.

    It had a run of W&B's of its own before, whose process at W&B ended with it.
    """
    folder = tmp_path_factory.mktemp("killed")
    code = (
        "wandb.init(mode='offline', dir=sys.argv[2]).finish()\n"
        "run = runcast.start_run('wandb', dir=runs, config={'lr': 1}, tags=['t'])\n"
        "print(run.dir, flush=True)\n"
        "for step in range(10): run.log({'loss': step / 7}, step=step)\n"
        "run.log_artifact(runcast.__file__, name='first life')\n"
        "run.log_text('note', 'hello', step=9)\n"
        "run.set_summary({'best': 3})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run_script(code, folder / "runs", folder)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_dir = Path(done.stdout.splitlines()[-1])
    wait_until_through(run_dir, "wandb")
    assert_matches(run_dir)
    return run_dir


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A copy of that run, in another place."""
    return shutil.copytree(killed_once, tmp_path / "runs" / killed_once.name, symlinks=True)


@pytest.mark.parametrize(
    "faults",
    [
        (Fault("open", "kill", after=True), Fault("flush", "kill"), Fault("close", "exit")),
        (Fault("log", "kill", nth=8), Fault("close", "kill", after=True)),
        (Fault("log", "exit", nth=20, after=True), Fault("flush", "kill", nth=20, after=True)),
        (Fault("log", "segv", nth=12), Fault("close", "kill")),
        (Fault("log", "hang", nth=9, after=True),),
        (Fault("log", "reset", nth=9, after=True), Fault("flush", "disk full"), Fault("close", "refuse", after=True)),
        (Fault("log", "disk full", nth=9), Fault("flush", "raise", after=True), Fault("close", "raise")),
    ],
    ids=lambda faults: ", ".join(f"{fault.action} {'after' if fault.after else 'at'} {fault.at}" for fault in faults),
)
def test_every_point_is_in_the_files_once(faults: tuple[Fault, ...], tmp_path: Path) -> None:
    """Wherever a courier ends or a call fails, W&B's files together have each row once, and the last says the status."""
    reporter = inject(WandbReporter(), *faults, ledger=tmp_path / "struck", call_timeout=10.0)
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
    stored = logs(run.dir)
    expected = once(*range(STEPS))
    for name in ("note", "picture", "weights", "rows"):
        expected += once(0, 10, 20, name=name)
    assert points(*stored) == expected
    steps = [row["_step"] for path in stored for row in rows(path)]
    assert steps == sorted(set(steps))
    assert records(stored[-1], "exit")[-1].exit_code == 0
    assert_matches(run.dir)


def test_process_of_w_and_b_that_outlives_its_courier_is_waited_for(tmp_path: Path) -> None:
    """What it still writes when the next courier starts is read back, and doesn't come again."""
    run = runcast.start_run("wandb", dir=tmp_path, finish_timeout=PATIENCE)
    run.log({"loss": 0.0}, step=0)
    _wait(lambda: (load_state(run.dir, "wandb") or 0) and load_state(run.dir, "wandb").events == 2)
    (supervisor,) = (process for process in psutil.Process().children() if "courier_process" in str(process.cmdline()))
    (courier,) = supervisor.children()
    (core,) = courier.children()
    core.suspend()
    try:
        for step in range(1, 10):
            run.log({"loss": step / 7}, step=step)
        time.sleep(2.0)  # so that the courier has sent some, which nobody takes
        courier.kill()
        _wait(lambda: any(process != courier for process in supervisor.children()))
        time.sleep(2.0)  # so that the next one would have begun, were it not to wait
        assert len(logs(run.dir)) == 1
    finally:
        core.resume()
    run.finish()
    assert len(logs(run.dir)) == 2
    assert points(*logs(run.dir)) == once(*range(10))
    assert_matches(run.dir)


def _wait(done: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestResume:
    """A run that is gone on with is one run of W&B's, with each step once."""

    def test_from_a_checkpoint_begins_anew(self, killed: Path) -> None:
        """The session with the points behind the checkpoint is gone; the new one has the same id, and everything else."""
        (before,) = logs(killed)
        with resumed(killed, 5) as run:
            for step in range(6, 13):
                run.log({"loss": step * 2.0}, step=step)
        (after,) = logs(killed)
        assert after != before
        assert after.name == before.name
        assert points(after) == once(*range(13))
        assert [artifact.type for artifact in records(after, "artifact")] == ["file"]
        assert records(after, "exit")[-1].exit_code == 0
        assert_matches(killed)

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    def test_courier_killed_while_it_begins_anew_begins_anew_once_more(
        self, killed: Path, tmp_path: Path, after: bool
    ) -> None:
        """Nothing is left of the old run, nor of the first try."""
        reporter = inject(WandbReporter(), Fault("open", "kill", after=after), ledger=tmp_path / "struck")
        with resumed(killed, 5, reporter) as run:
            run.log({"loss": 6.0}, step=6)
        assert strikes(tmp_path / "struck") == ["open kill"]
        (log,) = logs(killed)
        assert points(log) == once(*range(7))
        assert_matches(killed)

    def test_without_points_to_take_back_goes_on_in_a_further_session(self, killed: Path) -> None:
        """The first session stays as it is; the second goes on with W&B's step, and has tags, config and status."""
        (first,) = logs(killed)
        before = first.read_bytes()
        with resumed(killed, 9) as run:
            run.log({"loss": 10.0}, step=10)
        first, second = logs(killed)
        assert first.read_bytes() == before
        assert points(first, second) == once(*range(11)) + once(9, name="note")
        assert [row["_step"] for row in rows(second)] == [11]
        native = records(second, "run")[0]
        assert list(native.tags) == ["t"]
        assert {"lr", "runcast"} <= {item.key for item in native.config.update}
        assert "best" in {item.key for record in records(second, "summary") for item in record.update}
        assert_matches(killed)

    def test_lost_state_file_doubles_nothing(self, killed: Path) -> None:
        """Delivering all over again takes the place of what there is."""
        (killed / "trackers" / "wandb.json").unlink()
        deliver(killed, [WandbReporter()], PATIENCE)
        (log,) = logs(killed)
        assert points(log) == once(*range(10)) + once(9, name="note")
        assert_matches(killed)

    def test_other_runs_in_a_shared_folder_stay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beginning anew removes our sessions from $WANDB_DIR, also of a chosen id, and nobody else's."""
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / "there"))
        monkeypatch.setenv("WANDB_RUN_ID", "abc")
        ours, other = (runcast.start_run("wandb", dir=tmp_path / "runs", finish_timeout=PATIENCE) for _ in range(2))
        for run in (ours, other):
            run.log({"loss": 1.0}, step=1)
            run.finish()
        mine, theirs = logs(tmp_path / "there")
        if records(mine, "config")[-1].update[-1].value_json.count(other.id):
            mine, theirs = theirs, mine
        monkeypatch.delenv("WANDB_RUN_ID")
        with resumed(ours.dir, 0):
            pass
        assert theirs in logs(tmp_path / "there")
        assert mine not in logs(tmp_path / "there")
        assert len(logs(tmp_path / "there")) == 2
        assert native_of(ours.dir, "wandb").id == "abc"
        for path in (tmp_path / "there", tmp_path / "there" / "wandb", *(log.parent for log in (theirs,))):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


class TestHostileRunFolder:
    """A run folder from a stranger makes nobody write or remove elsewhere: there is an error that says why."""

    def refused(self, run_dir: Path) -> str:
        """What the state says after an attempt to deliver."""
        deliver(run_dir, [WandbReporter()], PATIENCE)
        (row,) = how_far(run_dir)
        assert row.state == "failed", row
        return row.detail

    def test_recorded_folder_elsewhere_is_no_place_to_write(self, killed: Path, tmp_path: Path) -> None:
        """Sessions begin in the run folder, or where $WANDB_DIR says."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        _pretend(killed, home=str(elsewhere), dirs=[str(elsewhere)])
        assert "to go on there, say so: WANDB_DIR" in self.refused(killed)
        assert list(elsewhere.iterdir()) == []

    def test_recorded_sessions_elsewhere_are_not_removed(self, killed: Path, tmp_path: Path) -> None:
        """A resume begins anew in the run folder, whatever its state says."""
        elsewhere = shutil.copytree(killed / "wandb", tmp_path / "elsewhere", symlinks=True)
        _pretend(killed, dirs=[str(elsewhere)])
        before = sorted(elsewhere.rglob("*"))
        with resumed(killed, 5):
            pass
        assert sorted(elsewhere.rglob("*")) == before

    @pytest.mark.parametrize("linked", ["wandb", ".wandb", "wandb/data/artifacts"])
    def test_link_to_elsewhere_is_refused(self, linked: str, killed: Path, tmp_path: Path) -> None:
        """Neither are files written through a link, nor those behind it removed."""
        elsewhere = tmp_path / "elsewhere"
        if (killed / linked).exists():
            (killed / linked).rename(elsewhere)
        else:
            elsewhere.mkdir(exist_ok=True)
            (killed / linked).parent.mkdir(parents=True, exist_ok=True)
        (killed / linked).symlink_to(elsewhere)
        before = sorted(elsewhere.rglob("*"))
        run = RunInfo(killed.name, "name", "project", None, killed, 0.0)
        for begin in (WandbReporter().open, WandbReporter().replace):
            with pytest.raises(ValueError, match="is a link|leads out of"):
                begin(run, native_of(killed, "wandb"))
        with pytest.raises(ValueError, match="is a link|leads out of"):
            WandbReporter().open(run, None)
        assert sorted(elsewhere.rglob("*")) == before

    def test_run_of_somebody_else_is_not_gone_on_with(self, killed: Path) -> None:
        """An id that the state names is that of this run, or refused."""
        journal = killed / "journal.jsonl"
        journal.write_text(journal.read_text().replace(f'"run_id":"{killed.name}"', '"run_id":"another"'))
        _pretend(killed)
        assert "is not this one" in self.refused(killed)


def _pretend(run_dir: Path, **data: object) -> None:
    """Writes a state that was not quite delivered, with other data."""
    state = load_state(run_dir, "wandb")
    state.native = NativeRun(state.native.id, None, {**state.native.data, **data})
    state.offset, state.state, state.status = 0, "delivering", None
    save_state(run_dir, state)


class TestJoinedRun:
    """A run that the user has open is taken part in, and stays the user's."""

    OPEN = (
        "mine = wandb.init(mode='offline', dir=sys.argv[2], project='mine', name='my name', group='g', tags=['a'],\n"
        "                  config={'lr': 0.1, 'nested': {'x': 1}})\n"
    )

    @pytest.fixture(scope="class")
    @classmethod
    def script(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
        """Two runs one after the other beside a user's logging by hand, with steps of the user's own; and W&B's log."""
        folder = tmp_path_factory.mktemp("joined")
        (folder / "file.txt").write_text("content")
        code = cls.OPEN + (
            "wandb.log({'hand': 0}, step=0)\n"
            "hooks = lambda: (sys.stdout.write, sys.stderr.write, sys.exit, sys.excepthook, dict(os.environ), wandb.run)\n"
            "before = hooks()\n"
            "for number in range(2):\n"
            "    with runcast.start_run('wandb', dir=runs, name='ours', project='ours', strict=True, tags=['b'],\n"
            "                           config={'lr': number, 'epochs': number}) as run:\n"
            "        print(run.dir, flush=True)\n"
            "        for step in range(20):\n"
            "            run.log({'loss': step + number / 2}, step=step)\n"
            "            wandb.log({'hand': step, 'other': 1}, step=1 + number * 20 + step)\n"
            "        run.log_image('picture', sys.argv[3], step=3)\n"
            "        run.log_table('table', ['a'], [[number]], step=3)\n"
            "        run.log_text('note', 'hello', step=3)\n"
            "        run.log_artifact(sys.argv[4], name=f'file {number}')\n"
            "        run.set_summary({'best': number, 'score': number})\n"
            "        run.update_config({'epochs': 7 + number})\n"
            "        wandb.run.summary['best'] = 'by hand'\n"
            "    assert hooks() == before\n"
            "assert wandb.run is mine\n"
            "wandb.log({'hand': -1}, step=41)\n"
            "mine.summary['last'] = 'word'\n"
            "mine.finish(exit_code=0)\n"
        )
        picture = folder / "picture.png"
        from PIL import Image

        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(picture)
        done = run_script(code, folder / "runs", folder, picture, folder / "file.txt")
        assert done.returncode == 0, done.stderr
        first, second = map(Path, done.stdout.splitlines())
        (log,) = logs(folder)
        return first, second, log

    def test_rows_of_both_are_there(self, script: tuple[Path, Path, Path]) -> None:
        """Nothing that the user logged is dropped, merged or moved to another step; ours has step and time of its own."""
        *_, log = script
        stored = rows(log)
        by_hand = [(row["_step"], row["hand"]) for row in stored if "hand" in row]
        assert by_hand == [(0, 0), *((1 + n, n % 20) for n in range(40)), (41, -1)]
        ours = [row for row in stored if "_runcast" in row]
        assert not any("hand" in row or "other" in row for row in ours)
        assert Counter(row["global_step"] for row in ours if "loss" in row) == Counter([*range(20)] * 2)
        assert len(stored) == 42 + 2 * 23

    def test_each_run_reads_back(self, script: tuple[Path, Path, Path]) -> None:
        """Two runs in one run of W&B's are told apart, and from what the user logged."""
        for run_dir in script[:2]:
            assert native_of(run_dir, "wandb").data["joined"] == run_dir.name
            assert_matches(run_dir)

    def test_description_of_the_user_stays(self, script: tuple[Path, Path, Path]) -> None:
        """Name, project, group, settings and results that the user gave are as they were; ours are beside them."""
        *_, log = script
        native = records(log, "run")[-1]
        assert (native.display_name, native.project, native.run_group) == ("my name", "mine", "g")
        assert sorted(native.tags) == ["a", "b"]
        config, summary = {}, {}
        for record in (*(run.config for run in records(log, "run")), *records(log, "config")):
            config |= {item.key: json.loads(item.value_json) for item in record.update}
        for record in records(log, "summary"):
            summary |= {(item.nested_key or [item.key])[0]: json.loads(item.value_json) for item in record.update}
        assert (config["lr"], config["nested"], config["epochs"]) == (0.1, {"x": 1}, 8)
        assert (summary["best"], summary["last"], summary["score"]) == ("by hand", "word", 1)
        assert summary["loss"] == 19.5
        axes = {metric.name or metric.glob_name: metric.step_metric for metric in records(log, "metric")}
        assert axes["loss"] == "global_step"
        assert not {"*", "hand", "other"} & set(axes)

    def test_the_user_ends_it(self, script: tuple[Path, Path, Path]) -> None:
        """There is one end, the user's."""
        *_, log = script
        assert [end.exit_code for end in records(log, "exit")] == [0]

    def test_two_runs_at_once_take_part_in_one(self, tmp_path: Path) -> None:
        """They are told apart, and a row that the user has begun stays open beside theirs."""
        code = self.OPEN + (
            "ours = [runcast.start_run('wandb', dir=runs, strict=True) for _ in range(2)]\n"
            "wandb.log({'part': 1}, commit=False)\n"
            "for step in range(30): [run.log({'loss': step + 0.5}, step=step) for run in ours]\n"
            "for run in ours:\n"
            "    print(run.dir, flush=True)\n"
            "    run.finish()\n"
            "wandb.log({'whole': 2})\n"
            "mine.finish()\n"
        )
        done = run_script(code, tmp_path / "runs", tmp_path)
        assert done.returncode == 0, done.stderr
        (log,) = logs(tmp_path)
        assert points(log) == once(*range(30)) + once(*range(30))
        assert [(row["_step"], row["part"], row["whole"]) for row in rows(log) if "_runcast" not in row] == [(0, 1, 2)]
        for run_dir in map(Path, done.stdout.split()):
            assert_matches(run_dir)

    def test_run_that_the_user_ends_too_early_gets_the_rest_in_a_further_session(self, tmp_path: Path) -> None:
        """It has the same id, project and name, and nothing twice."""
        code = self.OPEN + (
            "run = runcast.start_run('wandb', dir=runs, strict=True)\n"
            "print(run.dir, flush=True)\n"
            "run.wait_started()\n"
            "for step in range(20): run.log({'loss': step + 0.5}, step=step)\n"
            "mine.finish()\n"
            "for step in range(20, 30): run.log({'loss': step + 0.5}, step=step)\n"
            "run.finish('failed')\n"
        )
        done = run_script(code, tmp_path / "runs", tmp_path)
        assert done.returncode == 0, done.stderr
        run_dir = Path(done.stdout.strip())
        (theirs,), (ours,) = logs(tmp_path), logs(run_dir)
        assert theirs.name == ours.name
        assert points(theirs, ours) == once(*range(30))
        native = records(ours, "run")[0]
        assert (native.display_name, native.project, native.run_group) == ("my name", "mine", "g")
        assert records(ours, "exit")[-1].exit_code == 1
        assert_matches(run_dir)

    def test_run_of_a_killed_process_is_completed_by_sync(self, tmp_path: Path) -> None:
        """Its courier was a thread, and went with it, and so did what W&B had not written; a further session has the rest."""
        code = (
            "import time\n"
            "wandb.init(mode='offline', dir=sys.argv[2])\n"
            "run = runcast.start_run('wandb', dir=runs)\n"
            "print(run.dir, flush=True)\n"
            "run.wait_started()\n"
            "for step in range(2000): run.log({'loss': step + 0.5}, step=step)\n"
            "time.sleep(2.0)  # so that some of it was sent\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = run_script(code, tmp_path / "runs", tmp_path)
        assert done.returncode == -signal.SIGKILL, done.stderr
        run_dir = Path(done.stdout.strip())
        deliver(run_dir, [WandbReporter()], PATIENCE)
        assert points(*logs(tmp_path), *logs(run_dir)) == once(*range(2000))
        assert_matches(run_dir)
        assert runcast.read_run(run_dir).status == "crashed"

    def test_disabled_run_is_not_joined(self, tmp_path: Path) -> None:
        """What goes there goes nowhere; so we have a run of our own."""
        code = (
            "wandb.init(mode='disabled')\n"
            "with runcast.start_run('wandb', dir=runs, strict=True) as run: run.log({'loss': 1.0}, step=0)\n"
            "print(run.dir)\n"
        )
        done = run_script(code, tmp_path / "runs")
        assert done.returncode == 0, done.stderr
        assert points(*logs(Path(done.stdout.strip()))) == once(0)
