"""The kit looks at itself first: that nothing is missing from it, and that the run holds what the others look for."""

from __future__ import annotations

import inspect
import math

import pytest

from runcast.testing import canonical
from runcast.testing.contract.base import ContractBase, Delivered, assert_done
from runcast.verify import KINDS, verify


class GuardContract(ContractBase):
    """Of the test class, and of the run with everything."""

    def test_no_standard_test_is_left_out(self) -> None:
        """A test that can't pass is overridden, marked ``xfail`` with the reason, and so is seen in every report."""
        wrong = []
        for name, standard in standard_tests().items():
            own = getattr(type(self), name, None)
            if own is standard:
                continue
            marks = [mark for mark in getattr(own, "pytestmark", []) if mark.name == "xfail"]
            if not any(mark.kwargs.get("reason") for mark in marks):
                wrong.append(name)
        assert not wrong, (
            f"{type(self).__name__} removes or replaces standard tests: {', '.join(wrong)}. If one can't pass, override it "
            "with a call of the original, marked with pytest.mark.xfail(reason=...)"
        )

    def test_run_has_something_of_everything(self, delivered: Delivered, extreme: Delivered) -> None:
        """The runs that most tests look at really have what they look for."""
        journal = delivered.journal
        empty = [kind for kind in KINDS if not getattr(journal, kind)]
        assert not empty, f"the kit itself is wrong: its run has no {', '.join(empty)}"
        assert set(journal.metrics) >= {*canonical.ODD_NAMES, *canonical.MANY, "odd/special", "odd/exact", "odd/order"}
        assert sum(len(journal.metrics[name]) for name in canonical.MANY) == 10_000
        assert any(math.isnan(point.value) for point in journal.metrics["odd/special"])
        assert len({point.time for points in journal.metrics.values() for point in points}) > 1000
        assert set(extreme.journal.metrics) == {*canonical.WIDE, "negative"}
        assert set(extreme.journal.histograms) == {"bins/many", "bins/fractions", "negative/histogram"}

    def test_everything_is_delivered(self, delivered: Delivered) -> None:
        """No event of the run with everything is refused, and its courier comes to an end."""
        assert_done(delivered.row)

    def test_extremes_are_delivered(self, extreme: Delivered) -> None:
        """Nothing is refused for its size, its step or its type."""
        assert_done(extreme.row)

    def test_run_can_be_read_back(self, delivered: Delivered) -> None:
        """The reader, or the author's own way to read, gives a record of the run."""
        assert delivered.found

    def test_runcast_verify_agrees(self, delivered: Delivered) -> None:
        """``runcast verify``, which knows nothing but the run folder, finds what the journal has, kind by kind."""
        if self.reads_itself:
            pytest.skip(f"{delivered.reporter.name} doesn't override read, so nobody can verify its runs")
        self.needs_process(delivered.reporter)
        (result,) = verify(delivered.run_dir, [delivered.reporter.name])
        assert result.error is None, f"reading the tracker back failed: {result.error}"
        assert not result.differences, "\n".join(["the tracker hasn't what the journal has:", *result.differences])
        assert all(tally.matched == tally.total for tally in result.compared.values())


def standard_tests() -> dict[str, object]:
    """All tests of the contract, by name."""
    from runcast.testing.contract import ReporterContract

    members = inspect.getmembers_static(ReporterContract, inspect.isfunction)
    return {name: member for name, member in members if name.startswith("test_")}
