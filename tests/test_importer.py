"""Importing what a tracker stored, up to what an interruption leaves."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import runcast
from runcast.cli import main
from runcast.errors import RunFolderError
from runcast.importer import import_run
from runcast.media import png
from runcast.record import ArtifactRecord, Content, ImagePoint, Point, RunRecord, TextPoint
from runcast.registry import _registered
from runcast.reporter import NativeRun, Reporter
from runcast.sync import replay
from runcast.testing import canonical
from runcast.verify import KINDS, compare

BROKEN = "broken"
PNG = png(np.zeros((2, 2), dtype=np.uint8))


class StoreReporter(Reporter):
    """A tracker whose runs are records in memory."""

    name = "store"
    runs: dict[str, RunRecord] = {}

    def log_metrics(self, metrics, step, time):
        raise AssertionError("an import writes to no tracker")

    def read(self, native):
        if native.id == BROKEN:
            raise RuntimeError("damaged beyond words")
        return self.runs[native.id]

    def find_runs(self, source):
        if source not in ("all", *self.runs):
            raise LookupError(f"no run {source!r}; expected all")
        return [NativeRun(name) for name in self.runs if source in ("all", name)]


@pytest.fixture(autouse=True)
def _store(monkeypatch):
    monkeypatch.setitem(_registered, "store", StoreReporter)
    monkeypatch.setattr(StoreReporter, "runs", {})


@pytest.fixture
def whole(tmp_path):
    """The record of a run with something of everything."""
    with runcast.start_run(
        [QuietReporter()], dir=tmp_path / "origin", group="g", tags=["x"], config=canonical.CONFIG, delivery="inline"
    ) as run:
        canonical.log_everything(run, tmp_path / "files")
    return runcast.read_run(run.dir)


class QuietReporter(Reporter):
    """So that there is a run folder."""

    name = "quiet"

    def log_metrics(self, metrics, step, time):
        pass


def imported(record, parent, native="one"):
    StoreReporter.runs[native] = record
    return import_run(StoreReporter(), NativeRun(native), parent)


def test_everything_of_a_record_is_in_the_run_folder(whole, tmp_path):
    """The imported run amounts to the record that it was made of, point for point and byte for byte."""
    done = imported(whole, tmp_path / "runs")
    found = runcast.read_run(done.dir)
    result = compare("import", whole, found)
    assert result.differences == []
    assert all(result.compared[kind].total > 0 for kind in KINDS)
    about = ("run_id", "name", "project", "group", "started")
    assert [getattr(found, name) for name in about] == [getattr(whole, name) for name in about]
    assert {key: [point.time for point in points] for key, points in found.metrics.items()} == {
        key: [point.time for point in points] for key, points in whole.metrics.items()
    }


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_import_goes_on_where_it_was_cut_short(kept, whole, tmp_path):
    """A journal that ends anywhere, also within a line, becomes the one that an undisturbed import makes."""
    done = imported(whole, tmp_path / "runs")
    journal = Path(done.dir, "journal.jsonl")
    all_of_it = journal.read_bytes()
    journal.write_bytes(all_of_it[: int(len(all_of_it) * kept)])
    again = imported(whole, tmp_path / "runs")
    assert (again.dir, again.already) == (done.dir, False)
    written = journal.read_bytes()
    if kept == 0.0:  # nothing names the writer of the first try
        written, all_of_it = written.split(b"\n", 1)[1], all_of_it.split(b"\n", 1)[1]
    assert written == all_of_it


def test_import_that_failed_at_a_file_keeps_what_it_has(whole, tmp_path):
    """A file that can't be read ends the import; the next try writes the rest, and nothing twice."""
    good = whole.artifacts["model"] if "model" in whole.artifacts else next(iter(whole.artifacts.values()))

    def unreadable():
        raise OSError("the server is down")

    files = {path: Content(content.size, content.sha256, unreadable) for path, content in good.files.items()}
    bad = replace(whole, artifacts={**whole.artifacts, good.name: replace(good, files=files)})
    with pytest.raises(OSError, match="the server is down"):
        imported(bad, tmp_path / "runs")
    (run_dir,) = (tmp_path / "runs").iterdir()
    begun = (run_dir / "journal.jsonl").read_bytes()
    done = imported(whole, tmp_path / "runs")
    assert Path(done.dir, "journal.jsonl").read_bytes().startswith(begun)
    assert compare("import", whole, runcast.read_run(done.dir)).differences == []


def test_run_that_is_here_is_not_imported_again(whole, tmp_path):
    """A second import changes nothing; nor is a run imported to where it was written."""
    done = imported(whole, tmp_path / "runs")
    before = Path(done.dir, "journal.jsonl").stat().st_mtime_ns
    assert imported(whole, tmp_path / "runs").already
    assert Path(done.dir, "journal.jsonl").stat().st_mtime_ns == before
    assert imported(whole, tmp_path / "origin").already


