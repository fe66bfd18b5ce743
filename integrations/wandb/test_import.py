"""Runs that were logged with plain wandb, read for an import."""

from __future__ import annotations

from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.reporters.wandb import WandbReporter
from runcast.testing.couriers import python

PLAIN = """
import sys, wandb, numpy as np
wandb.init(mode="offline", dir=sys.argv[1], id="abc", project="p", name="n", group="g", tags=["b", "a"],
           config={"lr": 0.1, "model": {"layers": [1, 2]}},
           settings=wandb.Settings(silent=True, x_disable_stats=True, x_disable_machine_info=True))
for step in range(5):
    wandb.log({"loss": 1 / (step + 1), "nested": {"acc": step}, "word": "w"}, step=step)
wandb.log({"nan": float("nan"), "flag": True, "hist": wandb.Histogram([1.0, 2.0, 2.5], num_bins=2),
           "picture": wandb.Image(np.zeros((4, 5, 3), dtype=np.uint8)), "both": [wandb.Image(np.ones((2, 2))), wandb.Image(np.zeros((2, 2)))],
           "table": wandb.Table(columns=["a", "b"], data=[[1, "x"], [2, "y"]]), "page": wandb.Html("<b>hi</b>")}, step=9)
wandb.run.summary["best"] = 0.25
artifact = wandb.Artifact("weights", type="model", metadata={"epoch": 3})
with open(sys.argv[1] + "/kept.txt", "w") as file:
    file.write("content")
artifact.add_file(file.name, "deep/er.txt")
wandb.log_artifact(artifact)
wandb.config.update({"later": True})
wandb.finish(exit_code=int(sys.argv[2]))
"""


@pytest.mark.parametrize(("exit_code", "status"), [(0, "completed"), (3, "failed")])
def test_plain_run_is_imported(exit_code: int, status: str, tmp_path: Path) -> None:
    """What plain wandb logged is in the run folder: numbers, texts, images, tables, histograms, files and the rest."""
    python(PLAIN, str(tmp_path), str(exit_code))
    reporter = WandbReporter()
    (native,) = reporter.find_runs(str(tmp_path))
    done = import_run(reporter, native, tmp_path / "runs")
    record = runcast.read_run(done.dir)
    assert (record.run_id, record.name, record.project, record.group) == ("abc", "n", "p", "g")
    assert (record.status, record.tags) == (status, ("a", "b"))
    assert record.config == {"lr": 0.1, "model": {"layers": [1, 2]}, "later": True}
    assert [(point.step, point.value) for point in record.metrics["loss"]] == [(s, 1 / (s + 1)) for s in range(5)]
    assert [point.value for point in record.metrics["nested.acc"]] == [0, 1, 2, 3, 4]
    assert record.metrics["nan"][0].value != record.metrics["nan"][0].value
    assert record.metrics["flag"][0].value == 1.0
    assert record.texts["word"][4].text == "w"
    assert (record.histograms["hist"][0].counts, record.histograms["hist"][0].edges) == ((1.0, 2.0), (1.0, 1.75, 2.5))
    assert (len(record.images["picture"]), len(record.images["both"])) == (1, 2)
    assert record.tables["table"][0].rows == ((1, "x"), (2, "y"))
    assert b"<b>hi</b>" in next(iter(record.artifacts["page/9"].files.values())).read()
    assert record.artifacts["weights"].files["deep/er.txt"].read() == b"content"
    assert (record.artifacts["weights"].kind, record.artifacts["weights"].metadata) == ("model", {"epoch": 3})
    assert record.summary == {"best": 0.25}
    times = [point.time for point in record.metrics["loss"]]
    assert record.started <= times[0] <= times[-1] <= record.finished


def test_own_run_is_found_by_file_folder_and_store(tmp_path: Path) -> None:
    """A log file, its folder and the folder above all mean the run, which reads as the journal has it."""
    with runcast.start_run("wandb", dir=tmp_path / "runs", config={"a": 1}, tags=["t"]) as run:
        run.log({"loss": 1.0, "word": "w"}, step=3)
    (log,) = (run.dir / "wandb").rglob("*.wandb")
    reporter = WandbReporter()
    for source in (log, log.parent, tmp_path):
        (native,) = reporter.find_runs(str(source))
        found = reporter.read(native)
        assert (found.run_id, found.config, found.tags, found.status) == (run.id, {"a": 1}, ("t",), "completed")
        assert found.metrics["loss"][0].step == 3


def test_nothing_to_find_says_what_was_looked_for(tmp_path: Path) -> None:
    """A folder without W&B's files is an error with words."""
    with pytest.raises(LookupError, match=r"no run-\*\.wandb"):
        WandbReporter().find_runs(str(tmp_path))
