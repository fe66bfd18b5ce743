"""Neptune, whose service was shut down in March 2026: nothing can be reported to it, but what is left of it imports.

    offline runs    ``.neptune/offline/run__...``, written by ``neptune`` 1.x in its offline mode, and ``.neptune/async/...``,
                    whose operations may not all have been sent
    exports         ``data/<project>/<run>_part_0.parquet`` beside ``files/<project>/...``, written by neptune-exporter

    float series                        metrics
    string series                       texts
    histogram series                    histograms
    series of PNG files                 images
    files, file sets, other series      artifacts, byte for byte
    sys/id, name, tags, group_tags,     the run's own id, name, tags, group, times and status
    creation_time, failed
    every other single value            config, nested; a date as text, a set of strings as a list

Steps are whole numbers here. Where a run has fractions of steps, all its steps are multiplied by the same power of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from runcast.record import RunRecord
from runcast.reporter import Availability, NativeRun, Reporter
from runcast.reporters._neptune_export import find_exports, read_export
from runcast.reporters._neptune_offline import find_offline, read_offline


class NeptuneExport(Reporter):
    """Reads runs of Neptune's from disk. Nothing can be reported to it."""

    name: ClassVar[str] = "neptune"

    @classmethod
    def availability(cls) -> Availability:
        reason = (
            "Neptune's service was shut down in March 2026; its exports and offline runs can be imported: "
            "runcast import neptune FOLDER"
        )
        return Availability(cls.name, "inactive", reason)

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """Every offline run and every exported run at or below a path."""
        root = Path(source).absolute()
        found = [*find_offline(root), *find_exports(root)]
        if not found:
            raise LookupError(
                f"no run of Neptune's in {source!r}; expected a folder with .neptune/offline/run__..., or one that "
                "neptune-exporter wrote (data/ and files/)"
            )
        return found

    def read(self, native: NativeRun) -> RunRecord:
        if "parts" in native.data:
            return read_export(native)
        return read_offline(native)
