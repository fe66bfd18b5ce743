"""Reports runs to Example: a file of JSON lines a run, which stands in for a tracker's SDK until you call yours.

What is not overridden, Example doesn't support: images, tables, histograms and files here. Nothing is declared twice.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runcast import NativeRun, Point, Reporter, RunInfo, RunRecord
from runcast.events import RunStatus, pack, unpack
from runcast.record import TextPoint, merge
from runcast.trust import private


class ExampleReporter(Reporter):
    """Writes ``<directory>/<run id>.jsonl``.

    Args:
        directory: Where the files go. Default: ``$EXAMPLE_DIR``, else ``example`` in the run folder.
    """

    name: ClassVar[str] = "example"
    # requires = Requirement("example-sdk", "example_sdk", oldest="1.0", newest="1.4")

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory

    # An SDK is imported in `open`, never above: this class is loaded where training runs.
    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        folder = Path(self._directory or os.environ.get("EXAMPLE_DIR") or run.dir / "example")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{run.run_id}.jsonl"
        self._file = open(path, "a", opener=private)
        self._file.write("\n")  # ends a line that a killed process may have left unfinished
        self._put("run", id=run.run_id, name=run.name, project=run.project, group=run.group, started=run.started)
        self._put("status", status="running")
        return NativeRun(run.run_id, url=str(path), data={"path": str(path)})

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self._put("metrics", values=dict(metrics), step=step, time=time)

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._put("config", config=dict(config))

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._put("text", key=key, text=text, step=step, time=time)

    def set_summary(self, values: Mapping[str, Any]) -> None:
        self._put("summary", values=dict(values))

    def add_tags(self, tags: Sequence[str]) -> None:
        self._put("tags", tags=list(tags))

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, status: RunStatus) -> None:
        if not self._file.closed:
            self._put("status", status=status)
            self.flush()
            self._file.close()

    def _put(self, kind: str, **values: Any) -> None:
        self._file.write(json.dumps(pack({"kind": kind, **values})) + "\n")

    # The reader: what is there, not what we think we wrote. `runcast verify`, recovery after a crash and the tests need it.
    def read(self, native: NativeRun) -> RunRecord:
        record = RunRecord()
        for line in Path(native.data["path"]).read_text().split("\n"):
            with contextlib.suppress(ValueError):  # empty, or torn
                _add(record, unpack(json.loads(line)))
        return record

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        path = Path(source)
        files = [path] if path.is_file() else sorted(path.rglob("*.jsonl"))
        if not files:
            raise LookupError(f"no runs of Example in {source!r}; expected a .jsonl file, or a folder of them")
        return [NativeRun(file.stem, data={"path": str(file)}) for file in files]


def _add(record: RunRecord, entry: dict[str, Any]) -> None:
    match entry:
        case {"kind": "run"}:
            record.run_id, record.name, record.project = entry["id"], entry["name"], entry["project"]
            record.group, record.started = entry["group"], entry["started"]
        case {"kind": "metrics"}:
            for key, value in entry["values"].items():
                record.metrics.setdefault(key, []).append(Point(entry["step"], value, entry["time"]))
        case {"kind": "config"}:
            record.config = merge(record.config, entry["config"])
        case {"kind": "text"}:
            point = TextPoint(entry["step"], entry["text"], entry["time"])
            record.texts.setdefault(entry["key"], []).append(point)
        case {"kind": "summary"}:
            record.summary |= entry["values"]
        case {"kind": "tags"}:
            record.tags = tuple(sorted({*record.tags, *entry["tags"]}))
        case {"kind": "status"}:
            record.status = entry["status"]
