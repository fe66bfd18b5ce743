"""Facts of MLflow alone, proven on a real SQLite store and through the real server."""

from __future__ import annotations

import http.server
import json
import math
import os
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runcast
from runcast.delivery import load_state
from runcast.events import Metrics, StoredFile
from runcast.journal import FILE_NAME, Journal
from runcast.record import Point, RunRecord
from runcast.reporter import LocalArtifact, NativeRun, RunInfo, denied
from runcast.reporters.mlflow import MlflowReporter
from runcast.testing import canonical
from runcast.verify import verify

from .backend import prepare, server

VARIABLES = ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TAGS", "MAX_LOG_PARAMS")
START = 1_700_000_000.0


@pytest.fixture(autouse=True, scope="module")
def _unconfigured() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(f"MLFLOW_{variable}", raising=False)
        yield


class Direct:
    """A reporter that is called here, without a courier, with times that a test can choose."""

    def __init__(self, runs: Path, run_id: str = "run-1", **options: Any) -> None:
        prepare(runs)
        self.info = RunInfo(run_id, "a name", "a project", "a group", runs / run_id, START)
        self.info.dir.mkdir(exist_ok=True)
        self.options = options
        self.native: NativeRun | None = None
        self.open()

    def open(self) -> None:
        self.reporter = MlflowReporter(**self.options)
        self.native = self.reporter.open(self.info, self.native)

    def read(self) -> RunRecord:
        return MlflowReporter(**self.options).read(self.native)

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.native.data["tracking_uri"])

    @property
    def data(self) -> Any:
        return self.client.get_run(self.native.id).data

    def files(self, folder: str) -> list[str]:
        return [Path(file.path).name for file in self.client.list_artifacts(self.native.id, folder)]


@pytest.fixture
def direct(tmp_path: Path) -> Direct:
    return Direct(tmp_path / "runs")


# -- config --------------------------------------------------------------------------------------------------------


def test_setting_that_changes_keeps_its_param_and_has_its_new_value_in_a_tag(direct: Direct) -> None:
    """MLflow's params never change: the first value stays there, the tag has the last, and that is read back."""
    direct.reporter.log_config({"lr": 0.1, "opt": {"name": "sgd", "nesterov": True}, "gone": {"a": 1}})
    direct.reporter.log_config({"lr": 0.2, "opt": {"name": "adam"}, "gone": {}, "late": "0.5"})
    direct.reporter.log_config({"lr": 0.3})
    assert direct.data.params == {
        "lr": "0.1",
        "opt/name": "sgd",
        "opt/nesterov": "true",
        "gone/a": "1",
        "gone": "{}",
        "late": '"0.5"',
    }
    tags = {key: value for key, value in direct.data.tags.items() if key.startswith("config.")}
    assert tags == {"config.lr": "0.3", "config.opt/name": "adam", "config.gone/a": '{"$removed": true}'}
    assert direct.read().config == {"lr": 0.3, "opt": {"name": "adam", "nesterov": True}, "gone": {}, "late": "0.5"}


def test_setting_that_changes_back_reads_back(direct: Direct) -> None:
    """The first value again is a change like any other, also after a restart of the courier."""
    for value in (1, 2, {"deep": 1}, 1):
        direct.reporter.log_config({"x": value})
        direct.open()
    assert direct.read().config == {"x": 1}


def test_long_and_oddly_named_settings_read_back_whole(direct: Direct) -> None:
    """Nothing is cut: values of any length, keys of any length and shape, values that look like our own marks."""
    config = {
        "prompt": "naïve 🚀\n" * 20_000,
        "k" * 300: {"n" * 300: "deep", "": "empty"},
        "": 0,
        "..": {".": 1, "a/b": 2, "..x": 3},
        "a%2Fb": "::",
        "marks": ['{"$removed": true}', '{"$pieces": 3}'],
        "mark": '{"$pieces": 3}',
        "dollar": {"$removed": True},
        "nan": math.nan,
    }
    direct.reporter.log_config(config)
    found = direct.read().config
    assert math.isnan(found.pop("nan"))
    assert found == {key: value for key, value in config.items() if key != "nan"}
    assert direct.data.params["prompt"].startswith("naïve 🚀")


# -- metrics -------------------------------------------------------------------------------------------------------


