"""The real server behind a network that fails: training goes on, and afterwards the server has everything once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest

import runcast
from runcast.delivery import TrackerState, load_state
from runcast.journal import FILE_NAME, Journal
from runcast.reporter import RunInfo
from runcast.reporters.mlflow import MlflowReporter
from runcast.sync import sync
from runcast.testing.proxy import Proxy
from runcast.verify import verify_tracker

from .backend import prepare, server
from .store import Store

PATIENCE = 240.0
"""Seconds after which something that doesn't happen is a failure; no test depends on how fast it is."""
START = 1_700_000_000.0


class Server(NamedTuple):
    """The real server."""

    port: int
    store: Store


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server over a database of its own."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TAGS"):
            patch.delenv(f"MLFLOW_{variable}", raising=False)
        with server(prepare(folder), folder / "server") as address:
            yield Server(int(address.rpartition(":")[2]), Store(folder, "server/stored/*/{}/artifacts"))


@pytest.fixture
def proxy(real: Server) -> Iterator[Proxy]:
    """The line to it."""
    with Proxy(real.port) as line:
        yield line


class Training:
    """A run that is reported through the line, and logs some of everything."""

    def __init__(self, folder: Path, proxy: Proxy, finish_timeout: float = PATIENCE) -> None:
        self.run = runcast.start_run(
            {"mlflow": {"tracking_uri": proxy.url}},
            project="outage",
            dir=folder / "runs",
            delivery="process",
            finish_timeout=finish_timeout,
        )
        self._file = folder / "notes.txt"
        self._file.write_text("notes")
        self.step = 0

    def log(self, steps: int) -> None:
        for _ in range(steps):
            self.run.log({"loss": 1 / (self.step + 1), "same": 0.5}, step=self.step)
            self.step += 1

    def log_files(self) -> None:
        self.run.log_text("note", "hello", step=self.step)
        self.run.log_image("picture", np.zeros((4, 4, 3), dtype=np.uint8), step=self.step)
        self.run.log_artifact(self._file)
        self.run.set_summary({"best": 1.0})

    @property
    def state(self) -> TrackerState:
        return load_state(self.run.dir, "mlflow")

    @property
    def logged(self) -> int:
        return Journal(self.run.dir / FILE_NAME).count()

    def assert_everything_is_there_once(self, real: Server, proxy: Proxy) -> None:
        """By our reader, and by what the server's database and folder hold."""
        result = verify_tracker(self.run.dir, MlflowReporter(tracking_uri=proxy.url))
        assert (result.error, result.differences) == (None, [])
        ((native, *fate),) = real.store.runs(self.run.id)
        assert [native, *fate] == [self.state.native.id, "FINISHED", "active"]
        once = {(key, step): 1 for key in ("loss", "same") for step in range(self.step)}
        assert real.store.points(native) == once
        assert real.store.summary(native) == [("summary/best", 1.0)]
        folders = [name.partition("/")[0] for name in real.store.files(native)]
        assert folders == ["artifacts", "images", "images", "manifests", "texts"]


