"""The real server behind a door that asks who is there: the contract, several runs at once, right and wrong credentials."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import runcast
from runcast.delivery import load_state
from runcast.reporters.mlflow import MlflowReporter
from runcast.sync import sync
from runcast.testing import canonical
from runcast.testing.contract import PATIENCE, ReporterContract
from runcast.testing.couriers import native_of
from runcast.verify import verify

from .backend import prepare, server
from .gate import Gate, basic, bearer
from .store import Store

TOKEN = "t0ken-of-the-t3am"
VARIABLES = ("URI", "USERNAME", "PASSWORD", "TOKEN")
OTHERS = ("EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TAGS", "MAX_LOG_PARAMS")


class Server(NamedTuple):
    """The real server, which the tests reach through a gate."""

    port: int
    store: Store


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [f"TRACKING_{variable}" for variable in VARIABLES] + list(OTHERS):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server over a database of its own."""
    folder = tmp_path_factory.mktemp("server")
    with server(prepare(folder), folder / "server") as address:
        yield Server(int(address.rpartition(":")[2]), Store(folder, "server/stored/*/{}/artifacts"))


@pytest.fixture(scope="module")
def by_token(real: Server) -> Iterator[Gate]:
    """Its door, for those who have the token."""
    with Gate(real.port, bearer(TOKEN)) as gate:
        yield gate


@pytest.fixture
def known(by_token: Gate, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The door, in an environment that has the token."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", by_token.url)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    return by_token


class TestMlflowServer(ReporterContract):
    """Every promise of the contract holds for a server, with a token in the environment."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _known(cls, by_token: Gate) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", by_token.url)
            patch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
            yield

    @pytest.fixture(autouse=True)
    def _known_again(self, known: Gate) -> None:
        """The test's own environment was cleared."""

    def make_reporter(self, folder: Path) -> MlflowReporter:
        return MlflowReporter()


# -- through the server --------------------------------------------------------------------------------------------


def test_artifacts_go_and_come_back_through_the_server(real: Server, known: Gate, tmp_path: Path) -> None:
    """Files of every size are in the server's own folder, nothing is here, and MLflow's client fetches them byte by byte."""
    from mlflow import MlflowClient

    contents = {"empty": b"", "small": b"\x00\xff", "sub/large": bytes(range(256)) * 40_000}
    for name, data in contents.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(data)
    with start(tmp_path) as run:
        run.log_artifact(tmp_path / "model", name="best", kind="model")
    (row,) = run.deliveries()
    assert row.done, row
    client, native = MlflowClient(known.url), native_of(run.dir, "mlflow")
    assert client.get_run(native.id).info.artifact_uri.startswith("mlflow-artifacts:/")
    fetched = Path(client.download_artifacts(native.id, "artifacts/best", str(tmp_path)))
    assert {name: (fetched / name).read_bytes() for name in contents} == contents
    assert set(real.store.files(native.id)) == {f"artifacts/best/{name}" for name in contents} | {"manifests/best.json"}
    assert not list(run.dir.parent.glob("ml*")), "the files were to be on the server alone"


PROCESS = """
import sys, runcast
number, folder = int(sys.argv[1]), sys.argv[2]
with runcast.start_run("mlflow", project="together", name=f"run {number}", dir=folder, config={"number": number}) as run:
    print(run.dir, flush=True)
    for step in range(200):
        run.log({"x": number * 1000.0 + step, f"own/{number}": step}, step=step)
    run.log_text("note", f"of {number}", step=0)
    (run.dir.parent / f"{number}.bin").write_bytes(bytes([number]) * 1000)
    run.log_artifact(run.dir.parent / f"{number}.bin", name="same name")
    run.set_summary({"number": number})
    run.add_tags(f"tag {number}")
"""


