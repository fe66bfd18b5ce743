"""TensorBoard: event files that ``tensorboard --logdir runs`` shows, and that read back exactly.

    scalars      metrics; float32 as TensorBoard wants them, with the doubles beside them in a value its pages ignore
    images       the PNG files as they are
    histograms   counts and edges
    text         texts, tables, and under ``runcast/`` what TensorBoard has no other place for: the run itself, its
                 config, summary and artifacts, each a table that is written whole at step 0, so that the last one counts
    hparams      the config that the run started with, and how it ended

Artifacts are linked, or copied, into ``artifacts/`` beside the event files.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import itertools
import math
import os
import shlex
import socket
import time as clock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runcast.events import RunStatus
from runcast.flatten import flatten, from_text, to_text, unflatten
from runcast.media import link_or_copy, slug
from runcast.record import (
    ArtifactRecord,
    Content,
    HistogramPoint,
    ImagePoint,
    Point,
    RunRecord,
    TablePoint,
    TextPoint,
    inside,
    merge,
)
from runcast.reporter import Availability, LocalArtifact, NativeRun, Reporter, Requirement, RunInfo, offline, setting

_OURS = "runcast/"
_RUN, _CONFIG, _SUMMARY, _ARTIFACT = f"{_OURS}run", f"{_OURS}config", f"{_OURS}summary", f"{_OURS}artifact/"
_EXACT = f"{_OURS}float64"
_PLUGIN = "runcast"  # no plugin of TensorBoard's, so that no page shows it

# Channels by the colour type of a PNG: grey, RGB, palette (RGB), grey with alpha, RGBA.
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class TensorBoardReporter(Reporter):
    """Writes event files to ``<run folder>/tensorboard``, or to ``<logdir>/<run id>``.

    Args:
        logdir: A local folder for the runs. Default: ``$TENSORBOARD_LOGGING_DIR``, else inside the run folder.
    """

    name: ClassVar[str] = "tensorboard"
    requires: ClassVar[Requirement] = Requirement("tensorboard", "tensorboard", "2.18", "2.21.0", "tensorboard")

    def __init__(self, logdir: str | None = None) -> None:
        self._logdir = logdir

    @classmethod
    def availability(cls) -> Availability:
        where = os.environ.get("TENSORBOARD_LOGGING_DIR")
        reason = f"event files in {where}" if where else "event files in the run folder: tensorboard --logdir runs"
        return offline(super().availability(), reason, mode="local")

    # -- writing ---------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        root = setting(self._logdir, "TENSORBOARD_LOGGING_DIR", "")
        if "://" in root:
            raise ValueError(f"the log folder is {root!r}; expected a local folder (logdir=, $TENSORBOARD_LOGGING_DIR)")
        folder = Path(root).absolute() / run.run_id if root else run.dir / "tensorboard"
        self._folder = Path(attach.data["dir"]) if attach else folder
        self._folder.mkdir(parents=True, exist_ok=True)
        stored = _Stored(self._folder)
        self._kinds = stored.kinds
        self._config, self._summary, self._tags = stored.record.config, stored.record.summary, stored.record.tags
        self._run = {
            "id": run.run_id,
            "name": run.name,
            "project": run.project,
            "group": run.group,
            "started": run.started,
        }
        self._start_file()
        if not stored.record.run_id:
            self._write_hparams(run)
        self._write_run("running")
        self.flush()
        shown = Path(root).absolute() if root else run.dir.parent
        return NativeRun(run.run_id, f"tensorboard --logdir {shlex.quote(str(shown))}", {"dir": str(self._folder)})

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2

        values = []
        for name, value in metrics.items():
            tag = self._tag(name, "metric")
            entry = summary_pb2.Summary.Value(tag=tag, simple_value=value)
            if tag != name:
                entry.metadata.display_name = name
            values.append(entry)
        exact = summary_pb2.Summary.Value(
            tag=_EXACT, tensor=tensor_pb2.TensorProto(dtype=types_pb2.DT_DOUBLE, double_val=metrics.values())
        )
        exact.tensor.tensor_shape.dim.add(size=len(values))
        exact.metadata.plugin_data.plugin_name = _PLUGIN
        self._write(step, time, [*values, exact])

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._config = merge(self._config, dict(config))
        self._write_ours(_CONFIG, flatten(self._config))

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._write(step, time, [_text(self._tag(key, "text"), key, [text], [])])

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        cells = [*columns, *(to_text(cell) for row in rows for cell in row)]
        self._write(step, time, [_text(self._tag(key, "table"), key, cells, [len(rows) + 1, len(columns)])])

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        from tensorboard.compat.proto import summary_pb2

        data = image.read_bytes()
        entry = summary_pb2.Summary.Value(
            tag=self._tag(key, "image"),
            image=summary_pb2.Summary.Image(
                width=int.from_bytes(data[16:20], "big"),
                height=int.from_bytes(data[20:24], "big"),
                colorspace=_CHANNELS[data[25]],
                encoded_image_string=data,
            ),
        )
        entry.metadata.display_name = key
        self._write(step, time, [entry])

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2
        from tensorboard.plugins.histogram import metadata

        buckets = [number for bucket in zip(edges, edges[1:], counts, strict=False) for number in bucket]
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_DOUBLE, double_val=buckets)
        for size in (len(counts), 3):
            tensor.tensor_shape.dim.add(size=size)
        labels = metadata.create_summary_metadata(display_name=key, description="")
        entry = summary_pb2.Summary.Value(tag=self._tag(key, "histogram"), metadata=labels, tensor=tensor)
        self._write(step, time, [entry])

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        version = hashlib.sha256(f"{artifact.name}\0{time!r}".encode()).hexdigest()[:8]
        folder = f"artifacts/{slug(artifact.name)}-{version}"
        for file in artifact.files:
            target = inside(self._folder / folder, file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # what a courier that died may have left half done
            link_or_copy(artifact.file_path(file), target, link=True)
        rows = {
            "kind": artifact.kind,
            "step": step,
            "metadata": artifact.metadata,
            "folder": folder,
            **{f"file {file.path}": [file.size, file.sha256] for file in artifact.files},
        }
        self._write_ours(f"{_ARTIFACT}{artifact.name}", rows, time)

    def set_summary(self, values: Mapping[str, Any]) -> None:
        self._summary = {**self._summary, **values}
        self._write_ours(_SUMMARY, self._summary)

    def add_tags(self, tags: Sequence[str]) -> None:
        self._tags = tuple(sorted({*self._tags, *tags}))
        self._write_run("running")

    def flush(self) -> None:
        self._records.flush()
        os.fsync(self._file.fileno())

    def close(self, status: RunStatus) -> None:
        self._write_run(status)
        self._write_session_end(status)
        self.flush()
        self._records.close()

    def _start_file(self) -> None:
        """A new event file: TensorBoard reads all those of a folder, in the order of their names."""
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        stem = f"events.out.tfevents.{int(clock.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        for number in itertools.count():
            try:
                self._file: io.BufferedWriter = (self._folder / f"{stem}.{number}").open("xb")
            except FileExistsError:
                continue
            break
        self._records: Any = RecordWriter(self._file)
        version = event_pb2.Event(wall_time=clock.time(), file_version="brain.Event:2")
        self._records.write(version.SerializeToString())

    def _write(self, step: int, time: float, values: Sequence[Any]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        event = event_pb2.Event(wall_time=time, step=step, summary=summary_pb2.Summary(value=values))
        self._records.write(event.SerializeToString())

    def _tag(self, key: str, kind: str) -> str:
        """What TensorBoard calls it: there a tag is of one kind for ever, and ``runcast/`` is ours."""
        tag = f"~{key}" if key.lstrip("~").startswith(_OURS) else key
        return tag if self._kinds.setdefault(tag, kind) == kind else f"{tag} ({kind})"

    def _write_ours(self, tag: str, rows: Mapping[str, Any], time: float | None = None) -> None:
        cells = ["name", "value"]
        for name, value in rows.items():
            cells += [name, to_text(value)]
        self._write(0, clock.time() if time is None else time, [_text(tag, "", cells, [len(rows) + 1, 2])])

    def _write_run(self, status: RunStatus) -> None:
        finished = None if status == "running" else clock.time()
        self._write_ours(_RUN, {**self._run, "tags": self._tags, "status": status, "finished": finished})

    def _write_hparams(self, run: RunInfo) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        flat = {name: _hparam(value) for name, value in flatten(run.config).items()}
        summary = hparams_pb(flat, trial_id=run.run_id, start_time_secs=run.started)
        self._write(0, run.started, summary.value)

    def _write_session_end(self, status: RunStatus) -> None:
        from tensorboard.compat.proto import summary_pb2
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        word = api_pb2.STATUS_SUCCESS if status == "completed" else api_pb2.STATUS_FAILURE
        now = clock.time()
        end = plugin_data_pb2.SessionEndInfo(status=word, end_time_secs=now)
        labels = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        entry = summary_pb2.Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG, metadata=labels, tensor=metadata.NULL_TENSOR
        )
        self._write(0, now, [entry])

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        return _Stored(Path(native.data["dir"])).record


def _text(tag: str, key: str, cells: Sequence[str], shape: Sequence[int]) -> Any:
    """A value of the text page; one of shape (rows, columns) is shown as a table."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2
    from tensorboard.plugins.text import metadata

    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[cell.encode() for cell in cells])
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if not shape:
        tensor.tensor_shape.SetInParent()
    labels = metadata.create_summary_metadata(display_name=key, description="")
    return summary_pb2.Summary.Value(tag=tag, metadata=labels, tensor=tensor)


