"""The contract, proven by what a collector got."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runcast.record import RunRecord
from runcast.reporter import NativeRun, Reporter
from runcast.reporters.otlp import OtlpReporter
from runcast.testing.contract import ReporterContract
from runcast.testing.contract.base import Delivered

from .backend import Collector

_collector = Collector()


@pytest.fixture(autouse=True, scope="module")
def _listening() -> Iterator[None]:
    with _collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", _collector.url)
        yield


class TestOtlp(ReporterContract):
    """Every promise of the contract holds for what OTLP metrics have a place for."""

    def make_reporter(self, folder: Path) -> OtlpReporter:
        return OtlpReporter()

    def read(self, reporter: Reporter, native: NativeRun) -> RunRecord:
        """OTLP only sends, so the collector is asked."""
        return _collector.record(native.id)

    @pytest.mark.xfail(reason="OTLP's buckets have whole counts: one with fractions is set aside")
    def test_fractional_counts_are_kept(self, extreme: Delivered) -> None:
        super().test_fractional_counts_are_kept(extreme)

    @pytest.mark.xfail(reason="OTLP's buckets have whole counts: one with fractions is set aside")
    def test_extremes_are_delivered(self, extreme: Delivered) -> None:
        super().test_extremes_are_delivered(extreme)