def test_infinity_is_told_from_the_greatest_number(direct: Direct) -> None:
    """SQL stores write ±inf as the greatest double; both read back as they were."""
    values = [math.inf, sys.float_info.max, -math.inf, -sys.float_info.max, 1.0]
    direct.reporter.log_metrics_batch([Metrics(time=START + i, step=i, values={"x": x}) for i, x in enumerate(values)])
    assert [point.value for point in direct.read().metrics["x"]] == values


def test_points_of_one_millisecond_are_all_kept_in_order(direct: Direct) -> None:
    """MLflow would take equal ones for one, and sort different ones by value; coming again they are the same points."""
    values = [5.0, 5.0, 3.0, math.nan, math.nan]
    batch = [Metrics(time=START + i / 1e5, step=7, values={"x": value}) for i, value in enumerate(values)]
    for _ in range(2 if direct.reporter.idempotent else 1):
        direct.reporter.log_metrics_batch(batch)
        points = direct.read().metrics["x"]
        assert [repr(point.value) for point in points] == [repr(value) for value in values]
        assert [point.step for point in points] == [7] * 5
        assert points[0].time == START


def test_points_of_one_millisecond_are_not_doubled_by_a_restart(tmp_path: Path) -> None:
    """A courier that goes on where another one died gives each point the time that it had, also in the middle of them."""
    direct = Direct(tmp_path / "runs")
    journal = Journal(direct.info.dir / FILE_NAME)
    batch = [Metrics(time=START + i / 1e5, step=7, values={"x": float(i % 2)}) for i in range(6)]
    for event in batch:
        journal.append(event)
    journal.close()
    direct.reporter.log_metrics_batch(batch[:5])
    for begin in (0, 1, 4, 3):
        direct.open()
        direct.reporter.log_metrics_batch(batch[begin:])
    assert [point.value for point in direct.read().metrics["x"]] == [0.0, 1.0] * 3


def test_events_that_come_again_read_back_once(direct: Direct, tmp_path: Path) -> None:
    """After a crash of the courier what was not committed comes again, to the same run."""
    picture = tmp_path / "p.png"
    picture.write_bytes(_png())
    first = direct.native
    for again in (False, True):
        direct.reporter.log_config({"a": 1, "long": "x" * 9000})
        direct.reporter.log_config({"a": 2})
        if not again or direct.reporter.idempotent:  # else the courier leaves out the points that have arrived
            direct.reporter.log_metrics({"x": 0.1, "nan": math.nan, "inf": math.inf}, 3, START)
        direct.reporter.log_text("note", "hello", 3, START)
        direct.reporter.log_image("picture", picture, 3, START)
        direct.reporter.log_table("table", ["a"], [[1]], 3, START)
        direct.reporter.log_histogram("h", [1.0, 2.0], [0.0, 1.0, 2.0], 3, START)
        direct.reporter.log_artifact(_artifact(picture), 3, START)
        direct.reporter.set_summary({"best": 1})
        direct.reporter.add_tags(["t"])
        direct.open()
    assert direct.native == first
    record = direct.read()
    assert record.config == {"a": 2, "long": "x" * 9000}
    assert record.metrics["x"] == [Point(3, 0.1, START)]
    series = (record.metrics, record.texts, record.images, record.tables, record.histograms)
    assert [len(points) for kind in series for points in kind.values()] == [1] * 7
    assert record.summary == {"best": 1}
    assert record.tags == ("t",)


def test_run_of_a_courier_that_died_before_it_told_is_found_again(tmp_path: Path) -> None:
    """A run is never made twice, although MLflow chooses the id itself."""
    first, second = Direct(tmp_path / "runs"), Direct(tmp_path / "runs")
    assert first.native == second.native
    assert Direct(tmp_path / "runs", "run-2").native != first.native


def test_names_too_long_for_mlflow_get_short_ones_that_read_back(direct: Direct) -> None:
    """A substitute is never the substitute of another name, and the original is kept in the run."""
    names = ["🚀" * 250, "🚀" * 249 + "!", "x" * 250, "a:" + "b" * 248, "summary/loss", "é" * 125]
    direct.reporter.log_metrics({name: float(i) for i, name in enumerate(names)}, 0, START)
    for i, name in enumerate(names):
        direct.reporter.log_text(name, str(i), 0, START)
    assert all(len(key) <= 250 for key in direct.data.metrics)
    record = direct.read()
    assert {name: points[0].value for name, points in record.metrics.items()} == {n: i for i, n in enumerate(names)}
    assert {name: points[0].text for name, points in record.texts.items()} == {n: str(i) for i, n in enumerate(names)}


