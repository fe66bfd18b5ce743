"""Runs that were logged with plain DVCLive, read for an import."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.media import png
from runcast.reporters.dvclive import DVCLiveReporter
from runcast.testing.couriers import python
from runcast.verify import compare

from .backend import repository

PLAIN = """
import sys, dvclive, numpy as np
from pathlib import Path
with dvclive.Live(sys.argv[1], save_dvc_exp=False, dvcyaml="dvc.yaml") as live:
    live.log_params({"lr": 0.1, "model": {"name": "x", "layers": [1, 2]}})
    for step in range(3):
        live.step = step
        live.log_metric("train/loss", 1 / (step + 1), timestamp=True)
        live.log_metric("acc", float("nan") if step else 0.5)
        live.log_metric("stage", f"word {step}")
        live.log_image(f"picture/{step}.png", np.full((4, 5, 3), step, dtype=np.uint8))
    live.log_image("single.jpg", np.full((4, 5, 3), 7, dtype=np.uint8))
    live.log_metric("eval/final", 3, plot=False)
    live.log_plot("curve", [{"x": 1, "y": 2.5}, {"x": 2, "y": None}], x="x", y="y")
    live.summary["best"] = "a"
    Path("model.bin").write_bytes(b"weights")
    live.log_artifact("model.bin", type="model", name="mine", meta={"a": 1}, copy=True)
"""


@pytest.mark.parametrize("place", ["project/dvclive", "project/experiments/one"])
def test_plain_run_is_imported(place: str, tmp_path: Path) -> None:
    """What plain DVCLive logged is in the run folder: numbers, words, images, plots, files, and what it knows of the run."""
    project = repository(tmp_path / "project")
    python(PLAIN, str(tmp_path / place), cwd=project)
    reporter = DVCLiveReporter()
    (native,) = reporter.find_runs(str(project))
    assert [native] == reporter.find_runs(str(tmp_path / place / "plots/metrics/acc.tsv"))
    assert native.id == str(tmp_path / place)
    imported = import_run(reporter, native, tmp_path / "runs")
    record = runcast.read_run(Path(imported.dir))
    named = "project" if place.endswith("dvclive") else "one"
    assert (record.run_id, record.name, record.status) == (named, named, "completed")
    assert record.config == {"lr": 0.1, "model": {"name": "x", "layers": [1, 2]}}
    assert record.summary == {"eval/final": 3, "best": "a"}
    loss = record.metrics["train/loss"]
    assert [(point.step, point.value) for point in loss] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert record.started <= loss[0].time <= loss[2].time
    assert [point.value for point in record.metrics["acc"][:1]] == [0.5]
    assert all(math.isnan(point.value) for point in record.metrics["acc"][1:])
    assert [(point.step, point.text) for point in record.texts["stage"]] == [(s, f"word {s}") for s in range(3)]
    pictures = {path.name: png(path) for path in (tmp_path / place / "plots/images").rglob("*.*")}
    assert [(point.step, point.image.read()) for point in record.images["picture"]] == [
        (step, pictures[f"{step}.png"]) for step in range(3)
    ]
    assert [point.image.read() for point in record.images["single"]] == [pictures["single.jpg"]]
    assert [(table.columns, table.rows) for table in record.tables["curve"]] == [(("x", "y"), ((1, 2.5), (2, None)))]
    model = record.artifacts["mine"]
    assert (model.kind, model.metadata) == ("model", {"meta": {"a": 1}})
    assert {name: content.read() for name, content in model.files.items()} == {"model.bin": b"weights"}
    assert import_run(reporter, native, tmp_path / "runs").already


TRACKED = """
import sys, dvclive
from pathlib import Path
for name in ("model.pt", "data.csv", "shared.bin", "gone.bin", "sub/m.bin"):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(name)
Path("folder/in").mkdir(parents=True)
Path("folder/in/side").write_text("side")
with dvclive.Live(sys.argv[1], save_dvc_exp=False, dvcyaml="dvc.yaml") as live:
    live.log_metric("acc", 1.0)
    live.log_artifact("model.pt", type="model", name="mine", desc="d", labels=["x"], meta={"k": 1})
    live.log_artifact("folder", type="data")
    live.log_artifact("sub/m.bin", name="deep", cache=False)
    live.log_artifact("data.csv")
    live.log_artifact("gone.bin", type="model")
    live.log_artifact("shared.bin", type="model", name="copied", copy=True)