def _hparam(value: Any) -> bool | int | float | str:
    """A setting as the hparams page takes it: JSON numbers, and so neither NaN nor great integers, or text."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) <= 2**53:  # false for NaN
        return value
    return to_text(value)


class _Stored:
    """What a folder of event files amounts to.

    Attributes:
        record: The run.
        kinds: The kind of each tag, as `TensorBoardReporter` tells them apart.
    """

    def __init__(self, folder: Path) -> None:
        self.record = RunRecord()
        self.kinds: dict[str, str] = {}
        self._folder = folder
        self._seen: set[tuple[str, str, int, float]] = set()
        for event in _events_of(folder):
            self._add(event)

    def _add(self, event: Any) -> None:
        exact = next((value.tensor.double_val for value in event.summary.value if value.tag == _EXACT), ())
        numbers = itertools.chain(exact, itertools.repeat(None))
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            key = value.metadata.display_name or value.tag
            if value.HasField("simple_value"):
                number = _sharpened(value.simple_value, next(numbers))
                self._put("metric", value, key, self.record.metrics, Point(event.step, number, event.wall_time))
            elif value.HasField("image"):
                content = Content.of_bytes(value.image.encoded_image_string)
                self._put("image", value, key, self.record.images, ImagePoint(event.step, content, event.wall_time))
            elif plugin == "histograms":
                self._put("histogram", value, key, self.record.histograms, _histogram_point(event, value.tensor))
            elif plugin == "text":
                self._add_text(event, value, key)

    def _add_text(self, event: Any, value: Any, key: str) -> None:
        cells = [cell.decode() for cell in value.tensor.string_val]
        shape = [dim.size for dim in value.tensor.tensor_shape.dim]
        if value.tag.startswith(_OURS):
            self._add_ours(
                value.tag, {name: from_text(text) for name, text in zip(cells[2::2], cells[3::2], strict=True)}
            )
        elif shape:
            width = shape[1]
            rows = [tuple(from_text(cell) for cell in cells[i * width : (i + 1) * width]) for i in range(1, shape[0])]
            point = TablePoint(event.step, tuple(cells[:width]), tuple(rows), event.wall_time)
            self._put("table", value, key, self.record.tables, point)
        else:
            self._put("text", value, key, self.record.texts, TextPoint(event.step, cells[0], event.wall_time))

    def _add_ours(self, tag: str, rows: dict[str, Any]) -> None:
        record = self.record
        if tag == _RUN:
            record.run_id, record.name, record.project = rows["id"], rows["name"], rows["project"]
            record.group, record.status, record.tags = rows["group"], rows["status"], tuple(rows["tags"])
            record.started, record.finished = rows["started"], rows["finished"]
        elif tag == _CONFIG:
            record.config = unflatten(rows)
        elif tag == _SUMMARY:
            record.summary = rows
        elif tag.startswith(_ARTIFACT):
            name = tag.removeprefix(_ARTIFACT)
            record.artifacts[name] = self._artifact(name, rows)

    def _artifact(self, name: str, rows: dict[str, Any]) -> ArtifactRecord:
        folder = inside(self._folder, rows["folder"])
        paths = [row.removeprefix("file ") for row in rows if row.startswith("file ")]
        files = {path: Content.of_file(inside(folder, path)) for path in paths if inside(folder, path).is_file()}
        return ArtifactRecord(name, rows["kind"], files, rows["step"], rows["metadata"])

    def _put(self, kind: str, value: Any, key: str, series: dict[str, list[Any]], point: Any) -> None:
        """Adds a point, once: a courier that was started again may have written it before."""
        self.kinds.setdefault(value.tag, kind)
        mark = (kind, key, point.step, point.time)
        if mark not in self._seen:
            self._seen.add(mark)
            series.setdefault(key, []).append(point)


def _events_of(folder: Path) -> list[Any]:
    """All events, those of an earlier file first; a file that ends in the middle of one is read as far as it goes."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = [list(LegacyEventFileLoader(str(path)).Load()) for path in folder.glob("events.out.tfevents.*")]
    return [event for events in sorted(filter(None, files), key=lambda read: read[0].wall_time) for event in events]


def _sharpened(shown: float, exact: float | None) -> float:
    """The double that TensorBoard shows as the float32 `shown`."""
    if exact is None or math.isnan(shown):
        return shown
    return exact if ctypes.c_float(exact).value == shown else shown


def _histogram_point(event: Any, tensor: Any) -> HistogramPoint:
    numbers = tensor.double_val
    edges = (*numbers[0::3], *numbers[-2:-1])
    return HistogramPoint(event.step, tuple(numbers[2::3]), edges, event.wall_time)