OUTAGES: dict[str, tuple[Callable[[Proxy], None], int, str | None]] = {
    # What happens to requests, how many it has to meet, and what the courier then says.
    "delay": (lambda proxy: proxy.delay(3600), 1, None),
    "drop": (lambda proxy: proxy.drop(), 2, "timed out"),
    "refuse": (lambda proxy: proxy.refuse(), 0, "refused"),
    "reset": (lambda proxy: proxy.reset(), 2, "reset by peer"),
    "429": (lambda proxy: proxy.answer(429, retry_after=1), 2, "429 Too Many Requests"),
    "500": (lambda proxy: proxy.answer(500), 2, "500 Internal Server Error"),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_outage_holds_up_nothing_and_loses_nothing(
    outage: str, real: Server, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the line fails training logs on; when it works again each event comes once, and no process is left."""
    strike, times, words = OUTAGES[outage]
    others = set(psutil.Process().children(recursive=True))
    if outage == "drop":
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")  # else a minute
    training = Training(tmp_path, proxy)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    training.log(1)
    until(lambda: training.state.events == 2)
    struck = proxy.struck

    strike(proxy)
    training.log(20)
    until(lambda: proxy.struck >= struck + times)
    if words is not None:
        until(lambda: words in (training.state.error or ""))
        assert training.state.state == "retrying"
    training.log(20)
    training.log_files()
    assert (training.state.events, training.logged) == (2, 46), "training is ahead, the server has what it had"

    proxy.heal()
    training.run.finish()
    (row,) = training.run.deliveries()
    assert row.done, row
    assert training.state.set_aside == []
    training.assert_everything_is_there_once(real, proxy)
    until(lambda: set(psutil.Process().children(recursive=True)) <= others)


def test_refusal_of_us_ends_the_delivery_and_keeps_everything(real: Server, proxy: Proxy, tmp_path: Path) -> None:
    """With 401 the courier gives up at once, says what to do, sets nothing aside, and a sync delivers it later."""
    training = Training(tmp_path, proxy)
    training.log(1)
    until(lambda: training.state.events == 2)

    proxy.answer(401)
    training.log(20)
    training.log_files()
    until(lambda: training.state.state == "failed")
    assert proxy.struck == 1
    assert "401 Unauthorized" in training.state.error
    assert "set MLFLOW_TRACKING_USERNAME" in training.state.error
    training.log(20)
    training.run.finish()
    (row,) = training.run.deliveries()
    assert (row.state, row.delivered, row.total) == ("failed", 2, 47)
    assert training.state.set_aside == []

    proxy.heal()
    (row,) = sync(training.run.dir, PATIENCE)
    assert row.done, row
    training.assert_everything_is_there_once(real, proxy)


def test_outage_from_the_start(real: Server, proxy: Proxy, tmp_path: Path) -> None:
    """A server that comes up after training began, or after it ended, gets the whole run."""
    proxy.refuse()
    training = Training(tmp_path, proxy, finish_timeout=0.1)
    training.log(5)
    until(lambda: training.state.state == "retrying")
    training.log_files()
    training.run.finish()
    (row,) = training.run.deliveries()
    assert (row.delivered, row.total) == (0, 11)

    proxy.heal()
    until(lambda: training.state.state == "complete")
    training.assert_everything_is_there_once(real, proxy)


class Direct:
    """A reporter that is called here, without a courier."""

    def __init__(self, folder: Path, proxy: Proxy) -> None:
        self.reporter = MlflowReporter(tracking_uri=proxy.url)
        self._info = RunInfo(folder.name, "a name", "outage", None, folder, START)

    def open(self) -> None:
        self.reporter.open(self._info, None)


def test_server_is_given_the_time_that_it_asks_for(proxy: Proxy, tmp_path: Path) -> None:
    """Retry-After reaches the courier, however long it is, instead of MLflow's client waiting for it inside a call."""
    direct = Direct(tmp_path, proxy)
    direct.open()
    proxy.answer(429, retry_after=3600)
    with pytest.raises(Exception, match="429") as caught:
        direct.reporter.log_metrics({"x": 1.0}, 0, START)
    assert direct.reporter.is_transient(caught.value) == 3600.0
    assert proxy.struck == 1
    with pytest.raises(Exception, match="429") as caught:
        direct.reporter.log_text("note", "hello", 0, START)
    assert direct.reporter.is_transient(caught.value) == 3600.0


def test_run_is_made_once_although_the_answer_got_lost(
    real: Server, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server made the run, nobody was told, and the next try finds it instead of making another."""
    from mlflow import MlflowClient

    create = MlflowClient.create_run

    def unheard(*args: Any, **options: Any) -> Any:
        proxy.reset(times=1)
        return create(*args, **options)

    direct = Direct(tmp_path, proxy)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", unheard)
        with pytest.raises(Exception, match="reset by peer") as caught:
            direct.open()
    assert direct.reporter.is_transient(caught.value) is True
    assert proxy.struck == 1
    direct.open()
    assert len(real.store.runs(tmp_path.name)) == 1


def test_users_own_client_in_the_process_is_as_it_was(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread of ours does with MLflow's client changes nothing for the user's calls: those try again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    direct = Direct(tmp_path, proxy)
    direct.open()
    proxy.answer(500, times=2)
    direct.reporter._client.log_metric(direct.reporter._id, "by hand", 1.0)
    assert proxy.struck == 2


def until(condition: Callable[[], bool]) -> None:
    """Waits until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this doesn't happen"
        time.sleep(0.05)
