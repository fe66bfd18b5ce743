"""Facts of Azure ML alone: the job's run is not ours, no login is ever asked for, and its limits are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import runcast
from runcast.delivery import load_state
from runcast.errors import MissingDependencyError
from runcast.reporters.azureml import AzureMLReporter
from runcast.reporters.mlflow import MlflowReporter
from runcast.sync import sync
from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import deliver_again, native_of
from runcast.verify import verify

from .backend import EXPERIMENT, TOKEN, WORKSPACE, Azure, azure


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    """A workspace."""
    with azure(tmp_path_factory.mktemp("azure")) as workspace:
        yield workspace


@pytest.fixture
def job(workspace: Azure, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a job, which this process is then in."""
    environment = workspace.job()
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return environment


def start(folder: Path, **settings: Any) -> runcast.Run:
    """A run that is reported to Azure ML."""
    settings = {"project": "ours", "delivery": "process", "finish_timeout": PATIENCE, **settings}
    return runcast.start_run("azureml", dir=folder / "runs", **settings)


def assert_delivered(run: runcast.Run) -> None:
    (row,) = run.deliveries()
    assert row.done, f"{row}\n{Path(row.log).read_text()[-3000:]}"
    (result,) = verify(run.dir, ["azureml"])
    assert (result.error, result.differences) == (None, [])


# -- the job's run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_jobs_run_is_logged_to_and_stays_azures(
    status: Any, workspace: Azure, job: dict[str, str], tmp_path: Path
) -> None:
    """It is not renamed, not ended, and there is no other; what became of ours is in its tags."""
    run = start(tmp_path, name="our name", config={"lr": 0.1}, tags=["t"])
    run.log({"loss": 1.0}, step=0)
    run.finish(status)
    assert_delivered(run)
    native = native_of(run.dir, "azureml")
    assert native.id == job["MLFLOW_RUN_ID"]
    stored = workspace.client.get_run(native.id)
    assert (stored.info.run_name, stored.info.status, stored.info.end_time) == ("brave_tree_abc123", "RUNNING", None)
    assert stored.data.params["lr"] == "0.1"
    assert stored.data.tags["runcast.status"] == status
    assert stored.data.tags["mlflow.user"] == "somebody"
    assert workspace.store.runs(run.id) == [(native.id, "RUNNING", "active")]


def test_further_runs_of_a_job_are_below_it(workspace: Azure, job: dict[str, str], tmp_path: Path) -> None:
    """Trials, say, that run at the same time: one has the job's run, each other one its own, with name, status and end."""
    runs = [start(tmp_path, name=f"trial {number}") for number in range(3)]
    for step in range(5):
        for number, run in enumerate(runs):
            run.log({"loss": number * 100.0 + step}, step=step)
    for run, status in zip(runs, ("completed", "failed", "killed"), strict=True):
        run.finish(status)
    for run in runs:
        assert_delivered(run)
    natives = [native_of(run.dir, "azureml").id for run in runs]
    assert len(set(natives)) == 3
    assert natives.count(job["MLFLOW_RUN_ID"]) == 1
    for number, native in enumerate(natives):
        if native != job["MLFLOW_RUN_ID"]:
            stored = workspace.client.get_run(native)
            assert stored.data.tags["mlflow.parentRunId"] == job["MLFLOW_RUN_ID"]
            assert stored.info.run_name == f"trial {number}"
            assert stored.info.status == ("FINISHED", "FAILED", "KILLED")[number]
            assert stored.info.experiment_id == job["MLFLOW_EXPERIMENT_ID"]


def test_run_that_goes_on_is_the_same_one(workspace: Azure, job: dict[str, str], tmp_path: Path) -> None:
    """In the same job, and points that a checkpoint takes back stay: Azure ML takes none back."""
    with start(tmp_path) as run:
        for step in range(5):
            run.log({"loss": 1.0}, step=step)
    first = native_of(run.dir, "azureml")
    with start(tmp_path, resume=run.dir, resume_step=2) as run:
        run.log({"loss": 2.0}, step=3)
    (row,) = run.deliveries()
    assert row.done, row
    assert native_of(run.dir, "azureml") == first
    assert len(workspace.store.rows("SELECT 1 FROM metrics WHERE run_uuid = ? AND key = 'loss'", first.id)) == 6
    assert workspace.store.runs(run.id) == [(first.id, "RUNNING", "active")]


