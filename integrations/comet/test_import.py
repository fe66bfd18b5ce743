"""Experiments that were logged with plain comet_ml, read for an import."""

from __future__ import annotations

from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.record import RunRecord
from runcast.reporters.comet import CometReporter
from runcast.testing.couriers import python

PLAIN = """
import os, sys
os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"
os.chdir(sys.argv[1])
import comet_ml
from PIL import Image
e = comet_ml.OfflineExperiment(project_name="p", offline_directory="out", log_code=False, log_env_details=False, display_summary_level=0)
e.set_name("n")
e.add_tags(["b", "a"])
e.log_parameters({"lr": 0.1, "opt": {"name": "adam", "layers": [1, 2]}, "flag": True})
for step in range(4):
    e.log_metrics({"loss": 1 / (step + 1), "word": "w"}, step=step)
e.log_metric("nan", float("nan"), step=9)
e.log_text("hello", step=3)
Image.new("RGB", (5, 4), (1, 2, 3)).save("im.png")
e.log_image("im.png", name="picture", step=2)
e.log_table("t.csv", [[1, "x"], [2, "y"]], headers=["a", "b"], step=2)
os.makedirs("ck/sub")
open("ck/sub/n.bin", "wb").write(b"deep")
open("ck/m.bin", "wb").write(b"flat")
e.log_asset("ck/m.bin", file_name="f.bin", step=1)
e.log_model("m", "ck")
e.log_other("best", 0.25)
e.end()
"""


def test_plain_experiment_is_imported(tmp_path: Path) -> None:
    """What plain comet_ml logged is in the run folder: numbers, texts, images, tables, files and the rest."""
    python(PLAIN, str(tmp_path))
    reporter = CometReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert (record.run_id, record.name, record.project, record.status) == (native.id, "n", "p", "completed")
    assert record.tags == ("a", "b")
    assert record.config == {"lr": 0.1, "opt": {"name": "adam", "layers": [1, 2]}, "flag": True}
    assert [(point.step, point.value) for point in record.metrics["loss"]] == [(s, 1 / (s + 1)) for s in range(4)]
    assert record.metrics["nan"][0].value != record.metrics["nan"][0].value
    assert record.texts["word"][3].text == "w"
    assert (record.texts["text"][0].text, record.texts["text"][0].step) == ("hello", 3)
    assert record.images["picture"][0].image.read() == (tmp_path / "im.png").read_bytes()
    assert (record.tables["t.csv"][0].columns, record.tables["t.csv"][0].rows) == (("a", "b"), (("1", "x"), ("2", "y")))
    assert {path: content.read() for path, content in record.artifacts["f.bin"].files.items()} == {"f.bin": b"flat"}
    assert record.artifacts["m"].kind == "model"
    assert sorted(content.read() for content in record.artifacts["m"].files.values()) == [b"deep", b"flat"]
    assert record.summary["best"] == 0.25
    times = [point.time for point in record.metrics["loss"]]
    assert record.started <= times[0] <= times[-1] <= record.finished