Path("gone.bin").unlink()
"""


def test_artifacts_that_stayed_in_their_place_are_imported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What dvc.yaml names, wherever in the repository it is; what nothing names, or is not there, is said."""
    project = repository(tmp_path / "project")
    python(TRACKED, "dvclive", cwd=project)
    (tmp_path / "outside.bin").write_text("outside")
    description = project / "dvc.yaml"
    description.write_text(f"{description.read_text()}  far:\n    path: ../outside.bin\n")
    reporter = DVCLiveReporter()
    (native,) = reporter.find_runs(str(project))
    with caplog.at_level(logging.WARNING, "runcast"):
        record = runcast.read_run(Path(import_run(reporter, native, tmp_path / "runs").dir))
    assert {
        name: (artifact.kind, {path: content.read() for path, content in artifact.files.items()})
        for name, artifact in record.artifacts.items()
    } == {
        "mine": ("model", {"model.pt": b"model.pt"}),
        "folder": ("data", {"in/side": b"side"}),
        "deep": ("file", {"m.bin": b"sub/m.bin"}),
        "copied": ("model", {"shared.bin": b"shared.bin"}),
    }
    assert record.artifacts["mine"].metadata == {"desc": "d", "labels": ["x"], "meta": {"k": 1}}
    said = "\n".join(caplog.messages)
    assert f"the artifact 'gone' is left out: there is no {project / 'gone.bin'}" in said
    assert "the artifact 'far' is left out" in said
    assert "no dvc.yaml says that a run logged them: data.csv" in said


def test_dvc_yaml_of_other_runs_gives_no_artifacts(tmp_path: Path) -> None:
    """One that names no file of the run's folder tells of others; what is in another run's folder is that run's."""
    project = repository(tmp_path / "project")
    (project / "one/plots/metrics").mkdir(parents=True)
    (project / "two/artifacts").mkdir(parents=True)
    (project / "two/plots/metrics").mkdir(parents=True)
    for path in ("shared.bin", "two/artifacts/its.bin"):
        (project / path).write_text(path)
    entries = "artifacts:\n  shared:\n    path: shared.bin\n  its:\n    path: two/artifacts/its.bin\n"
    found = []
    for named in ("[two/metrics.json]", "[two/metrics.json, one/metrics.json]"):
        (project / "dvc.yaml").write_text(f"metrics: {named}\n{entries}")
        (native,) = DVCLiveReporter().find_runs(str(project / "one"))
        found.append(list(DVCLiveReporter().read(native).artifacts))
    assert found == [[], ["shared"]]


def test_damage_costs_what_is_damaged(tmp_path: Path) -> None:
    """A line that is none, a table of another kind and a plot that is no list are passed over."""
    tables = tmp_path / "run/plots/metrics"
    tables.mkdir(parents=True)
    (tmp_path / "run/plots/custom").mkdir()
    (tables / "loss.tsv").write_text("timestamp\tstep\tloss\n5000\t1\t0.5\nx\ty\tz\n\n7000\t2\t0.2")
    (tables / "other.tsv").write_text("a\tb\tc\td\n1\t2\t3\t4\n")
    (tmp_path / "run/plots/custom/odd.json").write_text('"no list"')
    (tmp_path / "run/plots/custom/torn.json").write_text('[{"x": 1')
    (native,) = DVCLiveReporter().find_runs(str(tmp_path))
    record = DVCLiveReporter().read(native)
    assert {name: [tuple(point) for point in points] for name, points in record.metrics.items()} == {
        "loss": [(1, 0.5, 5.0)]
    }
    assert record.tables == {}


def test_run_of_ours_is_found_by_its_folder(tmp_path: Path) -> None:
    """All of it, by the run folder, or the folder of runs."""
    with runcast.start_run("dvclive", dir=tmp_path, project="p", config={"lr": 0.1}, tags=["t"]) as run:
        run.log({"train/loss": 1.0}, step=0)
        run.log_text("note", "text", step=1)
    reporter = DVCLiveReporter()
    for source in (tmp_path, run.dir, run.dir / "dvclive"):
        (native,) = reporter.find_runs(str(source))
        found = reporter.read(native)
        assert compare("dvclive", runcast.read_run(run.dir), found).differences == []
        assert (found.run_id, found.project) == (run.id, "p")


def test_nothing_found_says_what_is_expected(tmp_path: Path) -> None:
    """A folder without a run, also if it has files of DVC's."""
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(LookupError, match="expected a DVCLive folder"):
        DVCLiveReporter().find_runs(str(tmp_path))