def test_run_is_found_on_azures_pages(job: dict[str, str], tmp_path: Path) -> None:
    """The URL that ml.azure.com has for a run."""
    with start(tmp_path) as run:
        pass
    where = "/subscriptions/0123-4567/resourcegroups/a-group/workspaces/a-workspace"
    assert native_of(run.dir, "azureml").url == f"https://ml.azure.com/runs/{job['MLFLOW_RUN_ID']}?wsid={where}"
    reporter = AzureMLReporter()
    for source in (job["MLFLOW_RUN_ID"], f"runs:/{job['MLFLOW_RUN_ID']}"):
        (native,) = reporter.find_runs(source)
        assert reporter.read(native).run_id == run.id
    assert job["MLFLOW_RUN_ID"] in {native.id for native in reporter.find_runs(EXPERIMENT)}


# -- limits --------------------------------------------------------------------------------------------------------


def test_limits_are_kept_and_nothing_is_lost(workspace: Azure, job: dict[str, str], tmp_path: Path) -> None:
    """More settings, labels and results than fit, long and changing ones too, read back whole; the rest is where it was."""
    config = {f"setting {n}": n for n in range(300)} | {"long": "x" * 20_000, "k" * 200: "y" * 600}
    broken = len(workspace.gate.broken)
    with start(tmp_path, config=config, tags=[f"label {n}" for n in range(60)]) as run:
        run.log({f"metric {n}": float(n) for n in range(45)}, step=0)
        for step in range(300):
            run.log({"loss": float(step)}, step=step)
        run.update_config({"setting 1": "changed", "long": "short", "new": 1})
        run.set_summary({f"result {n}": n for n in range(60)} | {"text": "z" * 5000})
        run.set_summary({"result 1": "a" * 1001, "text": "short"})
        run.set_summary({"result 1": 1})
    assert workspace.gate.broken[broken:] == []
    assert_delivered(run)
    native = native_of(run.dir, "azureml").id
    params, tags = workspace.store.named("params", native), workspace.store.named("tags", native)
    assert len(params) == 200
    assert params["setting 0"] == "0"
    assert len(tags) <= 50
    assert {"runcast.run_id", "runcast.status", "tag.label 0", "mlflow.user"} <= set(tags)
    assert max(map(len, params.values())) <= 500
    assert max(map(len, tags.values())) <= 1000


def test_what_is_delivered_again_is_there_once(workspace: Azure, job: dict[str, str], tmp_path: Path) -> None:
    """Azure ML never lets a file be written over, and a later version of an artifact is what counts."""
    broken = len(workspace.gate.broken)
    file = tmp_path / "model.bin"
    with start(tmp_path, config={"long": "x" * 2000}) as run:
        run.log_text("note", "hello", step=0)
        file.write_bytes(b"first")
        run.log_artifact(file, name="model")
        file.write_bytes(b"second, longer")
        run.log_artifact(file, name="model")
        run.set_summary({"text": "z" * 5000})
    deliver_again(run.dir, "azureml")
    deliver_again(run.dir, "azureml")
    assert workspace.gate.broken[broken:] == []
    assert_delivered(run)
    names = [name for name in workspace.store.files(native_of(run.dir, "azureml").id) if name.startswith("texts/")]
    assert len(names) == 1


# -- who is there --------------------------------------------------------------------------------------------------