CROWDED = """
import os, sys
os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"
os.chdir(sys.argv[1])
import comet_ml
from PIL import Image
e = comet_ml.OfflineExperiment(offline_directory="out", log_code=False, log_env_details=False, display_summary_level=0)
print("said", "aloud")
e.log_parameters({"lr": 5, "opt": {"name": "adam", "deep": {"x": 1}}, "net": {"depth": 2}})
e.log_parameter("opt", "adamw")
e.log_metric("train/acc", 7, step=0)
Image.new("RGB", (5, 4), (1, 2, 3)).save("im.png")
for step in range(2):
    e.log_metric("loss", 1, step=step)
    with e.train():
        e.log_metric("loss", 2, step=step)
        e.log_metric("acc", 0.5, step=step)
        e.log_parameter("lr", 6)
        e.log_image("im.png", name="picture", step=step)
        e.log_text("hello", step=step)
    e.log_histogram_3d([-1.0, 0.0, 2.0, 2.0 + step], name="w", step=step)
    e.log_confusion_matrix([0, 1, 1], [0, 1, step], file_name="cm.json", step=step)
    e.log_asset_data({"step": step}, name="data.json", step=step)
    e.log_asset_data({"latest": step}, name="latest.json", overwrite=True, step=step)
    open("m.bin", "w").write(f"weights {step}")
    e.log_model("net", "m.bin")
e.log_asset_data("one", name="twice.txt")
e.log_asset_data("two", name="twice.txt")
e.log_html("<b>one</b>")
e.log_html("<i>two</i>")
e.log_remote_asset("https://me:secret@example.com/far.bin", remote_file_name="far.bin", step=1)
e.set_model_graph("a graph")
e.end()
"""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment in which names come again."""
    folder = tmp_path_factory.mktemp("crowded")
    python(CROWDED, str(folder))
    return folder


def imported(folder: Path, parent: Path) -> RunRecord:
    """What a run folder made of the only experiment in a folder says."""
    reporter = CometReporter()
    (native,) = reporter.find_runs(str(folder))
    return runcast.read_run(import_run(reporter, native, parent).dir)


def test_parameter_that_is_also_the_beginning_of_others_moves_none(crowded: Path, tmp_path: Path) -> None:
    """A later value of a name that had others below it stands beside these; what was logged in a context is below that."""
    record = imported(crowded, tmp_path)
    assert record.config == {
        "lr": 5,
        "opt": "adamw",
        "opt|name": "adam",
        "opt|deep|x": 1,
        "net": {"depth": 2},
        "train": {"lr": 6},
    }


def test_context_is_part_of_the_name(crowded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was logged while training doesn't mix with the same name outside, nor with a name that looks like it."""
    record = imported(crowded, tmp_path)
    values = {name: [point.value for point in points] for name, points in record.metrics.items()}
    values.pop("process duration", None)  # the SDK's own
    assert values == {"loss": [1, 1], "train/loss": [2, 2], "train/acc": [7], "train/acc_": [0.5, 0.5]}
    assert "a second 'train/acc' is called 'train/acc_' here" in caplog.text
    assert [point.step for point in record.images["train/picture"]] == [0, 1]
    assert [point.text for point in record.texts["train/text"]] == ["hello", "hello"]


def test_name_that_comes_again_is_an_artifact_a_step(crowded: Path, tmp_path: Path) -> None:
    """Every file is there; one that was to replace the earlier ones has done so."""
    record = imported(crowded, tmp_path)
    files = {
        name: (artifact.kind, artifact.step, {path: content.read() for path, content in artifact.files.items()})
        for name, artifact in record.artifacts.items()
    }
    assert files["data.json/0"] == ("file", 0, {"data.json": b'{"step":0}'})
    assert files["data.json/1"] == ("file", 1, {"data.json": b'{"step":1}'})
    assert files["net/0"] == ("model", 0, {"m.bin": b"weights 0"})
    assert files["net/1"] == ("model", 1, {"m.bin": b"weights 1"})
    assert files["latest.json"] == ("file", 1, {"latest.json": b'{"latest":1}'})
    assert files["twice.txt/1"][2] == {"twice.txt": b"one"}
    assert files["twice.txt/1_"][2] == {"twice.txt": b"two"}
    assert files["cm.json/0"][2] != files["cm.json/1"][2]


def test_histogram_has_the_bins_that_comet_counted_in(crowded: Path, tmp_path: Path) -> None:
    """A histogram a step; each value is in its bin, empty ones between are one."""
    first, second = imported(crowded, tmp_path).histograms["w"]
    assert (first.step, second.step, first.counts, second.counts) == (0, 1, (1, 0, 1, 0, 2), (1, 0, 1, 0, 1, 0, 1))
    bins = [
        (low, high) for count, low, high in zip(first.counts, first.edges[:-1], first.edges[1:], strict=True) if count
    ]
    assert [low <= value <= high for (low, high), value in zip(bins, (-1, 0, 2), strict=True)] == [True] * 3
    assert all(high - low < 0.11 * max(abs(low), 1) for low, high in bins)


