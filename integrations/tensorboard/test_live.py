"""What is true of TensorBoard alone, proven with its own server and its own reader."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import runcast
from runcast.courier import Courier
from runcast.delivery import load_state, save_state
from runcast.media import png
from runcast.record import RunRecord
from runcast.reporter import NativeRun
from runcast.reporters.tensorboard import TensorBoardReporter
from runcast.verify import compare

from .backend import Server, server

PICTURE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def native_of(run_dir: Path) -> NativeRun:
    return load_state(run_dir, "tensorboard").native


def read(run_dir: Path) -> RunRecord:
    return TensorBoardReporter().read(native_of(run_dir))


def event_files(run_dir: Path) -> list[Path]:
    """Those with points; that of a run that has ended has one more, which says so."""
    return sorted(set(run_dir.glob("tensorboard/events.out.tfevents.*")) - set(run_dir.glob("tensorboard/*.end.*")))


def deliver_again(run_dir: Path) -> None:
    """Delivers the whole journal once more, as after a crash between the delivery and the first commit of the cursor."""
    state = load_state(run_dir, "tensorboard")
    state.offset, state.events, state.state, state.clean = 0, 0, "delivering", False
    save_state(run_dir, state)
    courier = Courier(run_dir, TensorBoardReporter())
    while courier.advance() == 0.0:
        pass


class Shown(NamedTuple):
    """Two runs, and the server that shows them."""

    server: Server
    completed: Path
    failed: Path

    def name(self, run_dir: Path) -> str:
        return f"{run_dir.name}/tensorboard"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    runs = tmp_path_factory.mktemp("runs")
    config = {"lr": 0.1, "epochs": 3, "model": {"name": "tiny", "dropout": None}, "nan": float("nan")}
    with runcast.start_run("tensorboard", dir=runs, project="p", config=config, tags=["t"]) as run:
        for step in range(20):
            run.log({"train/loss": 1 / (step + 1), "naïve #1 🚀": float(step)}, step=step)
        run.log({"odd": float("nan")}, step=0)
        run.log({"note": 1.0, "runcast/config": 2.0}, step=0)
        run.log({"note": "a **bold** text"}, step=1)
        run.log_image("picture", PICTURE, step=3)
        run.log_table("predictions", ["text", "label"], [["good", 1], [None, 0.5]], step=3)
        run.log_histogram("weights", np.arange(100.0), step=3)
        run.set_summary({"best": "step-7"})
        run.update_config({"learnt": "later"})
    failed = runcast.start_run("tensorboard", dir=runs, config={"lr": 0.2})
    failed.log({"train/loss": 0.5}, step=0)
    failed.finish("failed")
    with server(runs) as live:
        live.wait_for("plugin/scalars/tags", run.dir.name, failed.dir.name, "train/loss", "odd")
        live.wait_for("plugin/text/tags", "runcast/config", "runcast/summary", "predictions")
        yield Shown(live, run.dir, failed.dir)


def test_server_over_the_runs_folder_shows_every_run(shown: Shown) -> None:
    """`tensorboard --logdir runs` has each run under its id."""
    assert sorted(shown.server.json("runs")) == sorted(map(shown.name, (shown.completed, shown.failed)))


def test_server_shows_scalars_at_their_steps_and_times(shown: Shown) -> None:
    """The scalars page has every point, as float32, with our step and wall time."""
    points = shown.server.json("plugin/scalars/scalars", run=shown.name(shown.completed), tag="train/loss")
    logged = runcast.read_run(shown.completed).metrics["train/loss"]
    assert points == [[point.time, point.step, float(np.float32(point.value))] for point in logged]


def test_server_lists_no_series_but_the_metrics(shown: Shown) -> None:
    """The exact doubles beside the scalars don't appear as a series of their own."""
    tags = shown.server.json("plugin/scalars/tags")[shown.name(shown.completed)]
    assert sorted(tags) == sorted(["train/loss", "naïve #1 🚀", "odd", "note", "~runcast/config"])


