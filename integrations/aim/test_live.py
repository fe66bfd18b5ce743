"""What is special to Aim: its repository, read with its own API; one beside the run folders, and nothing elsewhere."""

from __future__ import annotations

import math
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runcast
from runcast.delivery import load_state
from runcast.record import RunRecord
from runcast.reporter import NativeRun, RunInfo
from runcast.reporters._aim_record import key_of, name_of, to_plain, to_stored
from runcast.reporters.aim import AimReporter
from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import deliver_again, kill_courier, native_of, python, wait_delivered
from runcast.testing.couriers import read as read_back
from runcast.verify import verify

from .backend import aim, home_of, indexed, objects, points

STEPS = (3, 3, -1, 0, 3, -7, -7, 2**40, 2**63 - 1, -(2**63), 3)
ODD_KEYS = ("", "~", "~~", "a~", "nul\0byte", "logs", "__system__cpu", "\ufffe", "...")
"""Names that would ruin a run of Aim's, that are its own, or that look like our own for those."""


def read(run_dir: Path) -> RunRecord:
    return read_back(run_dir, "aim")


def assert_matches(run_dir: Path) -> None:
    """The reader finds what the journal has."""
    (result,) = verify(run_dir, ["aim"])
    assert result.matches, result


def info(folder: Path, run_id: str = "id") -> RunInfo:
    return RunInfo(run_id, "n", "p", None, folder / run_id, 1_700_000_000.25)


# -- what Aim has ------------------------------------------------------------------------------------------------------


def test_aim_reads_the_run(tmp_path: Path) -> None:
    """Aim's own API, once it has indexed the repository, finds the run, its parameters, series and files."""
    folder = tmp_path / "my runs"  # Aim reads artifacts at a path with a space, but not at one with %20
    with runcast.start_run(
        "aim", dir=folder, project="my project", name="my run", tags=["t"], config={"lr": 0.1, "a": {"b": [1]}}
    ) as run:
        for step in range(5):
            run.log({"train/loss": step / 7, "odd": math.nan}, step=step)
        run.log({"train/loss": 0.5}, step=3)
        run.log_text("note", "hello", step=2)
        run.log_image("picture", np.zeros((4, 5, 3), dtype=np.uint8), step=3)
        run.log_table("rows", ["a", "b"], [[1, "x"]], step=4)
        run.log_histogram("weights", [1.0, 2.0, 2.5], step=4)
        run.log_artifact(Path(__file__), name="code", kind="model")
        run.set_summary({"best": 1})
    native = native_of(run.dir, "aim")
    assert home_of(run.dir) == folder
    assert aim("runs", "--repo", str(folder), "ls").split()[0] == native.id
    record = runcast.read_run(run.dir)
    with indexed(folder) as repo:
        found = repo.get_run(native.id)
        assert (found.name, found.experiment, found.tags) == ("my run", "my project", ["t"])
        assert found.creation_time == pytest.approx(record.started, abs=1e-6)
        assert found.end_time >= record.finished
        assert not found.active
        assert found["hparams"] == {"lr": 0.1, "a": {"b": [1]}}
        assert (found["summary"], found["runcast", "status"]) == ({"best": 1}, "completed")
        assert points(found)[1:] == [
            ("train/loss", {}, [0, 1, 2, 3, 4], [step / 7 for step in range(5)]),
            ("train/loss", {"repeat": 2}, [3], [0.5]),
        ]
        assert [math.isnan(value) for value in points(found)[0][3]] == [True] * 5
        times = next(iter(found.metrics())).data.items_list()[1][2]
        assert all(record.started <= time <= record.finished for time in times)
        texts = {(name, step, str(context)): text.data for name, context, step, text in objects(found, "texts")}
        assert texts == {("note", 2, "{}"): "hello", ("rows", 4, "{'type': 'table'}"): '["a", "b"]\n[1, "x"]'}
        ((_, _, step, image),) = objects(found, "images")
        assert (step, image.size, image.to_pil_image().getextrema()) == (3, (5, 4), ((0, 0), (0, 0), (0, 0)))
        ((_, _, step, distribution),) = objects(found, "distributions")
        (point,) = record.histograms["weights"]
        assert (step, distribution.weights.tolist(), distribution.range) == (4, list(point.counts), [1.0, 2.5])
        downloaded = found.artifacts["code/test_live.py"].download(str(tmp_path / "downloaded"))
        assert Path(downloaded).read_bytes() == Path(__file__).read_bytes()
        query = "run.hparams.lr == 0.1 and run.experiment == 'my project'"
        assert [each.run.hash for each in repo.query_runs(query, report_mode=_quiet()).iter_runs()] == [native.id]
    assert_matches(run.dir)  # indexing changed nothing


