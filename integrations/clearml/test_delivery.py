"""Exactly once in ClearML's own task folders, whatever breaks; the tasks of the user; and nothing elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.delivery import load_state, save_state
from runcast.errors import RunFolderError
from runcast.reporter import NativeRun, RunInfo
from runcast.reporters._clearml_folders import Place, Session
from runcast.reporters.clearml import ClearMLReporter
from runcast.sync import deliver, how_far
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.couriers import native_of
from runcast.testing.faults import Fault, inject, strikes
from runcast.verify import verify

from .backend import events, folders, points, task

STEPS = 30


def once(*steps: int, name: str = "loss") -> Counter[tuple[str, int]]:
    """Every step once."""
    return Counter((name, step) for step in steps)


def steps_in(*paths: Path) -> Counter[tuple[str, int]]:
    """How often the task folders have each step of each title."""
    return Counter((title, step) for title, _, step, _ in points(*paths))


def properties(folder: Path) -> dict[str, str]:
    return {key: item["value"] for key, item in task(folder)["hyperparams"]["properties"].items()}


def assert_matches(run_dir: Path) -> None:
    """The reader finds what the journal has."""
    (result,) = verify(run_dir)
    assert result.matches, result


def resumed(run_dir: Path, step: int | None, reporter: ClearMLReporter | None = None) -> runcast.Run:
    """The run, gone on with from a checkpoint."""
    return runcast.start_run(
        reporter or ClearMLReporter(), resume=run_dir, resume_step=step, finish_timeout=PATIENCE, strict=True
    )


def run_script(code: str, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a training script of somebody's, where `runs` is the folder for runs."""
    head = (
        "import os, signal, sys, time, clearml, runcast\n"
        "from pathlib import Path\n"
        "from runcast.errors import RuncastError, SessionLostError\n"
        "from runcast.reporter import RunInfo\n"
        "from runcast.reporters.clearml import ClearMLReporter\n"
        "runs = sys.argv[1]\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose process killed itself after steps 0 to 9, and whose courier said so."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "artifact").mkdir()
    (folder / "artifact" / "inside").write_text("inside")
    code = (
        "run = runcast.start_run('clearml', dir=runs, config={'lr': 1}, tags=['t'])\n"
        "print(run.dir, flush=True)\n"
        "for step in range(10): run.log({'loss': step / 7}, step=step)\n"
        "run.log_artifact(sys.argv[2], name='first life')\n"
        "run.log_text('note', 'hello', step=9)\n"
        "run.set_summary({'best': 1})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run_script(code, folder, folder / "artifact")
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_dir = Path(done.stdout.strip())
    wait_until_through(run_dir, "clearml")
    return run_dir


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A copy of it; what it says of where it was is of no use."""
    return shutil.copytree(killed_once, tmp_path / "runs" / killed_once.name, symlinks=True)


def offline(run_dir: Path) -> list[Path]:
    """The task folders in the run folder."""
    return sorted(path for path in (run_dir / "clearml" / "offline").iterdir() if path.is_dir())


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
def test_every_point_is_in_the_task_folders_once(faults: tuple[Fault, ...], tmp_path: Path) -> None:
    """Wherever a courier ends or a call fails, ClearML's task folders together have everything once, and the status."""
    reporter = inject(ClearMLReporter(), *faults, ledger=tmp_path / "struck", call_timeout=5.0)
    with runcast.start_run(reporter, dir=tmp_path / "runs", config={"lr": 1}, finish_timeout=PATIENCE) as run:
        for step in range(STEPS):
            run.log({"loss": step / 7}, step=step)
            if step % 10 == 0:
                run.log_text("note", f"at {step}", step=step)
                run.log_image("picture", np.full((4, 4), step, dtype=np.uint8), step=step)
                run.log_histogram("weights", [1.0, step], step=step)
                run.log_table("rows", ["a"], [[step]], step=step)
        run.set_summary({"best": 1})
    assert sorted(strikes(tmp_path / "struck")) == sorted(f"{fault.at} {fault.action}" for fault in faults)
    assert run.deliveries()[0].done, run.deliveries()
    stored = folders(run.dir)
    assert offline(run.dir) == sorted(stored)
    assert points(*stored) == [("loss", "value", n, n / 7) for n in range(STEPS)] + [("Summary", "best", -(2**31), 1.0)]
    found = Counter((e["metric"], e["iter"]) for f in stored for e in events(f) if "scalar" not in e["type"])
    assert found == Counter((name, step) for name in ("note", "picture", "weights", "rows") for step in (0, 10, 20))
    assert properties(stored[-1])["status"] == "completed"
    for folder in stored:  # a line that is torn would make ClearML's import send the one before again
        assert (folder / "metrics.jsonl").read_bytes()[-1:] in (b"\n", b"") if events(folder) else True
    assert_matches(run.dir)


def test_full_disk_leaves_no_torn_line(tmp_path: Path) -> None:
    """What doesn't fit is taken back to the last whole line, and written when there is room again."""
    code = """
import resource
from runcast.events import Metrics
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
reporter = ClearMLReporter()
reporter.open(RunInfo("id", "id", "p", None, Path(runs), time.time()), None)
batches = [[Metrics(time=1.0, step=step, values={"loss": 1.0}) for step in range(n, n + 50)] for n in (0, 50)]
reporter.log_metrics_batch(batches[0])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (12000, hard))
try: reporter.log_metrics_batch(batches[1])
except OSError: pass
else: raise SystemExit("the disk was to be full")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
reporter.log_metrics_batch(batches[1])
reporter.close("completed")
"""
    done = run_script(code, tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = offline(tmp_path)
    assert steps_in(folder) == once(*range(100))


def test_artifact_is_its_files_and_nothing_else(tmp_path: Path) -> None:
    """A link in an artifact's folder, or a file that came later, doesn't go with it; and its name leads nowhere."""
    (tmp_path / "key").write_text("secret")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "file").write_text("x")
    with runcast.start_run("clearml", dir=tmp_path / "runs") as run:
        run.log_artifact(tmp_path / "folder", name="artifact")
    copy = shutil.copytree(run.dir, tmp_path / "copy", ignore=shutil.ignore_patterns("trackers", "clearml"))
    (stored,) = (path for path in (copy / "artifacts").rglob("below"))
    (stored / "link").symlink_to(tmp_path / "key")
    (stored / "more").write_text("secret")
    journal = copy / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"name":"artifact"', '"name":"../../../../artifact"'))
    deliver(copy, [ClearMLReporter()], PATIENCE)
    assert_matches(copy)
    (folder,) = offline(copy)
    (archive,) = folder.rglob("*.zip")
    assert task(folder)["execution"]["artifacts"][0]["key"].startswith("long names/")
    with zipfile.ZipFile(archive) as found:
        assert found.namelist() == ["below/file"]


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_resume_from_a_checkpoint_shows_each_step_once(killed: Path) -> None:
    """The task folder with the points behind the checkpoint is gone; there is another one without them."""
    (before,) = offline(killed)
    assert properties(before)["status"] == "crashed"
    with resumed(killed, 5) as run:
        for step in range(6, 13):
            run.log({"loss": step * 2.0}, step=step)
    (stored,) = offline(killed)
    assert [stored] == folders(killed)
    assert native_of(killed, "clearml").id == stored.name == task(stored)["id"]
    assert sorted(stored.parent.iterdir()) == [stored, stored.with_suffix(".zip")]
    assert steps_in(stored) == once(*range(13)) + Counter({("Summary", -(2**31)): 1})
    assert not [event for event in events(stored) if "image" in event["type"]]  # the text was at step 9
    assert properties(stored)["status"] == "completed"
    assert_matches(killed)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_courier_killed_while_it_begins_anew_begins_anew_once_more(killed: Path, tmp_path: Path, after: bool) -> None:
    """Nothing is left of the old task, nor of the first try."""
    reporter = inject(ClearMLReporter(), Fault("open", "kill", after=after), ledger=tmp_path / "struck")
    with resumed(killed, 5, reporter) as run:
        run.log({"loss": 6.0}, step=6)
    assert strikes(tmp_path / "struck") == ["open kill"]
    assert folders(killed) == offline(killed)
    assert steps_in(*folders(killed)) == once(*range(7)) + Counter({("Summary", -(2**31)): 1})
    assert_matches(killed)


def test_resume_without_points_to_take_back_goes_on_beside_it(killed: Path) -> None:
    """The first task folder stays as it is, and the second has what came then; the id is the first one's."""
    (first,) = offline(killed)
    stored = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    with resumed(killed, 9) as run:
        run.log({"loss": 10.0}, step=10)
        run.update_config({"epochs": 2})
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == stored
    assert folders(killed)[0] == first
    assert steps_in(folders(killed)[1]) == once(10)
    assert native_of(killed, "clearml").id == first.name
    assert_matches(killed)


# -- the user's own task -----------------------------------------------------------------------------------------------

OPEN = (
    "mine = clearml.Task.init(project_name='mine', task_name='my name', tags=['mine'])\n"
    "mine.connect({'lr': '1e-3', 'depth': 3}, name='config')\n"
    "mine.set_user_properties(status='fine')\n"
    "hand = mine.get_logger().report_scalar\n"
)


class TestJoinedTask:
    """A task that the user has open is taken part in, and stays the user's."""

    @pytest.fixture(scope="class")
    @classmethod
    def script(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
        """Two runs one after the other beside a user's logging by hand, as ClearML is by default; and the task folder."""
        folder = tmp_path_factory.mktemp("joined")
        code = OPEN + (
            "def state():\n"
            "    return (sys.stdout.write, sys.stderr.write, sys.exit, sys.excepthook, dict(os.environ),\n"
            "            signal.getsignal(signal.SIGTERM), clearml.Task.current_task())\n"
            "hand('hand', 'x', 0.5, 100)\n"
            "before = state()\n"
            "for number in range(2):\n"
            "    with runcast.start_run('clearml', dir=runs, name='ours', project='ours', strict=True, tags=['ours'],\n"
            "                           config={'lr': number, 'epochs': number}) as run:\n"
            "        print(run.dir, flush=True)\n"
            "        for step in range(20):\n"
            "            run.log({'loss': step + number / 2}, step=step)\n"
            "            hand('hand', 'x', step, step)\n"
            "        run.log_image('picture', sys.argv[2], step=3)\n"
            "        run.log_table('table', ['a'], [[number]], step=3)\n"
            "        run.log_artifact(sys.argv[2], name=f'file {number}')\n"
            "        run.set_summary({'best': number})\n"
            "    assert state() == before, (state(), before)\n"
            "hand('hand', 'x', -1, 101)\n"
            "mine.upload_artifact('by hand', {'a': 1})\n"
            "mine.close()\n"
        )
        from PIL import Image

        picture = folder / "picture.png"
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(picture)
        cache = folder / "cache"
        done = run_script(code, folder / "runs", picture, CLEARML_OFFLINE_MODE="1", CLEARML_CACHE_DIR=str(cache))
        assert done.returncode == 0, done.stderr
        first, second = (Path(line) for line in done.stdout.splitlines() if line.startswith(str(folder)))
        (theirs,) = (path for path in (cache / "offline").iterdir() if path.is_dir())
        return first, second, theirs

    def test_data_of_both_is_there(self, script: tuple[Path, Path, Path]) -> None:
        """Nothing that the user logged is lost; each of our points is there once a run."""
        *_, theirs = script
        hand = Counter((step, value) for title, _, step, value in points(theirs) if title == "hand")
        assert hand == Counter([(100, 0.5), (101, -1), *((step, step) for step in range(20))] * 1) + Counter(
            (step, step) for step in range(20)
        )
        assert Counter(value for title, _, _, value in points(theirs) if title == "loss") == Counter(
            step + number / 2 for number in range(2) for step in range(20)
        )
        artifacts = [artifact["key"] for artifact in task(theirs)["execution"]["artifacts"]]
        assert sorted(artifacts) == ["by hand", "file 0", "file 1"]

    def test_each_run_reads_back_from_the_task_of_the_user(self, script: tuple[Path, Path, Path]) -> None:
        """Verification tells apart what is whose, though settings and results of the same name are shown but once."""
        first, second, theirs = script
        for run_dir in (first, second):
            assert folders(run_dir) == [theirs]
            assert_matches(run_dir)

    def test_points_of_a_joined_run_are_not_taken_back(self, script: tuple[Path, Path, Path]) -> None:
        """What the user's task has stays there; a resume goes on beside it."""
        run_dir, _, theirs = script
        before = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
        run = RunInfo(run_dir.name, "ours", "ours", None, run_dir, 0.0)
        assert ClearMLReporter().replace(run, native_of(run_dir, "clearml")) is None
        assert {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()} == before

    def test_description_of_the_user_stays(self, script: tuple[Path, Path, Path]) -> None:
        """Name, project, settings and properties that the user gave are as they were; ours are beside them."""
        *runs, theirs = script
        stored = task(theirs)
        assert (stored["name"], stored["project_name"], sorted(stored["tags"])) == ("my name", "mine", ["mine", "ours"])
        sections = {name: {k: v["value"] for k, v in items.items()} for name, items in stored["hyperparams"].items()}
        assert sections["config"] == {"lr": "1e-3", "depth": "3"}
        assert sections["runcast"] == {"lr": "1", "epochs": "1"}
        assert properties(theirs)["status"] == "fine"
        assert [properties(theirs)[f"{run_dir.name}/status"] for run_dir in runs] == ["completed"] * 2
        assert theirs.with_suffix(".zip").exists()

    @pytest.fixture
    def quick(self, tmp_path: Path) -> dict[str, str]:
        """ClearML without a process for reporting, whose end takes 10 s."""
        (tmp_path / "conf").write_text("sdk { development { report_use_subprocess: false } }")
        return {
            "CLEARML_OFFLINE_MODE": "1",
            "CLEARML_CACHE_DIR": str(tmp_path / "cache"),
            "CLEARML_CONFIG_FILE": str(tmp_path / "conf"),
        }

    def test_the_user_closes_it_too_early(self, tmp_path: Path, quick: dict[str, str]) -> None:
        """The run says so; `sync` delivers the rest in a further task folder, and nothing twice."""
        code = OPEN + (
            "run = runcast.start_run('clearml', dir=runs)\n"
            "for step in range(20): run.log({'loss': step + 0.5}, step=step)\n"
            "while run.deliveries()[0].delivered < 21: time.sleep(0.05)\n"
            "late = ClearMLReporter()\n"
            "assert late.joins()\n"
            "mine.close()\n"
            "try: late.open(RunInfo('id', 'id', 'p', None, Path(runs) / 'late', 0.0), None)\n"
            "except RuncastError: pass\n"
            "else: raise AssertionError('it opened one of its own')\n"
            "for step in range(20, 30): run.log({'loss': step + 0.5}, step=step)\n"
            "run.finish('failed')\n"
            "assert run.deliveries()[0].state == 'failed', run.deliveries()\n"
            "assert 'runcast sync' in run.deliveries()[0].detail\n"
        )
        done = run_script(code, tmp_path / "runs", **quick)
        assert done.returncode == 0, done.stderr
        (run_dir,) = (tmp_path / "runs").iterdir()
        (theirs,) = (path for path in (tmp_path / "cache" / "offline").iterdir() if path.is_dir())
        before = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
        deliver(run_dir, [ClearMLReporter()], PATIENCE)
        assert {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()} == before
        (ours,) = offline(run_dir)
        assert folders(run_dir) == [theirs, ours]
        assert steps_in(theirs, ours) == once(*range(30))
        assert (task(ours)["name"], task(ours)["project_name"]) == ("my name", "mine")
        assert properties(ours)[f"{run_dir.name}/status"] == "failed"
        assert_matches(run_dir)

    def test_training_process_is_killed(self, tmp_path: Path, quick: dict[str, str]) -> None:
        """`sync` delivers what the user's task lacks in a further task folder, and says how the run ended."""
        code = OPEN + (
            "mine.set_initial_iteration(1000)\n"  # which moves what the user logs
            "run = runcast.start_run('clearml', dir=runs)\n"
            "for step in range(10): run.log({'loss': step + 0.5}, step=step)\n"
            "while run.deliveries()[0].delivered < 11: time.sleep(0.05)\n"
            "for step in range(10, 20): run.log({'loss': step + 0.5}, step=step)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = run_script(code, tmp_path / "runs", **quick)
        assert done.returncode == -signal.SIGKILL, done.stderr
        (run_dir,) = (tmp_path / "runs").iterdir()
        (theirs,) = folders(run_dir)
        deliver(run_dir, [ClearMLReporter()], PATIENCE)
        (ours,) = offline(run_dir)
        assert folders(run_dir) == [theirs, ours]
        assert steps_in(theirs, ours) == once(*range(20))
        assert properties(ours)[f"{run_dir.name}/status"] == "crashed"
        assert_matches(run_dir)


# -- a stranger's run folder -------------------------------------------------------------------------------------------


def test_task_folders_elsewhere_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put where the user says is the user's alone to read."""
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))
    with runcast.start_run("clearml", dir=tmp_path / "runs") as run:
        pass
    (folder,) = folders(run.dir)
    assert folder.is_relative_to(tmp_path / "cache")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.with_suffix(".zip").stat().st_mode) == 0o600


