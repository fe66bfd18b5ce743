"""The delivery promises as a test class: subclass it, say how to make your reporter, and everything breaks once.

Each test trains while one thing goes wrong, beside a second, healthy reporter. Then: the trained weights are those of a
training without any tracker, bit by bit; the healthy reporter has everything; after the recovery that a user would make
(waiting, or ``runcast sync``) the reporter under test reads back as the journal has it, with the right status.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from runcast.delivery import load_state
from runcast.events import RunStatus
from runcast.folder import read_run
from runcast.hosts import portable
from runcast.reporter import Reporter
from runcast.run import start_run
from runcast.sync import deliver
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.faults import Fault, inject, strikes
from runcast.testing.lines import LinesReporter
from runcast.testing.training import train
from runcast.verify import verify, verify_tracker

HANG = 5.0
"""Seconds after which a call counts as hanging in these tests."""


@dataclass(frozen=True)
class TrackerFault:
    """Something that goes wrong in a tracker or its courier.

    Attributes:
        name: In words.
        faults: What is injected.
        needs_sync: Whether what is left must be delivered by hand.
        ends_process: Whether it ends or hangs the courier's process, so that it can't share one.
    """

    name: str
    faults: tuple[Fault, ...]
    needs_sync: bool = False
    ends_process: bool = False


@dataclass(frozen=True)
class TrainingFault:
    """Something that goes wrong in the training process.

    Attributes:
        name: In words.
        code: What happens after step 20, where `run`, `os`, `signal` and `die` are at hand.
        status: What every tracker has to say then.
        exit_code: How the process ends.
        needs_sync: Whether what is left must be delivered by hand.
    """

    name: str
    code: str
    status: RunStatus
    exit_code: int
    needs_sync: bool = False


TRACKER_FAULTS = (
    TrackerFault("can't be reached at the start, twice", (Fault("open", "raise", times=2),)),
    TrackerFault("refuses to start", (Fault("open", "refuse", times=0),), needs_sync=True),
    TrackerFault("connection lost at an event", (Fault("log", "raise", nth=9),)),
    TrackerFault("an outage of five calls", (Fault("log", "raise", nth=9, times=5),)),
    TrackerFault("connection reset after an event was taken", (Fault("log", "reset", nth=9, after=True),)),
    TrackerFault("an event is refused", (Fault("log", "refuse", nth=9, times=2),), needs_sync=True),
    TrackerFault("answers 401", (Fault("log", "401", nth=9, times=0),), needs_sync=True),
    TrackerFault("answers 429, Retry-After: 1", (Fault("log", "429", nth=9, times=2),)),
    TrackerFault("answers 500", (Fault("log", "500", nth=9, times=2),)),
    TrackerFault(
        "its disk is full for a while", (Fault("log", "disk full", nth=9), Fault("flush", "disk full", nth=2))
    ),
    TrackerFault("flushing fails", (Fault("flush", "refuse", times=2),)),
    TrackerFault("closing fails", (Fault("close", "refuse", times=2),)),
    TrackerFault("connection lost after closing", (Fault("close", "raise", after=True),)),
    TrackerFault("takes a second for each of three events", (Fault("log", "slow", nth=9, times=3),)),
    TrackerFault("hangs at an event", (Fault("log", "hang", nth=9),), ends_process=True),
    TrackerFault("hangs when it is closed", (Fault("close", "hang"),), ends_process=True),
    TrackerFault("hangs for ever", (Fault("log", "hang", nth=2, times=0),), needs_sync=True, ends_process=True),
    TrackerFault("its SDK ends the process", (Fault("log", "exit", nth=9),), ends_process=True),
    TrackerFault("its SDK crashes (SIGSEGV)", (Fault("log", "segv", nth=9),), ends_process=True),
    TrackerFault("courier killed before delivering", (Fault("log", "kill", nth=9),), ends_process=True),
    TrackerFault("courier killed after delivering", (Fault("log", "kill", nth=9, after=True),), ends_process=True),
    TrackerFault("courier killed before committing", (Fault("flush", "kill", after=True),), ends_process=True),
    TrackerFault("courier killed after committing", (Fault("committed", "kill"),), ends_process=True),
)
TRAINING_FAULTS = (
    TrainingFault("SIGKILL", "os.kill(os.getpid(), signal.SIGKILL)", "crashed", -signal.SIGKILL),
    TrainingFault("SIGTERM", "os.kill(os.getpid(), signal.SIGTERM)", "killed", -signal.SIGTERM),
    TrainingFault("Ctrl-C", "os.kill(os.getpid(), signal.SIGINT)", "killed", -signal.SIGINT),
    TrainingFault("an exception in a callback", "raise ZeroDivisionError('in a callback')", "failed", 1),
    TrainingFault("os._exit", "os._exit(3)", "crashed", 3),
    TrainingFault(
        "out of memory",
        "import resource; used = psutil.Process().memory_info().vms; "
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26)); bytearray(2**30)",
        "failed",
        1,
    ),
    TrainingFault(
        "killed together with its couriers",
        "[child.kill() for child in psutil.Process().children(recursive=True)]; os.kill(os.getpid(), signal.SIGKILL)",
        "crashed",
        -signal.SIGKILL,
        needs_sync=True,
    ),
)

_SCRIPT = """
import json, os, signal, sys, psutil, runcast
from pathlib import Path
from runcast.testing.fault_contract import script_reporters
from runcast.testing.training import train
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a background process begins
make, arguments, folder, weights = json.loads(sys.argv[1])
def after_step(step, so_far):
    if step == 20:
        Path(weights).write_bytes(so_far)
        exec(os.environ["FAULT"])
