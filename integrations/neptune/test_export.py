"""What neptune-exporter wrote (make_exports.py) imports, and nothing can be reported to Neptune."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import runcast
from runcast.importer import import_run
from runcast.reporters.neptune import NeptuneExport
from runcast.verify import compare

EXPORTS = Path(__file__).parent / "exports"
START = 1_735_689_600.0

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def records():
    """Every exported run, by its id."""
    reporter = NeptuneExport()
    found = [reporter.read(native) for native in reporter.find_runs(str(EXPORTS))]
    return {record.run_id: record for record in found}


@pytest.fixture
def export(tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(EXPORTS, tmp_path / "export"))


def test_every_run_of_every_export_below_a_path_is_found(records):
    """Three runs, of both versions of Neptune; a part of one is enough to find it, too."""
    assert set(records) == {"whole", "fractions", "OLD-7"}
    reporter = NeptuneExport()
    (first, *_) = sorted(EXPORTS.rglob("whole*.parquet"))
    for source in (first, first.parent, EXPORTS / "three" / "data"):
        assert "whole" in {reporter.read(native).run_id for native in reporter.find_runs(str(source))}


def test_every_point_is_there(records):
    """As many as pyarrow finds rows, with exact values, steps beyond 32 bits, and times."""
    (part,) = EXPORTS.rglob("whole*.parquet")
    rows = parquet.read_table(part).to_pylist()
    for name, points in records["whole"].metrics.items():
        stored = [row for row in rows if row["attribute_path"] == name]
        assert [(int(row["step"]), row["float_value"], row["timestamp"].timestamp()) for row in stored] == points
    whole = records["whole"]
    assert [point[:2] for point in whole.metrics["train/loss"]] == [(step, 1 / (step + 1)) for step in range(50)]
    assert [point.time - START for point in whole.metrics["train/loss"]] == list(range(50))
    assert [point[:2] for point in whole.metrics["train/lr"]] == [(0, 0.1 + 0.2), (2**31, 1e-300)]
    assert set(whole.metrics) == {"train/loss", "train/lr"}


def test_settings_are_nested_and_typed(records):
    """Every kind of single value; what only the other run of the batch has is not there."""
    assert records["whole"].config == {
        "params": {
            "lr": 3e-5,
            "epochs": 3,
            "optimizer": {"name": "adam"},
            "shuffle": True,
            "when": "2025-01-01T00:00:00+00:00",
        },
        "sys": {"id": "DEMO-1", "custom_run_id": "whole", "owner": "somebody"},
    }
    assert records["fractions"].config == {"sys": {"id": "DEMO-2", "custom_run_id": "fractions"}}
    assert records["OLD-7"].config == {"parameters": {"lr": 0.5}, "sys": {"id": "OLD-7"}}


def test_identity_is_neptunes(records):
    """Names, tags, times and status have their own places."""
    whole, old = records["whole"], records["OLD-7"]
    assert (whole.name, whole.project, whole.group, whole.tags, whole.status) == (
        "experiment one",
        "team/demo",
        "ablation",
        ("första", "good"),
        "completed",
    )
    assert (whole.started, whole.finished) == (START, START + 49)
    assert records["fractions"].status == "failed"
    assert (old.name, old.group, old.tags) == ("Untitled", None, ("old",))


def test_texts_and_histograms_are_there(records):
    """With steps and times."""
    assert records["whole"].texts["notes"] == [(0, "first\nline", START), (3, "naïve 🚀", START + 1)]
    assert records["whole"].histograms["weights"] == [(1, (3.0, 4.0), (0.0, 0.5, 1.0), START)]
    assert [point.text for point in records["OLD-7"].texts["monitoring/stdout"]] == ["one", "two"]


def test_pictures_are_images_and_files_are_artifacts(records):
    """Byte for byte; a series of pictures is one, of other files an artifact."""
    whole, old = records["whole"], records["OLD-7"]
    assert [point.step for point in whole.images["plots"]] == [1, 2]
    assert all(point.image.read().startswith(b"\x89PNG") for point in whole.images["plots"])
    assert set(whole.artifacts) == {"config/file.txt", "dumps"}
    (file,) = whole.artifacts["config/file.txt"].files.values()
    assert file.read() == b"text of a file"
    assert {name: content.read() for name, content in whole.artifacts["dumps"].files.items()} == {
        "step_1": b"no picture"
    }
    assert [point.step for point in old.images["images"]] == [0]
    assert {
        name: {path: content.read() for path, content in artifact.files.items()}
        for name, artifact in old.artifacts.items()
    } == {
        "model/weights": {"weights": b"\x00\x01"},
        "source_code/files": {"files.zip": b"PK not really"},
        "data/train": {"files_list.json": b"[]"},
    }


def test_fractions_of_steps_become_whole_ones(caplog):
    """Multiplied by the same power of ten throughout the run, which is said."""
    reporter = NeptuneExport()
    (native,) = (native for native in reporter.find_runs(str(EXPORTS)) if native.id.startswith("fractions"))
    with caplog.at_level(logging.WARNING, "runcast"):
        record = reporter.read(native)
    assert [point[:2] for point in record.metrics["train/loss"]] == [(0, 0.0), (5, 1.0), (10, 2.0), (15, 3.0)]
    assert [entry.getMessage() for entry in caplog.records] == [
        "this run has fractions of steps: its steps are multiplied by 10"
    ]


def test_run_in_several_parts_is_one(export):
    """Parts are read in the order of their numbers, the tenth behind the ninth."""
    (first,) = export.rglob("whole*_part_0.parquet")
    table = parquet.read_table(first)
    stem = str(first).removesuffix("_part_0.parquet")
    for number in range(12):
        begin, end = (table.num_rows * part // 12 for part in (number, number + 1))
        parquet.write_table(table.slice(begin, end - begin), f"{stem}_part_{number}.parquet")
    reporter = NeptuneExport()
    (native,) = reporter.find_runs(f"{stem}_part_0.parquet")
    assert [point.step for point in reporter.read(native).metrics["train/loss"]] == list(range(50))


def test_files_are_only_those_below_the_exports_own_folder(export, caplog):
    """A stranger's export can't make us read another file, by its path or by a link."""
    secret = export.parent / "secret"
    secret.write_bytes(b"mine")
    (first,) = export.rglob("OLD-7*.parquet")
    table = parquet.read_table(first)
    rows = table.to_pylist()
    for row in rows:
        if row["attribute_path"] == "model/weights":
            row["file_value"] = {"path": str(secret)}
        if row["attribute_path"] == "data/train":
            row["file_value"] = {"path": "../../../../secret"}
    parquet.write_table(type(table).from_pylist(rows, schema=table.schema), first)
    for file in export.rglob("files.zip"):
        file.unlink()
        file.symlink_to(secret)
    reporter = NeptuneExport()
    (native,) = reporter.find_runs(str(first))
    with caplog.at_level(logging.WARNING, "runcast"):
        assert reporter.read(native).artifacts == {}
    assert len([entry for entry in caplog.records if "is left out" in entry.getMessage()]) == 3


def test_export_without_its_files_imports_without_them(export, caplog):
    """That they are missing is said once."""
    shutil.rmtree(export / "three" / "files")
    reporter = NeptuneExport()
    (native,) = reporter.find_runs(str(next(export.rglob("whole*.parquet"))))
    with caplog.at_level(logging.WARNING, "runcast"):
        record = reporter.read(native)
    assert (record.images, record.artifacts, len(record.metrics)) == ({}, {}, 2)
    assert [entry.getMessage().partition(":")[0] for entry in caplog.records] == [
        "the files of this export are left out"
    ]


def test_model_registry_is_no_run(export):
    """neptune-exporter puts models beside the runs, in files of the same form."""
    (first,) = export.rglob("OLD-7*.parquet")
    (first.parent / "models").mkdir()
    shutil.move(first, first.parent / "models" / first.name)
    with pytest.raises(LookupError, match="no run of Neptune's"):
        NeptuneExport().find_runs(str(export / "two"))


def test_export_needs_pyarrow(monkeypatch):
    """The error has the line that installs it."""
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(runcast.MissingDependencyError, match=r'pip install "runcast\[neptune\]"'):
        NeptuneExport().find_runs(str(EXPORTS))


def test_import_gives_run_folders_that_hold_it_all(records, tmp_path):
    """What an import wrote reads back as what the export has, so that it can be replayed anywhere."""
    reporter = NeptuneExport()
    for native in reporter.find_runs(str(EXPORTS)):
        done = import_run(reporter, native, tmp_path / "runs")
        expected = records[reporter.read(native).run_id]
        found = compare("neptune", expected, runcast.read_run(Path(done.dir)))
        assert found.matches, found.differences
        assert found.compared["metrics"].matched == sum(map(len, expected.metrics.values()))


def test_command_line_imports(tmp_path):
    """`runcast import neptune FOLDER`."""
    from runcast.cli import app

    result = CliRunner().invoke(app, ["import", "neptune", str(EXPORTS), "--dir", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"whole", "fractions", "OLD-7"}


def test_nothing_can_be_reported_to_neptune(tmp_path):
    """By name, class or instance: an error that says why, before a run folder is made."""
    for wish in ("neptune", NeptuneExport, NeptuneExport(), {"neptune": {}}):
        with pytest.raises(runcast.UnknownTrackerError, match="shut down in March 2026"):
            runcast.start_run(report_to=wish, dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    (found,) = (found for found in runcast.available_reporters() if found.name == "neptune")
    assert (found.status, found.usable) == ("inactive", False)
