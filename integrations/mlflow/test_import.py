"""Runs that were logged with plain MLflow, found and read for an import."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

import runcast
from runcast.errors import RunFolderError
from runcast.importer import import_run
from runcast.record import RunRecord
from runcast.reporters.mlflow import MlflowReporter
from runcast.testing.couriers import python

from .backend import prepare, server

VARIABLES = ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TAGS", "ALLOW_FILE_STORE")

PLAIN = """
import json, os, sys
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ALLOW_FILE_STORE="true")
os.chdir(sys.argv[1])
import mlflow, numpy
from mlflow import MlflowClient
mlflow.set_tracking_uri(sys.argv[2])
mlflow.set_experiment("theirs")
ids = {}
with mlflow.start_run(run_name="parent", description="What it is about", tags={"team": "nlp", "baseline": ""}) as parent:
    ids["parent"] = parent.info.run_id
    mlflow.log_params({"lr": 0.1, "opt/name": "adam", "opt/layers": [1, 2], "flag": True, "none": None, "word": "w"})
    for step in range(4):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"eval/acc": 0.5, "odd name": 2.0}, step=7)
    client = MlflowClient()
    client.log_metric(parent.info.run_id, "nan", float("nan"), timestamp=1_700_000_000_123, step=-3)
    mlflow.log_text("hello", "note.txt")
    mlflow.log_text("deep", "notes/deep.txt")
    mlflow.log_dict({"a": 1}, "conf.json")
    mlflow.log_table({"text": ["good", "bad"], "label": [1, 0]}, "eval/table.json")
    pixels = numpy.full((4, 4, 3), 7, dtype=numpy.uint8)
    mlflow.log_image(pixels, "top.png")
    for step in range(2):
        client.log_image(parent.info.run_id, pixels + step, key="seen/image", step=step, timestamp=1_700_000_000_000 + step)
    os.makedirs("ck/sub")
    open("ck/m.bin", "wb").write(b"flat"), open("ck/sub/n.bin", "wb").write(b"deep"), open("ck/vocab.txt", "w").write("a b")
    mlflow.log_artifacts("ck", "checkpoint")
    os.makedirs("model")
    open("model/MLmodel", "w").write("flavors: {}"), open("model/weights", "wb").write(b"w")
    mlflow.log_artifacts("model", "best")
    for number, status in enumerate(["FINISHED", "FAILED", "KILLED"]):
        child = mlflow.start_run(run_name=f"trial {number}", nested=True)
        mlflow.log_metric("loss", number)
        mlflow.end_run(status)
        ids[status] = child.info.run_id
