"""The kit's test class for the healthy reporters and for each faulty one; `test_kit.py` runs what it needs of it."""

from __future__ import annotations

import faulty

from runcast.testing import ReporterContract, by_hand, surroundings
from runcast.testing.memory import MemoryReporter

# What is leaked here is leaked for good.
surroundings._GRACE = by_hand._GRACE = 2.0


class TestMemory(ReporterContract):
    """In memory, in a thread of the training process."""

    def make_reporter(self, folder):
        return MemoryReporter()


class TestHealthy(ReporterContract):
    """In a file, written by a courier process."""

    def make_reporter(self, folder):
        return faulty.Healthy(str(folder / "store"))


for cls in faulty.ALL:
    globals()[f"Test{cls.__name__}"] = type(
        f"Test{cls.__name__}",
        (ReporterContract,),
        {"make_reporter": lambda self, folder, cls=cls: cls(str(folder / "store")), "__module__": __name__},
    )
