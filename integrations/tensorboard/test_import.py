"""Event files of other writers, read for an import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import runcast
from runcast.importer import import_run
from runcast.media import png
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
