"""Facts of DagsHub alone: which repository, which token, and that nothing else is asked of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import runcast
from runcast.delivery import load_state
from runcast.reporters.dagshub import DagsHubReporter
from runcast.reporters.mlflow import MlflowReporter
from runcast.sync import sync
from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import native_of
from runcast.verify import verify

from ..mlflow.gate import Gate, basic
from .backend import REPO, TOKEN, dagshub


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """DagsHub."""
    with dagshub(tmp_path_factory.mktemp("dagshub")) as gate:
        yield gate


@pytest.fixture
def address(there: Gate, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server of the repository, on a DagsHub that is elsewhere."""
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", there.url)
    return f"{there.url}/{REPO}.mlflow"


def report(folder: Path, report_to: object) -> runcast.Run:
    """A run that logged something."""
    with runcast.start_run(
        report_to, project="hub", dir=folder / "runs", delivery="process", finish_timeout=PATIENCE
    ) as run:
        run.log({"loss": 1.0}, step=0)
        run.log_text("note", "hello", step=0)
    return run


def assert_delivered(run: runcast.Run) -> None:
    (row,) = run.deliveries()
    assert (row.name, row.done) == ("dagshub", True), row
    (result,) = verify(run.dir, ["dagshub"])
    assert (result.error, result.differences) == (None, [])


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


# -- repository and token ------------------------------------------------------------------------------------------


def test_token_is_sent_and_never_written(
    there: Gate, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an option, with the repository: the run is on the repository's page, and none of our files has the token."""
    refused = there.refused
    run = report(tmp_path, {"dagshub": {"repo": REPO, "token": TOKEN}})
    native = native_of(run.dir, "dagshub")
    assert native.data == {"tracking_uri": address}
    assert native.url.startswith(f"{address}/#/experiments/")
    assert there.refused == refused
    for secret in (TOKEN, basic(TOKEN, TOKEN).removeprefix("Basic "), "d4gshub-t0ken%2Fwith%2Bsigns"):
        assert files_with(secret, tmp_path / "runs") == []
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)  # reading back, later, has it from there
    assert_delivered(run)


