"""Runs that the real client of Neptune kept on disk, in its offline mode, import."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

import runcast
from runcast.importer import import_run
from runcast.reporters.neptune import NeptuneExport
from runcast.verify import compare

pytest.importorskip("neptune")

TRAINING = """
import datetime, os
import neptune
import numpy as np
from neptune.types import File
from PIL import Image

os.makedirs("data/deep", exist_ok=True)
for name in ("a.txt", "data/one.csv", "data/deep/two.csv"):
    with open(name, "w") as file:
        file.write(name)
with open("../outside.txt", "w") as file:
    file.write("not of this training")

run = neptune.init_run(
    project="team/demo", mode="offline", name="plain", tags=["good", "old"], source_files=[],
    capture_hardware_metrics=False, capture_stdout=False, capture_stderr=False, capture_traceback=False,
)
run["parameters"] = {"lr": 3e-5, "optimizer": {"name": "adam"}, "epochs": 3, "shuffle": True, "gone": 1}
run["when"] = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
run["score/final"] = 0.9
run["classes"].add(["b", "a", "c"])
run["classes"].remove("c")
run["sys/tags"].remove("old")
run["sys/group_tags"].add("ablation")
for step in range(20):
    run["train/loss"].append(1 / (step + 1), step=step, timestamp=1700000000.125 + step)
run["counted"].extend([0.1, 0.1 + 0.2, 1e-300])
run["counted"].append(4.0, step=10)
run["counted"].append(5.0)
run["big"].append(1.0, step=2**40)
run["fetched"].append(1.0)
del run["fetched"]
run["notes"].append("first\\nline", step=2, timestamp=1700000000.5)
run["notes"].append("naïve 🚀")
pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
run["pictures"].append(File.as_image(Image.fromarray(pixels)), step=1)
run["pictures"].append(File.as_image(Image.fromarray(pixels[::-1])), name="n", description="d")
run["upload/file"].upload("a.txt")
run["upload/content"].upload(File.from_content("naïve"))
run["upload/set"].upload_files(["data/*.csv", "data/deep/*.csv"])
run["upload/folder"].upload_files("data")
run["upload/outside"].upload("../outside.txt")
run["upload/outside_set"].upload_files("../outside.*")
run["tracked"].track_files("a.txt")
del run["parameters/gone"]
Image.fromarray(pixels).save("expected.png")
run.stop()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a training that logged to Neptune, offline."""
    folder = tmp_path_factory.mktemp("training") / "project"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", TRAINING], cwd=folder, check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture
def project(trained, tmp_path):
    """Where the training ran; a test may change what the client kept, but the files stay at their place."""
    kept = tmp_path / "kept"
    shutil.copytree(trained / ".neptune", kept)
    yield trained
    shutil.rmtree(trained / ".neptune")
    shutil.copytree(kept, trained / ".neptune")


@pytest.fixture
def record(project):
    return read(project)


def read(source):
    reporter = NeptuneExport()
    (native,) = reporter.find_runs(str(source))
    return reporter.read(native)


def operations(project):
    """The file of the operations, and they themselves."""
    (log,) = project.rglob("data-1.log")
    return log, [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def write(log, elements):
    log.write_text("".join(json.dumps(element) + "\n" for element in elements), "utf-8")


def test_every_point_is_there(record):
    """Exact values, with steps and times; without a step Neptune counts on from the last one."""
    assert record.metrics["train/loss"] == [(step, 1 / (step + 1), 1700000000.125 + step) for step in range(20)]
    assert [point[:2] for point in record.metrics["counted"]] == [
        (0, 0.1),
        (1, 0.1 + 0.2),
        (2, 1e-300),
        (10, 4.0),
        (11, 5.0),
    ]
    assert [point[:2] for point in record.metrics["big"]] == [(2**40, 1.0)]
    assert set(record.metrics) == {"train/loss", "counted", "big"}


def test_settings_are_nested_and_typed(record):
    """What was deleted is gone; a set is a sorted list, a date a text, a tracked artifact the paths of its files."""
    config = {key: value for key, value in record.config.items() if key not in ("sys", "source_code", "monitoring")}
    assert config == {
        "parameters": {"lr": 3e-5, "optimizer": {"name": "adam"}, "epochs": 3, "shuffle": True},
        "when": "2024-01-02T03:04:05+00:00",
        "score": {"final": 0.9},
        "classes": ["a", "b"],
        "tracked": ["a.txt"],
    }


def test_identity_is_neptunes(record, project):
    """Neptune's id and names; the project is only known by the folder, as its client keeps no name of it."""
    assert (record.name, record.tags, record.group, record.status) == ("plain", ("good",), "ablation", "completed")
    assert record.project == "project"
    (folder,) = (project / ".neptune" / "offline").iterdir()
    assert record.run_id in folder.name
    assert len(record.run_id) == 36
    assert record.started <= record.finished


def test_texts_and_pictures_are_there(record, project):
    """Texts as they were; pictures pixel by pixel."""
    image = pytest.importorskip("PIL.Image")
    assert [point[:2] for point in record.texts["notes"]] == [(2, "first\nline"), (3, "naïve 🚀")]
    assert record.texts["notes"][0].time == 1700000000.5
    first, second = record.images["pictures"]
    assert (first.step, second.step) == (1, 2)
    stored = project.parent / "stored.png"
    stored.write_bytes(first.image.read())
    with image.open(stored) as found, image.open(project / "expected.png") as expected:
        assert (found.size, found.tobytes()) == (expected.size, expected.tobytes())


