"""Event files of other writers, read for an import."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.plugins.audio import metadata as audio
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import runcast
from runcast.importer import import_run
from runcast.media import png
from runcast.record import RunRecord
from runcast.reporters.tensorboard import TensorBoardReporter

PICTURE = png(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))


def write(folder: Path) -> None:
    """A run as tensorboardX, torch and TensorFlow write it: old and new kinds of values."""
    writer = EventFileWriter(str(folder))

    def add(step: int, *values: summary_pb2.Summary.Value) -> None:
        writer.add_event(event_pb2.Event(wall_time=1000.0 + step, step=step, summary=summary_pb2.Summary(value=values)))

    add(0, *hparams_pb({"lr": 0.5, "name": "adam"}).value)
    for step in range(4):
        add(step, summary_pb2.Summary.Value(tag="loss", simple_value=1 / 2**step), *scalar_pb("new", step / 2).value)
    add(4, *text_pb("note", "hello").value, *histogram_pb("weights", np.array([1.0, 2.0, 2.5]), buckets=2).value)
    image = summary_pb2.Summary.Image(height=4, width=5, colorspace=3, encoded_image_string=PICTURE)
    add(5, summary_pb2.Summary.Value(tag="picture", image=image))
    old = summary_pb2.HistogramProto(min=-1, max=1, num=3, sum=0, bucket_limit=[0.0, 1e308], bucket=[1, 2])
    add(6, summary_pb2.Summary.Value(tag="old", histo=old))
    writer.close()


def test_plain_event_files_are_imported(tmp_path: Path) -> None:
    """Numbers, texts, images, histograms and hparams of another writer are in the run folder."""
    write(tmp_path / "logs" / "run1")
    reporter = TensorBoardReporter()
    (native,) = reporter.find_runs(str(tmp_path / "logs"))
    record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert (record.run_id, record.project, record.status) == ("run1", "logs", "completed")
    assert record.config == {"lr": 0.5, "name": "adam"}
    assert record.metrics["loss"] == [(step, 1 / 2**step, 1000.0 + step) for step in range(4)]
    assert record.metrics["new"] == [(step, step / 2, 1000.0 + step) for step in range(4)]
    assert record.texts["note"] == [(4, "hello", 1004.0)]
    assert record.images["picture"][0].image.read() == PICTURE
    assert record.histograms["weights"][0].counts == (1.0, 2.0)
    assert (record.histograms["old"][0].counts, record.histograms["old"][0].edges) == ((1.0, 2.0), (-1.0, 0.0, 1.0))


class Writer:
    """Writes events as other libraries do."""

    def __init__(self, folder: Path, **options: str) -> None:
        self._writer = EventFileWriter(str(folder), **options)

    def values(self, step: int, *values: summary_pb2.Summary.Value) -> None:
        """Values at a step."""
        self.event(step, summary=summary_pb2.Summary(value=values))

    def event(self, step: int, **what: object) -> None:
        self._writer.add_event(event_pb2.Event(wall_time=1000.0 + step, step=step, **what))

    def close(self) -> None:
        self._writer.close()


@contextmanager
def written(folder: Path, **options: str) -> Iterator[Writer]:
    writer = Writer(folder, **options)
    yield writer
    writer.close()


def imported(folder: Path, runs: Path) -> RunRecord:
    """What is in the run folder of the one run in a log folder."""
    reporter = TensorBoardReporter()
    (native,) = reporter.find_runs(str(folder))
    return runcast.read_run(import_run(reporter, native, runs).dir)


def sound(data: bytes) -> summary_pb2.Summary.Value:
    """A sound as torch writes it."""
    clip = summary_pb2.Summary.Audio(sample_rate=8000, encoded_audio_string=data, content_type="audio/wav")
    return summary_pb2.Summary.Value(tag="sound", audio=clip)


def of_plugin(tag: str, plugin: str, *texts: bytes, shape: tuple[int, ...] = ()) -> summary_pb2.Summary.Value:
    """A value that a plugin of TensorBoard's shows."""
    value = summary_pb2.Summary.Value(
        tag=tag, tensor=tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=texts)
    )
    value.metadata.plugin_data.plugin_name = plugin
    for size in shape:
        value.tensor.tensor_shape.dim.add(size=size)
    return value