@pytest.mark.parametrize(
    "variables", [("DAGSHUB_USER_TOKEN",), ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")]
)
def test_what_is_set_for_mlflow_or_dagshub_is_enough(
    variables: tuple[str, ...], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that DagsHub's pages tell people to set, and either kind of credentials."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for variable in variables:
        monkeypatch.setenv(variable, TOKEN)
    assert (DagsHubReporter.availability().status, DagsHubReporter.availability().mode) == ("ready", "online")
    assert_delivered(report(tmp_path, "dagshub"))


def test_wrong_token_ends_the_delivery_with_what_to_do(
    there: Gate, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once; with the right one a sync delivers everything."""
    asked = there.asked
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "wr0ng-t0ken")
    run = report(tmp_path, "dagshub")
    (row,) = run.deliveries()
    assert (row.state, row.delivered) == ("failed", 0)
    assert there.asked - asked == 1
    assert f"{address} doesn't let us in: set DAGSHUB_USER_TOKEN" in load_state(run.dir, "dagshub").error
    assert files_with("wr0ng-t0ken", tmp_path / "runs") == []
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
    (row,) = sync(run.dir, PATIENCE)
    assert row.done, row
    assert_delivered(run)


def test_repository_that_is_not_there_is_an_error_and_not_made(
    there: Gate, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only thing that is asked for is its MLflow server."""
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
    run = report(tmp_path, {"dagshub": {"repo": "an-owner/nothing"}})
    (row,) = run.deliveries()
    assert (row.state, row.delivered) == ("failed", 0)
    assert "404" in load_state(run.dir, "dagshub").error
    assert there.paths[-1].startswith("/an-owner/nothing.mlflow/api/2.0/mlflow/experiments/get-by-name")
    others = [path for path in there.paths if not re.match(r"/an-owner/[\w.]+\.mlflow/(api/|version$)", path)]
    assert others == [], "DagsHub's own API was called"


def test_mlflows_password_goes_to_its_own_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for another server is no credential for a repository of DagsHub's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "their-secret")
    with pytest.raises(ValueError, match="no token: set DAGSHUB_USER_TOKEN"):
        DagsHubReporter(repo=REPO).open(_info(), None)


@pytest.mark.parametrize(
    "repo", ["", "name", "owner/name/more", "https://dagshub.com/owner/name", "owner/na me", "a@b/c"]
)
def test_repository_of_another_shape_is_refused(repo: str) -> None:
    """OWNER/NAME, whatever else people may copy."""
    with pytest.raises(ValueError, match="OWNER/NAME"):
        DagsHubReporter(repo=repo)


# -- detection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({}, "on request", "no repository: set the option `repo`"),
        ({"DAGSHUB_USER_TOKEN": TOKEN}, "on request", "no repository"),
        ({"MLFLOW_TRACKING_URI": "https://mlflow.example"}, "on request", "no repository"),
        ({"MLFLOW_TRACKING_URI": "https://dagshub.com.evil.example/o/r.mlflow"}, "on request", "no repository"),
        ({"MLFLOW_TRACKING_URI": "http://dagshub.com/o/r.mlflow"}, "on request", "no repository"),
        ({"MLFLOW_TRACKING_URI": "https://dagshub.com/o/r.mlflow"}, "on request", "no token: set DAGSHUB_USER_TOKEN"),
        ({"MLFLOW_TRACKING_URI": "https://dagshub.com/o/r.mlflow", "DAGSHUB_USER_TOKEN": TOKEN}, "ready", ""),
        ({"MLFLOW_TRACKING_URI": "https://dagshub.com/o/r.mlflow/", "DAGSHUB_USER_TOKEN": TOKEN}, "ready", ""),
        ({"MLFLOW_TRACKING_URI": "https://me:secret@dagshub.com/o/r.mlflow"}, "ready", ""),
    ],
)
def test_availability_says_what_is_missing(
    settings: dict[str, str], status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a repository and a token "all" leaves DagsHub out, and nobody is asked for them."""
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    found = DagsHubReporter.availability()
    assert found.status == status
    assert words in found.reason
    assert "secret" not in found.reason


def test_named_without_settings_is_an_error_in_words(tmp_path: Path) -> None:
    """Nothing is reported anywhere instead."""
    run = report(tmp_path, "dagshub")
    (row,) = run.deliveries()
    assert (row.state, row.delivered) == ("failed", 0)
    assert "no repository: set the option `repo` to OWNER/NAME" in load_state(run.dir, "dagshub").error


def test_all_reports_to_one_server_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MLflow's settings name a repository of DagsHub's, that is DagsHub's; elsewhere, MLflow's. By name both work."""
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
    for uri, expected in (("https://dagshub.com/o/r.mlflow", "dagshub"), ("https://mlflow.example", "mlflow")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        names = {reporter.name for reporter in runcast.resolve_report_to("all")}
        assert names & {"dagshub", "mlflow"} == {expected}
        assert MlflowReporter.availability().usable
        assert [reporter.name for reporter in runcast.resolve_report_to("mlflow")] == ["mlflow"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://dagshub.com/o/r.mlflow")
    assert "`dagshub` reports to" in MlflowReporter.availability().reason


def test_detection_imports_nothing() -> None:
    """Asking whether DagsHub is there loads no SDK; its own package isn't needed at all."""
    body = (
        "import sys; from runcast.reporters.dagshub import DagsHubReporter as R; R(); R.availability(); "
        "print('mlflow' in sys.modules, 'dagshub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- joined runs, imports, the example -----------------------------------------------------------------------------

JOINED = """
import mlflow, runcast, sys
mlflow.set_experiment("theirs")
with mlflow.start_run(run_name="by hand") as theirs:
    with runcast.start_run("dagshub", project="ours", dir=sys.argv[1], delivery="process") as run:
        run.log({"loss": 1.0}, step=0)
    (row,) = run.deliveries()
    assert row.done, row
    found = mlflow.MlflowClient().get_run(theirs.info.run_id)
    print(found.data.metrics, found.info.status, runcast.resolve_report_to("dagshub")[0].joins())
mlflow.set_tracking_uri(f"sqlite:///{sys.argv[2]}")
mlflow.set_experiment("elsewhere")
with mlflow.start_run():
    print(runcast.resolve_report_to({"dagshub": {"repo": sys.argv[3]}})[0].joins())
"""


def test_run_that_the_user_opened_there_is_joined(address: str, tmp_path: Path) -> None:
    """One in the repository; an MLflow run elsewhere is another matter."""
    from ..mlflow.backend import prepare

    database = prepare(tmp_path / "elsewhere")
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_TRACKING_USERNAME": TOKEN,
        "MLFLOW_TRACKING_PASSWORD": TOKEN,
        "DAGSHUB_USER_TOKEN": TOKEN,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-c", JOINED, str(tmp_path / "runs"), str(database), REPO]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("{", "True", "False"))]
    assert lines == ["{'loss': 1.0} RUNNING True", "False"]


def test_runs_of_the_repository_are_found(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By id, page and experiment, as MLflow's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", TOKEN)
    run = report(tmp_path, "dagshub")
    native = native_of(run.dir, "dagshub")
    reporter = DagsHubReporter()
    for source in (native.id, f"runs:/{native.id}", native.url, "hub"):
        (found,) = [found for found in reporter.find_runs(source) if found.id == native.id]
        assert reporter.read(found).run_id == run.id
        assert TOKEN not in repr(found)


def test_example_reports_to_the_repository(address: str, tmp_path: Path) -> None:
    """The example runs, and says where to look."""
    environment = {
        **os.environ,
        "RUNCAST_DIR": str(tmp_path / "runs"),
        "MLFLOW_TRACKING_URI": address,
        "DAGSHUB_USER_TOKEN": TOKEN,
    }
    command = [sys.executable, str(Path(__file__).with_name("example.py"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert "dagshub: 103 of 103 events" in done.stdout
    assert f"{address}/#/experiments/" in done.stdout


def _info() -> object:
    from runcast.reporter import RunInfo

    return RunInfo("run", "name", "project", None, Path("runs/run"), 0.0)