def test_server_serves_the_png_that_was_logged(shown: Shown) -> None:
    """An image arrives in the browser byte for byte."""
    (image,) = shown.server.json("plugin/images/images", run=shown.name(shown.completed), tag="picture", sample=0)
    assert image["step"] == 3
    assert shown.server.get(f"plugin/images/individualImage?{image['query']}") == png(PICTURE)


def test_server_shows_texts_and_tables(shown: Shown) -> None:
    """A text is rendered, also when a metric has its name; a table is one."""
    name = shown.name(shown.completed)
    (text,) = shown.server.json("plugin/text/text", run=name, tag="note (text)")
    assert "<strong>bold</strong>" in text["text"]
    (table,) = shown.server.json("plugin/text/text", run=name, tag="predictions")
    assert table["text"].startswith("<table>")
    assert "good" in table["text"]


def test_server_shows_the_histogram_bins(shown: Shown) -> None:
    """The histograms page has our edges and counts."""
    ((_, step, bins),) = shown.server.json(
        "plugin/histograms/histograms", run=shown.name(shown.completed), tag="weights"
    )
    stored = read(shown.completed).histograms["weights"][0]
    assert step == 3
    assert [count for *_, count in bins] == list(stored.counts)
    assert [left for left, *_ in bins] == list(stored.edges[:-1])


def test_server_shows_the_latest_config(shown: Shown) -> None:
    """The text page has the whole config, later updates included."""
    (config,) = shown.server.json("plugin/text/text", run=shown.name(shown.completed), tag="runcast/config")
    assert all(word in config["text"] for word in ("model/name", "tiny", "learnt", "later"))


def test_hparams_page_shows_config_and_status(shown: Shown) -> None:
    """The hparams page has the config of the start, and SUCCESS or FAILURE."""
    body = {"allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"], "sliceSize": 9, "colParams": []}
    groups = shown.server.post("plugin/hparams/session_groups", body)["sessionGroups"]
    found = {group["name"]: (group["sessions"][0]["status"], group["hparams"]["lr"]) for group in groups}
    assert found == {shown.completed.name: ("STATUS_SUCCESS", 0.1), shown.failed.name: ("STATUS_FAILURE", 0.2)}


def test_same_key_for_a_metric_and_a_text_reads_back_as_both(shown: Shown) -> None:
    """Kinds don't shadow each other, nor what is ours."""
    record = read(shown.completed)
    assert [point.value for point in record.metrics["note"]] == [1.0]
    assert [point.text for point in record.texts["note"]] == ["a **bold** text"]
    assert [point.value for point in record.metrics["runcast/config"]] == [2.0]
    assert record.config["learnt"] == "later"


