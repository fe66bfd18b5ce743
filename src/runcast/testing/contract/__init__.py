"""The contract as a test class: subclass it, say how to make your reporter, and pytest proves the rest.

Every test delivers a real run through a courier, as in production, reads the tracker back, and compares that with the
journal. What the reporter doesn't override is skipped by name. Most tests look at one aspect of one of two runs: one
has something of everything, one what is greater or odder than usual; each says what is probably wrong.
"""

from __future__ import annotations

from runcast.testing.contract.base import files_below, wait_until_through
from runcast.testing.contract.config import ConfigContract
from runcast.testing.contract.guard import GuardContract
from runcast.testing.contract.lives import LivesContract
from runcast.testing.contract.manners import MannersContract
from runcast.testing.contract.media import MediaContract
from runcast.testing.contract.metrics import MetricsContract
from runcast.testing.contract.things import ThingsContract
from runcast.testing.couriers import PATIENCE

__all__ = ["PATIENCE", "ReporterContract", "files_below", "wait_until_through"]


# pytest runs the tests of the last base first.
class ReporterContract(
    MannersContract, LivesContract, ThingsContract, MediaContract, ConfigContract, MetricsContract, GuardContract
):
    """What every reporter that can be read back must do.

    Example:
        ```python
        class TestMyReporter(ReporterContract):
            def make_reporter(self, folder):
                return MyReporter(directory=str(folder))
        ```

    A reporter without a reader is read back by the test:

        ```python
            def read(self, reporter, native):
                return my_backend.record_of(native.id)
        ```
    """