def test_what_a_restarted_writer_purged_is_gone(tmp_path: Path) -> None:
    """After `SummaryWriter(purge_step=5)` only the second writer's points count from there on, of every kind."""

    def values(number: int) -> list[summary_pb2.Summary.Value]:
        image = summary_pb2.Summary.Image(encoded_image_string=PICTURE)
        return [
            summary_pb2.Summary.Value(tag="loss", simple_value=number),
            summary_pb2.Summary.Value(tag="picture", image=image),
            *text_pb("note", str(number)).value,
            *histogram_pb("weights", np.array([number, number + 1.0]), buckets=1).value,
            sound(b"RIFF%d" % number),
        ]

    with written(tmp_path / "logs/run", filename_suffix=".1") as writer:
        for step in range(8):
            writer.values(step, *values(step))
        writer.values(7, summary_pb2.Summary.Value(tag="gone", simple_value=1.0))
    with written(tmp_path / "logs/run", filename_suffix=".2") as writer:
        writer.event(5, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
        for step in (5, 6):
            writer.values(step, *values(100 + step))
        writer.event(6, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.CHECKPOINT))
    record = imported(tmp_path / "logs", tmp_path / "runs")
    expected = [(step, step) for step in range(5)] + [(5, 105), (6, 106)]
    assert list(record.metrics) == ["loss"]
    assert [(point.step, point.value) for point in record.metrics["loss"]] == expected
    assert [(point.step, int(point.text)) for point in record.texts["note"]] == expected
    assert [(point.step, point.edges[0]) for point in record.histograms["weights"]] == expected
    assert [point.step for point in record.images["picture"]] == [step for step, _ in expected]
    sounds = {name: content.read() for name, (content,) in ((n, a.files.values()) for n, a in record.artifacts.items())}
    assert sounds == {f"sound/{step}": b"RIFF%d" % number for step, number in expected}
    theirs = EventAccumulator(str(tmp_path / "logs/run"), size_guidance={"scalars": 0})
    theirs.Reload()
    assert [(event.step, event.value) for event in theirs.Scalars("loss")] == expected


def test_sounds_and_films_are_artifacts(tmp_path: Path) -> None:
    """The encoded files as they are: a sound of torch's, two at a step of TensorFlow's, a film."""
    with written(tmp_path / "logs/run") as writer:
        writer.values(2, sound(b"RIFF one"))
        writer.values(3, of_plugin("voices", audio.PLUGIN_NAME, b"RIFF a", b"A", b"RIFF b", b"B", shape=(2, 2)))
        film = summary_pb2.Summary.Image(height=4, width=5, colorspace=3, encoded_image_string=b"GIF89a film")
        writer.values(4, summary_pb2.Summary.Value(tag="film", image=film))
    record = imported(tmp_path / "logs", tmp_path / "runs")
    assert {
        (name, artifact.step): {path: content.read() for path, content in artifact.files.items()}
        for name, artifact in record.artifacts.items()
    } == {
        ("sound/2", 2): {"sound.wav": b"RIFF one"},
        ("voices/3", 3): {"voices.wav": b"RIFF a", "voices-1.wav": b"RIFF b"},
        ("film/4", 4): {"film.gif": b"GIF89a film"},
    }
    assert record.images == {}