def test_jobs_token_is_sent_and_never_written(workspace: Azure, job: dict[str, str], tmp_path: Path) -> None:
    """Every request has it, and none of our files."""
    refused = workspace.gate.refused
    with start(tmp_path) as run:
        run.log_text("note", "hello", step=0)
    assert_delivered(run)
    assert workspace.gate.refused == refused
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_token_that_is_no_good_ends_the_delivery_in_words(
    workspace: Azure, job: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once, and nobody is asked to log in; with the right one a sync delivers everything."""
    asked = workspace.gate.asked
    head, body, _ = TOKEN.split(".")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", f"{head}.{body}.d3Jvbmc")
    with start(tmp_path) as run:
        run.log({"loss": 1.0}, step=0)
    (row,) = run.deliveries()
    assert (row.state, row.delivered) == ("failed", 0)
    assert "MLFLOW_TRACKING_TOKEN has to be that of a job" in load_state(run.dir, "azureml").error
    assert workspace.gate.asked - asked <= 2
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    (row,) = sync(run.dir, PATIENCE)
    assert row.done, row
    assert_delivered(run)


OUTSIDE = """
import os, sys, webbrowser
webbrowser.get = lambda *args: sys.exit("a browser was opened")
import runcast
from runcast.reporter import RunInfo
from runcast.reporters._mlflow_store import connect
from runcast.reporters.azureml import AzureMLReporter
from runcast.reporters.mlflow import MlflowReporter
uri = os.environ["MLFLOW_TRACKING_URI"]
for reporter in (AzureMLReporter(), MlflowReporter(), MlflowReporter(tracking_uri=uri)):
    try:
        reporter.open(RunInfo("r", "n", "p", None, __import__("pathlib").Path("runs/r"), 0.0), None)
    except Exception as error:
        print(type(error).__name__, error)
print("azure.identity" in sys.modules, "azureml.mlflow" in sys.modules)
"""


@pytest.mark.parametrize("missing", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_RUN_ID", "both experiments"])
def test_outside_of_a_job_nobody_is_asked_to_log_in(missing: str, workspace: Azure, tmp_path: Path) -> None:
    """Whichever of a job's variables isn't there, and whoever asks: Azure's code isn't even loaded."""
    environment = {**os.environ, **workspace.job()}
    for variable in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME") if "both" in missing else (missing,):
        del environment[variable]
    command = [sys.executable, "-c", OUTSIDE]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *errors, loaded = done.stdout.splitlines()
    assert len(errors) == 3
    assert all("would have somebody log in, in a browser" in error for error in errors)
    assert loaded == "False False"


# -- detection -----------------------------------------------------------------------------------------------------

JOB = {
    "MLFLOW_TRACKING_URI": f"azureml://eastus.api.azureml.ms/mlflow/v1.0{WORKSPACE}",
    "MLFLOW_TRACKING_TOKEN": TOKEN,
    "MLFLOW_RUN_ID": "brave_tree_abc123",
    "MLFLOW_EXPERIMENT_NAME": "theirs",
}


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (JOB, "ready"),
        ({}, "inactive"),
        ({**JOB, "MLFLOW_TRACKING_TOKEN": ""}, "inactive"),
        ({**JOB, "MLFLOW_RUN_ID": ""}, "inactive"),
        ({**JOB, "MLFLOW_EXPERIMENT_NAME": ""}, "inactive"),
        ({**JOB, "MLFLOW_TRACKING_URI": "https://mlflow.example"}, "inactive"),
        ({"MLFLOW_TRACKING_URI": JOB["MLFLOW_TRACKING_URI"]}, "inactive"),
    ],
)
def test_active_in_a_job_alone(settings: Mapping[str, str], status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a job sets must be there, and its server must be Azure's."""
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    found = AzureMLReporter.availability()
    assert found.status == status
    assert (found.mode == "online") == (status == "ready")
    assert ("not in an Azure ML job" in found.reason) == (status == "inactive")
    if status == "inactive":
        with pytest.raises(MissingDependencyError, match="not in an Azure ML job"):
            runcast.resolve_report_to("azure_ml")


def test_all_reports_to_a_job_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a job MLflow's address is Azure ML's, and so Azure ML's reporter alone writes there; the alias is that one too."""
    for variable, value in JOB.items():
        monkeypatch.setenv(variable, value)
    names = {reporter.name for reporter in runcast.resolve_report_to("all")}
    assert names & {"azureml", "mlflow", "dagshub"} == {"azureml"}
    assert "`azureml` reports to" in MlflowReporter.availability().reason
    with pytest.raises(MissingDependencyError, match="`azureml` reports to"):
        runcast.resolve_report_to("mlflow")
    assert [reporter.name for reporter in runcast.resolve_report_to("azure_ml, azureml")] == ["azureml"]


def test_detection_imports_nothing() -> None:
    """Asking whether this is a job loads no SDK."""
    body = (
        "import sys; from runcast.reporters.azureml import AzureMLReporter as R; R(); R.availability(); "
        "print('mlflow' in sys.modules, 'azureml.mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_example_reports_to_the_job(job: dict[str, str], tmp_path: Path) -> None:
    """The example runs, and says where to look."""
    command = [sys.executable, str(Path(__file__).with_name("example.py"))]
    environment = {**os.environ, "RUNCAST_DIR": str(tmp_path / "runs")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert "azureml: 103 of 103 events" in done.stdout
    assert f"https://ml.azure.com/runs/{job['MLFLOW_RUN_ID']}" in done.stdout