with runcast.start_run(
    script_reporters(make, arguments), project="faults", dir=folder, config={"lr": 0.1}, delivery="process",
    finish_timeout=float(os.environ["PATIENCE"]),
) as run:
    print(run.dir, flush=True)
    train(run.log, after_step)
"""


def script_reporters(make: str, arguments: dict[str, object]) -> list[Reporter]:
    """The reporter under test, and the healthy one."""
    from runcast.hosts import made

    return [made(make, arguments), LinesReporter()]


@functools.cache
def _undisturbed() -> tuple[bytes, bytes]:
    """The weights of a training that reports nowhere: at its end, and after step 20."""
    at_20: list[bytes] = []
    with start_run("none") as run:
        end = train(run.log, lambda step, weights: at_20.append(weights) if step == 20 else None)
    return end, at_20[0]


class FaultContract:
    """What a training and the other trackers don't notice, and a reporter recovers from.

    Example:
        ```python
        class TestMyReporterUnderFaults(FaultContract):
            def make_reporter(self, folder):
                return MyReporter(directory=str(folder))
        ```
    """

    def make_reporter(self, folder: Path) -> Reporter:
        """The reporter under test, on a local or offline backend.

        Args:
            folder: A fresh folder for the backend; run folders are made below it too, in ``runs``.
        """
        raise TypeError(f"{type(self).__name__} must say how to make its reporter: override make_reporter")

    @pytest.mark.parametrize("fault", TRACKER_FAULTS, ids=lambda fault: fault.name)
    def test_tracker_fails(
        self, fault: TrackerFault, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """Training doesn't notice, other trackers are complete, and after recovery this one is too."""
        whole = self.make_reporter(tmp_path)
        record_property("reporter", whole.name)
        if fault.ends_process and not _isolated(whole):
            pytest.skip("its courier is a thread of the training process")
        reporter = inject(self.make_reporter(tmp_path), *fault.faults, ledger=tmp_path / "struck", call_timeout=HANG)
        with start_run(
            [reporter, LinesReporter()],
            project="faults",
            dir=tmp_path / "runs",
            config={"lr": 0.1},
            delivery="process",
            finish_timeout=PATIENCE,
        ) as run:
            weights = train(run.log)
        assert run.dir is not None
        assert weights == _undisturbed()[0], "the trained weights are not those of an undisturbed training"
        struck = strikes(tmp_path / "struck")
        for injected in fault.faults:
            assert f"{injected.at} {injected.action}" in struck, f"the fault never happened: {struck}"
        self._recovered(run.dir, whole, "completed", needs_sync=fault.needs_sync)
        record_property("recovery", "sync" if fault.needs_sync else "by itself")

    @pytest.mark.parametrize("fault", TRAINING_FAULTS, ids=lambda fault: fault.name)
    def test_training_fails(
        self, fault: TrainingFault, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """Up to the fault, training went as without trackers; every tracker has all points up to there, and the status."""
        reporter = self.make_reporter(tmp_path)
        record_property("reporter", reporter.name)
        if not _isolated(reporter):
            pytest.skip("its courier is a thread of the training process, and ends with it")
        make, arguments = reporter.recipe()
        spec = json.dumps([make, arguments, str(tmp_path / "runs"), str(tmp_path / "weights")])
        process = subprocess.run(
            [sys.executable, "-c", _SCRIPT, spec],
            env={**os.environ, "FAULT": fault.code, "PATIENCE": str(PATIENCE)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == fault.exit_code, process.stderr
        assert (tmp_path / "weights").read_bytes() == _undisturbed()[1]
        run_dir = Path(process.stdout.splitlines()[0])
        if not fault.needs_sync:
            wait_until_through(run_dir, reporter.name)
            wait_until_through(run_dir, "lines")
        self._recovered(run_dir, reporter, fault.status, needs_sync=fault.needs_sync)
        record_property("recovery", "sync" if fault.needs_sync else "by itself")

    def _recovered(self, run_dir: Path, reporter: Reporter, status: RunStatus, *, needs_sync: bool) -> None:
        """Delivers by hand what is left, if it comes to that, and compares both trackers with the journal."""
        if needs_sync:
            state = load_state(run_dir, reporter.name)
            assert state is not None
            assert state.state != "complete" or state.refused, "nothing was left to deliver: the fault did no harm"
            deliver(run_dir, [reporter, LinesReporter()], PATIENCE)
        for name in (reporter.name, "lines"):
            state = load_state(run_dir, name)
            assert state is not None
            assert (state.state, state.refused) == ("complete", 0), f"{state}\n{_log(run_dir, name)}"
        assert read_run(run_dir).status == status
        results = verify(run_dir, ["lines"])
        if reporter.supports("read"):
            results += verify(run_dir, [reporter.name]) if portable(reporter) else [verify_tracker(run_dir, reporter)]
        for result in results:
            assert result.error is None, result
            assert not result.differences, "\n".join(result.differences)
            assert "status" not in result.compared or result.compared["status"].matched == 1


def _isolated(reporter: Reporter) -> bool:
    """Whether its courier is a process of its own."""
    return portable(reporter) and not reporter.in_process


def _log(run_dir: Path, name: str) -> str:
    path = run_dir / "trackers" / f"{name}.log"
    return path.read_text(errors="replace")[-5000:] if path.exists() else ""
