"""What a folder of event files amounts to, as a `RunRecord`: ours, or another writer's."""

from __future__ import annotations

import ctypes
import itertools
import logging
import math
import mimetypes
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from runcast.events import RunStatus
from runcast.flatten import from_text, literal, unflatten
from runcast.media import slug
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

logger = logging.getLogger("runcast")

OURS = "runcast/"
RUN, CONFIG, SUMMARY, ARTIFACT = f"{OURS}run", f"{OURS}config", f"{OURS}summary", f"{OURS}artifact/"
EXACT = f"{OURS}float64"

_GRAPHS = ("graph_def", "meta_graph_def", "tagged_run_metadata")
_PROJECTOR = "projector_config.pbtxt"
_P = TypeVar("_P")


class _Medium(NamedTuple):
    """A sound or film at a step; `time` in Unix seconds."""

    step: int
    content: Content
    suffix: str
    time: float


class Stored:
    """What a folder of event files amounts to, ours or another writer's.

    Attributes:
        record: The run.
        ours: Whether runcast wrote it.
        kinds: The kind of each tag, as `TensorBoardReporter` tells them apart.
    """

    def __init__(self, folder: Path) -> None:
        self.record = RunRecord()
        self.ours = False
        self.kinds: dict[str, str] = {}
        self._folder = folder
        self._plugins: dict[str, str] = {}
        self._titles: dict[str, str] = {}
        self._media: dict[str, list[_Medium]] = {}
        self._left_out: dict[str, dict[str, None]] = {}
        self._ended: RunStatus = "completed"  # as far as TensorBoard knows, which has no word for it
        first = None
        for event in _events_of(folder):
            first = event.wall_time if first is None else first
            self._add(event)
        self._empty = first is None
        if not self.ours:
            self._complete(first)

    def _complete(self, first: float | None) -> None:
        """What a run that isn't ours is called, and its series."""
        record = self.record
        record.run_id = record.name = self._folder.name
        record.project, record.started, record.status = self._folder.parent.name, first, self._ended
        record.metrics, record.texts = self._titled(record.metrics), self._titled(record.texts)
        record.images, record.tables = self._titled(record.images), self._titled(record.tables)
        record.histograms = self._titled(record.histograms)
        for key, points in self._titled(self._media).items():
            for point in points:
                name = f"{key}/{point.step}"
                artifact = record.artifacts.setdefault(name, ArtifactRecord(name, "file", {}, point.step))
                number = f"-{len(artifact.files)}" if artifact.files else ""  # several at a step
                artifact.files[f"{slug(key)}{number}{point.suffix}"] = point.content

    def tell_what_is_left_out(self) -> None:
        """Warns of what another writer logged and a record has no place for."""
        if self._empty:
            logger.warning("%s: no event can be read in its files", self._folder)
        if self.ours:
            return
        if (self._folder / _PROJECTOR).exists():
            self._left_out["projector"] = {_PROJECTOR: None}
        for kind, tags in self._left_out.items():
            logger.warning("%s: what is of the kind %r is left out: %s", self._folder, kind, ", ".join(tags))

    def _titled(self, series: dict[str, list[_P]]) -> dict[str, list[_P]]:
        """Series of tags by the names that TensorBoard shows for these; by the tags where it shows one for several."""
        shown = Counter(self._titles.get(tag, tag) for tag in series)
        return {
            tag if (title := self._titles.get(tag, tag)) in series or shown[title] > 1 else title: points
            for tag, points in series.items()
        }

    def _add(self, event: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        if event.HasField("session_log") and event.session_log.status == event_pb2.SessionLog.START:
            self._supersede(event.step)
        if (field := event.WhichOneof("what")) in _GRAPHS:
            self._left_out.setdefault("graphs", {})[field] = None
        exact = next((value.tensor.double_val for value in event.summary.value if value.tag == EXACT), ())
        numbers = itertools.chain(exact, itertools.repeat(None))
        for value in event.summary.value:
            # Most writers name the plugin with the first value of a tag alone, and so what is shown for the tag.
            plugin = value.metadata.plugin_data.plugin_name or self._plugins.get(value.tag, "")
            self._plugins[value.tag] = plugin
            if value.metadata.display_name:
                self._titles.setdefault(value.tag, value.metadata.display_name)
            key = value.metadata.display_name or value.tag if self.ours else value.tag
            if value.HasField("simple_value"):
                number = _sharpened(value.simple_value, next(numbers))
                self._put("metric", value, key, self.record.metrics, Point(event.step, number, event.wall_time))
            elif value.HasField("image"):
                self._put_image(event, value, key, value.image.encoded_image_string)
            elif value.HasField("histo"):
                self._put("histogram", value, key, self.record.histograms, _old_histogram_point(event, value.histo))
            elif value.HasField("audio"):
                suffix = mimetypes.guess_extension(value.audio.content_type) or ".wav"
                self._put_medium(event, value, key, value.audio.encoded_audio_string, suffix)
            elif plugin == "histograms":
                self._put("histogram", value, key, self.record.histograms, _histogram_point(event, value.tensor))
            elif plugin == "text":
                self._add_text(event, value, key)
            elif plugin == "images":  # width and height come first
                for image in value.tensor.string_val[2:]:
                    self._put_image(event, value, key, image)
            elif plugin == "audio":
                labelled = len(value.tensor.tensor_shape.dim) == 2  # a label behind each
                for sound in value.tensor.string_val[:: 2 if labelled else 1]:
                    self._put_medium(event, value, key, sound, ".wav")
            elif plugin == "scalars":
                point = Point(event.step, _number(value.tensor), event.wall_time)
                self._put("metric", value, key, self.record.metrics, point)
            elif plugin == "hparams":
                if not self.ours:
                    self._add_hparams(value)
            elif value.tag != EXACT:
                self._left_out.setdefault(plugin or "tensor", {})[value.tag] = None

    def _supersede(self, step: int) -> None:
        """Forgets what a writer that begins anew at a step writes once more, as TensorBoard does."""
        record = self.record
        every = (record.metrics, record.texts, record.images, record.tables, record.histograms, self._media)
        for series in cast("tuple[dict[str, list[Any]], ...]", every):
            for key, points in list(series.items()):
                series[key] = [point for point in points if point.step < step]
                if not series[key]:
                    del series[key]

    def _put_image(self, event: Any, value: Any, key: str, image: bytes) -> None:
        if image.startswith(b"GIF8"):  # so `add_video` writes a film
            self._put_medium(event, value, key, image, ".gif")
            return
        point = ImagePoint(event.step, Content.of_bytes(image), event.wall_time)
        self._put("image", value, key, self.record.images, point)

    def _put_medium(self, event: Any, value: Any, key: str, data: bytes, suffix: str) -> None:
        point = _Medium(event.step, Content.of_bytes(data), suffix, event.wall_time)
        self._put("medium", value, key, self._media, point)

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
            rows = [cells[i * width : (i + 1) * width] for i in range(1, shape[0])]
            meant = _their_cells(rows) if not self.ours else (map(from_text, row) for row in rows)
            point = TablePoint(event.step, tuple(cells[:width]), tuple(map(tuple, meant)), event.wall_time)
            self._put("table", value, key, self.record.tables, point)
        else:
            for cell in cells:
                self._put("text", value, key, self.record.texts, TextPoint(event.step, cell, event.wall_time))

    def _add_ours(self, tag: str, rows: dict[str, Any]) -> None:
        record = self.record
        if tag == RUN:
            self.ours = True
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
    """All events, in the order of their files' names, each with ``tfevents`` in it, as TensorBoard takes them.

    A file that ends in the middle of an event is read as far as it goes.
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for path in sorted(path for path in folder.glob("*tfevents*") if path.is_file()):
        yield from LegacyEventFileLoader(str(path)).Load()


def _their_cells(rows: list[list[str]]) -> Iterator[tuple[Any, ...]]:
    """The cells of another writer's table, which has only texts: values where all of a column are."""
    columns = [[literal(cell) for cell in column] for column in zip(*rows, strict=True)]
    values = [not any(isinstance(cell, str) for cell in column) for column in columns]
    for number, row in enumerate(rows):
        yield tuple(columns[i][number] if values[i] else cell for i, cell in enumerate(row))


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