def _quiet() -> object:
    from aim.sdk.types import QueryReportMode

    return QueryReportMode.DISABLED


@pytest.mark.parametrize("status", ["completed", "failed", "killed", "crashed"])
def test_status_is_told(status: str, tmp_path: Path) -> None:
    """Aim knows an end, and that it was a successful one; our word is among the parameters."""
    reporter = AimReporter()
    native = reporter.open(info(tmp_path), None)
    running = reporter.read(native)
    assert (running.status, running.finished) == ("running", None)
    reporter.close(status)
    found = reporter.read(native)
    assert (found.status, found.started) == (status, 1_700_000_000.25)
    (last,) = (tmp_path / ".aim" / "check_ins").glob(f"{native.id}-*-finished-*") if status == "completed" else [None]
    assert (last is not None) == (status == "completed")


def test_run_is_not_ended_by_the_end_of_its_courier(tmp_path: Path) -> None:
    """A process that ends without closing the run leaves it without an end time."""
    code = """
import sys
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.aim import AimReporter
reporter = AimReporter()
reporter.open(RunInfo("id", "n", "p", None, Path(sys.argv[1], "id"), 1_700_000_000.25), None)
reporter.log_metrics({"loss": 1.0}, 0, 1.0)
"""
    python(code, str(tmp_path))
    (native,) = AimReporter().find_runs(str(tmp_path))
    assert AimReporter().read(native).status == "running"
    with indexed(tmp_path) as repo:  # what the run says itself: the index of Aim 3.25 has an end for every run
        tree = repo.request_tree("meta", native.id, read_only=True).subtree("meta")
        stored = tree.subtree(("chunks", native.id)).collect()
    assert "traces" in stored
    assert stored.get("end_time") is None


def test_no_value_is_overwritten(tmp_path: Path) -> None:
    """What Aim would write over, a second value at a step, is in a context of its own, and all read back in order."""
    with runcast.start_run("aim", dir=tmp_path) as run:
        for number, step in enumerate(STEPS):
            run.log({"loss": float(number)}, step=step)
            run.log_text("note", str(number), step=step)
    assert_matches(run.dir)
    expected = list(enumerate(STEPS))
    record = read(run.dir)
    assert [(point.value, point.step) for point in record.metrics["loss"]] == expected
    assert [(int(point.text), point.step) for point in record.texts["note"]] == expected
    with indexed(tmp_path) as repo:
        found = {str(context): steps for _, context, steps, _ in points(repo.get_run(native_of(run.dir, "aim").id))}
    assert found == {
        "{}": sorted(set(STEPS)),
        "{'repeat': 2}": [-7, 3],
        "{'repeat': 3}": [3],
        "{'repeat': 4}": [3],
    }


def test_negative_steps_survive_a_new_start(tmp_path: Path) -> None:
    """A series that has nothing but negative steps is gone on with, and nothing in it is written over."""
    reporter = AimReporter()
    native = reporter.open(info(tmp_path), None)
    reporter.log_metrics({"loss": 1.0}, -5, 1.0)
    reporter.flush()
    reporter.open(info(tmp_path), native)
    for step, value in ((-5, 2.0), (-7, 3.0), (-4, 4.0)):
        reporter.log_metrics({"loss": value}, step, value)
    reporter.close("completed")
    found = [(point.step, point.value) for point in reporter.read(native).metrics["loss"]]
    assert found == [(-5, 1.0), (-5, 2.0), (-7, 3.0), (-4, 4.0)]