class TestHostileRunFolder:
    """A run folder from a stranger makes nobody write or remove what is elsewhere."""

    def attempted(self, run_dir: Path) -> str | None:
        """What the state says after an attempt to deliver."""
        deliver(run_dir, [ClearMLReporter()], PATIENCE)
        (row,) = how_far(run_dir)
        return row.detail if row.state == "failed" else None

    def pretend(self, run_dir: Path, **session: object) -> None:
        """Writes a state that was not quite delivered, with another session."""
        state = load_state(run_dir, "clearml")
        old = state.native.data["sessions"][0]
        state.native = NativeRun(state.native.id, None, {**state.native.data, "sessions": [{**old, **session}]})
        state.offset, state.state, state.status, state.clean = 0, "delivering", None, False
        save_state(run_dir, state)

    @pytest.mark.parametrize("linked", ["clearml", "clearml/offline", "clearml/tmp"])
    def test_link_to_elsewhere_is_refused(self, linked: str, killed: Path, tmp_path: Path) -> None:
        """Neither are files written through a link, nor those behind it removed."""
        elsewhere = tmp_path / "elsewhere"
        (killed / linked).rename(elsewhere)
        (killed / linked).symlink_to(elsewhere)
        before = sorted(elsewhere.rglob("*"))
        (killed / "trackers" / "clearml.json").unlink()
        assert "link" in str(self.attempted(killed))
        assert sorted(elsewhere.rglob("*")) == before

    @pytest.mark.parametrize("cache", [False, True], ids=["as it is", "in the user's cache"])
    def test_task_of_another_run_is_left_alone(
        self, cache: bool, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not mended, not removed, and not taken for this run's, whatever the state names."""
        other = tmp_path / "cache" / "offline" / ("offline-" + "0" * 32)
        shutil.copytree(offline(killed)[0], other)
        stored = json.loads((other / "task.json").read_text())
        stored["hyperparams"]["properties"]["run_id"]["value"] = "another"
        (other / "task.json").write_text(json.dumps(stored))
        with (other / "metrics.jsonl").open("a") as file:
            file.write("[just being")
        before = {path: path.read_bytes() for path in tmp_path.joinpath("cache").rglob("*") if path.is_file()}
        if cache:
            monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))
        self.pretend(killed, folder=str(other), saved=str(tmp_path / "saved.json"))
        assert self.attempted(killed) is None
        assert (
            before.items()
            <= {path: path.read_bytes() for path in tmp_path.joinpath("cache").rglob("*") if path.is_file()}.items()
        )

    def test_links_in_a_task_folder_are_not_written_through(self, killed: Path, tmp_path: Path) -> None:
        """A task folder that has to be mended is mended in its own files."""
        victim = tmp_path / "victim"
        victim.write_text("{}\ntorn")
        (folder,) = offline(killed)
        for name in ("task.json", "metrics.jsonl"):
            (folder / name).unlink()
            (folder / name).symlink_to(victim)
        session = Session(str(folder), str(killed / "clearml" / f"{folder.name}.json"))
        with pytest.raises(RunFolderError):
            Place.of(killed, "").mended(session, killed.name)
        assert victim.read_text() == "{}\ntorn"

    def test_names_are_no_paths(self, killed: Path, tmp_path: Path) -> None:
        """A project or a session that is a path is an error."""
        self.pretend(killed, folder=str(tmp_path / "offline" / "victim"))
        assert "no task folder" in str(self.attempted(killed))
        (killed / "trackers" / "clearml.json").unlink()
        deliver(killed, [ClearMLReporter(project_name="../../../victim")], PATIENCE)
        (row,) = how_far(killed)
        assert (row.state, "lead elsewhere" in row.detail) == ("failed", True)