def test_html_and_console_are_kept_and_what_is_elsewhere_is_said(
    crowded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """HTML is an artifact, the console a text; of a remote asset there is the address; notes of the SDK are no results."""
    record = imported(crowded, tmp_path)
    assert record.artifacts["html"].files["page.html"].read() == b"<b>one</b>\n<i>two</i>"
    assert [point.text.splitlines()[0] for point in record.texts["console"]] == ["said aloud"]
    (address,) = record.texts["far.bin"]
    assert (address.step, address.text) == (1, "https://example.com/far.bin")
    assert "far.bin is left out: it is at https://example.com/far.bin" in caplog.text
    assert "1 messages of the kind 'graph' are left out" in caplog.text
    assert record.summary == {}


def test_table_of_a_data_frame_is_a_table(tmp_path: Path) -> None:
    """Also one that has its index for a column without a name."""
    pytest.importorskip("pandas")
    python(
        """
import os, sys
os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"
import comet_ml, pandas
e = comet_ml.OfflineExperiment(offline_directory=sys.argv[1], log_code=False, log_env_details=False, display_summary_level=0)
e.log_table("t.csv", pandas.DataFrame({"a": [1, 2], "b": ["x,y", "3.10"]}))
e.end()
""",
        str(tmp_path / "out"),
    )
    (table,) = imported(tmp_path / "out", tmp_path / "runs").tables["t.csv"]
    assert (table.columns, table.rows) == (("", "a", "b"), (("0", "1", "x,y"), ("1", "2", "3.10")))


@pytest.mark.parametrize(("crashes", "status"), [("1, 0", "completed"), ("0, 1", "failed")])
def test_last_session_says_how_an_experiment_ended(crashes: str, status: str, tmp_path: Path) -> None:
    """One that crashed, and was then gone on with, has completed."""
    python(
        """
import os, sys
os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"
import comet_ml
key = "k" * 32
options = dict(offline_directory=sys.argv[1], log_code=False, log_env_details=False, display_summary_level=0)
for crashes in (%s):
    e = comet_ml.ExistingOfflineExperiment(previous_experiment=key, **options)
    e.log_metric("loss", crashes, step=crashes)
    if crashes:
        try:
            raise RuntimeError("of the user's")
        except RuntimeError:
            sys.excepthook(*sys.exc_info())
    e.end()
"""
        % crashes,
        str(tmp_path / "out"),
    )
    record = imported(tmp_path / "out", tmp_path / "runs")
    assert (record.status, len(record.metrics["loss"])) == (status, 2)


def test_own_run_of_several_sessions_is_found_as_one(tmp_path: Path) -> None:
    """The archives of a run that was resumed are one run, which reads as the journal has it."""
    with runcast.start_run("comet", dir=tmp_path / "runs", config={"a": 1}, tags=["t"]) as run:
        run.log({"loss": 1.0, "word": "w"}, step=3)
    with runcast.start_run("comet", resume=run.dir) as again:
        again.log({"loss": 2.0}, step=4)
    reporter = CometReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    found = reporter.read(native)
    assert (found.run_id, found.config, found.tags, found.status) == (run.id, {"a": 1}, ("t",), "completed")
    assert [point.value for point in found.metrics["loss"]] == [1.0, 2.0]


def test_nothing_to_find_says_what_was_looked_for(tmp_path: Path) -> None:
    """A folder without archives is an error with words; another's zip is none."""
    (tmp_path / "some.zip").write_bytes(b"PK")
    with pytest.raises(LookupError, match="no archive of Comet's"):
        CometReporter().find_runs(str(tmp_path))
