"""The contract as a test class: subclass it, say how to make your reporter, and pytest proves the rest.

Every test delivers a real run through a courier, as in production, reads the tracker back, and compares that with the
journal. What the reporter doesn't override is skipped by name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runcast import verify as verification
from runcast.courier import courier_alive
from runcast.delivery import FINAL_STATES, deliveries, load_state
from runcast.events import RunStatus
from runcast.hosts import portable
from runcast.reporter import Reporter
from runcast.run import Run, start_run
from runcast.testing import canonical
from runcast.verify import KINDS, Verification

PATIENCE = 240.0
"""Seconds after which a courier that doesn't come to an end is a failure; no test depends on how fast it is."""


class ReporterContract:
    """What every reporter that can be read back must do.

    Example:
        ```python
        class TestMyReporter(ReporterContract):
            def make_reporter(self, folder):
                return MyReporter(directory=str(folder))
        ```
    """

    def make_reporter(self, folder: Path) -> Reporter:
        """The reporter under test, on a local or offline backend.

        Args:
            folder: A fresh folder for the backend; run folders are made below it too.
        """
        raise TypeError(f"{type(self).__name__} must say how to make its reporter: override make_reporter")

    # -- one run with everything -----------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def delivered(cls, tmp_path_factory: pytest.TempPathFactory) -> Verification:
        """A run with something of everything, delivered and read back."""
        contract, folder = cls(), tmp_path_factory.mktemp("canonical")
        reporter = contract.make_reporter(folder)
        with contract.start(reporter, folder, config=canonical.CONFIG, tags=("from the start",)) as run:
            canonical.log_everything(run, folder / "files")
        return contract.verified(run, reporter)

    @pytest.mark.parametrize("kind", KINDS)
    def test_reads_back_what_the_journal_has(self, kind: str, delivered: Verification) -> None:
        """Every value of this kind comes back as it was logged."""
        assert delivered.error is None, f"reading the tracker back failed: {delivered.error}"
        if kind not in delivered.compared:
            pytest.skip(f"{delivered.name} doesn't override {KINDS[kind]}")
        assert delivered.compared[kind].total > 0, "the run has nothing of this kind: the kit itself is wrong"
        wrong = [line for line in delivered.differences if line.startswith(kind)]
        assert not wrong, f"{KINDS[kind]} or the reader loses something:\n" + "\n".join(wrong)
        assert delivered.compared[kind].matched == delivered.compared[kind].total

    # -- names, sizes, status --------------------------------------------------------------------------------------

    def test_names_of_every_shape_stay_distinct(self, tmp_path: Path) -> None:
        """No two names become one, and each reads back as it was."""
        reporter = self.make_reporter(tmp_path)
        with self.start(reporter, tmp_path) as run:
            canonical.log_odd_names(run)
        self.assert_matches(run, reporter)

    def test_ten_thousand_points_all_arrive(self, tmp_path: Path) -> None:
        """Nothing is sampled, batched away or capped."""
        reporter = self.make_reporter(tmp_path)
        with self.start(reporter, tmp_path) as run:
            for step in range(2000):
                run.log({f"metric/{n}": step * 0.1 + n for n in range(5)}, step=step)
        self.assert_matches(run, reporter)

    def test_a_run_with_nothing_in_it_is_a_run(self, tmp_path: Path) -> None:
        """A run that logs nothing has its status."""
        reporter = self.make_reporter(tmp_path)
        with self.start(reporter, tmp_path) as run:
            pass
        self.assert_matches(run, reporter)

    @pytest.mark.parametrize("status", ["failed", "killed"])
    def test_status_reads_back(self, status: RunStatus, tmp_path: Path) -> None:
        """A run that failed or was killed says so."""
        reporter = self.make_reporter(tmp_path)
        run = self.start(reporter, tmp_path)
        run.log({"loss": 1.0}, step=0)
        run.finish(status)
        self.assert_matches(run, reporter)

    def test_killed_process_leaves_all_points_and_the_status_crashed(self, tmp_path: Path) -> None:
        """SIGKILL of the training process loses no point, and the tracker shows a crashed run."""
        reporter = self.make_reporter(tmp_path)
        if not portable(reporter):
            pytest.skip(f"{reporter.name} isn't registered, so its courier is a thread that dies with the process")
        run_dir = self.run_and_kill(reporter, tmp_path, steps=50)
        result = self.read_back(run_dir, reporter)
        assert not result.differences, "\n".join(result.differences)
        assert result.compared["metrics"].total == 50

    # -- lives of a run --------------------------------------------------------------------------------------------

    def test_resumed_run_is_one_run(self, tmp_path: Path) -> None:
        """A run that is finished and gone on with reads back as one, with the points of both parts."""
        reporter = self.make_reporter(tmp_path)
        with self.start(reporter, tmp_path, config={"part": 1}) as first:
            first.log({"loss": 1.0}, step=0)
        assert first.dir is not None
        reporter = self.make_reporter(tmp_path)
        with start_run(reporter, resume=first.dir, dir=tmp_path / "runs", delivery="process") as second:
            second.log({"loss": 0.5}, step=1)
            second.update_config({"part": 2})
        self.assert_matches(second, reporter)

    def test_two_runs_at_once_stay_apart(self, tmp_path: Path) -> None:
        """Two runs in one process, logged to in turn, are two runs in the tracker."""
        reporters = [self.make_reporter(tmp_path), self.make_reporter(tmp_path)]
        runs = [self.start(reporter, tmp_path) for reporter in reporters]
        for step in range(10):
            for number, run in enumerate(runs):
                run.log({"loss": float(number * 100 + step)}, step=step)
        for run in runs:
            run.finish()
        for run, reporter in zip(runs, reporters, strict=True):
            self.assert_matches(run, reporter)

    def test_training_process_stays_untouched(self, tmp_path: Path) -> None:
        """The SDK is not imported where training runs, and nothing there is hooked."""
        reporter = self.make_reporter(tmp_path)
        if not portable(reporter) or reporter.requires is None:
            pytest.skip(f"{reporter.name} is hosted in the training process")
        body = (
            "import threading\n"
            "hooks = lambda: (sys.stdout.write, sys.stderr.write, sys.exit, sys.excepthook, sys.meta_path[:],\n"
            "                 signal.getsignal(signal.SIGINT), threading.active_count())\n"
            "before = hooks()\n"
            "run.log({'loss': 1.0}, step=0); run.finish()\n"
            "assert hooks() == before, 'something in the training process was hooked'\n"
            f"assert {reporter.requires.module!r} not in sys.modules, 'the SDK was imported by training'\n"
        )
        process, run_dir = self.run_in_process(reporter, tmp_path, body)
        assert process.returncode == 0, process.stderr
        wait_until_through(run_dir, reporter.name)

    def test_nothing_is_written_outside_its_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither the working directory nor the home directory gets a file, with no input and no terminal."""
        home, cwd = tmp_path / "home", tmp_path / "cwd"
        for folder in (home, cwd):
            folder.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.chdir(cwd)
        reporter = self.make_reporter(tmp_path / "backend")
        with self.start(reporter, tmp_path / "backend") as run:
            canonical.log_everything(run, tmp_path / "files")
        self.assert_matches(run, reporter)
        written = [str(path.relative_to(tmp_path)) for folder in (home, cwd) for path in files_below(folder)]
        assert written == []

    # -- verbs for the tests ---------------------------------------------------------------------------------------

    def start(self, reporter: Reporter, folder: Path, **options: Any) -> Run:
        """A run that is reported to this reporter alone."""
        return start_run(
            reporter, project="contract", dir=folder / "runs", delivery="process", finish_timeout=PATIENCE, **options
        )

    def complete(self, run: Run) -> bool:
        """Whether the courier of a finished run delivered everything."""
        (row,) = run.deliveries()
        assert row.done, f"not delivered: {row}\n{Path(row.log or os.devnull).read_text()[-3000:]}"
        return True

    def verified(self, run: Run, reporter: Reporter) -> Verification:
        """The comparison of the tracker with the journal of a finished run."""
        assert run.dir is not None
        self.complete(run)
        return self.read_back(run.dir, reporter)

    def read_back(self, run_dir: Path, reporter: Reporter) -> Verification:
        """The comparison, made in another process where the reporter can be made there."""
        if portable(reporter):
            (result,) = verification.verify(run_dir, [reporter.name])
            return result
        return verification.verify_tracker(run_dir, reporter)

    def assert_matches(self, run: Run, reporter: Reporter) -> None:
        """Fails with the differences between the tracker and the journal."""
        result = self.verified(run, reporter)
        assert result.error is None, f"reading the tracker back failed: {result.error}"
        assert not result.differences, "\n".join(result.differences)

    def run_and_kill(self, reporter: Reporter, folder: Path, steps: int) -> Path:
        """Logs from a process that SIGKILLs itself, and waits until the courier has seen to it."""
        body = (
            f"for step in range({steps}): run.log({{'loss': step / 7}}, step=step)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        process, run_dir = self.run_in_process(reporter, folder, body)
        assert process.returncode == -signal.SIGKILL, process.stderr
        wait_until_through(run_dir, reporter.name)
        return run_dir

    def run_in_process(
        self, reporter: Reporter, folder: Path, body: str
    ) -> tuple[subprocess.CompletedProcess[str], Path]:
        """Runs `body` in a process of its own, where `run` is a run that is reported to this reporter."""
        head = (
            "import json, os, signal, sys, runcast\n"
            "name, options, folder = json.loads(sys.argv[1])\n"
            "run = runcast.start_run({name: options}, project='contract', dir=folder, delivery='process')\n"
            "print(run.dir, flush=True)\n"
        )
        spec = json.dumps([reporter.name, reporter.options, str(folder / "runs")])
        process = subprocess.run([sys.executable, "-c", head + body, spec], capture_output=True, text=True, check=False)
        assert process.stdout, process.stderr
        return process, Path(process.stdout.split("\n")[0])


def wait_until_through(run_dir: Path, name: str) -> None:
    """Waits until no courier is at work on this tracker, and asserts that it got everything."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = load_state(run_dir, name)
        if state is not None and state.state in FINAL_STATES and not courier_alive(run_dir, name):
            break
        time.sleep(0.1)
    (row,) = deliveries(run_dir, [name])
    assert row.done, f"not delivered: {row}\n{Path(row.log or os.devnull).read_text()[-3000:]}"


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
