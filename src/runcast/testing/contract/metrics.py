"""Numbers: that all arrive, exactly, at their step and with their time, under a name of their own."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence

import pytest

from runcast.record import Point
from runcast.testing import canonical
from runcast.testing.contract.base import ContractBase, Delivered, feature
from runcast.verify import TIME_TOLERANCE

SHAPES = {
    "punctuation": ("train/loss", "train_loss", "train.loss", "train loss", "train-loss"),
    "case": ("train/loss", "Train/Loss"),
    "slashes": ("deep/er/and/deeper/still", "a//b", "trailing/"),
    "special characters": ("percent%2F", "hash#1", "colon:7"),
    "Unicode": ("emoji🚀", "漢字"),
    "words that trackers use themselves": ("_private", "step", "time"),
    "250 characters": ("x" * 250, "x" * 249 + "y"),
}


class MetricsContract(ContractBase):
    """What becomes of numbers."""

    @feature("metrics")
    def test_all_points_arrive(self, delivered: Delivered) -> None:
        """Each name has as many points as were logged."""
        wanted, found = delivered.journal.metrics, delivered.found.metrics
        missing = [name for name in wanted if name not in found]
        assert not missing, f"log_metrics or the reader loses these names altogether: {missing[:10]}"
        invented = [name for name in found if name not in wanted]
        assert not invented, f"nobody logged these names: {invented[:10]}"
        small = [name for name in wanted if name not in canonical.MANY]
        wrong = [f"{name}: {len(found[name])} of {len(wanted[name])}" for name in small]
        wrong = [line for line, name in zip(wrong, small, strict=True) if len(found[name]) != len(wanted[name])]
        assert not wrong, "points are lost, or written twice:\n" + "\n".join(wrong)

    @feature("metrics")
    def test_ten_thousand_points_all_arrive(self, delivered: Delivered) -> None:
        """Nothing is sampled, batched away or capped."""
        for name, count in canonical.MANY.items():
            steps = [point.step for point in self.points(delivered, name)]
            assert len(steps) == count, (
                f"{name} has {len(steps)} points of {count}, the last at step {max(steps, default=None)}: does the SDK sample, "
                "or does the last batch wait for a flush that doesn't come?"
            )
            assert sorted(steps) == list(range(count)), f"{name}: the number of points is right, their steps are not"

    @feature("extremes")
    def test_twelve_hundred_names_of_one_event_all_arrive(self, extreme: Delivered) -> None:
        """A call with more names than some trackers take at once loses none."""
        found = {name: [point.value for point in points] for name, points in extreme.found.metrics.items()}
        lost = [name for name in canonical.WIDE if name not in found]
        assert not lost, (
            f"{len(lost)} of {len(canonical.WIDE)} names that were logged at once are lost, the first {lost[0]!r}"
        )
        assert {name: found[name] for name in canonical.WIDE} == {k: [value] for k, value in canonical.WIDE.items()}

    @feature("metrics")
    def test_points_are_at_their_steps(self, delivered: Delivered) -> None:
        """A point's step is the one it was logged at, not a count of calls."""
        for name in ("train/loss", "eval/accuracy"):
            wanted = [(point.step, point.value) for point in delivered.journal.metrics[name]]
            found = [(point.step, point.value) for point in self.points(delivered, name)]
            assert found == wanted, (
                f"{name} has other steps than were logged: is the step handed to the SDK, and as the step rather than the time?"
            )

    @feature("exact values")
    def test_values_are_exact(self, delivered: Delivered) -> None:
        """A value comes back as the same 64-bit float."""
        found = [point.value for point in self.points(delivered, "odd/exact")]
        if found == [_float32(value) for value in canonical.EXACT]:
            pytest.fail(f"values are rounded to 32 bits: {found}. Keep the 64 beside them, where the reader finds them")
        assert found == list(canonical.EXACT), "values are rounded: are they formatted as text somewhere?"

    @feature("NaN and infinities")
    def test_nan_and_infinities_survive(self, delivered: Delivered) -> None:
        """NaN and the infinities are values, and come back as what they are."""
        found = [point.value for point in self.points(delivered, "odd/special")]
        assert [str(value) for value in found] == [str(value) for value in canonical.SPECIAL], (
            "NaN or an infinity is dropped, or becomes another value: what the tracker can't hold needs a place beside its own"
        )

    @feature("wall times")
    def test_wall_times_are_kept(self, delivered: Delivered) -> None:
        """A point's time is when it was logged, to the millisecond, not when it was delivered."""
        for name in ("train/loss", *canonical.MANY):
            wanted = [point.time for point in _in_order(delivered.journal.metrics[name])]
            found = [point.time for point in _in_order(self.points(delivered, name))]
            off = [abs(a - b) for a, b in zip(wanted, found, strict=False)]
            assert max(off, default=0.0) <= TIME_TOLERANCE, (
                f"{name}: times are off by up to {max(off):.3f} s: is `time` handed to the SDK, in its unit, with the fraction?"
            )

    @feature("steps out of order")
    def test_steps_out_of_order_are_kept(self, delivered: Delivered) -> None:
        """A step lower than the last one is as good as any other."""
        found = {point.step: point.value for point in self.points(delivered, "odd/order")}
        low = [step for step in canonical.STEPS if step < 2**31]
        assert {step: found.get(step) for step in low} == {step: float(step) for step in low}, (
            f"of the steps {low}, logged in this order, the tracker has {sorted(found)}: does it want them to rise? Then use an "
            "x-axis of your own"
        )

    @feature("steps out of order")
    def test_huge_steps_are_kept(self, delivered: Delivered) -> None:
        """A step needs more than 32 bits where it counts tokens."""
        found = [point.step for point in self.points(delivered, "odd/order")]
        assert 2**40 in found, f"step 2**40 is not among {found}: is it cut to 32 bits, or turned into a float?"

    @feature("negative steps")
    def test_negative_steps_are_kept(self, extreme: Delivered) -> None:
        """A step below zero, as of a warm-up, is a step, whatever is logged there."""
        found = {point.step: point.value for point in self.points(extreme, "negative")}
        assert found == {step: step / 7 for step in canonical.NEGATIVE}, (
            f"logged at the steps {canonical.NEGATIVE}, the tracker has {found}: is a negative one taken for none, or unsigned?"
        )
        for kind in ("texts", "images", "tables", "histograms"):
            if not extreme.reporter.supports(_OTHERS[kind]):
                continue
            name = f"negative/{kind.removesuffix('s')}"
            steps = [point.step for point in getattr(extreme.found, kind).get(name, [])]
            assert steps == [-7], f"{kind} {name}: logged at step -7, found at {steps}"

    @feature("steps out of order")
    def test_two_values_at_one_step_are_two(self, delivered: Delivered) -> None:
        """A name that is logged again at the same step has both values there."""
        found = [(point.step, point.value) for point in _in_order(self.points(delivered, "twice"))]
        assert found == [(3, 1.0), (3, 2.0)], (
            "of two values at one step one is lost: does the later replace the earlier?"
        )

    @pytest.mark.parametrize("shape", SHAPES)
    @feature("metrics")
    def test_names_stay_distinct(self, shape: str, delivered: Delivered) -> None:
        """No two names become one, and each reads back as it was."""
        for name in SHAPES[shape]:
            wanted = delivered.journal.metrics[name]
            found = delivered.found.metrics.get(name)
            assert found, f"{_cut(name)} doesn't read back under its name; there are {_near(name, delivered)}"
            assert len(found) == len(wanted), (
                f"{_cut(name)} has {len(found)} points of {len(wanted)}: two names became one"
            )
            assert [point.value for point in found] == [point.value for point in wanted], (
                f"{_cut(name)}: not its values"
            )

    @feature("metrics")
    def test_a_name_is_free_for_everything(self, delivered: Delivered) -> None:
        """A metric, a text, an image, a table, a histogram, an artifact and a result of one name don't touch each other."""
        found = [point.value for point in self.points(delivered, canonical.SHARED)]
        assert found == [1.5], f"the metric {canonical.SHARED} has the values {found}"
        for kind, method in _OTHERS.items():
            if not delivered.reporter.supports(method):
                continue
            wanted = getattr(delivered.journal, kind)[canonical.SHARED]
            other = getattr(delivered.found, kind).get(canonical.SHARED)
            assert other is not None, f"of {kind}, the one named {canonical.SHARED} is lost: so is a metric named"
            if isinstance(wanted, list):
                assert len(other) == len(wanted), f"{kind} {canonical.SHARED}: {len(other)} of {len(wanted)}"

    def points(self, delivered: Delivered, name: str) -> Sequence[Point]:
        """What the tracker has of a metric."""
        points = delivered.found.metrics.get(name)
        assert points, f"the tracker has nothing named {name}; it has {sorted(map(_cut, delivered.found.metrics))}"
        return points


_OTHERS = {
    "texts": "log_text",
    "images": "log_image",
    "tables": "log_table",
    "histograms": "log_histogram",
    "artifacts": "log_artifact",
    "summary": "set_summary",
}


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.inf


def _in_order(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda point: (point.step, point.time))


def _cut(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:20]}…{name[-20:]}")


def _near(name: str, delivered: Delivered) -> list[str]:
    """Names of about these letters."""
    letters = Counter(name.lower())
    return [
        _cut(other) for other in delivered.found.metrics if (Counter(other.lower()) & letters).total() > len(name) / 2
    ]
