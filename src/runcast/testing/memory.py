"""A healthy reporter with everything in it, whose tracker is a list of lines: in memory, or in a file.

The conformance kit is tested with it, and with faulty ones made from it. It is as forgetful as trackers are: what isn't
flushed is lost with the reporter, and what is delivered twice stands there twice.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runcast.events import RunStatus, pack, unpack
from runcast.record import (
    ArtifactRecord,
    Content,
    HistogramPoint,
    ImagePoint,
    Point,
    RunRecord,
    TablePoint,
    TextPoint,
    merge,
)
from runcast.reporter import LocalArtifact, NativeRun, Reporter, RunInfo
from runcast.trust import private


class MemoryReporter(Reporter):
    """Keeps a run's lines in this process.

    Args:
        folder: Keeps them in ``<folder>/<run id>.jsonl`` instead, where other processes find them.
    """

    name: ClassVar[str] = "memory"
    kept: ClassVar[dict[str, list[str]]] = {}
    """Run id → lines, of all runs without a folder."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        self._waiting: list[str] = []
        self._place = self._place_of(run.run_id)
        self._closed = False
        if attach is None:
            self._forget(self._place)
            about = {"run_id": run.run_id, "name": run.name, "project": run.project, "group": run.group}
            self._put("run", **about, started=run.started)
        self._put("status", status="running")
        return NativeRun(run.run_id, self._place, {"place": self._place})

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        return self.open(run, None)

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self._put("metrics", values=dict(metrics), step=step, time=time)

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._put("config", config=dict(config))

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._put("texts", key=key, value=text, step=step, time=time)

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        self._put("images", key=key, value=_text_of(image.read_bytes()), step=step, time=time)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        self._put("tables", key=key, value=[list(columns), [list(row) for row in rows]], step=step, time=time)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        self._put("histograms", key=key, value=[list(counts), list(edges)], step=step, time=time)

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        files = {file.path: _text_of(artifact.file_path(file).read_bytes()) for file in artifact.files}
        about = {"name": artifact.name, "kind": artifact.kind, "step": step, "metadata": dict(artifact.metadata)}
        self._put("artifact", **about, files=files)

    def set_summary(self, values: Mapping[str, Any]) -> None:
        self._put("summary", values=dict(values))

    def add_tags(self, tags: Sequence[str]) -> None:
        self._put("tags", tags=list(tags))

    def flush(self) -> None:
        self._keep(self._place, self._waiting)
        self._waiting = []

    def close(self, status: RunStatus) -> None:
        if self._closed:
            return
        self._put("status", status=status)
        self.flush()
        self._closed = True

    def read(self, native: NativeRun) -> RunRecord:
        record = RunRecord()
        for line in self._lines(native.data["place"]):
            _add(record, unpack(json.loads(line)))
        return record

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        path = Path(source)
        if self._folder is None:
            places = [source] if source in self.kept else []
        else:
            places = [str(file) for file in ([path] if path.is_file() else sorted(path.rglob("*.jsonl")))]
            places = [place for place in places if next(iter(self._lines(place)), "").startswith('{"line": "run"')]
        if not places:
            raise LookupError(f"no run in {source!r}; expected a run id, or a folder or file of lines")
        return [NativeRun(Path(place).stem, place, {"place": place}) for place in places]

    # -- the tracker -----------------------------------------------------------------------------------------------

    def _place_of(self, run_id: str) -> str:
        if self._folder is None:
            return run_id
        if Path(run_id).name != run_id:
            raise ValueError(f"the run id {run_id!r} is no name for a file")
        return str(Path(self._folder, f"{run_id}.jsonl"))

    def _put(self, line: str, **values: Any) -> None:
        self._waiting.append(json.dumps(pack({"line": line, **values})))

    def _forget(self, place: str) -> None:
        if self._folder is None:
            self.kept.pop(place, None)
        else:
            Path(place).unlink(missing_ok=True)

    def _keep(self, place: str, lines: Sequence[str]) -> None:
        if self._folder is None:
            self.kept.setdefault(place, []).extend(lines)
            return
        path = Path(place)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)  # a line that a killed process left unfinished
        with open(path, "a", encoding="utf-8", opener=private) as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, place: str) -> Sequence[str]:
        if self._folder is None:
            return self.kept[place]
        text = Path(place).read_text(encoding="utf-8")
        return text[: text.rfind("\n") + 1].split("\n")[:-1]


def _add(record: RunRecord, entry: dict[str, Any]) -> None:
    """Folds a line into the record."""
    match entry.pop("line"):
        case "run":
            for name, value in entry.items():
                setattr(record, name, value)
        case "status":
            record.status = entry["status"]
        case "metrics":
            for key, value in entry["values"].items():
                record.metrics.setdefault(key, []).append(Point(entry["step"], value, entry["time"]))
        case "config":
            record.config = merge(record.config, entry["config"])
        case "artifact":
            files = {path: Content.of_bytes(base64.b64decode(text)) for path, text in entry["files"].items()}
            record.artifacts[entry["name"]] = ArtifactRecord(**{**entry, "files": files})
        case "summary":
            record.summary |= entry["values"]
        case "tags":
            record.tags = tuple(sorted({*record.tags, *entry["tags"]}))
        case kind:
            point = _POINTS[kind](entry["step"], entry["value"], entry["time"])
            getattr(record, kind).setdefault(entry["key"], []).append(point)


_POINTS: dict[str, Any] = {
    "texts": TextPoint,
    "images": lambda step, text, time: ImagePoint(step, Content.of_bytes(base64.b64decode(text)), time),
    "tables": lambda step, table, time: TablePoint(step, tuple(table[0]), tuple(map(tuple, table[1])), time),
    "histograms": lambda step, bins, time: HistogramPoint(step, tuple(bins[0]), tuple(bins[1]), time),
}


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
