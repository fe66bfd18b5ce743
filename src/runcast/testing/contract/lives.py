"""The lives of a run: how it ends, that it goes on, beside another one, and through the death of its courier."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from runcast.courier import BATCH
from runcast.delivery import load_state, save_state
from runcast.events import RunStatus
from runcast.folder import read_run
from runcast.hosts import portable
from runcast.journal import FILE_NAME, Journal
from runcast.record import RunRecord
from runcast.reporter import Reporter
from runcast.run import Run
from runcast.sync import deliver
from runcast.testing import canonical
from runcast.testing.contract.base import ContractBase, Delivered, assert_same, feature
from runcast.testing.couriers import PATIENCE, kill_courier, native_of, wait_delivered


class Pair(NamedTuple):
    """What was logged, and what the tracker has."""

    reporter: Reporter
    journal: RunRecord
    found: RunRecord


class LivesContract(ContractBase):
    """What becomes of a run."""

    # -- how it ends -----------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def endings(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
        """Three short runs, one after another: one with nothing in it, one that failed, one that was killed."""
        contract, folder = cls(), tmp_path_factory.mktemp("endings")
        runs: dict[str, Run] = {}
        reporter = contract.made(folder)
        for name, status in (("empty", "completed"), ("failed", "failed"), ("killed", "killed")):
            reporter = contract.made(folder)
            runs[name] = contract.start(reporter, folder)
            if name != "empty":
                runs[name].log({"loss": 1.0}, step=0)
            runs[name].finish(status)  # type: ignore[arg-type]  # literals of the tuple above
            contract.complete(runs[name])
        folders = [_folder(run) for run in runs.values()]
        records = contract.records(folders, reporter)
        return {
            name: Pair(reporter, read_run(folder), record)
            for name, folder, record in zip(runs, folders, records, strict=True)
        }

    @feature("status")
    def test_completed_run_says_so(self, delivered: Delivered) -> None:
        """The status of a run that ended well."""
        self.needs(delivered.reporter, "close")
        assert delivered.found.status == "completed", _status("completed", delivered.found)

    @pytest.mark.parametrize("status", ["failed", "killed"])
    @feature("status")
    def test_status_reads_back(self, status: RunStatus, endings: dict[str, Pair]) -> None:
        """A run that failed or was killed says so."""
        self.needs(endings[status].reporter, "close")
        assert endings[status].found.status == status, _status(status, endings[status].found)

    @feature("metrics")
    def test_short_run_has_its_only_point(self, endings: dict[str, Pair]) -> None:
        """What is logged just before the end isn't lost."""
        for name in ("failed", "killed"):
            assert_same(
                *endings[name], "the last events before the end are lost: does `flush`, or `close`, wait for them?"
            )

    def test_run_with_nothing_in_it_is_a_run(self, endings: dict[str, Pair]) -> None:
        """A run that logs nothing is there, empty."""
        found = endings["empty"].found
        assert (found.metrics, found.texts, found.artifacts) == ({}, {}, {}), "nobody logged anything"
        assert_same(*endings["empty"], "a run without metrics isn't read back as one")

    @feature("status", "metrics")
    def test_killed_process_leaves_all_points_and_the_status_crashed(self, tmp_path: Path) -> None:
        """SIGKILL of the training process loses no point, and the tracker shows a crashed run."""
        reporter = self.made(tmp_path)
        self.needs_process(reporter)
        run_dir = self.run_and_kill(reporter, tmp_path, steps=50)
        journal, (found,) = read_run(run_dir), self.records([run_dir], reporter)
        assert len(journal.metrics["loss"]) == 50
        assert_same(reporter, journal, found, "after a SIGKILL of training:", ["metrics"])
        if reporter.supports("close"):
            assert found.status == "crashed", _status("crashed", found)

    # -- going on --------------------------------------------------------------------------------------------------

    @feature("resume")
    def test_resumed_run_is_one_run(self, tmp_path: Path) -> None:
        """A run that is finished and gone on with reads back as one, with both parts of every kind."""
        reporter = self.made(tmp_path)
        with self.start(reporter, tmp_path, config={"part": 1, "first": True}, tags=["one"]) as first:
            canonical.log_one_of_each(first, 0, tmp_path / "files")
        self.complete(first)
        before = native_of(_folder(first), reporter.name)
        reporter = self.made(tmp_path)
        with self.resume(first, reporter) as second:
            canonical.log_one_of_each(second, 1, tmp_path / "files")
            second.update_config({"part": 2})
            second.finish("failed")
        self.complete(second)
        after = native_of(_folder(second), reporter.name)
        assert after.id == before.id, f"open(run, attach) began another run, {after.id}, beside {before.id}"
        (found,) = self.records([_folder(second)], reporter)
        why = "a run that is gone on with isn't the whole run: does open(run, attach) go on with it, after `close` too?"
        assert_same(reporter, read_run(_folder(second)), found, why)

    @feature("older checkpoint")
    def test_points_behind_the_checkpoint_are_taken_back(self, tmp_path: Path) -> None:
        """A run that goes on from an older checkpoint has each step once: what came behind the checkpoint is gone, of every kind."""
        reporter = self.made(tmp_path)
        self.needs(reporter, "replace")
        with self.start(reporter, tmp_path, config={"a": 1}) as first:
            for step in range(10):
                canonical.log_one_of_each(first, step, tmp_path / "files")
        self.complete(first)
        reporter = self.made(tmp_path)
        with self.resume(first, reporter, resume_step=4) as second:
            for step in range(5, 8):
                canonical.log_one_of_each(second, step, tmp_path / "files")
        self.complete(second)
        (found,) = self.records([_folder(second)], reporter)
        steps = [point.step for point in found.metrics.get("loss", [])]
        assert sorted(steps) == list(range(8)), (
            f"gone on with from step 4, up to step 7, the run has the steps {sorted(steps)}: does `replace` leave some of the "
            "old run, or the reader read it?"
        )
        assert_same(reporter, read_run(_folder(second)), found, "gone on with from an older checkpoint:")

    @feature("two runs at once")
    def test_two_runs_at_once_stay_apart(self, tmp_path: Path) -> None:
        """Two runs in one process, logged to in turn, are two runs in the tracker."""
        reporters = [self.made(tmp_path), self.made(tmp_path)]
        runs = [self.start(reporter, tmp_path, config={"number": number}) for number, reporter in enumerate(reporters)]
        for step in range(10):
            for number, run in enumerate(runs):
                run.log({"loss": float(number * 100 + step)}, step=step)
        for run in runs:
            run.finish()
            self.complete(run)
        ids = [native_of(_folder(run), reporter.name).id for run, reporter in zip(runs, reporters, strict=True)]
        assert len(set(ids)) == 2, f"both runs are the tracker's run {ids[0]}: is there one run a process or folder?"
        found = self.records([_folder(run) for run in runs], reporters[0])
        for run, record in zip(runs, found, strict=True):
            assert_same(reporters[0], read_run(_folder(run)), record, "two runs at once get into each other's way:")

    # -- the courier -----------------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def courier_killed(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord | str, Pair]:
        """What the tracker had when the courier was killed in the middle; and what was logged, and is there, at the end."""
        contract, folder = cls(), tmp_path_factory.mktemp("killed")
        reporter = contract.made(folder)
        contract.needs_process(reporter)
        run = contract.start(reporter, folder, config={"a": 1})
        for step in range(49):
            run.log({"loss": step / 7}, step=step)
        canonical.log_one_of_each(run, 49, folder / "files")
        wait_delivered(_folder(run), reporter.name)
        kill_courier(_folder(run), reporter.name)
        (left,) = contract.read_runs([_folder(run)], reporter).records
        for step in range(50, 99):
            run.log({"loss": step / 7}, step=step)
        canonical.log_one_of_each(run, 99, folder / "files")
        run.finish()
        contract.complete(run)
        (found,) = contract.records([_folder(run)], reporter)
        return left, Pair(reporter, read_run(_folder(run)), found)

    @feature("exactly once after a crash")
    def test_what_was_flushed_survives_a_sigkill(self, courier_killed: tuple[RunRecord | str, Pair]) -> None:
        """What `flush` returned from is in the tracker, although the courier is killed."""
        left, _ = courier_killed
        assert isinstance(left, RunRecord), f"nothing is to be read after a SIGKILL of the courier: {left}"
        steps = sorted(point.step for point in left.metrics.get("loss", []))
        assert steps[:50] == list(range(50)), (
            f"of 50 points that were flushed, {len(steps)} are there after a SIGKILL of the courier: `flush` returns too early"
        )

    @feature("exactly once after a crash", "resume")
    def test_killed_courier_goes_on(self, courier_killed: tuple[RunRecord | str, Pair]) -> None:
        """A courier that is started again goes on with the same run, and nothing is lost or there twice."""
        _, pair = courier_killed
        assert_same(*pair, "the courier was killed in the middle of the run, and started again:")

    @feature("exactly once after a crash")
    def test_nothing_is_there_twice_when_a_batch_is_delivered_again(self, delivered: Delivered) -> None:
        """A courier that died between delivering a batch and committing the cursor delivers it again; all is there once."""
        reporter, run_dir = delivered.reporter, delivered.run_dir
        if not portable(reporter):
            reporter = self.made(run_dir.parents[1])
        entries = list(Journal(run_dir / FILE_NAME).read())
        again = len(entries) - BATCH + 1
        state = load_state(run_dir, reporter.name)
        assert state is not None
        state.offset, state.events, state.state, state.clean = entries[again].start, again, "delivering", False
        save_state(run_dir, state)
        errors = deliver(run_dir, [reporter], PATIENCE)
        assert not errors, errors
        (found,) = self.records([run_dir], reporter)
        twice = [name for name, points in found.metrics.items() if len(points) > len(delivered.journal.metrics[name])]
        assert not twice, (
            f"of a batch that was delivered again, {len(twice)} metrics have points twice: either the reader shows, at any time, "
            "what is there, so that the courier can tell; or a repeat changes nothing, and `idempotent` is True"
        )
        assert_same(reporter, delivered.journal, found, "a batch was delivered again, and the run is another:")

    # -- import ----------------------------------------------------------------------------------------------------

    @feature("import")
    def test_stored_run_can_be_imported(self, delivered: Delivered) -> None:
        """`find_runs` finds the run by a path or by its id, and it reads back whole without the run folder's word for it."""
        self.needs(delivered.reporter, "find_runs")
        assert delivered.found
        assert delivered.back.imported is not None, "find_runs doesn't find the run:\n" + "\n".join(
            delivered.back.sought
        )
        source, found = delivered.back.imported
        why = f"found by {source!r}, the run is another than the one that `open` returned:"
        assert_same(delivered.reporter, delivered.journal, found, why)

    @feature("import")
    def test_nothing_found_is_said(self, delivered: Delivered, tmp_path: Path) -> None:
        """Where there is no run, `find_runs` raises LookupError, and says what was looked for."""
        self.needs(delivered.reporter, "find_runs")
        with pytest.raises(LookupError, match=tmp_path.name):
            delivered.reporter.find_runs(str(tmp_path))


def _folder(run: Run) -> Path:
    assert run.dir is not None
    return run.dir


def _status(wanted: str, found: RunRecord) -> str:
    return f"the run {wanted}, and the tracker says {found.status!r}: `close` has the status, the reader has to find it again"
