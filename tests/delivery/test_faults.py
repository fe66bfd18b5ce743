"""Everything that can break, once, with reporters that share the training process."""

from __future__ import annotations

from pathlib import Path

from runcast.reporter import Reporter
from runcast.reporters.console import ConsoleReporter
from runcast.testing.fault_contract import FaultContract
from runcast.testing.lines import LinesReporter


class TestConsoleUnderFaults(FaultContract):
    """The console has to share the terminal, and so the process."""

    def make_reporter(self, folder: Path) -> Reporter:
        return ConsoleReporter()


class Yours(LinesReporter):
    """A reporter that nobody registered, and that so is used as it is, in a thread."""

    name = "yours"


class TestYoursUnderFaults(FaultContract):
    """A reporter of yours, in a thread of the training process."""

    def make_reporter(self, folder: Path) -> Reporter:
        return Yours(str(folder / "yours"))
