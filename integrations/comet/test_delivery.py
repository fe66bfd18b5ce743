"""Exactly once in Comet's own archives, whatever breaks; the experiments of the user; and nothing elsewhere."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.delivery import load_state, save_state
from runcast.writer import this_writer
from runcast.reporter import NativeRun, RunInfo
from runcast.reporters._comet_archives import Place, Session
from runcast.reporters.comet import CometReporter
from runcast.sync import deliver, how_far
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.couriers import native_of
from runcast.testing.faults import Fault, inject, strikes
from runcast.verify import verify

from .backend import archives, assets, experiment, messages, points

STEPS = 30


def once(*steps: int, name: str = "loss") -> Counter[tuple[str, int]]:
    """Every step once."""
    return Counter((name, step) for step in steps)


def steps_in(*paths: Path) -> Counter[tuple[str, int]]:
    """How often the archives have each step of each of our metrics."""
    return Counter((name, step) for name, step, _ in points(*paths))


def others(*paths: Path) -> dict[str, object]:
    """What Comet shows as Other."""
    payloads = [m["payload"] for path in paths for m in messages(path) if m["type"] == "log_other"]
    return {payload["key"]: payload["value"] for payload in payloads}


def assert_matches(run_dir: Path) -> None:
    """The reader finds what the journal has."""
    (result,) = verify(run_dir)
    assert result.matches, result


def resumed(run_dir: Path, step: int | None, reporter: CometReporter | None = None) -> runcast.Run:
    """The run, gone on with from a checkpoint."""
    return runcast.start_run(
        reporter or CometReporter(), resume=run_dir, resume_step=step, finish_timeout=PATIENCE, strict=True
    )


def run_script(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a training script of somebody's, where `runs` is the folder for runs."""
    head = (
        "import os, signal, sys, time, comet_ml, runcast\n"
        "from pathlib import Path\n"
        "from runcast.errors import RuncastError, SessionLostError\n"
        "from runcast.reporter import RunInfo\n"
        "from runcast.reporters.comet import CometReporter\n"
        "runs = sys.argv[1]\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose process killed itself after steps 0 to 9, and whose courier said so."""
    code = (
        "run = runcast.start_run('comet', dir=runs, config={'lr': 1}, tags=['t'])\n"
        "print(run.dir, flush=True)\n"
        "for step in range(10): run.log({'loss': step / 7}, step=step)\n"
        "run.log_artifact(runcast.__file__, name='first life')\n"
        "run.log_text('note', 'hello', step=9)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run_script(code, tmp_path_factory.mktemp("killed"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_dir = Path(done.stdout.strip())
    wait_until_through(run_dir, "comet")
    return run_dir


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A copy of it; what it says of where it was is of no use."""
    return shutil.copytree(killed_once, tmp_path / "runs" / killed_once.name, symlinks=True)


# -- whatever breaks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        (Fault("open", "kill", after=True), Fault("flush", "kill"), Fault("close", "exit")),
        (Fault("log", "kill", nth=8), Fault("close", "kill", after=True)),
        (Fault("log", "exit", nth=12, after=True), Fault("close", "kill")),
        (Fault("log", "segv", nth=12), Fault("flush", "kill", nth=2, after=True)),
        (Fault("log", "hang", nth=9), Fault("close", "hang")),
        (Fault("log", "reset", nth=9, after=True), Fault("flush", "disk full"), Fault("close", "refuse", after=True)),
        (Fault("log", "disk full", nth=9), Fault("flush", "raise", after=True), Fault("close", "raise")),
    ],
    ids=lambda faults: ", ".join(f"{fault.action} {'after' if fault.after else 'at'} {fault.at}" for fault in faults),
)
def test_every_point_is_in_the_archives_once(faults: tuple[Fault, ...], tmp_path: Path) -> None:
    """Wherever a courier ends or a call fails, Comet's archives together have everything once, and the status."""
    (tmp_path / "folder").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "folder" / name).write_text(name)
    reporter = inject(CometReporter(), *faults, ledger=tmp_path / "struck", call_timeout=5.0)
    with runcast.start_run(
        reporter, dir=tmp_path / "runs", config={"lr": 1, "long": "x" * 5000}, finish_timeout=PATIENCE
    ) as run:
        for step in range(STEPS):
            run.log({"loss": step / 7}, step=step)
            if step % 10 == 0:
                run.log_text("note", f"at {step}", step=step)
                run.log_image("picture", np.full((4, 4), step, dtype=np.uint8), step=step)
                run.log_histogram("weights", [1.0, step], step=step)
                run.log_table("rows", ["a"], [[step]], step=step)
        run.log_artifact(tmp_path / "folder", kind="model")
    assert sorted(strikes(tmp_path / "struck")) == sorted(f"{fault.at} {fault.action}" for fault in faults)
    assert run.deliveries()[0].done, run.deliveries()
    stored = archives(run.dir)
    assert sorted(stored[0].parent.glob("*.zip")) == sorted(stored)
    assert list((run.dir / "comet" / "live").iterdir()) == []
    assert points(*stored) == [("loss", step, step / 7) for step in range(STEPS)]
    kinds = Counter(about["runcast"] for about in assets(*stored))
    assert kinds == {"whole": 1, "text": 3, "image": 3, "histogram": 3, "table": 3, "file": 3, "artifact": 1}
    assert others(*stored)["status"] == "completed"
    assert {experiment(path)["offline_id"] for path in stored} == {native_of(run.dir, "comet").id}
    assert not any(experiment(path)["customer_error_reported"] for path in stored)
    assert_matches(run.dir)


def test_full_disk_leaves_no_torn_message(tmp_path: Path) -> None:
    """What Comet's thread can't write is noticed before it counts as delivered, and a further session has it."""
    code = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run, reporter = RunInfo("id", "id", "p", None, Path(runs), time.time()), CometReporter()
native = reporter.open(run, None)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
for step in range(100): reporter.log_metrics({"loss": 1.0}, step, 1.0)
try: reporter.flush()
except SessionLostError: pass
else: raise SystemExit("the disk was to be full")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
native = reporter.open(run, native)
there = {point.step for point in reporter.read(native).metrics["loss"]}
assert there
for step in range(100):
    if step not in there: reporter.log_metrics({"loss": 1.0}, step, 1.0)
reporter.flush()
reporter.close("completed")
"""
    done = run_script(code, tmp_path)
    assert done.returncode == 0, done.stderr
    stored = sorted((tmp_path / "comet").glob("*.zip"))
    assert len(stored) == 2
    assert steps_in(*stored) == once(*range(100))


def test_artifact_that_was_refused_half_way_is_whole_and_there_once(tmp_path: Path) -> None:
    """The next try, in a session of its own, adds what is missing."""
    (tmp_path / "folder").mkdir()
    for name in ("a", "b"):
        (tmp_path / "folder" / name).write_text(name)
    with runcast.start_run("comet", dir=tmp_path / "runs") as run:
        run.log_artifact(tmp_path / "folder")
    copy = shutil.copytree(run.dir, tmp_path / "copy", ignore=shutil.ignore_patterns("trackers", "comet"))
    (missing,) = (copy / "artifacts").rglob("b")
    elsewhere = missing.rename(tmp_path / "b")
    deliver(copy, [CometReporter()], PATIENCE)
    assert [item.type for item in load_state(copy, "comet").set_aside] == ["artifact"]
    assert [about.get("path") for about in assets(*archives(copy))] == ["a"]
    elsewhere.rename(missing)
    deliver(copy, [CometReporter()], PATIENCE)
    assert [about.get("path") for about in assets(*archives(copy))] == ["a", "b", None]
    assert len(archives(copy)) == 2
    assert_matches(copy)


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_resume_from_a_checkpoint_shows_each_step_once(killed: Path) -> None:
    """The archive with the points behind the checkpoint is gone; under the same key there is one without them."""
    (before,) = (killed / "comet").glob("*.zip")
    key = native_of(killed, "comet").id
    assert others(before)["status"] == "crashed"
    with resumed(killed, 5) as run:
        for step in range(6, 13):
            run.log({"loss": step * 2.0}, step=step)
    assert native_of(killed, "comet").id == key
    (stored,) = (killed / "comet").glob("*.zip")
    assert [stored] == archives(killed)
    assert steps_in(stored) == once(*range(13))
    assert [about["runcast"] for about in assets(stored)] == ["file", "artifact"]  # the text was at step 9
    assert (others(stored)["status"], experiment(stored)["customer_error_reported"]) == ("completed", False)
    assert_matches(killed)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_courier_killed_while_it_begins_anew_begins_anew_once_more(killed: Path, tmp_path: Path, after: bool) -> None:
    """Nothing is left of the old archive, nor of the first try."""
    reporter = inject(CometReporter(), Fault("open", "kill", after=after), ledger=tmp_path / "struck")
    with resumed(killed, 5, reporter) as run:
        run.log({"loss": 6.0}, step=6)
    assert strikes(tmp_path / "struck") == ["open kill"]
    assert archives(killed) == list((killed / "comet").glob("*.zip"))
    assert steps_in(*archives(killed)) == once(*range(7))
    assert_matches(killed)


def test_resume_without_points_to_take_back_goes_on_beside_it(killed: Path) -> None:
    """The first archive stays as it is, and the second has what came then, under the same key."""
    (first,) = (killed / "comet").glob("*.zip")
    stored = first.read_bytes()
    with resumed(killed, 9) as run:
        run.log({"loss": 10.0}, step=10)
        run.update_config({"lr": 2})
    assert first == archives(killed)[0]
    assert first.read_bytes() == stored
    assert steps_in(archives(killed)[1]) == once(10)
    assert steps_in(*archives(killed)) == once(*range(11))
    assert others(*archives(killed))["status"] == "completed"
    assert_matches(killed)


# -- the user's own experiment -----------------------------------------------------------------------------------------

OPEN = (
    "mine = comet_ml.start(online=False, experiment_key='u' * 40, project_name='mine',\n"
    "    experiment_config=comet_ml.ExperimentConfig(offline_directory=sys.argv[2], name='my name', tags=['mine'],\n"
    "        log_env_details=False, display_summary_level=0))\n"
    "mine.log_parameters({'lr': '1e-3', 'depth': 3})\n"
    "mine.log_other('status', 'fine')\n"
)


class TestJoinedExperiment:
    """An experiment that the user has open is taken part in, and stays the user's."""

    @pytest.fixture(scope="class")
    @classmethod
    def script(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
        """Two runs one after the other beside a user's logging by hand; and the user's archive."""
        folder = tmp_path_factory.mktemp("joined")
        code = OPEN + (
            "def state():\n"
            "    return (sys.stdout.write, sys.stderr.write, sys.exit, sys.excepthook, dict(os.environ),\n"
            "            signal.getsignal(signal.SIGTERM), comet_ml.get_running_experiment(), mine.curr_step)\n"
            "mine.log_metric('hand', 0, step=100)\n"
            "before = state()\n"
            "for number in range(2):\n"
            "    with runcast.start_run('comet', dir=runs, name='ours', project='ours', strict=True, tags=['ours'],\n"
            "                           config={'lr': number, 'epochs': number}) as run:\n"
            "        print(run.dir, flush=True)\n"
            "        for step in range(20):\n"
            "            run.log({'loss': step + number / 2, 'long/' + 'n' * 120: 1.0}, step=step)\n"
            "            mine.log_metric('hand', step)\n"
            "        run.log_image('picture', sys.argv[3], step=3)\n"
            "        run.log_table('table', ['a'], [[number]], step=3)\n"
            "        run.log_artifact(sys.argv[3], name=f'file {number}')\n"
            "        run.set_summary({'best': number})\n"
            "    assert state() == before, (state(), before)\n"
            "assert mine.alive\n"
            "mine.log_metric('hand', -1, step=101)\n"
            "mine.log_parameter('depth', 4)\n"
            "mine.end()\n"
        )
        from PIL import Image

        picture = folder / "picture.png"
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(picture)
        done = run_script(code, folder / "runs", folder / "archives", picture)
        assert done.returncode == 0, done.stderr
        first, second = (Path(line) for line in done.stdout.splitlines() if line.startswith(str(folder)))
        (archive,) = (folder / "archives").iterdir()
        return first, second, archive

    def test_data_of_both_is_there(self, script: tuple[Path, Path, Path]) -> None:
        """Nothing that the user logged is lost or moved to another step; each of our points is there once a run."""
        *_, archive = script
        hand = [(step, value) for name, step, value in points(archive) if name == "hand"]
        assert hand == [(100, 0), *((100, step) for _ in range(2) for step in range(20)), (101, -1)]
        assert Counter(value for name, _, value in points(archive) if name == "loss") == Counter(
            step + number / 2 for number in range(2) for step in range(20)
        )
        kinds = Counter(about["runcast"] for about in assets(archive) if about.get("runcast", "own") != "own")
        assert kinds == {"image": 2, "table": 2, "file": 2, "artifact": 2}

    def test_each_run_reads_back_from_the_archive_of_the_user(self, script: tuple[Path, Path, Path]) -> None:
        """Verification tells apart what is whose, though settings and results of the same name are shown but once."""
        first, second, archive = script
        for run_dir in (first, second):
            assert archives(run_dir) == [archive]
            assert_matches(run_dir)

    def test_points_of_a_joined_run_are_not_taken_back(self, script: tuple[Path, Path, Path]) -> None:
        """What the user's archive has stays there; a resume goes on beside it."""
        run_dir, _, archive = script
        before = archive.read_bytes()
        run = RunInfo(run_dir.name, "ours", "ours", None, run_dir, 0.0)
        assert CometReporter().replace(run, native_of(run_dir, "comet")) is None
        assert archive.read_bytes() == before

    def test_description_of_the_user_stays(self, script: tuple[Path, Path, Path]) -> None:
        """Name, project, settings and results that the user gave are as they were, and nothing is said to have failed."""
        *runs, archive = script
        about = experiment(archive)
        assert (about["offline_id"], about["project_name"]) == ("u" * 40, "mine")
        assert sorted(about["tags"]) == ["mine", "ours"]
        assert not about["customer_error_reported"]
        shown = others(archive)
        assert (shown["Name"], shown["status"], shown["summary/best"]) == ("my name", "fine", "1")
        assert [shown[f"{run_dir.name}/status"] for run_dir in runs] == ["completed"] * 2
        parameters = {
            message["payload"]["param"]["paramName"]: message["payload"]["param"]["paramValue"]
            for message in messages(archive)
            if message["type"] == "parameter_msg"
        }
        assert (parameters["depth"], parameters["epochs"]) == (4, "1")

    def test_the_user_ends_it_too_early(self, tmp_path: Path) -> None:
        """The run says so; `sync` delivers the rest in an archive under the same key, and nothing twice."""
        code = OPEN + (
            "run = runcast.start_run('comet', dir=runs)\n"
            "print(run.dir, flush=True)\n"
            "for step in range(20): run.log({'loss': step + 0.5}, step=step)\n"
            "while run.deliveries()[0].delivered < 21: time.sleep(0.05)\n"
            "late = CometReporter()\n"
            "assert late.joins()\n"
            "mine.end()\n"
            "try: late.open(RunInfo('id', 'id', 'p', None, Path(runs) / 'late', 0.0), None)\n"
            "except RuncastError: pass\n"
            "else: raise AssertionError('it opened one of its own')\n"
            "for step in range(20, 30): run.log({'loss': step + 0.5}, step=step)\n"
            "run.finish('failed')\n"
            "assert run.deliveries()[0].state == 'failed', run.deliveries()\n"
            "assert 'runcast sync' in run.deliveries()[0].detail\n"
        )
        done = run_script(code, tmp_path / "runs", tmp_path / "archives")
        assert done.returncode == 0, done.stderr
        (run_dir,) = (tmp_path / "runs").iterdir()
        (theirs,) = (tmp_path / "archives").iterdir()
        before = theirs.read_bytes()
        deliver(run_dir, [CometReporter()], PATIENCE)
        assert theirs.read_bytes() == before
        (ours,) = (run_dir / "comet").glob("*.zip")
        assert archives(run_dir) == [theirs, ours]
        assert {name: count for name, count in steps_in(theirs, ours).items() if name[0] == "loss"} == once(*range(30))
        assert (experiment(ours)["offline_id"], experiment(ours)["project_name"]) == ("u" * 40, "mine")
        assert "Name" not in others(ours)
        assert_matches(run_dir)

    def test_training_process_is_killed(self, tmp_path: Path) -> None:
        """`sync` makes an archive of what Comet left in its temporary folder, the user's data included."""
        code = OPEN + (
            "run = runcast.start_run('comet', dir=runs)\n"
            "mine.log_metric('hand', 1, step=0)\n"
            "for step in range(10): run.log({'loss': step + 0.5}, step=step)\n"
            "while run.deliveries()[0].delivered < 11: time.sleep(0.05)\n"
            "for step in range(10, 20): run.log({'loss': step + 0.5}, step=step)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = run_script(code, tmp_path / "runs", tmp_path / "archives")
        assert done.returncode == -signal.SIGKILL, done.stderr
        (run_dir,) = (tmp_path / "runs").iterdir()
        session = native_of(run_dir, "comet").data["sessions"][0]
        left = sorted(Path(session["live"]).iterdir())
        with pytest.raises(ConnectionError):  # as long as it is alive
            Place.of(run_dir, "").completed(Session(**{**session, "process": this_writer()}), run_dir.name)
        deliver(run_dir, [CometReporter()], PATIENCE)
        assert sorted(Path(session["live"]).iterdir()) == left
        stored = archives(run_dir)
        assert [path.parent for path in stored] == [run_dir / "comet"] * 2
        assert Counter({key: n for key, n in steps_in(*stored).items() if key[0] == "loss"}) == once(*range(20))
        assert steps_in(*stored)["hand", 0] == 1
        assert others(*stored)[f"{run_dir.name}/status"] == "crashed"
        assert_matches(run_dir)


# -- a stranger's run folder -------------------------------------------------------------------------------------------


def test_archives_elsewhere_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put where the user says is the user's alone to read."""
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "archives"))
    with runcast.start_run("comet", dir=tmp_path / "runs"):
        pass
    for path in (tmp_path / "archives").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "archives").stat().st_mode) == 0o700