def test_files_are_there(record):
    """Files, what was made in memory, and what patterns match; names are those below the training's folder."""
    files = {
        name: {path: content.read().decode() for path, content in artifact.files.items()}
        for name, artifact in record.artifacts.items()
    }
    csv = {"data/one.csv": "data/one.csv", "data/deep/two.csv": "data/deep/two.csv"}
    assert files == {
        "upload/file": {"file.txt": "a.txt"},
        "upload/content": {"content.txt": "naïve"},
        "upload/set": csv,
        "upload/folder": csv,
    }


def test_files_outside_the_trainings_folder_are_left_out(project, caplog):
    """A store may come from a stranger, who must not make us read another file; it is said."""
    with caplog.at_level(logging.WARNING, "runcast"):
        record = read(project)
    assert not [name for name in record.artifacts if "outside" in name]
    said = [entry.getMessage() for entry in caplog.records if "outside" in entry.getMessage()]
    assert len(said) == 2
    secret = project.parent / "outside.txt"
    (folder,) = (project / ".neptune" / "offline").iterdir()
    for file in (folder / "upload_path").iterdir():
        file.unlink()
        file.symlink_to(secret)
    assert "upload/content" not in read(project).artifacts


def test_torn_and_damaged_lines_are_left_out(project, caplog):
    """A killed process leaves half a line, which hides nothing that is before it."""
    log, elements = operations(project)
    with log.open("a", encoding="utf-8") as file:
        file.write("no json\n" + json.dumps(["strange"]) + "\n" + json.dumps(elements[-1])[:20])
    with caplog.at_level(logging.WARNING, "runcast"):
        record = read(project)
    assert len(record.metrics["train/loss"]) == 20
    assert len([entry for entry in caplog.records if "an operation of" in entry.getMessage()]) == 3


def test_what_the_client_starts_anew_starts_anew(project):
    """A series that was cleared has the later points only; steps that are none are left out."""
    log, elements = operations(project)
    point = {"value": 7.0, "step": None, "ts": 1700000100.0}
    wrong = {"value": 8.0, "step": float("inf"), "ts": 1700000100.0}
    path = ["train", "loss"]
    later = [
        {"type": "ClearFloatLog", "path": path},
        {"type": "LogFloats", "path": path, "values": [point]},
        {"type": "LogFloats", "path": path, "values": [wrong]},
        {"type": "AssignBool", "path": ["sys", "failed"], "value": True},
        {"type": "CopyAttribute", "path": ["copied"]},
    ]
    count = len(elements)
    write(log, elements + [{"obj": obj, "version": count + 1 + i, "at": None} for i, obj in enumerate(later)])
    record = read(project)
    assert record.metrics["train/loss"] == [(0, 7.0, 1700000100.0)]
    assert record.status == "failed"


def test_operations_in_several_files_are_one_run(project):
    """The client begins a new file after 64 MB, named by the number of its first operation."""
    expected = read(project)
    log, elements = operations(project)
    for first, last in ((0, 9), (9, 11), (11, None)):
        write(log.with_name(f"data-{first + 1}.log"), elements[first:last])
    assert compare("neptune", expected, read(project)).matches


def test_older_clients_are_read(project):
    """At first there was no metadata.json, no time of an operation, and the folder was called by the id alone."""
    expected = read(project)
    log, elements = operations(project)
    (log.parent / "metadata.json").unlink(missing_ok=True)
    write(log, [{key: value for key, value in element.items() if key != "at"} for element in elements])
    log.parent.rename(log.parent.with_name(f"run__{expected.run_id}"))
    found = read(project)
    assert found.run_id == expected.run_id
    assert compare("neptune", expected, found).matches


def test_run_that_was_being_sent_is_read_as_far_as_it_is_there(project, caplog):
    """In the async mode what had been sent may be gone from the disk: how much is said."""
    log, elements = operations(project)
    write(log, elements[30:])
    (project / ".neptune" / "offline").rename(project / ".neptune" / "async")
    with caplog.at_level(logging.WARNING, "runcast"):
        record = read(project)
    assert len(record.metrics["train/loss"]) < 20
    assert "the first 30 operations" in caplog.text


def test_any_path_to_it_finds_it(project):
    """The training's folder, .neptune, the run's folder, the file."""
    log, _ = operations(project)
    ids = {read(source).run_id for source in (project, project / ".neptune", log.parent, log)}
    assert len(ids) == 1
    with pytest.raises(LookupError, match="neptune-exporter"):
        NeptuneExport().find_runs(str(project / "data"))


def test_import_gives_a_run_folder_that_holds_it_all(project, record, tmp_path):
    """What an import wrote reads back as what the client kept."""
    reporter = NeptuneExport()
    (native,) = reporter.find_runs(str(project))
    done = import_run(reporter, native, tmp_path / "runs")
    found = compare("neptune", record, runcast.read_run(Path(done.dir)))
    assert found.matches, found.differences
    assert import_run(reporter, native, tmp_path / "runs").already


def test_reading_imports_no_sdk_and_asks_no_network(project):
    """The client isn't needed, nor anything else but Python."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from runcast.reporters.neptune import NeptuneExport\n"
        "reporter = NeptuneExport()\n"
        "(native,) = reporter.find_runs(sys.argv[1])\n"
        "assert reporter.read(native).metrics\n"
        "assert not {'neptune', 'pyarrow', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(project)], check=True)


def test_metadata_is_the_clients(project):
    """The format that these tests read is the installed client's own."""
    if Version(metadata.version("neptune")) < Version("1.14"):
        pytest.skip("older clients write none")
    (file,) = project.rglob("metadata.json")
    stored = json.loads(file.read_text())
    assert stored["neptuneClientVersion"] == metadata.version("neptune")
    created = dt.datetime.fromisoformat(stored["createdAt"]).timestamp()
    assert read(project).started == created
    assert os.path.basename(file.parent).startswith(f"run__{stored['containerId']}")
