"""What a folder of event files amounts to, as a `RunRecord`: ours, or another writer's."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runcast.events import RunStatus
from runcast.flatten import from_text, unflatten
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
)

OURS = "runcast/"
RUN, CONFIG, SUMMARY, ARTIFACT = f"{OURS}run", f"{OURS}config", f"{OURS}summary", f"{OURS}artifact/"
EXACT = f"{OURS}float64"


class Stored:
    """What a folder of event files amounts to, ours or another writer's.

    Attributes:
        record: The run.
        kinds: The kind of each tag, as `TensorBoardReporter` tells them apart.
    """

    def __init__(self, folder: Path) -> None:
        self.record = RunRecord()
        self.kinds: dict[str, str] = {}
        self._folder = folder
        self._plugins: dict[str, str] = {}
        self._ended: RunStatus = "completed"  # as far as TensorBoard knows, which has no word for it
        first = None
        for event in _events_of(folder):
            first = event.wall_time if first is None else first
            self._add(event)
        if not self.record.run_id and first is not None:
            record = self.record
            record.run_id = record.name = folder.name
            record.project, record.started, record.status = folder.parent.name, first, self._ended

    def _add(self, event: Any) -> None:
        exact = next((value.tensor.double_val for value in event.summary.value if value.tag == EXACT), ())
        numbers = itertools.chain(exact, itertools.repeat(None))
        for value in event.summary.value:
            # Most writers name the plugin with the first value of a tag alone.
            plugin = value.metadata.plugin_data.plugin_name or self._plugins.get(value.tag, "")
            self._plugins[value.tag] = plugin
            key = value.metadata.display_name or value.tag
            if value.HasField("simple_value"):
                number = _sharpened(value.simple_value, next(numbers))
                self._put("metric", value, key, self.record.metrics, Point(event.step, number, event.wall_time))
            elif value.HasField("image"):
                self._put_image(event, value, key, value.image.encoded_image_string)
            elif value.HasField("histo"):
                self._put("histogram", value, key, self.record.histograms, _old_histogram_point(event, value.histo))
            elif plugin == "histograms":
                self._put("histogram", value, key, self.record.histograms, _histogram_point(event, value.tensor))
            elif plugin == "text":
                self._add_text(event, value, key)
            elif plugin == "images":  # width and height come first
                for image in value.tensor.string_val[2:]:
                    self._put_image(event, value, key, image)
            elif plugin == "scalars":
                point = Point(event.step, _number(value.tensor), event.wall_time)
                self._put("metric", value, key, self.record.metrics, point)
            elif plugin == "hparams" and not self.record.run_id:
                self._add_hparams(value)

    def _put_image(self, event: Any, value: Any, key: str, image: bytes) -> None:
        point = ImagePoint(event.step, Content.of_bytes(image), event.wall_time)
        self._put("image", value, key, self.record.images, point)

    def _add_hparams(self, value: Any) -> None:
        """The settings and the end of a run that isn't ours."""
        from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

        data = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for name, setting_ in data.session_start_info.hparams.items():
            kind = setting_.WhichOneof("kind")
            self.record.config[name] = getattr(setting_, kind) if kind else None
        if data.HasField("session_end_info") and data.session_end_info.status == api_pb2.STATUS_FAILURE:
            self._ended = "failed"

    def _add_text(self, event: Any, value: Any, key: str) -> None:
        cells = [cell.decode(errors="replace") for cell in value.tensor.string_val]
        shape = [dim.size for dim in value.tensor.tensor_shape.dim]
        if value.tag.startswith(OURS):
            self._add_ours(
                value.tag, {name: from_text(text) for name, text in zip(cells[2::2], cells[3::2], strict=True)}
            )
        elif len(shape) == 2:
            width = shape[1]
            rows = [tuple(from_text(cell) for cell in cells[i * width : (i + 1) * width]) for i in range(1, shape[0])]
            point = TablePoint(event.step, tuple(cells[:width]), tuple(rows), event.wall_time)
            self._put("table", value, key, self.record.tables, point)
        else:
            for cell in cells:
                self._put("text", value, key, self.record.texts, TextPoint(event.step, cell, event.wall_time))

    def _add_ours(self, tag: str, rows: dict[str, Any]) -> None:
        record = self.record
        if tag == RUN:
            record.run_id, record.name, record.project = rows["id"], rows["name"], rows["project"]
            record.group, record.status, record.tags = rows["group"], rows["status"], tuple(rows["tags"])
            record.started, record.finished = rows["started"], rows["finished"]
        elif tag == CONFIG:
            record.config = unflatten(rows)
        elif tag == SUMMARY:
            record.summary = rows
        elif tag.startswith(ARTIFACT):
            name = tag.removeprefix(ARTIFACT)
            record.artifacts[name] = self._artifact(name, rows)

    def _artifact(self, name: str, rows: dict[str, Any]) -> ArtifactRecord:
        folder = inside(self._folder, rows["folder"])
        paths = [row.removeprefix("file ") for row in rows if row.startswith("file ")]
        files = {path: Content.of_file(inside(folder, path)) for path in paths if inside(folder, path).is_file()}
        return ArtifactRecord(name, rows["kind"], files, rows["step"], rows["metadata"])

    def _put(self, kind: str, value: Any, key: str, series: dict[str, list[Any]], point: Any) -> None:
        self.kinds.setdefault(value.tag, kind)
        series.setdefault(key, []).append(point)


def _events_of(folder: Path) -> Iterator[Any]:
    """All events, in the order of their files' names; a file that ends in the middle of one is read as far as it goes."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for path in sorted(folder.glob("events.out.tfevents.*")):
        yield from LegacyEventFileLoader(str(path)).Load()


def _sharpened(shown: float, exact: float | None) -> float:
    """The double that TensorBoard shows as the float32 `shown`."""
    if exact is None or math.isnan(shown):
        return shown
    return exact if ctypes.c_float(exact).value == shown else shown


def _histogram_point(event: Any, tensor: Any) -> HistogramPoint:
    from tensorboard.util import tensor_util

    numbers = tensor_util.make_ndarray(tensor).astype(float).ravel().tolist()  # left, right, count of each bucket
    edges = (*numbers[0::3], *numbers[-2:-1])
    return HistogramPoint(event.step, tuple(numbers[2::3]), edges, event.wall_time)


def _old_histogram_point(event: Any, histogram: Any) -> HistogramPoint:
    """A histogram of TensorFlow 1 and torch: right edges, the last of which may be infinite."""
    limits = [min(max(limit, histogram.min), histogram.max) for limit in histogram.bucket_limit]
    return HistogramPoint(event.step, tuple(histogram.bucket), (histogram.min, *limits), event.wall_time)


def _number(tensor: Any) -> float:
    from tensorboard.util import tensor_util

    return float(tensor_util.make_ndarray(tensor))