def test_step_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    """A step that Aim can't hold leaves no trace in the run."""
    reporter = AimReporter()
    native = reporter.open(info(tmp_path), None)
    with pytest.raises(ValueError, match="64 bits"):
        reporter.log_metrics({"loss": 1.0}, 2**63, 1.0)
    reporter.close("completed")
    assert reporter.read(native).metrics == {}


def test_one_name_of_every_kind(tmp_path: Path) -> None:
    """A series has one kind in Aim: values of another kind are beside it, and read back under their name."""
    with runcast.start_run("aim", dir=tmp_path) as run:
        for step in range(2):
            run.log({"x": 1.0}, step=step)
            run.log_text("x", "text", step=step)
            run.log_image("x", np.zeros((2, 2)), step=step)
            run.log_table("x", ["a"], [[1]], step=step)
            run.log_histogram("x", [1.0, 2.0], step=step)
    assert_matches(run.dir)


def test_odd_keys_read_back(tmp_path: Path) -> None:
    """A name that would ruin the run has another in Aim, and its own when it is read back."""
    reporter = AimReporter()
    native = reporter.open(info(tmp_path), None)
    for number, key in enumerate(ODD_KEYS):
        reporter.log_metrics({key: number}, 0, 1.0)
        reporter.log_text(key, str(number), 0, 1.0)
    reporter.log_config({"": {"": 1, "~": 2}})
    reporter.close("completed")
    record = reporter.read(native)
    numbers = dict(zip(ODD_KEYS, range(len(ODD_KEYS)), strict=True))
    assert {key: point.value for key, (point,) in record.metrics.items()} == numbers
    assert {key: int(point.text) for key, (point,) in record.texts.items()} == numbers
    assert record.config == {"": {"": 1, "~": 2}}
    with indexed(tmp_path) as repo:
        assert len(points(repo.get_run(native.id))) == len(ODD_KEYS)


@given(st.text(alphabet="~a", max_size=4))
def test_names_come_back(name: str) -> None:
    """A name's stand-in is never empty, and stands for that name alone."""
    assert key_of(name)
    assert name_of(key_of(name)) == name


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
_LARGE = st.sampled_from([2**63, -(2**63) - 1, str(2**70), f'"{2**70}"', f'"\\"{2**70}\\""', "~", ""])
_VALUES = st.recursive(
    _LEAVES | _LARGE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("~a\0é", max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.text("~a", max_size=2), _VALUES, max_size=4))
def test_plain_values_come_back_from_aim(value: dict[str, object]) -> None:
    """Every plain value survives Aim's encoding of trees."""
    from aim.storage.treeutils import decode_tree, encode_tree

    stored = dict(encode_tree(to_stored(value)))
    assert to_plain(decode_tree(iter(sorted(stored.items())))) == value


def test_numbers_and_times_are_exact(tmp_path: Path) -> None:
    """A number and a wall time are the same floating-point numbers when they are read back."""
    times = [0.0, 1.25, 1_700_000_000.123456, 1_700_000_000.9999999, 1_700_000_001.1]
    reporter = AimReporter()
    native = reporter.open(info(tmp_path), None)
    for step, time in enumerate(times):
        reporter.log_metrics({"loss": time / 7}, step, time)
    reporter.close("completed")
    assert [(point.value, point.time) for point in reporter.read(native).metrics["loss"]] == [(t / 7, t) for t in times]