# -- where people look ---------------------------------------------------------------------------------------------


def test_images_are_named_as_mlflow_names_its_own(direct: Direct, tmp_path: Path) -> None:
    """The image charts of MLflow's pages find them by file name."""
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    direct.client.log_image(direct.native.id, pixels, key="theirs/image", step=3, timestamp=int(START * 1000))
    theirs = direct.files("images")
    picture = tmp_path / "p.png"
    picture.write_bytes(_png())
    direct.reporter.log_image("theirs/image", picture, 3, START)
    ours = [name for name in direct.files("images") if name not in theirs]
    assert len(theirs) == len(ours) == 2
    # Older versions put other signs between the parts; the pages of newer servers read both.
    modern = [name.replace("%", "+").replace("#", "~") for name in theirs]
    anonymous = {re.sub(r"(?<=\+)[0-9a-f-]{36}(?=[.+])", "ID", name) for name in modern}
    assert {re.sub(r"(?<=\+)[0-9a-f]{16}(?=[.+])", "ID", name) for name in ours} == anonymous


def test_tables_open_with_mlflows_own_reader(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_table` finds them, and so does the page of tables."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", direct.native.data["tracking_uri"])  # it looks there, whatever its client
    direct.reporter.log_table("predictions", ["text", "n"], [["a", 1], ["b", 2]], 5, START)
    (name,) = direct.files("tables")
    experiment = direct.client.get_run(direct.native.id).info.experiment_id
    frame = direct.client.load_table(experiment, f"tables/{name}", [direct.native.id])
    assert frame.to_dict("list") == {"text": ["a", "b"], "n": [1, 2]}


def test_list_of_tables_never_outgrows_its_tag(direct: Direct) -> None:
    """A run may have any number of tables: all read back, and the list names the latest."""
    for step in range(70):
        direct.reporter.log_table("predictions", ["n"], [[step]], step, START + step)
    listed = json.loads(direct.data.tags["mlflow.loggedArtifacts"])
    assert "+step+69+" in listed[-1]["path"]
    assert len(direct.read().tables["predictions"]) == 70


def test_histogram_is_a_picture_with_a_bar_a_bin(direct: Direct) -> None:
    """The artifact page draws the SVG, and the numbers in it are exact."""
    direct.reporter.log_histogram("w", [1.0, 0.0, 3.0], [-1e308, 0.1, 0.2, 1e308], 1, START)
    point = direct.read().histograms["w"][0]
    assert (point.counts, point.edges) == ((1.0, 0.0, 3.0), (-1e308, 0.1, 0.2, 1e308))
    (path,) = (direct.info.dir.parent / "mlartifacts").rglob("*.svg")
    bars = ET.parse(path).findall(".//{http://www.w3.org/2000/svg}rect")
    assert [float(bar.get("height")) for bar in bars] == pytest.approx([66.67, 0.0, 200.0])


def test_artifact_is_stored_as_files_with_names_of_any_shape(direct: Direct, tmp_path: Path) -> None:
    """Files are copied, so the originals may go; a later version with fewer files is what counts."""
    folder = tmp_path / "model"
    names = ["plain.bin", "sub/odd #% ~=+.txt", "sub/" + "ü" * 120, ".hidden"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    direct.reporter.log_artifact(_artifact(folder, names, name="best/model 🚀"), None, START)
    (stored,) = (direct.info.dir.parent / "mlartifacts").rglob("plain.bin")
    assert not stored.is_symlink()
    found = direct.read().artifacts["best/model 🚀"]
    assert {name: content.read().decode() for name, content in found.files.items()} == {name: name for name in names}
    direct.reporter.log_artifact(_artifact(folder, names[:1], name="best/model 🚀"), None, START + 1)
    assert list(direct.read().artifacts["best/model 🚀"].files) == ["plain.bin"]


def test_summary_can_be_compared_and_labels_searched(direct: Direct) -> None:
    """Numbers of the summary are metrics too in the end, and a label is a tag that MLflow's search finds."""
    direct.reporter.set_summary({"accuracy": 0.5, "note": "x", "huge": 10**400, "on": True})
    direct.reporter.set_summary({"accuracy": 0.75})
    direct.reporter.add_tags(["base line", "0.5"])
    direct.reporter.close("completed")
    assert direct.data.metrics == {"summary/accuracy": 0.75}
    experiment = direct.client.get_run(direct.native.id).info.experiment_id
    assert direct.client.search_runs(
        [experiment], "tags.`tag.base line` = 'base line' and metrics.`summary/accuracy` > 0.7"
    )
    record = direct.read()
    assert record.summary == {"accuracy": 0.75, "note": "x", "huge": 10**400, "on": True}
    assert record.tags == ("0.5", "base line")
    assert record.metrics == {}


# -- status --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "native"),
    [("completed", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED"), ("crashed", "FAILED")],
)
def test_status_is_mlflows_nearest_and_reads_back_exactly(direct: Direct, status: Any, native: str) -> None:
    """MLflow has no word for a crash: it shows a failure, and ours is in a tag."""
    assert direct.read().status == "running"
    direct.reporter.close(status)
    info = direct.client.get_run(direct.native.id).info
    assert info.status == native
    assert info.end_time is not None
    assert direct.read().status == status


def test_run_that_is_gone_on_with_runs_again(direct: Direct) -> None:
    """A finished run that is opened again is the same one, and running."""
    direct.reporter.close("failed")
    direct.open()
    assert direct.client.get_run(direct.native.id).info.status == "RUNNING"
    assert (direct.read().status, direct.read().finished) == ("running", None)


def test_what_the_run_is_called_reads_back(direct: Direct) -> None:
    """Id, name, project, group and start are those of the run."""
    record = direct.read()
    assert (record.run_id, record.name, record.project, record.group) == ("run-1", "a name", "a project", "a group")
    assert record.started == START
    assert direct.client.get_run(direct.native.id).info.run_name == "a name"


# -- settings ------------------------------------------------------------------------------------------------------


def test_environment_variables_mean_what_they_mean_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracking URI (made absolute), experiment, tags, and the greatest number of params."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db?timeout=30")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    monkeypatch.setenv("MLFLOW_TAGS", '{"release": "RC1"}')
    monkeypatch.setenv("MLFLOW_MAX_LOG_PARAMS", "2")
    direct = Direct(tmp_path / "runs")
    direct.reporter.log_config({"a": 1, "b": 2, "c": 3})
    assert direct.native.data["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db?timeout=30"
    run = direct.client.get_run(direct.native.id)
    assert direct.client.get_experiment(run.info.experiment_id).name == "theirs"
    assert run.data.tags["release"] == "RC1"
    assert set(run.data.params) == {"a", "b"}
    monkeypatch.chdir("/")
    assert direct.read().config == {"a": 1, "b": 2, "c": 3}
    assert direct.read().project == "a project"


def test_run_named_by_the_environment_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLFLOW_RUN_ID names a run that exists; params it has already are changed as ours are."""
    other = Direct(tmp_path / "runs", "theirs")
    other.reporter.log_config({"lr": 1})
    other.reporter.close("completed")
    monkeypatch.setenv("MLFLOW_RUN_ID", other.native.id)
    direct = Direct(tmp_path / "runs", "ours")
    direct.reporter.log_config({"lr": 2})
    assert direct.native.id == other.native.id
    assert (direct.read().run_id, direct.read().config, direct.read().status) == ("ours", {"lr": 2}, "running")


def test_run_folders_may_be_anywhere(tmp_path: Path) -> None:
    """Spaces, signs and letters that mean something in URLs are only letters of a path."""
    direct = Direct(tmp_path / "my runs #1 100% é")
    direct.reporter.log_text("note", "hello", 0, START)
    assert direct.read().texts["note"][0].text == "hello"
    assert list((tmp_path / "my runs #1 100% é" / "mlartifacts").rglob("note*.txt"))


def test_folder_that_mlflow_cannot_use_is_refused(tmp_path: Path) -> None:
    """A '?' would silently put the database elsewhere."""
    with pytest.raises(ValueError, match="set MLFLOW_TRACKING_URI"):
        Direct(tmp_path / "what?")


@pytest.mark.parametrize(
    ("uri", "mode"),
    [
        ("", "local"),
        ("sqlite:///my.db", "local"),
        ("http://user:secret@tracking.example", "online"),
        ("databricks", "online"),
    ],
)
def test_availability_says_where_runs_go(monkeypatch: pytest.MonkeyPatch, uri: str, mode: str) -> None:
    """Without settings: local, and how to change that; never a password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = MlflowReporter.availability()
    assert (found.status, found.mode) == ("ready", mode)
    assert "secret" not in found.reason
    assert ("MLFLOW_TRACKING_URI" in found.reason) == (mode == "local")


def test_detection_imports_nothing() -> None:
    """Asking whether MLflow is there doesn't load it."""
    body = (
        "import sys; from runcast.reporters.mlflow import MlflowReporter as R; R(); print(R.availability().status, "
        "'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ready", "False"]


def test_fluent_api_of_this_process_is_left_alone(direct: Direct) -> None:
    """No active run, no tracking URI: the user's own `mlflow` calls go where they went before."""
    import mlflow

    assert mlflow.active_run() is None
    assert not mlflow.is_tracking_uri_set()


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "body", "transient"),
    [
        (503, "away", True),
        (502, "bad gateway", True),
        (429, "slowly", True),
        (500, "oops", True),
        (503, '{"error_code": "TEMPORARILY_UNAVAILABLE"}', True),
        (400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', False),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}', False),
        (403, "forbidden", False),
        (401, '{"detail": "who are you"}', False),
    ],
)
def test_answers_of_a_server_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, body: str, transient: bool
) -> None:
    """What may pass is tried again, what is wrong is not."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    with _always_answers(code, body) as address:
        with pytest.raises(Exception) as caught:
            Direct(tmp_path / "runs", tracking_uri=address)
    assert bool(MlflowReporter().is_transient(caught.value)) is transient
    assert denied(caught.value) is (code in (401, 403))


def test_server_that_is_down_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody listens: that passes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with _always_answers(200, "") as address:
        pass
    with pytest.raises(Exception) as caught:
        Direct(tmp_path / "runs", tracking_uri=address)
    assert MlflowReporter().is_transient(caught.value)


def test_locked_database_is_tried_again_and_a_missing_run_is_not(direct: Direct) -> None:
    """SQLite's busy answer passes; a run that somebody deleted does not come back."""
    import sqlite3

    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

    try:
        try:
            raise sqlite3.OperationalError("database is locked")
        except sqlite3.OperationalError as busy:
            raise MlflowException(str(busy), INTERNAL_ERROR)
    except MlflowException as error:
        assert direct.reporter.is_transient(error)
    with pytest.raises(MlflowException) as caught:
        direct.client.get_run("0" * 32)
    assert not direct.reporter.is_transient(caught.value)


# -- couriers, the server, the example -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[runcast.Run]:
    """Two runs that start at once, in a folder without a database."""
    folder = tmp_path_factory.mktemp("together") / "runs"
    runs = [runcast.start_run("mlflow", project="shared", dir=folder, delivery="process") for _ in range(2)]
    for number, run in enumerate(runs):
        run.log({"x": float(number)}, step=1)
    runs[0].log_image("picture", np.zeros((4, 4, 3), dtype=np.uint8), step=1)
    for run in runs:
        run.finish()
    return runs


def test_runs_that_start_together_share_one_database(together: list[runcast.Run]) -> None:
    """One makes the database and the experiment, the other waits for it."""
    assert [row.done for run in together for row in run.deliveries()] == [True] * 2
    (folder,) = {run.dir.parent for run in together}
    assert sorted(path.name for path in folder.iterdir() if not (path / "journal.jsonl").exists()) == [
        "mlartifacts",
        "mlflow.db",
        "mlflow.db.lock",
    ]
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}, "others may not look at them"
    for number, run in enumerate(together):
        record = MlflowReporter().read(_native(run))
        assert (record.run_id, record.project) == (run.id, "shared")
        assert record.metrics["x"][0].value == number


@pytest.fixture(scope="module")
def address(together: list[runcast.Run], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real server over the database of those runs."""
    with server(together[0].dir.parent / "mlflow.db", tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="module")
def sent(address: str, tmp_path_factory: pytest.TempPathFactory) -> runcast.Run:
    """A run with something of everything, sent through the server."""
    folder = tmp_path_factory.mktemp("sent")
    options = {"mlflow": {"tracking_uri": address}}
    with runcast.start_run(options, project="sent", dir=folder / "runs", config=canonical.CONFIG, tags=["a"]) as run:
        canonical.log_everything(run, folder / "files")
        canonical.log_odd_names(run)
    return run


def test_everything_sent_to_a_server_reads_back(sent: runcast.Run) -> None:
    """Numbers, settings, media and artifacts go through the server and come back whole."""
    (result,) = verify(sent.dir, ["mlflow"])
    assert (result.error, result.differences) == (None, [])
    assert not (sent.dir.parent / "mlflow.db").exists()


def test_server_has_a_page_for_the_run(sent: runcast.Run, address: str) -> None:
    """The URL is the run's page, and the server knows the run by that id."""
    native = _native(sent)
    experiment, run_id = re.fullmatch(rf"{address}/#/experiments/(\d+)/runs/(\w+)", native.url).groups()
    info = _get(address, "ajax-api/2.0/mlflow/runs/get", run_id=run_id)["run"]["info"]
    assert (info["experiment_id"], info["status"]) == (experiment, "FINISHED")
    assert info["artifact_uri"].startswith("mlflow-artifacts:")


def test_local_runs_show_in_the_server_with_their_images(together: list[runcast.Run], address: str) -> None:
    """What `mlflow ui` would show: the run's metrics, and its picture byte by byte."""
    run_id = _native(together[0]).id
    data = _get(address, "ajax-api/2.0/mlflow/runs/get", run_id=run_id)["run"]["data"]
    assert [(metric["key"], metric["value"]) for metric in data["metrics"]] == [("x", 0.0)]
    assert {"key": "mlflow.loggedImages", "value": "True"} in data["tags"]
    files = _get(address, "ajax-api/2.0/mlflow/artifacts/list", run_id=run_id, path="images")["files"]
    (path,) = [file["path"] for file in files if file["path"].endswith(".png")]
    query = urllib.parse.urlencode({"path": path, "run_uuid": run_id})
    with urllib.request.urlopen(f"{address}/get-artifact?{query}", timeout=30) as answer:
        shown = answer.read()
    assert shown == runcast.read_run(together[0].dir).images["picture"][0].image.read()


def test_password_in_the_address_is_used_and_never_written(address: str, tmp_path: Path) -> None:
    """The run's URL and our own files have none, and yet it is read back with it."""
    uri = address.replace("http://", "http://user:s3cret@")
    direct = Direct(tmp_path / "runs", tracking_uri=uri)
    direct.reporter.log_metrics({"x": 1.0}, 0, START)
    assert "s3cret" not in repr(direct.native)
    assert direct.native.data["tracking_uri"] == address
    assert direct.read().metrics == {"x": [Point(0, 1.0, START)]}


def test_example_says_where_to_look(tmp_path: Path) -> None:
    """The example runs without any settings and names the command that shows the run."""
    example = Path(__file__).with_name("example.py")
    environment = {**os.environ, "RUNCAST_DIR": str(tmp_path / "runs")}
    prepare(tmp_path / "runs")
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/runs/mlflow.db" in done.stdout
    assert "104 of 104 events" in done.stdout


# -- helpers -------------------------------------------------------------------------------------------------------


def _native(run: runcast.Run) -> NativeRun:
    return load_state(run.dir, "mlflow").native


def _get(address: str, page: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{address}/{page}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
        return json.load(answer)


def _png() -> bytes:
    from runcast.media import png

    return png(np.zeros((4, 4, 3), dtype=np.uint8))


def _artifact(path: Path, names: list[str] | None = None, name: str = "artifact") -> LocalArtifact:
    files = tuple(StoredFile(each, 0, "") for each in names or [path.name])
    return LocalArtifact(name, "file", path, files, {})


class _always_answers:
    """A server that gives every request the same answer."""

    def __init__(self, code: int, body: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
