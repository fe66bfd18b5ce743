"""Runs that were logged with plain aim, read for an import."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import runcast
from runcast.importer import import_run
from runcast.reporters.aim import AimReporter
from runcast.testing.couriers import python

PLAIN = """
import sys, aim, numpy as np
from pathlib import Path
folder, state = sys.argv[1:]
run = aim.Run(repo=folder, experiment="p", system_tracking_interval=None, capture_terminal_logs=False)
run.name, run.description = "n", "what it is"
run.add_tag("b"); run.add_tag("a")
run["hparams"] = {"lr": 0.1, "model": {"layers": [1, 2]}}
run["seed"] = 7
run["__system_params"] = {"packages": {"aim": "3"}, "env_variables": {"WORD": "not for others"}}
for step in range(5):
    run.track(1 / (step + 1), name="loss", step=step, context={"subset": "train"})
    run.track(1 / (step + 2), name="loss", step=step, context={"subset": "val"})
    run.track(step, name="count", step=step)
run.track(9.5, name="train/loss", step=0)
run.track(float("nan"), name="odd", step=2**40)
run.track(aim.Text("w"), name="word", step=1)
run.track([aim.Image(np.full((4, 5, 3), grey, dtype=np.uint8)) for grey in (0, 1)], name="pictures", step=2)
run.track(aim.Image(np.zeros((4, 5, 3), dtype=np.uint8), format="jpeg"), name="photo", step=2)
run.track(aim.Distribution([1.0, 2.0, 2.0], bin_count=2), name="weights", step=3)
run.track(aim.Audio(b"RIFF", format="wav"), name="sound", step=4)
run.log_info("informed")
files = Path(folder, "files")
files.mkdir()
Path(folder, "a.txt").write_text("inside")
Path(folder).with_name("secret.txt").write_text("not to be read")
run.set_artifacts_uri(files.as_uri())
run.log_artifact(f"{folder}/a.txt", name="a.txt", block=True)
run.log_artifact(f"{folder}/a.txt", name="model/sub/a.txt", block=True)
from aim.sdk.objects.artifact import Artifact
other = Path(folder).parent.as_uri()
run.meta_run_tree.subtree("artifacts")["secret.txt"] = Artifact("secret.txt", uri=other, name="secret.txt")
if state == "completed":
    run.close()
else:
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_plain_run_is_imported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What plain aim logged is in the run folder: numbers, texts, images, distributions, files and the rest."""
    store = tmp_path / "store"
    store.mkdir()
    python(PLAIN, str(store), "completed")
    reporter = AimReporter()
    (native,) = reporter.find_runs(str(store))
    with caplog.at_level(logging.WARNING, "runcast"):
        record = runcast.read_run(import_run(reporter, native, tmp_path / "runs").dir)
    assert (record.run_id, record.name, record.project) == (native.id, "n", "p")
    assert (record.status, record.tags) == ("completed", ("a", "b"))
    assert record.config == {
        "hparams": {"lr": 0.1, "model": {"layers": [1, 2]}},
        "seed": 7,
        "__system_params": {"packages": {"aim": "3"}},
    }
    values = {name: [(point.step, point.value) for point in series] for name, series in record.metrics.items()}
    (odd,) = values.pop("odd")
    assert odd[0] == 2**40
    assert odd[1] != odd[1]
    taken = f"train/loss {json.dumps({'subset': 'train'})}"  # a series that has no context is called like that
    assert values == {
        taken: [(step, 1 / (step + 1)) for step in range(5)],
        "val/loss": [(step, 1 / (step + 2)) for step in range(5)],
        "count": [(step, float(step)) for step in range(5)],
        "train/loss": [(0, 9.5)],
    }
    texts = {name: [point.text for point in series] for name, series in record.texts.items()}
    assert texts == {"word": ["w"], "description": ["what it is"], "__log_records": ["informed"]}
    assert [point.step for point in record.images["pictures"]] == [2, 2]
    assert record.images["photo"][0].image.read().startswith(b"\x89PNG")
    (point,) = record.histograms["weights"]
    assert (point.step, point.counts, point.edges) == (3, (1.0, 2.0), (1.0, 1.5, 2.0))
    files = {
        (name, path): file.read()
        for name, artifact in record.artifacts.items()
        for path, file in artifact.files.items()
    }
    assert files == {
        ("a.txt", "a.txt"): b"inside",
        ("model", "sub/a.txt"): b"inside",
        ("sound/4", "audio.wav"): b"RIFF",
    }
    assert "artifact secret.txt is left out" in caplog.text
    times = [point.time for point in record.metrics[taken]]
    assert record.started <= times[0] <= times[-1] <= record.finished


def test_killed_run_is_one_that_runs(tmp_path: Path) -> None:
    """A run that nobody closed has all of its points, and no end."""
    store = tmp_path / "store"
    store.mkdir()
    with pytest.raises(AssertionError):
        python(PLAIN, str(store), "killed")
    (native,) = AimReporter().find_runs(str(store))
    record = AimReporter().read(native)
    assert (record.status, record.finished) == ("running", None)
    assert len(record.metrics["count"]) == 5


def test_runs_are_found_by_store_and_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository means all its runs, oldest first; with a hash, or a hash alone where Aim looks for one, it is one."""
    for _ in range(2):
        python("import sys, aim; aim.Run(repo=sys.argv[1], system_tracking_interval=None)['a'] = 1", str(tmp_path))
    reporter = AimReporter()
    first, second = reporter.find_runs(str(tmp_path))
    assert reporter.read(first).started < reporter.read(second).started
    assert list(reporter.find_runs(str(tmp_path / ".aim"))) == [first, second]
    assert list(reporter.find_runs(f"{tmp_path}#{second.id}")) == [second]
    assert list(AimReporter(repo=str(tmp_path)).find_runs(second.id)) == [second]
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert list(reporter.find_runs(second.id)) == [second]
    for source in (str(tmp_path / "below"), f"{tmp_path}#no-such-run", "no-such-run"):
        with pytest.raises(LookupError, match="hash"):
            reporter.find_runs(source)


def test_our_own_run_is_found_too(tmp_path: Path) -> None:
    """A run that runcast delivered is read with all that only runcast knows of it."""
    with runcast.start_run("aim", dir=tmp_path, config={"a/b": [1]}, tags=["t"], group="g") as run:
        run.log({"loss": 1.0}, step=2**60)
        run.set_summary({"best": 1})
    (native,) = AimReporter().find_runs(str(tmp_path))
    record = AimReporter().read(native)
    assert (record.run_id, record.config, record.summary, record.tags) == (run.id, {"a/b": [1]}, {"best": 1}, ("t",))
    assert (record.group, record.metrics["loss"][0].step) == ("g", 2**60)


def test_a_strangers_repository_reads_no_file_elsewhere(tmp_path: Path) -> None:
    """A repository whose artifacts lead out of it is not followed there."""
    (tmp_path / "secret.txt").write_text("secret")
    with runcast.start_run("aim", dir=tmp_path / "runs") as run:
        run.log_artifact(Path(__file__), name="code")
    (native,) = AimReporter().find_runs(str(tmp_path / "runs"))
    (file,) = (tmp_path / "runs" / ".aim" / "artifacts").rglob("test_import.py")
    file.unlink()
    file.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="leads out of"):
        AimReporter().read(native)
    assert run.dir is not None
