"""Exactly once in MLflow itself: real couriers that die, hang and fail, then the rows and files that MLflow stored."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.reporter import NativeRun
from runcast.reporters.mlflow import MlflowReporter
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.faults import Fault, inject, strikes
from runcast.verify import verify_tracker

from .backend import prepare
from .store import Store
from .test_live import Direct

VARIABLES = ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TAGS", "MAX_LOG_PARAMS")


@pytest.fixture(autouse=True, scope="module")
def _unconfigured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(f"MLFLOW_{variable}", raising=False)
        yield


# -- exactly once --------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Fault, ...]] = {
    "killed before an event, ended at a flush, killed after the end": (
        Fault("log", "kill", nth=5),
        Fault("flush", "exit"),
        Fault("close", "kill", after=True),
    ),
    "crashed after an event, killed after a flush, ended before the end": (
        Fault("log", "segv", nth=5, after=True),
        Fault("flush", "kill", after=True),
        Fault("close", "exit"),
    ),
    "hangs after an event and at the end": (
        Fault("log", "hang", nth=9, after=True),
        Fault("close", "hang"),
    ),
    "errors everywhere": (
        Fault("open", "raise"),
        Fault("log", "reset", nth=4),
        Fault("log", "raise", nth=6, after=True),
        Fault("log", "500", nth=8, after=True),
        Fault("log", "429", nth=10),
        Fault("log", "disk full", nth=12, after=True),
        Fault("flush", "disk full", after=True),
        Fault("close", "refuse"),
        Fault("close", "reset", after=True),
    ),
}


class Struck:
    """The runs that all go through their faults, at the same time."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "runs")
        prepare(folder / "runs")
        self._ledgers = {what: folder / f"ledger-{number}" for number, what in enumerate(FAULTS)}
        self._runs = {what: self._start(what, folder) for what in FAULTS}
        for run in self._runs.values():
            log_some_of_everything(run, folder)
        for run in self._runs.values():
            run.finish()

    def _start(self, what: str, folder: Path) -> runcast.Run:
        reporter = inject(MlflowReporter(), *FAULTS[what], ledger=self._ledgers[what], call_timeout=15.0)
        options = {"project": "faults", "config": {"lr": 0.1, "long": "x" * 9000}, "tags": ["from the start"]}
        return runcast.start_run(reporter, dir=folder / "runs", delivery="process", finish_timeout=PATIENCE, **options)

    def run(self, what: str) -> runcast.Run:
        """The run; all its faults must have struck."""
        assert sorted(strikes(self._ledgers[what])) == sorted(f"{fault.at} {fault.action}" for fault in FAULTS[what])
        return self._runs[what]


def log_some_of_everything(run: runcast.Run, folder: Path) -> None:
    """Also what MLflow might take for one: equal values, and several at one step in one millisecond."""
    (folder / "notes.txt").write_text("notes")
    for step in range(10):
        run.log({"loss": 1 / (step + 1), "same": 0.5}, step=step)
        run.log({"twice": 0.5}, step=step)
        run.log({"twice": 0.5}, step=step)
    run.update_config({"lr": 0.2})
    run.update_config({"lr": 0.3})
    for step in range(2):
        run.log_text("note", "hello", step=step)
        run.log_image("picture", np.full((4, 4, 3), step, dtype=np.uint8), step=step)
        run.log_table("table", ["a"], [[step]], step=step)
        run.log_histogram("histogram", [1.0, 2.0, step], step=step)
    run.log_artifact(folder / "notes.txt")
    for best in (0.5, 0.75, 0.25):
        run.set_summary({"best": best})
    run.add_tags("later")


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Struck:
    return Struck(tmp_path_factory.mktemp("struck"))


@pytest.mark.parametrize("what", FAULTS)
def test_everything_is_stored_once(what: str, struck: Struck) -> None:
    """Whatever happened to the courier, MLflow's database and folder have each thing once, and the right status."""
    run, store = struck.run(what), struck.store
    (row,) = run.deliveries()
    assert row.done, f"{row}\n{Path(row.log).read_text()[-3000:]}"
    ((native, *fate),) = store.runs(run.id)
    assert fate == ["FINISHED", "active"]
    once = {(key, step): 1 for key in ("loss", "same") for step in range(10)}
    assert store.points(native) == {**once, **{("twice", step): 2 for step in range(10)}}
    assert store.summary(native) == [("summary/best", 0.25)]
    assert store.named("params", native)["lr"] == "0.1"
    tags = store.named("tags", native)
    assert (tags["config.lr"], tags["tag.later"], tags["runcast.status"]) == ("0.3", "later", "completed")
    folders = [name.partition("/")[0] for name in store.files(native)]
    assert folders == ["artifacts", *["histograms"] * 2, *["images"] * 4, "manifests", *["tables"] * 2, *["texts"] * 2]
    result = verify_tracker(run.dir, MlflowReporter())
    assert (result.error, result.differences) == (None, [])