def test_what_a_run_has_got_since_is_added(whole, tmp_path):
    """Imported while it is still going on, a run is crashed; imported again, it has all of it, and its own end."""
    keys = list(whole.metrics)
    early = replace(
        whole,
        status="running",
        finished=None,
        metrics={key: whole.metrics[key][:1] for key in keys[:2]},
        images={},
        summary={},
        artifacts={},
    )
    first = imported(early, tmp_path / "runs")
    assert runcast.read_run(first.dir).status == "crashed"
    again = imported(whole, tmp_path / "runs")
    assert (again.dir, again.already) == (first.dir, False)
    assert compare("import", whole, runcast.read_run(again.dir)).differences == []
    assert runcast.read_run(again.dir).status == whole.status
    assert imported(whole, tmp_path / "runs").already


def test_nothing_is_cut_that_somebody_relies_on(tmp_path):
    """What was sent on, or gone on with, keeps its journal; a stored run that has changed since is an error that says so."""
    one, two = (RunRecord(run_id="r", metrics={"a": [Point(0, value, 5.0)]}) for value in (1.0, 2.0))
    done = imported(one, tmp_path)
    journal = Path(done.dir, "journal.jsonl")
    before = journal.read_bytes()
    [delivered] = replay(Path(done.dir), [QuietReporter()])
    assert delivered.done
    with pytest.raises(RunFolderError, match=r"sent on to quiet; to import it anew, move the run folder away"):
        imported(two, tmp_path)
    assert journal.read_bytes() == before
    assert imported(one, tmp_path).already

    other = imported(one, tmp_path, "other")
    with runcast.start_run([QuietReporter()], dir=tmp_path, resume=other.dir, delivery="inline") as run:
        run.log({"a": 3.0}, step=1)
    with pytest.raises(RunFolderError, match="gone on with here"):
        imported(two, tmp_path, "other")
    assert len(runcast.read_run(run.dir).metrics["a"]) == 2
    assert imported(one, tmp_path, "other").already


def test_sessions_of_a_run_are_one_import(tmp_path):
    """A run that lies in several files is one run folder, whichever of them are imported first, and by whichever path."""
    folder = tmp_path / "store"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    first, second = str(folder / "1"), str(folder / "2")
    record = RunRecord(run_id="r", metrics={"a": [Point(0, 1.0, 5.0)]})
    StoreReporter.runs["one"] = record

    def run(*logs):
        return import_run(StoreReporter(), NativeRun("one", data={"logs": list(logs)}), tmp_path / "runs")

    done = run(second)
    for logs in ((first, second), (first,), (str(tmp_path / "link" / "2"),)):
        assert (run(*logs).dir, run(*logs).already) == (done.dir, True)
    assert json.loads(Path(done.dir, "origin.json").read_text())["native"]["data"]["logs"] == [first, second]
    assert run(str(tmp_path / "elsewhere")).dir != done.dir


def test_runs_of_one_name_stay_apart(tmp_path):
    """Two stored runs with the same id become two run folders."""
    first = imported(RunRecord(run_id="run1", metrics={"a": [Point(0, 1.0, 5.0)]}), tmp_path, "one")
    second = imported(RunRecord(run_id="run1", metrics={"a": [Point(0, 2.0, 5.0)]}), tmp_path, "two")
    assert first.dir != second.dir
    assert [runcast.read_run(run.dir).metrics["a"][0].value for run in (first, second)] == [1.0, 2.0]


def test_names_that_a_run_cannot_have_are_changed_and_stay_distinct(tmp_path, caplog):
    """Leading slashes, dots and lengths of other trackers lose no series, and the change is said."""
    odd = ["/abs", "abs", "../up", ".", "x" * 300, "x" * 299 + "y", ""]
    record = RunRecord(run_id="r", metrics={name: [Point(0, float(n), 1.0)] for n, name in enumerate(odd)})
    found = runcast.read_run(imported(record, tmp_path).dir)
    assert sorted(points[0].value for points in found.metrics.values()) == [float(n) for n in range(len(odd))]
    assert all(
        name and len(name) <= 250 and not name.startswith("/") and not {".", ".."} & set(name.split("/"))
        for name in found.metrics
    )
    assert "'../up' is called" in caplog.text


@pytest.mark.parametrize("run_id", ["../../escape", "a/b", "", "..", "x" * 400, "naïve 漢字"])
def test_stored_ids_lead_nowhere_else(run_id, tmp_path):
    """Whatever a tracker calls its run, the run folder is made in the folder that was asked for."""
    done = imported(RunRecord(run_id=run_id), tmp_path / "runs", native="n/../m")
    assert Path(done.dir).parent == tmp_path / "runs"
    assert os.listdir(tmp_path) == ["runs"]


