"""A healthy reporter to try things with: a tracker that is a file of JSON lines. Of numbers, texts, config and status.

It is as forgetful as real trackers are: what is not flushed is lost with its process, the last line may be torn, and what
is delivered twice stands there twice.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runcast import events
from runcast.events import RunStatus
from runcast.record import RecordBuilder, RunRecord
from runcast.registry import register_reporter
from runcast.reporter import NativeRun, Reporter, RunInfo


@register_reporter
class LinesReporter(Reporter):
    """Writes ``<folder>/<run id>.jsonl``.

    Args:
        folder: Default: ``lines`` in the run folder.
    """

    name: ClassVar[str] = "lines"

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        path = Path(self._folder or run.dir / "lines") / f"{run.run_id}.jsonl"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            whole = path.read_bytes()
            os.truncate(path, whole.rfind(b"\n") + 1)  # a line that a killed process left unfinished
        self._file: io.TextIOWrapper = path.open("a", encoding="utf-8")
        if attach is None:
            self._write("run", run_id=run.run_id, name=run.name, project=run.project)
        else:
            self._write("status", status="running")
        return NativeRun(run.run_id, str(path))

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        (Path(self._folder or run.dir / "lines") / f"{run.run_id}.jsonl").unlink(missing_ok=True)
        return self.open(run, None)

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self._write("metrics", values=dict(metrics), step=step, time=time)

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._write("text", key=key, text=text, step=step, time=time)

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._write("config", config=dict(config))

    def set_summary(self, values: Mapping[str, Any]) -> None:
        self._write("summary", values=dict(values))

    def add_tags(self, tags: Sequence[str]) -> None:
        self._write("tags", tags=list(tags))

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, status: RunStatus) -> None:
        self._write("status", status=status)
        self.flush()
        self._file.close()

    def _write(self, kind: str, **fields: Any) -> None:
        self._file.write(json.dumps({"kind": kind, **fields}) + "\n")

    def read(self, native: NativeRun) -> RunRecord:
        builder = RecordBuilder(Path(native.url or ""))
        for line in lines_of(Path(native.url or "")):
            fields = {key: value for key, value in line.items() if key != "kind"}
            if line["kind"] == "run":
                builder.record.run_id, builder.record.name, builder.record.project = fields.values()
            elif line["kind"] == "status":
                builder.record.status = fields["status"]
            else:
                builder.add(_EVENTS[line["kind"]](**{"time": 0.0, **fields}))
        return builder.record


_EVENTS: dict[str, Any] = {
    "metrics": events.Metrics,
    "text": events.Text,
    "config": events.ConfigUpdated,
    "summary": events.Summary,
    "tags": events.Tags,
}


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """What the file holds, line by line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