def test_runs_of_several_processes_at_once_stay_apart(real: Server, known: Gate, tmp_path: Path) -> None:
    """Four trainings that start together make one experiment and four runs, each with all that is its own and no more."""
    commands = [[sys.executable, "-c", PROCESS, str(number), str(tmp_path)] for number in range(4)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    folders = [Path(process.communicate(timeout=PATIENCE)[0].strip()) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    natives = [native_of(folder, "mlflow").id for folder in folders]
    assert len(set(natives)) == 4
    assert len({real.store.rows("SELECT experiment_id FROM runs WHERE run_uuid = ?", each)[0] for each in natives}) == 1
    for number, (folder, native) in enumerate(zip(folders, natives, strict=True)):
        (result,) = verify(folder, ["mlflow"])
        assert (result.error, result.differences) == (None, [])
        assert real.store.points(native) == {(key, step): 1 for key in ("x", f"own/{number}") for step in range(200)}
        assert real.store.named("params", native) == {"number": str(number)}


# -- who is there --------------------------------------------------------------------------------------------------


def test_token_of_the_environment_is_sent_and_never_written(known: Gate, tmp_path: Path) -> None:
    """Every request carries it, those for files too, and none of our files has it."""
    refused = known.refused
    with start(tmp_path, config=canonical.CONFIG) as run:
        canonical.log_everything(run, tmp_path / "files")
    (result,) = verify(run.dir, ["mlflow"])
    assert (result.error, result.differences) == (None, [])
    assert known.refused == refused
    assert files_with(TOKEN, tmp_path / "runs") == []


@pytest.mark.parametrize("where", ["option", "environment"])
def test_password_is_sent_and_never_written(
    where: str, real: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the address that an option gives, which travels through standard input alone, or in MLflow's own variables."""
    with Gate(real.port, basic("us er", "pass/w@rd-1")) as gate:
        address = gate.url
        if where == "option":
            address = gate.url.replace("://", "://us%20er:pass%2Fw%40rd-1@")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)  # for reading back
        else:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "us er")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pass/w@rd-1")
        with start(tmp_path, options={"tracking_uri": address}) as run:
            canonical.log_everything(run, tmp_path / "files")
        (row,) = run.deliveries()
        assert row.done, row
        assert native_of(run.dir, "mlflow").url.startswith(f"{gate.url}/#/")
        (result,) = verify(run.dir, ["mlflow"])
        assert (result.error, result.differences) == (None, [])
        assert gate.refused == 0
    for secret in ("pass/w@rd-1", "pass%2Fw%40rd-1", basic("us er", "pass/w@rd-1").removeprefix("Basic ")):
        assert files_with(secret, tmp_path / "runs") == []


@pytest.mark.parametrize("wrong", ["wr0ng-t0ken-of-theirs", ""])
def test_wrong_token_ends_the_delivery_with_what_to_do(
    wrong: str, real: Server, known: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once, said in words, and not written down; with the right token a sync delivers everything."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", wrong)
    asked = known.asked
    with start(tmp_path) as run:
        run.log({"loss": 1.0}, step=0)
        run.log_text("note", "hello", step=0)
    (row,) = run.deliveries()
    assert (row.state, row.delivered) == ("failed", 0)
    assert known.asked - asked == 1, "a request that is refused is not sent again"
    said = load_state(run.dir, "mlflow").error
    assert (
        "doesn't let us in: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN" in said
    )
    assert "401 Unauthorized" in said
    if wrong:
        assert files_with(wrong, tmp_path / "runs") == []
    assert real.store.runs(run.id) == []

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    (row,) = sync(run.dir, PATIENCE)
    assert row.done, row
    (result,) = verify(run.dir, ["mlflow"])
    assert (result.error, result.differences) == (None, [])


def test_token_that_is_withdrawn_loses_nothing(real: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a run, before a file is sent: what came before is there, and the rest comes with the new one."""
    with Gate(real.port, bearer("f1rst-t0ken")) as gate:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.url)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "f1rst-t0ken")
        with start(tmp_path, delivery="inline") as run:
            run.log({"loss": 1.0}, step=0)
            gate.authorization = bearer("s3cond-t0ken")
            run.log_text("note", "hello", step=0)
            run.log({"loss": 0.5}, step=1)
        (row,) = run.deliveries()
        assert row.state == "failed"
        assert gate.refused == 1
        ((native, *_),) = real.store.runs(run.id)
        assert real.store.points(native) == {("loss", 0): 1}

        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cond-t0ken")
        (row,) = sync(run.dir, PATIENCE)
        assert row.done, row
        assert real.store.points(native) == {("loss", step): 1 for step in range(2)}
        (result,) = verify(run.dir, ["mlflow"])
        assert (result.error, result.differences) == (None, [])


# -- helpers -------------------------------------------------------------------------------------------------------


def start(folder: Path, options: dict[str, str] | None = None, **settings: object) -> runcast.Run:
    """A run that is reported to the server."""
    settings = {"delivery": "process", **settings}
    return runcast.start_run(
        {"mlflow": options or {}}, project="server", dir=folder / "runs", finish_timeout=PATIENCE, **settings
    )


def files_with(secret: str, folder: Path) -> list[Path]:
    """The files below a folder that have it."""
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