def test_files_of_an_artifact_stay_inside(tmp_path):
    """A stored path that leads out of its artifact is an error, and nothing is written there."""
    files = {"../../../../out.txt": Content.of_bytes(b"out")}
    record = RunRecord(run_id="r", artifacts={"a": ArtifactRecord("a", "file", files)})
    with pytest.raises(ValueError, match="leads out"):
        imported(record, tmp_path / "runs")
    assert not list(tmp_path.rglob("out.txt"))


def test_secrets_stay_behind(tmp_path):
    """What looks like a secret in a tracker reaches no journal."""
    record = RunRecord(run_id="r", config={"api_key": "sk-verysecret"}, summary={"password": "hunter2"})
    done = imported(record, tmp_path)
    text = Path(done.dir, "journal.jsonl").read_text()
    assert "verysecret" not in text
    assert "hunter2" not in text


def test_run_without_an_end_reads_as_crashed(tmp_path):
    """A run that its tracker takes for running has nobody here who goes on with it."""
    record = RunRecord(run_id="r", status="running", texts={"t": [TextPoint(0, "x", 1.0)]})
    assert runcast.read_run(imported(record, tmp_path).dir).status == "crashed"


def test_two_imports_at_once_don_t_mix(whole, tmp_path):
    """While one process imports a run, another is told so."""
    done = imported(whole, tmp_path)
    descriptor = os.open(done.dir, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(RunFolderError, match="another process is importing"):
        imported(whole, tmp_path)
    os.close(descriptor)


def test_command_imports_all_that_it_can_read(whole, tmp_path, capsys, monkeypatch):
    """`runcast import` says of each stored run what became of it, and fails if one could not be read."""
    monkeypatch.setenv("RUNCAST_DIR", str(tmp_path / "runs"))
    StoreReporter.runs.update({"good": whole, BROKEN: RunRecord(run_id="b")})
    assert main(["import", "store", "all", "--json"]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["native"], good["run"], good["error"]) == ("good", whole.run_id, None)
    assert (bad["native"], bad["run"]) == (BROKEN, None)
    assert "damaged beyond words" in bad["error"]
    assert main(["import", "store", "good", "--dir", str(tmp_path / "runs")]) == 0
    assert "was here already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["import", "store", "elsewhere"], "no run 'elsewhere'"), (["import", "nobody", "x"], "no tracker is called")],
)
def test_command_says_what_is_wrong(arguments, words, capsys):
    """An unknown tracker, or a source with no run, is one line and exit code 2."""
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_order_within_a_series_is_kept(tmp_path):
    """Steps and times that go backwards come in the order in which they were logged."""
    points = [Point(5, 1.0, 30.0), Point(3, 2.0, 10.0), Point(3, 3.0, 10.0), Point(9, 4.0, 20.0)]
    record = RunRecord(run_id="r", metrics={"a": points, "b": [Point(3, 0.5, 10.0)]})
    assert runcast.read_run(imported(record, tmp_path).dir).metrics["a"] == points


def test_other_image_formats_become_png(tmp_path):
    """A JPEG that a tracker kept reads back as the picture that it is."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 200, dtype=np.uint8)).save(out, format="JPEG")
    record = RunRecord(run_id="r", images={"i": [ImagePoint(0, Content.of_bytes(out.getvalue()), 1.0)]})
    (point,) = runcast.read_run(imported(record, tmp_path).dir).images["i"]
    assert Image.open(io.BytesIO(point.image.read())).format == "PNG"


def test_images_that_are_gone_or_damaged_hold_up_nothing(tmp_path, caplog):
    """They are left out and named; everything else is imported."""

    def gone():
        raise FileNotFoundError("no media/a.png here")

    def image(step, content):
        return ImagePoint(step, content, 1.0)

    points = [image(0, Content(3, "", gone)), image(1, Content.of_bytes(b"no image")), image(2, Content.of_bytes(PNG))]
    record = RunRecord(run_id="r", images={"i": points}, metrics={"a": [Point(0, 1.0, 1.0)]})
    found = runcast.read_run(imported(record, tmp_path).dir)
    assert [point.step for point in found.images["i"]] == [2]
    assert found.metrics == record.metrics
    assert "image 'i' at step 0 is left out: no media/a.png here" in caplog.text
    assert "image 'i' at step 1 is left out: it can't be decoded" in caplog.text


def test_store_that_does_not_answer_ends_the_import(tmp_path):
    """What can be read another time is not left out."""

    def unreachable():
        raise ConnectionError("the server is down")

    record = RunRecord(run_id="r", images={"i": [ImagePoint(0, Content(3, "", unreachable), 1.0)]})
    with pytest.raises(ConnectionError):
        imported(record, tmp_path)
