"""What the tests of the contract stand on: the author's hooks, the run that most tests look at, and the verbs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from runcast.courier import courier_alive
from runcast.delivery import FINAL_STATES, Delivery, deliveries, load_state
from runcast.folder import read_run
from runcast.hosts import portable
from runcast.record import RunRecord
from runcast.reporter import NativeRun, Reporter
from runcast.run import Run, start_run
from runcast.testing import canonical
from runcast.testing.couriers import PATIENCE, native_of
from runcast.testing.readback import ReadBack, read_here, read_in_process
from runcast.testing.surroundings import Seen, surroundings
from runcast.verify import KINDS, Verification, _supported, compare

T = TypeVar("T", bound=Callable[..., object])


def feature(*names: str) -> Callable[[T], T]:
    """Says what a test proves: rows of the table that ``--capabilities`` writes. ``{x}`` stands for the parameter x."""

    def mark(test: T) -> T:
        test.features = names  # type: ignore[attr-defined]  # the plugin asks for it
        return test

    return mark


@dataclass
class Delivered:
    """A run that was delivered and read back.

    Attributes:
        reporter: It was reported to this one.
        row: What became of it.
        journal: What was logged.
        back: What was read.
        seen: What it did to its surroundings, if somebody looked.
    """

    reporter: Reporter
    run_dir: Path
    row: Delivery
    journal: RunRecord
    back: ReadBack
    seen: Seen = field(default_factory=Seen)

    @property
    def found(self) -> RunRecord:
        """What the tracker has."""
        (found,) = self.back.records
        assert isinstance(found, RunRecord), f"reading the run back failed, so nothing can be said of it: {found}"
        return found


class ContractBase:
    """The author's hooks, the run that most tests look at, and the verbs."""

    tested: ClassVar[type[Reporter]] = Reporter
    """The reporter's class, once one was made."""

    # -- what the author says --------------------------------------------------------------------------------------

    def make_reporter(self, folder: Path) -> Reporter:
        """The reporter under test, on a local or offline backend.

        Args:
            folder: A fresh folder for the backend; run folders are made below it too, in ``runs``.
        """
        raise TypeError(f"{type(self).__name__} must say how to make its reporter: override make_reporter")

    def read(self, reporter: Reporter, native: NativeRun) -> RunRecord:
        """What the tracker has of a run. Override it for a reporter without a reader: ask its backend, in this process."""
        return reporter.read(native)

    # -- one run with everything -----------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def delivered(cls, tmp_path_factory: pytest.TempPathFactory) -> Delivered:
        """A run with something of everything, delivered in surroundings that are watched, and read back."""
        contract, folder = cls(), tmp_path_factory.mktemp("canonical")
        backend = folder / "backend"
        with surroundings(folder) as seen:
            reporter = contract.made(backend)
            run = contract.start(
                reporter, backend, name="a name", group="a group", config=canonical.CONFIG, tags=("from the start",)
            )
            with run:
                canonical.log_many(run)
                canonical.log_everything(run, folder / "files")
                canonical.log_odd_names(run)
                canonical.log_shared_name(run, folder / "files")
        assert run.dir is not None
        (row,) = run.deliveries()
        if load_state(run.dir, reporter.name) is None or row.where is None:
            pytest.fail(f"the run didn't even start in the tracker: {row}\n{log_of(row)}")
        sources = [str(run.dir), row.where, str(run.dir.parent), str(backend), native_of(run.dir, reporter.name).id]
        back = contract.read_runs([run.dir], reporter, sources)
        return Delivered(reporter, run.dir, row, read_run(run.dir), back, seen)

    @pytest.fixture(scope="class")
    @classmethod
    def extreme(cls, tmp_path_factory: pytest.TempPathFactory) -> Delivered:
        """A run with what is greater than others of its kind, or odd, delivered and read back."""
        contract, folder = cls(), tmp_path_factory.mktemp("extreme")
        reporter = contract.made(folder)
        with contract.start(reporter, folder, config=canonical.RETYPED[0]) as run:
            canonical.log_extremes(run)
        assert run.dir is not None
        (row,) = run.deliveries()
        return Delivered(reporter, run.dir, row, read_run(run.dir), contract.read_runs([run.dir], reporter))

    # -- verbs for the tests ---------------------------------------------------------------------------------------

    def made(self, folder: Path) -> Reporter:
        """A reporter of the author's, in a folder that is there; the test is skipped if nobody can read it back."""
        folder.mkdir(parents=True, exist_ok=True)
        reporter = self.make_reporter(folder)
        type(self).tested = type(reporter)
        if not (reporter.supports("read") or self.reads_itself):
            pytest.skip(f"{reporter.name} doesn't override read, and the test class doesn't say how to read back")
        return reporter

    @property
    def reads_itself(self) -> bool:
        """Whether the author overrides `read`."""
        return type(self).read is not ContractBase.read

    def needs(self, reporter: Reporter, *methods: str) -> None:
        """Skips the test, by name, if the reporter overrides none of these."""
        if not any(reporter.supports(method) for method in methods):
            pytest.skip(f"{reporter.name} doesn't override {' or '.join(methods)}")

    def needs_process(self, reporter: Reporter) -> None:
        """Skips the test if the reporter's courier is no process of its own."""
        if not portable(reporter) or reporter.in_process:
            pytest.skip(f"{reporter.name} isn't registered, so its courier is a thread of the training process")

    def start(self, reporter: Reporter, folder: Path, **options: Any) -> Run:
        """A run that is reported to this reporter alone."""
        return start_run(
            reporter, project="contract", dir=folder / "runs", delivery="process", finish_timeout=PATIENCE, **options
        )

    def resume(self, run: Run, reporter: Reporter, **options: Any) -> Run:
        """Goes on with a finished run."""
        assert run.dir is not None
        return start_run(reporter, resume=run.dir, delivery="process", finish_timeout=PATIENCE, **options)

    def complete(self, run: Run) -> bool:
        """Whether the courier of a finished run delivered everything; fails with its log if not."""
        assert_done(*run.deliveries())
        return True

    def read_runs(self, run_dirs: Sequence[Path], reporter: Reporter, sources: Sequence[str] = ()) -> ReadBack:
        """Reads in another process where the reporter can be made there, and else here; an author's `read` always here."""
        natives = [native_of(run_dir, reporter.name) for run_dir in run_dirs]
        if portable(reporter) and not self.reads_itself:
            answer = run_dirs[0].parent.parent / f"{run_dirs[0].name}.read"
            return read_in_process(reporter, run_dirs[0], natives, answer, sources)
        return read_here(lambda native: self.read(reporter, native), reporter.find_runs, natives, sources)

    def records(self, run_dirs: Sequence[Path], reporter: Reporter) -> list[RunRecord]:
        """What the tracker has of these runs."""
        found = []
        for record in self.read_runs(run_dirs, reporter).records:
            assert isinstance(record, RunRecord), f"reading the run back failed: {record}"
            found.append(record)
        return found

    def verified(self, run: Run, reporter: Reporter) -> Verification:
        """The comparison of the tracker with the journal of a finished run."""
        assert run.dir is not None
        self.complete(run)
        return self.read_back(run.dir, reporter)

    def read_back(self, run_dir: Path, reporter: Reporter) -> Verification:
        """The comparison of the tracker with the journal."""
        (record,) = self.read_runs([run_dir], reporter).records
        if not isinstance(record, RunRecord):
            return Verification(reporter.name, error=record)
        return compare(reporter.name, read_run(run_dir), record, _supported(type(reporter)))

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
        self, reporter: Reporter, folder: Path, body: str, before: str = ""
    ) -> tuple[subprocess.CompletedProcess[str], Path]:
        """Runs `body` in a process of its own, where `run` is a run that is reported to this reporter; `before` it starts."""
        head = (
            "import json, os, signal, sys, runcast\n"
            "name, options, folder = json.loads(sys.argv[1])\n"
            "run = runcast.start_run({name: options}, project='contract', dir=folder, delivery='process')\n"
            "print(run.dir, flush=True)\n"
        )
        spec = json.dumps([reporter.name, reporter.options, str(folder / "runs")])
        process = subprocess.run(
            [sys.executable, "-c", before + head + body, spec],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.stdout, process.stderr
        return process, Path(process.stdout.split("\n")[0])


def assert_same(
    reporter: Reporter, expected: RunRecord, found: RunRecord, why: str, kinds: Collection[str] = tuple(KINDS)
) -> None:
    """Fails with all differences between two records, in these kinds and what the reporter supports."""
    differences = compare(reporter.name, expected, found, _supported(type(reporter)) & set(kinds)).differences
    assert not differences, "\n".join([why, *differences])


def assert_done(row: Delivery) -> None:
    """Fails with the courier's log if something was not delivered."""
    assert row.done, f"not delivered: {row}\n{log_of(row)}"


def log_of(row: Delivery) -> str:
    """The end of the courier's log."""
    path = Path(row.log or os.devnull)
    return path.read_text(errors="replace")[-3000:] if path.exists() else ""


def wait_until_through(run_dir: Path, name: str) -> None:
    """Waits until no courier is at work on this tracker, and asserts that it got everything."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = load_state(run_dir, name)
        if state is not None and state.state in FINAL_STATES and not courier_alive(run_dir, name):
            break
        time.sleep(0.1)
    assert_done(*deliveries(run_dir, [name]))


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
