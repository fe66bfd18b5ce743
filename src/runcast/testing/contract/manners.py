"""What a reporter does to its process and its surroundings: nothing that isn't asked for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runcast.hosts import portable
from runcast.record import RunRecord
from runcast.reporter import Reporter
from runcast.testing.by_hand import ByHand, call, call_in_process, random_numbers, state_of_process
from runcast.testing.contract.base import ContractBase, Delivered, feature, wait_until_through
from runcast.testing.couriers import PATIENCE

_BEFORE = """
import contextlib, threading
with contextlib.suppress(ImportError):
    import numpy
from runcast.testing.by_hand import state_of_process
before, threads = state_of_process(), threading.active_count()
"""
_BODY = """
run.log({'loss': 1.0}, step=0)
run.finish()
after = state_of_process()
print('changed:', *sorted(name for name in before if before[name] != after[name]))
print('further threads:', threading.active_count() - threads)
print('SDK imported:', %r in sys.modules)
"""


class MannersContract(ContractBase):
    """What it leaves alone."""

    # -- where the run with everything was delivered ---------------------------------------------------------------

    def test_nothing_is_written_outside_its_place(self, delivered: Delivered) -> None:
        """Neither the home directory nor the working directory gets a file."""
        written = delivered.seen.written
        assert not written, f"files outside the run folder and the tracker's own place: {written[:10]}"

    def test_no_temporary_file_is_left(self, delivered: Delivered) -> None:
        """What was put aside for a moment is removed again."""
        left = delivered.seen.temporary
        assert not left, f"{len(left)} files are left in the directory for temporary ones: {left[:10]}"

    def test_nothing_leaves_this_machine(self, delivered: Delivered) -> None:
        """On a local or offline backend nothing is looked up, and nothing is connected to but the loopback interface."""
        tried = delivered.seen.connections
        assert not tried, f"connections were tried (and refused): {tried[:10]}: telemetry, or a search for updates?"

    def test_nobody_is_asked(self, delivered: Delivered, by_hand: ByHand) -> None:
        """There is no prompt, and nothing is read from standard input."""
        asked = delivered.seen.prompts
        assert not asked, f"somebody was asked: {asked}. Nobody is there; what is missing is for `availability` to say"
        assert by_hand.answers == 0, "standard input was read: nobody is there"

    def test_no_thread_or_process_is_left(self, delivered: Delivered) -> None:
        """When everything is delivered, all that was started for it has ended."""
        threads, processes = delivered.seen.threads, delivered.seen.processes
        assert not threads, f"threads are left in the training process: {threads}"
        assert not processes, f"processes are left: {processes}. `close` has to end them"

    # -- where training runs ---------------------------------------------------------------------------------------

    def test_training_process_stays_untouched(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Neither hooks, handlers, streams nor random numbers change where training runs; no SDK is imported, nothing printed."""
        reporter = self.made(tmp_path)
        if not portable(reporter) or reporter.in_process:
            self._untouched_here(reporter, tmp_path, capfd)
            return
        module = reporter.requires.module if reporter.requires is not None else ""
        process, run_dir = self.run_in_process(reporter, tmp_path, _BODY % module, _BEFORE)
        assert process.returncode == 0, process.stderr
        wait_until_through(run_dir, reporter.name)
        _, *said = process.stdout.splitlines()
        assert said == ["changed:", "further threads: 0", "SDK imported: False"], (
            f"training has its own standard output and its own process: {said}. Is the SDK imported at the top of the reporter's "
            "module, or a hook set there?"
        )

    def _untouched_here(self, reporter: Reporter, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        with random_numbers():
            before = state_of_process()
            with self.start(reporter, folder) as run:
                run.log({"loss": 1.0}, step=0)
                deadline = time.monotonic() + PATIENCE
                while not run.deliveries()[0].delivered and time.monotonic() < deadline:
                    time.sleep(0.01)
                during = state_of_process()
            self.complete(run)
            after = state_of_process()
        # Handlers of signals and `sys.exit` are set by an open run itself.
        while_open = {
            name for name in before if "handler" not in name and name != "sys.exit" and before[name] != during[name]
        }
        changed = sorted(while_open | {name for name in before if before[name] != after[name]})
        assert not changed, f"of the training process this was changed: {', '.join(changed)}"
        printed = capfd.readouterr().out
        assert not printed, f"this was printed to training's standard output: {printed[:200]!r}"

    # -- called by hand --------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def by_hand(cls, tmp_path_factory: pytest.TempPathFactory) -> ByHand:
        """Two runs whose reporter is called directly, in a process of its own where it can be made there."""
        contract, folder = cls(), tmp_path_factory.mktemp("by-hand")
        (folder / "runs").mkdir()
        reporter = contract.made(folder)
        if portable(reporter):
            done = call_in_process(reporter, folder / "runs", folder / "answer")
        else:
            done = call(lambda: contract.made(folder), folder / "runs")
        if contract.reads_itself or not portable(reporter):
            done.read(lambda native: contract.read(contract.made(folder), native))
        return done

    @feature("status")
    def test_closing_twice_is_fine(self, by_hand: ByHand) -> None:
        """A second `close` does nothing: a courier closes again what it isn't sure of."""
        for what in ("the first close", "the second close"):
            assert what not in by_hand.errors, f"{what} raised {by_hand.errors[what]}"
        found = self.by_hand_record(by_hand, "closed-twice")
        steps = [point.step for point in found.metrics.get("loss", [])]
        assert steps == [0, 1, 2], f"closed twice, the run has the steps {steps} of 0, 1, 2"
        if self.tested.supports("close"):
            assert found.status == "completed", f"closed twice as completed, the run is {found.status!r}"

    @feature("status")
    def test_closing_after_a_failure_is_fine(self, by_hand: ByHand) -> None:
        """A run whose calls failed is closed all the same, with what it had and its status."""
        what = "close after calls that failed"
        assert what not in by_hand.errors, (
            f"{what} raised {by_hand.errors[what]}: then nobody learns that the run failed"
        )
        found = self.by_hand_record(by_hand, "closed-after-failure")
        steps = [point.step for point in found.metrics.get("loss", [])]
        assert steps == [0, 1, 2], f"of the points before the failure, 0, 1, 2, the run has {steps}"
        if self.tested.supports("close"):
            assert found.status == "failed", f"closed as failed, the run is {found.status!r}"

    def test_process_is_left_as_it_was(self, by_hand: ByHand) -> None:
        """After the end, signal handlers, `sys.excepthook`, streams, logging and random numbers are what they were before."""
        assert not by_hand.changed, (
            f"after `close` the process has other values for {', '.join(by_hand.changed)}: in a thread of training, that is "
            "training's own"
        )

    def test_nothing_goes_on_after_the_end(self, by_hand: ByHand) -> None:
        """`close` ends the threads and processes that `open` has started."""
        assert not by_hand.threads, f"threads are left: {by_hand.threads}"
        assert not by_hand.children, f"processes are left: {by_hand.children}"

    def test_availability_tells_and_touches_nothing(self, delivered: Delivered) -> None:
        """It says in one line how the tracker would run, and is usable where the tests run."""
        found = type(delivered.reporter).availability()
        assert found.usable, f"the reporter ran, and says that it can't: {found}"
        assert found.name == delivered.reporter.name
        assert "\n" not in found.reason, f"more than one line: {found.reason!r}"

    # -- verbs -----------------------------------------------------------------------------------------------------

    def by_hand_record(self, by_hand: ByHand, name: str) -> RunRecord:
        """What the tracker has of one of the two runs."""
        record = by_hand.records[name]
        assert isinstance(record, RunRecord), f"reading the run back failed: {record}"
        return record