def test_later_artifact_replaces_the_earlier(tmp_path: Path) -> None:
    """Of an artifact of one name Aim has the files of the last version alone."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.bin").write_bytes(b"old")
    with runcast.start_run("aim", dir=tmp_path / "runs") as run:
        run.log_artifact(folder, name="model")
        (folder / "old.bin").rename(folder / "new.bin")
        run.log_artifact(folder, name="model")
    assert_matches(run.dir)
    with indexed(tmp_path / "runs") as repo:
        assert list(repo.get_run(native_of(run.dir, "aim").id).artifacts) == ["model/new.bin"]


# -- exactly once ------------------------------------------------------------------------------------------------------


def test_delivering_again_repeats_nothing(tmp_path: Path) -> None:
    """Everything once more is found to be there."""
    with runcast.start_run("aim", dir=tmp_path, config={"lr": 1}) as run:
        for step in range(10):
            run.log({"loss": step / 7}, step=step)
        run.log({"loss": 0.5}, step=3)
        run.log_text("note", "hello", step=2)
        run.log_artifact(Path(__file__), name="code")
    deliver_again(run.dir, "aim")
    assert_matches(run.dir)
    assert len(read(run.dir).metrics["loss"]) == 11


def test_killed_courier_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL leaves what was delivered readable, and the same run of Aim's goes on."""
    run = runcast.start_run("aim", dir=tmp_path, config={"a": 1}, tags=["t"], finish_timeout=PATIENCE)
    for step in range(50):
        run.log({"loss": step / 7}, step=step)
    run.log_text("note", "hello", step=2)
    run.set_summary({"best": 1})
    wait_delivered(run.dir, "aim")
    kill_courier(run.dir, "aim")
    left = read(run.dir)
    assert (left.status, left.summary, left.tags) == ("running", {"best": 1}, ("t",))
    assert [point.value for point in left.metrics["loss"]] == [step / 7 for step in range(50)]

    for step in range(50, 60):
        run.log({"loss": step / 7}, step=step)
    run.update_config({"a": 2})
    run.finish()
    assert_matches(run.dir)
    assert len(AimReporter().find_runs(str(tmp_path))) == 1
    with indexed(tmp_path) as repo:
        (found,) = points(repo.get_run(native_of(run.dir, "aim").id))
    assert found == ("loss", {}, list(range(60)), [step / 7 for step in range(60)])