open_ = MlflowClient().create_run(parent.info.experiment_id)
ids["open"], ids["experiment"] = open_.info.run_id, parent.info.experiment_id
gone = MlflowClient().create_run(parent.info.experiment_id)
MlflowClient().delete_run(gone.info.run_id)
print(json.dumps(ids))
"""


class Plain(NamedTuple):
    """What a user's script left.

    Attributes:
        folder: Where it ran.
        ids: The ids of its runs, by what they are.
    """

    folder: Path
    ids: dict[str, str]

    def source(self, kind: str) -> Path:
        """The store."""
        return self.folder / ("mlruns" if kind == "folder" else "mlflow.db")


@pytest.fixture(autouse=True, scope="module")
def _unconfigured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(f"MLFLOW_{variable}", raising=False)
        yield


def write(folder: Path, uri: str) -> Plain:
    """Runs the user's script."""
    folder.mkdir(parents=True, exist_ok=True)
    return Plain(folder, json.loads(python(PLAIN, str(folder), uri).stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """In a SQLite file."""
    folder = tmp_path_factory.mktemp("database")
    prepare(folder)
    return write(folder, "sqlite:///mlflow.db")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """In a file store, which was MLflow's default for long."""
    return write(tmp_path_factory.mktemp("folders"), "mlruns")


@pytest.fixture(params=["database", "folder"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plain(kind: str, request: pytest.FixtureRequest) -> Plain:
    return request.getfixturevalue({"database": "database", "folder": "folders"}[kind])


def records(source: object) -> dict[str, RunRecord]:
    """What is found there, by the runs' own ids."""
    reporter = MlflowReporter()
    return {native.id: reporter.read(native) for native in reporter.find_runs(str(source))}


def assert_is_the_parent(record: RunRecord, experiment: str = "theirs") -> None:
    """All that the user's script put into its first run."""
    assert (record.name, record.project, record.group, record.status) == ("parent", experiment, None, "completed")
    origin = {key: record.config.pop(key) for key in list(record.config) if key.startswith("mlflow.")}
    assert {"mlflow.user", "mlflow.source.name"} <= set(origin)
    assert record.config == {
        "lr": 0.1,
        "opt": {"name": "adam", "layers": [1, 2]},
        "flag": True,
        "none": None,
        "word": "w",
    }
    assert [(point.step, point.value) for point in record.metrics["loss"]] == [(s, 1 / (s + 1)) for s in range(4)]
    assert [(point.step, point.value) for point in record.metrics["eval/acc"]] == [(7, 0.5)]
    assert record.metrics["odd name"][0].value == 2.0
    (nan,) = record.metrics["nan"]
    assert math.isnan(nan.value)
    assert (nan.step, nan.time) == (-3, 1_700_000_000.123)
    assert {key: points[0].text for key, points in record.texts.items()} == {
        "note.txt": "hello",
        "mlflow.note.content": "What it is about",
    }
    assert [(t.columns, t.rows) for t in record.tables["eval/table.json"]] == [
        (("text", "label"), (("good", 1), ("bad", 0)))
    ]
    # Older clients don't quote the "#" of these pictures' names for a server, which stores one file then.
    if "images" in record.artifacts:
        assert (list(record.artifacts.pop("images").files), "seen/image" in record.images) == (["seen"], False)
    else:
        seen = record.images["seen/image"]
        assert [(p.step, p.time) for p in seen] == [(0, 1_700_000_000.0), (1, 1_700_000_000.001)]
        assert {pixel(point.image.read()) for point in seen} == {7, 8}
    assert pixel(record.images["top.png"][0].image.read()) == 7
    assert {name: (a.kind, files_of(a.files)) for name, a in record.artifacts.items()} == {
        "checkpoint": ("file", {"m.bin": b"flat", "sub/n.bin": b"deep", "vocab.txt": b"a b"}),
        "best": ("model", {"MLmodel": b"flavors: {}", "weights": b"w"}),
        "notes": ("file", {"deep.txt": b"deep"}),
        "conf.json": ("file", {"conf.json": b'{\n  "a": 1\n}'}),
    }
    assert record.tags == ("baseline", "team=nlp")
    assert record.started <= record.metrics["loss"][0].time <= record.metrics["loss"][-1].time <= record.finished


def test_everything_of_plain_runs_is_imported(plain: Plain, kind: str, tmp_path: Path) -> None:
    """Numbers, settings, media, files, status and the rest are in run folders; so are the trials, with their parent."""
    reporter = MlflowReporter()
    natives = reporter.find_runs(str(plain.source(kind)))
    assert {native.id for native in natives} == {plain.ids[key] for key in plain.ids if key != "experiment"}
    found = {}
    for native in natives:
        done = import_run(reporter, native, tmp_path / "runs")
        found[native.id] = runcast.read_run(done.dir)
        assert done.run == found[native.id].run_id == native.id
    assert_is_the_parent(found[plain.ids["parent"]])
    statuses = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "killed"}
    for number, (native, status) in enumerate(statuses.items()):
        trial = found[plain.ids[native]]
        assert (trial.name, trial.group, trial.status) == (f"trial {number}", "parent", status)
        assert trial.metrics["loss"][0].value == number
        assert trial.finished is not None
    assert MlflowReporter.read(reporter, natives[-1]).finished is None
    assert found[plain.ids["open"]].artifacts == {}


def test_store_is_left_as_it_is(plain: Plain, kind: str) -> None:
    """Not a byte of it changes, and nothing is added: neither tables that a newer MLflow has, nor folders."""
    before = bytes_below(plain.folder)
    assert len(records(plain.source(kind))) == 5
    assert bytes_below(plain.folder) == before


def test_parts_of_a_store_are_found_by_path(plain: Plain, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that has it, one run of it, an experiment of it by name; with folders also a run's and an experiment's."""
    runs = {plain.ids[key] for key in plain.ids if key != "experiment"}
    store, parent = plain.source(kind), plain.ids["parent"]
    sources = {
        str(plain.folder): runs,
        f"{store}#{parent}": {parent},
        f"{plain.folder}#{parent}": {parent},
        f"{store}#theirs": runs,
    }
    if kind == "folder":
        experiment = plain.ids["experiment"]
        sources |= {f"{store}/{experiment}": runs, f"{store}/{experiment}/{parent}": {parent}}
    else:
        sources[f"sqlite:///{store}"] = runs
    for source, expected in sources.items():
        assert {native.id for native in MlflowReporter().find_runs(source)} == expected, source
    monkeypatch.chdir(plain.folder)
    assert {native.id for native in MlflowReporter().find_runs(store.name)} == runs


def test_store_that_was_moved_has_its_files(plain: Plain, kind: str, tmp_path: Path) -> None:
    """MLflow notes where files are from the root on: they count where they are now."""
    shutil.copytree(plain.folder, tmp_path / "copy")
    moved = tmp_path / "moved"
    (tmp_path / "copy").rename(moved)
    aside = plain.folder.rename(plain.folder.with_name("aside"))
    try:
        assert_is_the_parent(records(moved)[plain.ids["parent"]])
    finally:
        aside.rename(plain.folder)


def test_store_does_not_choose_files_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's database may say that our home is a run's files: they are read if we name the store ourselves."""
    from mlflow import MlflowClient

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("mine")
    uri = f"sqlite:///{prepare(tmp_path / 'theirs')}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("e", artifact_location=(tmp_path / "home").as_uri()))
    folder = tmp_path / "home" / run.info.run_id / "artifacts"
    folder.mkdir(parents=True)
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="set MLFLOW_TRACKING_URI to"):
        records(tmp_path / "theirs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert records(tmp_path / "theirs")[run.info.run_id].texts["diary.txt"][0].text == "mine"


def test_own_run_is_found_by_path_and_reads_as_the_journal(tmp_path: Path) -> None:
    """A database beside run folders is like any other, and its runs keep their own ids."""
    prepare(tmp_path / "runs")
    with runcast.start_run("mlflow", dir=tmp_path / "runs", config={"a": {"b": [1]}}, tags=["t"], name="n") as run:
        run.log({"loss": 1.0, "word": "w"}, step=3)
        run.set_summary({"best": 1})
    reporter = MlflowReporter()
    (native,) = reporter.find_runs(str(tmp_path / "runs"))
    found, expected = reporter.read(native), runcast.read_run(run.dir)
    assert (found.run_id, found.name, found.config, found.tags) == (run.id, "n", {"a": {"b": [1]}}, ("t",))
    assert (found.summary, found.status) == ({"best": 1}, "completed")
    assert [point.value for point in found.metrics["loss"]] == [1.0]
    assert [point.text for point in found.texts["word"]] == [point.text for point in expected.texts["word"]]


def test_runs_of_a_server_are_found_by_id_page_and_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings that MLflow itself takes; files come through the server."""
    with server(prepare(tmp_path), tmp_path / "server") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        plain = write(tmp_path / "user", address)
        parent, experiment = plain.ids["parent"], plain.ids["experiment"]
        pages = f"{address}/#/experiments/{experiment}"
        for source in (parent, f"runs:/{parent}", f"{pages}/runs/{parent}", f"{pages}/runs/{parent}/artifacts?o=1"):
            assert_is_the_parent(records(source)[parent])
        runs = {plain.ids[key] for key in plain.ids if key != "experiment"}
        for source in ("theirs", experiment, pages):
            assert {native.id for native in MlflowReporter().find_runs(source)} == runs, source
        for source in ("0" * 32, "nobody's experiment", "99", "runs:/", str(tmp_path / "nothing")):
            with pytest.raises(LookupError, match="expected a run's id, an experiment's name or id, or the path"):
                MlflowReporter().find_runs(source)
        with pytest.raises(LookupError, match="is not where our settings point: set MLFLOW_TRACKING_URI to it"):
            MlflowReporter().find_runs(f"http://other.example/#/experiments/1/runs/{parent}")


def test_nothing_to_find_says_what_was_looked_for(tmp_path: Path) -> None:
    """A path without a store, an id without a server, a store without runs; another's database is none."""
    (tmp_path / "some.db").write_bytes(b"SQLite format 3\x00")
    for source in (tmp_path, tmp_path / "nothing", tmp_path / "some.db", "0" * 32):
        with pytest.raises(
            LookupError, match="the path of a database or of a folder mlruns; or set MLFLOW_TRACKING_URI"
        ):
            MlflowReporter().find_runs(str(source))
    prepare(tmp_path / "empty")
    with pytest.raises(LookupError, match="has no runs"):
        MlflowReporter().find_runs(str(tmp_path / "empty"))


CODE_MODEL = """
import os, sys
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.chdir(sys.argv[1])
import mlflow
mlflow.set_tracking_uri(sys.argv[2])
mlflow.set_experiment("theirs")
open("code.py", "w").write(
    "import mlflow\\n"
    "class Same(mlflow.pyfunc.PythonModel):\\n"
    "    def predict(self, context, model_input): return model_input\\n"
    "mlflow.models.set_model(Same())\\n"
)
"""
MODEL = (
    CODE_MODEL
    + """with mlflow.start_run() as run:
    name = {"name": "best"} if mlflow.__version__ >= "3" else {"artifact_path": "best"}
    mlflow.pyfunc.log_model(**name, python_model="code.py", pip_requirements=["mlflow"])
"""
)


@pytest.mark.parametrize("where", ["database", "server"])
def test_logged_model_is_imported_with_its_files(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the run's files as in MLflow 2, or beside the run as in MLflow 3."""
    path = prepare(tmp_path)
    if where == "server":
        with server(path, tmp_path / "server") as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            python(MODEL, str(tmp_path), address)
            (record,) = records("theirs").values()
            files = files_of(record.artifacts["best"].files)
    else:
        python(MODEL, str(tmp_path), f"sqlite:///{path}")
        (record,) = records(tmp_path).values()
        files = files_of(record.artifacts["best"].files)
    assert record.artifacts["best"].kind == "model"
    assert {"MLmodel", "code.py", "requirements.txt"} <= set(files)
    assert files["code.py"] == (tmp_path / "code.py").read_bytes()


MODELS = (
    CODE_MODEL
    + """def log(name, step, word, **options):
    open("word.txt", "w").write(word)
    options |= {"python_model": "code.py", "pip_requirements": ["mlflow"], "code_paths": ["word.txt"]}
    return mlflow.pyfunc.log_model(name=name, step=step, **options)
os.makedirs("files")
open("files/important.bin", "w").write("important")
with mlflow.start_run() as run:
    mlflow.log_params({"lr": 0.1})
    mlflow.log_artifacts("files", "beside")
    log("beside", 4, "another thing")
    log("best", 2, "second")
    log("best", 1, "first", params={"layers": 3})
    one, other = log("twin", 0, "one"), log("twin", 0, "other")
    gone = log("gone", 0, "gone")
    mlflow.MlflowClient().delete_logged_model(gone.model_id)
    print(one.model_id, other.model_id, gone.model_id)
"""
)


@pytest.mark.skipif(version("mlflow").startswith("2."), reason="MLflow 2 keeps models among the run's files")
def test_models_of_one_name_are_all_imported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By their steps, or their ids where these are the same; beside a folder of that name; one that was deleted is said."""
    path = prepare(tmp_path)
    one, other, gone = python(MODELS, str(tmp_path), f"sqlite:///{path}").stdout.splitlines()[-1].split()
    with caplog.at_level(logging.WARNING, "runcast"):
        (record,) = records(tmp_path).values()
    assert files_of(record.artifacts["beside"].files) == {"important.bin": b"important"}
    models = {name: artifact for name, artifact in record.artifacts.items() if artifact.kind == "model"}
    assert {name: (model.step, files_of(model.files)["code/word.txt"]) for name, model in models.items()} == {
        "beside/4": (4, b"another thing"),
        "best/1": (1, b"first"),
        "best/2": (2, b"second"),
        f"twin/{one}": (0, b"one"),
        f"twin/{other}": (0, b"other"),
    }
    assert models["best/1"].metadata["params"] == {"layers": 3}
    assert models[f"twin/{one}"].metadata == {"model_id": one}
    assert caplog.messages == [f"the model {gone} is left out: it was deleted"]


TEXTS = {
    "version": "3.10",
    "commit": "12e4567",
    "huge": "1e400",
    "quoted": '"quoted"',
    "digits": "12345678901234567890.12345",
    "number": "007",
    "missing": "nan",
}

PARAMS = """
import json, os, sys
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ALLOW_FILE_STORE="true")
os.chdir(sys.argv[1])
import mlflow, numpy
mlflow.set_tracking_uri(sys.argv[2])
with mlflow.start_run() as run:
    mlflow.log_params(json.loads(sys.argv[3]) | {"small": 1e-5, "big": 10**20, "list": [1, 2.5], "half": 0.5})
    data = mlflow.data.from_numpy(numpy.arange(3), source="https://example.com/data.csv", name="mine")
    mlflow.log_input(data, context="training", tags={"split": "a"})
print(data.digest)
"""


def test_params_are_the_values_that_were_logged(kind: str, tmp_path: Path) -> None:
    """A text that only looks like a number stays a text; what MLflow made a text of is a value again."""
    uri = "mlruns" if kind == "folder" else f"sqlite:///{prepare(tmp_path)}"
    digest = python(PARAMS, str(tmp_path), uri, json.dumps(TEXTS)).stdout.splitlines()[-1]
    (record,) = records(tmp_path).values()
    config = {key: value for key, value in record.config.items() if not key.startswith("mlflow.")}
    assert config == TEXTS | {"small": 1e-5, "big": 10**20, "list": [1, 2.5], "half": 0.5}
    assert record.config["mlflow.datasets"] == [
        {
            "name": "mine",
            "digest": digest,
            "source_type": "http",
            "source": {"url": "https://example.com/data.csv"},
            "context": "training",
            "split": "a",
        }
    ]


# -- helpers -------------------------------------------------------------------------------------------------------


def files_of(files: object) -> dict[str, bytes]:
    return {path: content.read() for path, content in dict(files).items()}


def pixel(png: bytes) -> int:
    """The first value of a picture."""
    import io

    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0))[0]


def bytes_below(folder: Path) -> dict[str, str]:
    """What each file has."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files} | {
        str(path): "" for path in folder.rglob("*") if path.is_dir()
    }
