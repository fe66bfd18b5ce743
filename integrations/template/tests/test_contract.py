"""Some fifty tests for these few lines."""

from __future__ import annotations

from pathlib import Path

from runcast.testing import ReporterContract
from runcast_example import ExampleReporter


class TestExample(ReporterContract):
    """Every promise of the contract holds for Example."""

    def make_reporter(self, folder: Path) -> ExampleReporter:
        return ExampleReporter(str(folder / "example"))