def test_interrupted_start_is_begun_once(tmp_path: Path) -> None:
    """A courier that is killed before anybody knows of its run begins the same one the next time."""
    code = """
import os, signal, sys
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.aim import AimReporter
reporter = AimReporter()
reporter.open(RunInfo("id", "n", "p", None, Path(sys.argv[1], "id"), 1_700_000_000.25), None)
reporter.log_metrics({"loss": 1.0, "lost": 1.0}, 0, 1.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    reporter = AimReporter()
    native = reporter.open(info(tmp_path), None)
    reporter.log_metrics({"loss": 2.0}, 0, 2.0)
    reporter.close("completed")
    assert [found.id for found in reporter.find_runs(str(tmp_path))] == [native.id]
    assert [point.value for point in reporter.read(native).metrics.pop("loss")] == [2.0]


def test_repository_is_made_once_by_many(tmp_path: Path) -> None:
    """Several couriers that find no repository end with one, which has all their runs and tags."""
    runs = [runcast.start_run("aim", dir=tmp_path, tags=["t"], finish_timeout=PATIENCE) for _ in range(4)]
    for number, run in enumerate(runs):
        run.log({"loss": float(number)}, step=0)
    for run in runs:
        run.finish()
    for run in runs:
        assert_matches(run.dir)
    assert {native.id for native in AimReporter().find_runs(str(tmp_path))} == {
        native_of(run.dir, "aim").id for run in runs
    }
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".aim")] == [".aim"]


def test_unfinished_repository_is_waited_for(tmp_path: Path) -> None:
    """A repository that another process has begun to make is no place to write to yet, and that is no refusal."""
    (tmp_path / ".aim").mkdir()
    reporter = AimReporter()
    with pytest.raises(BlockingIOError, match="isn't whole") as caught:
        reporter.open(info(tmp_path), None)
    assert reporter.is_transient(caught.value)


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_resume_from_a_checkpoint_shows_each_step_once(tmp_path: Path) -> None:
    """Points behind the checkpoint are gone, also from what Aim has indexed, and those logged instead are there."""
    with runcast.start_run("aim", dir=tmp_path, config={"lr": 1}, tags=["t"]) as run:
        for step in range(10):
            run.log({"loss": step / 7, **({"late": 1.0} if step > 6 else {})}, step=step)
        run.log_artifact(Path(__file__), name="code")
    aim("storage", "--repo", str(tmp_path), "reindex", "--yes")
    with runcast.start_run("aim", resume=run.dir, resume_step=4, finish_timeout=PATIENCE) as again:
        for step in range(5, 8):
            again.log({"loss": -1.0}, step=step)
    assert_matches(run.dir)
    with indexed(tmp_path) as repo:
        found = repo.get_run(native_of(run.dir, "aim").id)
        assert points(found) == [("loss", {}, list(range(8)), [*(step / 7 for step in range(5)), -1.0, -1.0, -1.0])]
        assert found.tags == ["t"]
    assert len(AimReporter().find_runs(str(tmp_path))) == 1


def test_run_goes_on_where_it_began_alone(tmp_path: Path) -> None:
    """Where a run folder, which may be a stranger's, says that its repository is, is not written to unless the user says so."""
    native = AimReporter(repo=str(tmp_path / "theirs")).open(info(tmp_path / "runs"), None)
    with pytest.raises(ValueError, match="repo="):
        AimReporter().open(info(tmp_path / "runs"), native)
    with pytest.raises(ValueError, match="repo="):
        AimReporter(repo=str(tmp_path / "mine")).replace(info(tmp_path / "runs"), native)
    assert not (tmp_path / "mine").exists()


def test_run_that_was_removed_in_aim_is_not_begun_halfway(tmp_path: Path) -> None:
    """A run that the user has removed from the repository does not go on as one without a beginning."""
    with runcast.start_run("aim", dir=tmp_path) as run:
        run.log({"loss": 1.0}, step=0)
    aim("runs", "--repo", str(tmp_path), "rm", "--yes", native_of(run.dir, "aim").id)
    with runcast.start_run("aim", resume=run.dir, finish_timeout=PATIENCE) as again:
        again.log({"loss": 2.0}, step=1)
    state = load_state(run.dir, "aim")
    assert state is not None
    assert state.state == "failed"
    assert "no run" in (state.error or "")


def test_link_in_the_place_of_artifacts_is_refused(tmp_path: Path) -> None:
    """Artifacts are not written through a link."""
    reporter = AimReporter()
    reporter.open(info(tmp_path), None)
    reporter.close("completed")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".aim" / "artifacts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link"):
        AimReporter().open(info(tmp_path, "other"), None)


# -- settings and places -----------------------------------------------------------------------------------------------


def test_options_say_where(tmp_path: Path) -> None:
    """`repo` is the folder of the repository or the repository itself; `experiment` comes before the project."""
    options = {"repo": str(tmp_path / "shared" / ".aim"), "experiment": "e"}
    with runcast.start_run({"aim": options}, dir=tmp_path / "runs", project="p") as run:
        run.log({"loss": 1.0}, step=0)
    assert home_of(run.dir) == tmp_path / "shared"
    assert not (tmp_path / "runs" / ".aim").exists()
    assert_matches(run.dir)
    assert read(run.dir).project == "p"
    with indexed(tmp_path / "shared") as repo:
        assert repo.get_run(native_of(run.dir, "aim").id).experiment == "e"