def test_what_a_run_has_no_place_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Curves, meshes, tensors, graphs and embeddings: one warning for each kind, with the tags."""
    with written(tmp_path / "logs/run") as writer:
        for step in range(3):
            writer.values(step, of_plugin("curve", "pr_curves"), of_plugin("solid", "mesh"))
            writer.values(step, of_plugin("raw", "tensor"), of_plugin("raw too", "tensor"))
        writer.event(0, graph_def=b"graph")
        writer.values(0, *scalar_pb("loss", 1.0).value)
    (tmp_path / "logs/run/projector_config.pbtxt").write_text("")
    with caplog.at_level(logging.WARNING, "runcast"):
        record = imported(tmp_path / "logs", tmp_path / "runs")
    assert list(record.metrics) == ["loss"]
    said = [message.partition("what is of the ")[2] for message in caplog.messages]
    assert sorted(said) == [
        "kind 'graphs' is left out: graph_def",
        "kind 'mesh' is left out: solid",
        "kind 'pr_curves' is left out: curve",
        "kind 'projector' is left out: projector_config.pbtxt",
        "kind 'tensor' is left out: raw, raw too",
    ]


def test_tags_that_are_shown_alike_stay_apart(tmp_path: Path) -> None:
    """A series has the name that TensorBoard shows; its tag if another is shown so, too."""

    def titled(tag: str, title: str, value: float) -> summary_pb2.Summary.Value:
        (entry,) = scalar_pb(tag, value).value
        entry.metadata.display_name = title
        return entry

    with written(tmp_path / "logs/run") as writer:
        writer.values(0, titled("m1/scalar_summary", "accuracy", 1.0), titled("m2/scalar_summary", "accuracy", 2.0))
        writer.values(0, titled("l/scalar_summary", "loss", 3.0), titled("x", "y", 4.0), titled("y", "", 5.0))
        (later,) = scalar_pb("l/scalar_summary", 6.0).value
        later.ClearField("metadata")  # most writers describe a tag but once
        writer.values(1, later)
    record = imported(tmp_path / "logs", tmp_path / "runs")
    assert {name: [point.value for point in points] for name, points in record.metrics.items()} == {
        "m1/scalar_summary": [1.0],
        "m2/scalar_summary": [2.0],
        "loss": [3.0, 6.0],
        "x": [4.0],
        "y": [5.0],
    }


def test_cells_that_only_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    """A column of a table is of values where each cell is the very text of one."""
    cells = [["version", "count", "mixed"], ["3.10", "1", "1"], ["3.9", "2.5", "word"]]
    with written(tmp_path / "logs/run") as writer:
        writer.values(0, *text_pb("rows", np.array(cells)).value)
    (table,) = imported(tmp_path / "logs", tmp_path / "runs").tables["rows"]
    assert (table.columns, table.rows) == (("version", "count", "mixed"), (("3.10", 1, "1"), ("3.9", 2.5, "word")))


def test_event_file_with_another_name_is_read(tmp_path: Path) -> None:
    """Every file with ``tfevents`` in its name, as TensorBoard takes it."""
    with written(tmp_path / "logs/run") as writer:
        writer.values(0, *scalar_pb("loss", 1.0).value)
    (file,) = (tmp_path / "logs/run").iterdir()
    file.rename(file.with_name(f"saved_{file.name}"))
    assert imported(tmp_path / "logs", tmp_path / "runs").metrics["loss"] == [(0, 1.0, 1000.0)]


def test_run_without_events_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An event file that was never written to makes an empty run, with a warning."""
    (tmp_path / "logs/run").mkdir(parents=True)
    (tmp_path / "logs/run/events.out.tfevents.1.host").touch()
    with caplog.at_level(logging.WARNING, "runcast"):
        assert imported(tmp_path / "logs", tmp_path / "runs").metrics == {}
    assert "no event can be read" in caplog.text


def test_each_folder_with_event_files_is_a_run(tmp_path: Path) -> None:
    """A log folder means all its runs, a run's folder or file means that one."""
    for name in ("one", "deep/two"):
        write(tmp_path / name)
    reporter = TensorBoardReporter()
    assert [Path(run.id).name for run in reporter.find_runs(str(tmp_path))] == ["two", "one"]
    (file,) = (tmp_path / "one").iterdir()
    for source in (tmp_path / "one", file):
        assert [run.id for run in reporter.find_runs(str(source))] == [str(tmp_path / "one")]


def test_nothing_to_find_says_what_was_looked_for(tmp_path: Path) -> None:
    """A folder without event files is an error with words."""
    with pytest.raises(LookupError, match="no event files"):
        TensorBoardReporter().find_runs(str(tmp_path))