class TestHostileRunFolder:
    """A run folder from a stranger makes nobody write, remove or pack up what is elsewhere."""

    def attempted(self, run_dir: Path) -> str | None:
        """What the state says after an attempt to deliver."""
        deliver(run_dir, [CometReporter()], PATIENCE)
        (row,) = how_far(run_dir)
        return row.detail if row.state == "failed" else None

    def pretend(self, run_dir: Path, **session: object) -> None:
        """Writes a state that was not quite delivered, with another session."""
        state = load_state(run_dir, "comet")
        old = state.native.data["sessions"][0]
        state.native = NativeRun(state.native.id, None, {**state.native.data, "sessions": [{**old, **session}]})
        state.offset, state.state, state.status, state.clean = 0, "delivering", None, False
        save_state(run_dir, state)

    @pytest.mark.parametrize("linked", ["comet", "comet/live"])
    def test_link_to_elsewhere_is_refused(self, linked: str, killed: Path, tmp_path: Path) -> None:
        """Neither are files written through a link, nor those behind it removed."""
        elsewhere = tmp_path / "elsewhere"
        (killed / linked).rename(elsewhere)
        (killed / linked).symlink_to(elsewhere)
        before = sorted(elsewhere.rglob("*"))
        (killed / "trackers" / "comet.json").unlink()
        assert "link" in str(self.attempted(killed))
        assert sorted(elsewhere.rglob("*")) == before

    def test_sessions_elsewhere_are_left_alone(self, killed: Path, tmp_path: Path) -> None:
        """A session is looked for where this run's are, whatever folder the state names."""
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "secrets").mkdir(parents=True)
        (elsewhere / "secrets" / "messages.json").write_text("{}\n")
        (elsewhere / "secrets" / "key").write_text("secret")
        (elsewhere / f"{'k' * 40}-x.zip").write_bytes(b"")
        (elsewhere / "secrets.json").write_text('{"tags": []}')
        before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
        place = {"archive": str(elsewhere / f"{'k' * 40}-x.zip"), "live": str(elsewhere / "secrets")}
        writer = json.loads((killed / "journal.jsonl").read_text().splitlines()[0])["writer"]
        for process in (None, writer):
            self.pretend(killed, **place, about=str(elsewhere / "secrets.json"), process=process)
            assert self.attempted(killed) is None
            assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before
            assert not any(b"secret" in path.read_bytes() for path in (killed / "comet").glob("*.zip"))

    def test_links_in_what_is_left_of_a_session_are_not_packed_up(self, killed: Path, tmp_path: Path) -> None:
        """Nor is what they lead to written to."""
        (tmp_path / "key").write_text("secret\ntorn")
        live = killed / "comet" / "live"
        (live / "left").mkdir()
        (live / "left" / "messages.json").write_text('{"torn')
        (live / "left" / "key").symlink_to(tmp_path / "key")
        (live / "left" / "experiment.json").symlink_to(tmp_path / "key")
        (live / "left.json").write_text('{"tags": []}')
        archive = killed / "comet" / f"{'k' * 40}-x.zip"
        archive.with_suffix(".tmp").symlink_to(tmp_path / "key")
        session = Session(str(archive), str(live / "left"), str(live / "left.json"))
        assert Place.of(killed, "").completed(session, killed.name) == session
        assert (tmp_path / "key").read_text() == "secret\ntorn"
        assert messages(archive) == []
        assert b"secret" not in archive.read_bytes()

    def test_names_are_no_paths(self, killed: Path) -> None:
        """An experiment key or a session that is a path is an error, and an artifact's path that leads out set aside."""
        state = load_state(killed, "comet")
        state.native = NativeRun("../victim", None, state.native.data)
        state.offset, state.state, state.status = 0, "delivering", None
        save_state(killed, state)
        assert "experiment key" in str(self.attempted(killed))
        (killed / "trackers" / "comet.json").unlink()
        journal = killed / "journal.jsonl"
        journal.write_text(journal.read_text().replace('"name":"first life"', '"name":"../../first life"'))
        deliver(killed, [CometReporter()], PATIENCE)
        state = load_state(killed, "comet")
        assert [item.type for item in state.set_aside] == ["artifact"]
        assert "leads out of" in state.set_aside[0].reason
        assert steps_in(*archives(killed)) == once(*range(10))