def test_name_of_the_repository_is_aims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aim's variable for the name of its folder is heeded."""
    monkeypatch.setenv("__AIM_REPO_NAME__", ".tracked")
    with runcast.start_run("aim", dir=tmp_path) as run:
        run.log({"loss": 1.0}, step=0)
    assert (tmp_path / ".tracked" / "VERSION").exists()
    assert not (tmp_path / ".aim").exists()
    assert_matches(run.dir)


def test_server_is_no_folder() -> None:
    """A repository elsewhere is refused at once."""
    with pytest.raises(ValueError, match="local folder"):
        AimReporter(repo="aim://localhost:53800")


def test_availability_says_where_to_look() -> None:
    """Without any configuration it is ready, and says how to look at its runs."""
    found = AimReporter.availability()
    assert (found.status, found.mode) == ("ready", "local")
    assert "aim up --repo" in found.reason


def test_availability_imports_no_sdk() -> None:
    """Asking whether Aim is available doesn't import it."""
    code = (
        "import sys; from runcast.reporters.aim import AimReporter as A; A.availability(); print('aim' in sys.modules)"
    )
    assert python(code).stdout.strip() == "False"


def test_new_repository_is_private(tmp_path: Path) -> None:
    """Nobody else can look into a repository that runcast made, nor at an artifact in it."""
    with runcast.start_run("aim", dir=tmp_path) as run:
        run.log_artifact(Path(__file__), name="code")
    repository = tmp_path / ".aim"
    assert stat.S_IMODE(repository.stat().st_mode) == 0o700
    shown = [path for path in repository.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert shown == []


def test_process_stays_untouched(tmp_path: Path) -> None:
    """A reporter hooks nothing in its process, nor uses the network; two runs in it stay apart."""
    code = """
import os, sys, threading, time
from pathlib import Path
from runcast.reporter import RunInfo
from runcast.reporters.aim import AimReporter

def no_network(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(f"{event} {args}")

def state():
    streams = sys.stdout.write, sys.stderr.write, sys.stdin, sys.exit
    return streams, sys.excepthook, sys.meta_path[:], __import__, dict(os.environ), os.getcwd()

sys.addaudithook(no_network)
import aim
before = state()
natives = {}
reporters = {name: AimReporter() for name in ("a", "b")}
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
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
"""
    assert python(code, str(tmp_path)).stdout == ""


def test_the_users_own_run_goes_on_beside_ours(tmp_path: Path) -> None:
    """A run that the user has open in the same repository is neither joined nor disturbed."""
    code = """
import sys, aim, runcast
theirs = aim.Run(repo=sys.argv[1], system_tracking_interval=None, capture_terminal_logs=False)
with runcast.start_run("aim", dir=sys.argv[1], delivery=sys.argv[2], finish_timeout=200) as run:
    theirs.track(1.0, name="theirs", step=0)
    run.log({"ours": 2.0}, step=0)
theirs.track(2.0, name="theirs", step=1)
theirs.close()
print(run.dir)
"""
    for delivery in ("process", "thread"):
        place = tmp_path / delivery
        place.mkdir()
        run_dir = Path(python(code, str(place), delivery, cwd=tmp_path).stdout.splitlines()[-1])
        assert_matches(run_dir)
        records = [AimReporter().read(native) for native in AimReporter().find_runs(str(place))]
        assert [list(record.metrics) for record in records] == [["theirs"], ["ours"]]
        assert [point.value for point in records[0].metrics["theirs"]] == [1.0, 2.0]


def test_example_runs(tmp_path: Path) -> None:
    """The example delivers everything and says where to look."""
    done = python(Path(__file__).with_name("example.py").read_text(), str(tmp_path))
    assert f"aim: 104 of 104 events. Look at them with: aim up --repo {tmp_path}" in done.stdout
    (native,) = AimReporter().find_runs(str(tmp_path))
    assert isinstance(native, NativeRun)
    assert len(AimReporter().read(native).metrics["train/loss"]) == 100
    assert os.listdir(tmp_path / native.data["repo"])  # noqa: PTH208 -- the repository is where the reporter says