def test_works_where_torch_and_tensorflow_cannot_be_imported(tmp_path: Path) -> None:
    """Writing and reading need nothing but the package tensorboard."""
    code = (
        "import sys\n"
        "sys.modules.update(torch=None, tensorflow=None)\n"
        "import runcast\n"
        "from runcast.delivery import load_state\n"
        "from runcast.reporters.tensorboard import TensorBoardReporter\n"
        "with runcast.start_run('tensorboard', dir=sys.argv[1], delivery='inline', strict=True) as run:\n"
        "    run.log({'loss': 0.1}, step=1); run.log_text('note', 'x'); run.log_histogram('h', [1.0, 2.0])\n"
        "record = TensorBoardReporter().read(load_state(run.dir, 'tensorboard').native)\n"
        "assert record.metrics['loss'][0].value == 0.1 and record.texts and record.histograms\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_logging_dir_variable_moves_the_event_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TENSORBOARD_LOGGING_DIR keeps its meaning, a folder for each run below it, and artifacts go along."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    (tmp_path / "file.txt").write_text("content")
    with runcast.start_run("tensorboard", dir=tmp_path / "runs") as run:
        run.log({"loss": 1.0}, step=0)
        run.log_artifact(tmp_path / "file.txt")
    assert str(tmp_path / "logs") in TensorBoardReporter.availability().reason
    assert list((tmp_path / "logs" / run.id).glob("events.out.tfevents.*"))
    assert not (run.dir / "tensorboard").exists()
    assert native_of(run.dir).url == f"tensorboard --logdir {tmp_path / 'logs'}"
    assert read(run.dir).artifacts["file.txt"].files["file.txt"].read() == b"content"


def test_remote_log_folder_is_refused_in_words(tmp_path: Path) -> None:
    """A bucket is no local folder, and the error says what is expected."""
    run = runcast.start_run({"tensorboard": {"logdir": "s3://bucket/logs"}}, dir=tmp_path)
    with pytest.raises(runcast.TrackerStartError, match="expected a local folder"):
        run.wait_started()
    run.finish()


def test_whole_journal_delivered_twice_is_there_once(tmp_path: Path) -> None:
    """After a crash of the courier, a second event file has only what the first has not."""
    with runcast.start_run("tensorboard", dir=tmp_path, config={"a": {"b": 1}}) as run:
        for step in (5, 3, 4):
            run.log({"loss": step / 7}, step=step)
        run.log_image("picture", PICTURE, step=0)
        run.update_config({"a": {"c": 2}})
        run.log_artifact(__file__)
    deliver_again(run.dir)
    first, second = event_files(run.dir)
    assert first.stat().st_size > second.stat().st_size
    assert compare("tensorboard", runcast.read_run(run.dir), read(run.dir)).differences == []


def test_torn_event_file_reads_as_far_as_it_goes(tmp_path: Path) -> None:
    """A courier killed while writing costs what it had not committed, and the next event file is read in full."""
    with runcast.start_run("tensorboard", dir=tmp_path) as run:
        for step in range(10):
            run.log({"loss": step / 7}, step=step)
    (whole,) = event_files(run.dir)
    whole.write_bytes(whole.read_bytes()[:-5])
    whole.with_name("events.out.tfevents.0000000000.empty").touch()
    assert len(read(run.dir).metrics["loss"]) == 10
    deliver_again(run.dir)
    assert compare("tensorboard", runcast.read_run(run.dir), read(run.dir)).differences == []


def test_damaged_double_gives_way_to_what_is_shown(tmp_path: Path) -> None:
    """The exact value counts only where it is the same float32 as the one TensorBoard shows."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.summary.writer.record_writer import RecordWriter

    with runcast.start_run("tensorboard", dir=tmp_path) as run:
        run.log({"loss": 0.1}, step=0)
    (path,) = event_files(run.dir)
    changed = list(LegacyEventFileLoader(str(path)).Load())
    for event in changed:
        for value in event.summary.value:
            if value.HasField("simple_value"):
                value.simple_value = 7.5
    with path.open("wb") as file:
        for event in changed:
            RecordWriter(file).write(event.SerializeToString())
    assert read(run.dir).metrics["loss"][0].value == 7.5


def test_artifact_replaced_by_its_next_version_keeps_both_on_disk(tmp_path: Path) -> None:
    """The record has the latest version; the folder beside the event files has all."""
    source = tmp_path / "model.bin"
    with runcast.start_run("tensorboard", dir=tmp_path / "runs") as run:
        for content in (b"first", b"second"):
            source.write_bytes(content)
            run.log_artifact(source, name="a/model ✓", kind="model")
    assert read(run.dir).artifacts["a/model ✓"].files["model.bin"].read() == b"second"
    kept = (run.dir / "tensorboard" / "artifacts").rglob("model.bin")
    assert sorted(path.read_bytes() for path in kept) == [b"first", b"second"]


def test_example_runs(tmp_path: Path) -> None:
    """The example of this folder works offline and says where to look."""
    example = Path(__file__).with_name("example.py")
    done = subprocess.run(
        [sys.executable, str(example), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert f"tensorboard --logdir {tmp_path}" in done.stdout
    (run_dir,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert compare("tensorboard", runcast.read_run(run_dir), read(run_dir)).differences == []
    assert os.listdir(run_dir / "tensorboard")