def test_file_store_that_keeps_repeats_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's folders of files would show a point twice that comes twice, so what has arrived is found out first."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    faults = Fault("log", "kill", nth=5, after=True), Fault("flush", "reset", after=True)
    reporter = inject(MlflowReporter(), *faults, ledger=tmp_path / "ledger")
    with runcast.start_run(reporter, dir=tmp_path / "runs", delivery="process", finish_timeout=PATIENCE) as run:
        for step in range(10):
            run.log({"loss": 1 / (step + 1)}, step=step)
    assert strikes(tmp_path / "ledger") == ["log kill", "flush reset"]
    (row,) = run.deliveries()
    assert row.done, f"{row}\n{Path(row.log).read_text()[-3000:]}"
    (file,) = (tmp_path / "mlruns").glob("*/*/metrics/loss")
    assert [line.split()[2] for line in file.read_text().splitlines()] == [str(step) for step in range(10)]


# -- resuming ------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    prepare(tmp_path / "runs")
    return Store(tmp_path / "runs")


def train_and_die(folder: Path) -> Path:
    """Logs ten steps in a process that is killed then, and waits until MLflow knows."""
    code = (
        "import os, signal, sys, runcast\n"
        "run = runcast.start_run('mlflow', project='resumed', dir=sys.argv[1], delivery='process', config={'lr': 1})\n"
        "print(run.dir, flush=True)\n"
        "for step in range(10): run.log({'loss': step / 7, 'same': 0.5}, step=step)\n"
        "run.log_text('note', 'early', step=1); run.log_text('note', 'late', step=9)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_dir = Path(done.stdout.strip())
    wait_until_through(run_dir, "mlflow")
    return run_dir


def test_run_from_a_checkpoint_takes_the_place_of_the_old_one(store: Store, tmp_path: Path) -> None:
    """What was logged behind the checkpoint is to be seen nowhere, although a courier dies in the middle of it twice."""
    run_dir = train_and_die(tmp_path / "runs")
    ((old, *fate),) = store.runs()
    assert fate == ["FAILED", "active"]
    faults = Fault("open", "kill"), Fault("open", "kill", times=2, after=True)
    reporter = inject(MlflowReporter(), *faults, ledger=tmp_path / "ledger")
    with runcast.start_run(
        reporter, dir=tmp_path / "runs", resume=run_dir, resume_step=5, finish_timeout=PATIENCE, delivery="process"
    ) as run:
        for step in range(6, 13):
            run.log({"loss": step / 3, "same": 0.5}, step=step)
    assert strikes(tmp_path / "ledger") == ["open kill"] * 2
    (row,) = run.deliveries()
    assert row.done, f"{row}\n{Path(row.log).read_text()[-3000:]}"
    fates = {native: fate for native, *fate in store.runs()}
    assert fates.pop(old) == ["FAILED", "deleted"]
    ((new, fate),) = fates.items()
    assert fate == ["FINISHED", "active"]
    assert store.points(new) == {(key, step): 1 for key in ("loss", "same") for step in range(13)}
    assert len([name for name in store.files(new) if name.startswith("texts/")]) == 1
    assert store.named("params", new) == {"lr": "1"}
    result = verify_tracker(run.dir, MlflowReporter())
    assert (result.error, result.differences) == (None, [])


def test_complete_run_is_gone_on_with(store: Store, tmp_path: Path) -> None:
    """Without points to take back it is the same run; with some it is a new one in its place."""
    options = {"dir": tmp_path / "runs", "delivery": "process", "finish_timeout": PATIENCE}
    with runcast.start_run("mlflow", project="resumed", **options) as run:
        for step in range(10):
            run.log({"loss": 1.0}, step=step)
    ((first, *_),) = store.runs()
    with runcast.start_run("mlflow", resume=run.dir, resume_step=9, **options) as run:
        run.log({"loss": 1.0}, step=10)
    assert store.runs() == [(first, "FINISHED", "active")]
    assert store.points(first) == {("loss", step): 1 for step in range(11)}
    with runcast.start_run("mlflow", resume=run.dir, resume_step=5, **options) as run:
        run.log({"loss": 2.0}, step=6)
    fates = {native: fate for native, *fate in store.runs()}
    assert fates.pop(first) == ["FINISHED", "deleted"]
    ((second, fate),) = fates.items()
    assert fate == ["FINISHED", "active"]
    assert store.points(second) == {("loss", step): 1 for step in range(7)}


def test_run_that_is_not_ours_is_never_deleted(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that another run's folder claims, one that MLFLOW_RUN_ID named, and a joined one keep their points."""
    theirs = Direct(tmp_path / "runs", "theirs")
    ours = Direct(tmp_path / "runs", "ours")
    assert ours.reporter.replace(ours.info, theirs.native) is None
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs.native.id)
    named = Direct(tmp_path / "runs", "named")
    assert named.reporter.replace(named.info, named.native) is None
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert named.reporter.replace(theirs.info, named.native) is None
    ours.client.set_tag(ours.native.id, "runcast.joined", "true")
    assert ours.reporter.replace(ours.info, ours.native) is None
    assert {stage for _, _, stage in store.runs()} == {"active"}


def test_old_run_that_is_gone_is_no_hindrance(store: Store, tmp_path: Path) -> None:
    """`mlflow gc` may have removed it for good before a crash repeats the call."""
    direct = Direct(tmp_path / "runs")
    gone = NativeRun("0" * 32, None, direct.native.data)
    assert direct.reporter.replace(direct.info, gone).id == direct.native.id
