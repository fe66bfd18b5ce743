"""The status of a TrainJob, as a real TLS server with the resource's own rules got it."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest

import runcast
from runcast.delivery import load_state
from runcast.errors import MissingDependencyError
from runcast.registry import resolve_report_to
from runcast.reporter import RunInfo
from runcast.reporters import kubeflow
from runcast.reporters.kubeflow import CA_CERT, PERIOD, TOKEN, URL, KubeflowReporter, StatusError
from runcast.sync import sync
from runcast.testing.couriers import PATIENCE, python, wait_delivered

from .backend import Certificates, StatusServer


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between updates."""
    monkeypatch.setattr(kubeflow, "PERIOD", 0.0)


def opened(folder: Path, config: dict[str, Any] | None = None, started: float = 1000.0) -> KubeflowReporter:
    """A reporter that has begun a run."""
    reporter = KubeflowReporter()
    reporter.open(RunInfo("id", "name", "project", None, folder, started, config or {}), None)
    return reporter


def wait_for_state(run_dir: Path, state: str) -> None:
    """Waits until the courier is there."""
    deadline = time.monotonic() + PATIENCE
    while (found := load_state(run_dir, "kubeflow")) is None or found.state != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_run_is_the_status_of_its_job(server: StatusServer, tmp_path: Path) -> None:
    """Progress goes from 0 to 100, the latest values are shown, and updates keep their distance but for the last."""
    with runcast.start_run("kubeflow", dir=tmp_path, config={"training": {"max_steps": 70}}) as run:
        for step in range(60):
            run.log({"train/loss": 1 / (step + 1), "train/lr": 0.1 + 0.2}, step=step)
            time.sleep(0.1)
        run.log({"eval/accuracy": 0.75}, step=59)
    (row,) = run.deliveries()
    assert row.done, row
    assert row.where == server.url
    shown = [update.status.get("progressPercentage") for update in server.updates]
    assert (shown[0], shown[-1]) == (0, 100)
    assert shown == sorted(shown) and 0 < shown[-2] < 100
    assert server.updates[-2].status["estimatedRemainingSeconds"] >= 0
    assert server.last["estimatedRemainingSeconds"] == 0
    assert server.metrics() == {
        "current_step": "59",
        "total_steps": "70",
        "eval/accuracy": "0.75",
        "train/loss": repr(1 / 60),
        "train/lr": repr(0.1 + 0.2),
    }
    sent = [update.when for update in server.updates[:-1]]
    assert all(later - earlier > PERIOD - 0.5 for earlier, later in zip(sent, sent[1:], strict=False))
    assert len(sent) >= 3


def test_last_values_are_shown_though_nothing_follows(server: StatusServer, tmp_path: Path) -> None:
    """What was logged within the pause is sent when that is over, while the run goes on in silence."""
    run = runcast.start_run("kubeflow", dir=tmp_path)
    for step in range(3):
        run.log({"loss": float(step)}, step=step)
    wait_delivered(run.dir, "kubeflow")
    assert server.metrics() == {"current_step": "2", "loss": "2.0"}
    run.finish()


@pytest.mark.parametrize(
    ("config", "metrics", "step", "progress"),
    [
        ({"max_steps": 8}, {}, 2, 25),
        ({"max_steps": 8}, {}, 8, 99),
        ({"max_steps": 8}, {}, 80, 99),
        ({"args": {"max_steps": -1, "num_train_epochs": 4.0}}, {"train/epoch": 1.0}, 700, 25),
        ({"max_steps": 1000, "num_train_epochs": 4.0}, {"train/epoch": 3.0}, 290, 29),
        ({"model": {"deep": {"max_steps": 5}}, "max_steps": 50}, {}, 5, 10),
        ({"trainer": {"max_epochs": 10}}, {"epoch": 5}, 3, 50),
        ({"max_steps": True, "epochs": "many"}, {"epoch": 1}, 1, None),
        ({"max_steps": math.nan, "total_steps": math.inf}, {"epoch": 1}, 1, None),
        ({"epochs": 3}, {"epoch": math.nan}, 1, None),
        ({}, {"epoch": 1}, 1, None),
    ],
)
def test_progress(
    config: dict[str, Any],
    metrics: dict[str, float],
    step: int,
    progress: int | None,
    server: StatusServer,
    tmp_path: Path,
    hasty: None,
) -> None:
    """Progress is told where config and metrics tell it, and is below 100 as long as the run goes on."""
    reporter = opened(tmp_path, config)
    assert server.last["progressPercentage"] == 0
    reporter.log_metrics({"loss": 1.0, **metrics}, step, 1010.0)
    reporter.flush()
    assert server.last.get("progressPercentage") == progress
    reporter.close("completed")
    assert server.last["progressPercentage"] == 100


def test_progress_with_a_config_learnt_later(server: StatusServer, tmp_path: Path, hasty: None) -> None:
    """The rest is estimated from the pace, by the times at which steps were logged; the status says when that was."""
    reporter = opened(tmp_path)
    reporter.log_config({"args": {"max_steps": 100}})
    reporter.log_metrics({"loss": 1.0}, 10, 1010.0)
    reporter.flush()
    assert "estimatedRemainingSeconds" not in server.last
    reporter.log_metrics({"loss": 1.0}, 60, 1110.0)
    reporter.log_metrics({"loss": 1.0}, 20, 1000.0)
    reporter.flush()
    assert (server.last["progressPercentage"], server.last["estimatedRemainingSeconds"]) == (60, 80)
    assert server.last["lastUpdatedTime"] == "1970-01-01T00:18:30Z"


@pytest.mark.parametrize("status", ["failed", "killed", "crashed"])
def test_other_ends_are_not_shown_as_complete(status: Any, server: StatusServer, tmp_path: Path, hasty: None) -> None:
    """A run that didn't complete keeps its progress, and promises no end."""
    reporter = opened(tmp_path, {"max_steps": 10})
    for step in (1, 10):
        reporter.log_metrics({"loss": 1.0}, step, 1000.0 + step)
    reporter.close(status)
    assert server.last["progressPercentage"] == 99
    assert "estimatedRemainingSeconds" not in server.last


def test_everything_fits_the_schema(server: StatusServer, tmp_path: Path, hasty: None) -> None:
    """NaN, infinity, more metrics, longer names and more bytes than a TrainJob takes are no refused update."""
    reporter = opened(tmp_path)
    reporter.log_metrics({"nan": math.nan, "inf": -math.inf, "tiny": 5e-324, "whole": 3.0}, 2**60, 2000.0)
    reporter.log_metrics({"x" * 100 + "a": 1.0, "x" * 100 + "b": 2.0, "x" * 64: 3.0}, 1, 2000.0)
    reporter.flush()
    shown = server.metrics()
    assert (shown["nan"], shown["inf"], shown["tiny"], shown["whole"]) == ("nan", "-inf", "5e-324", "3.0")
    assert sorted(value for name, value in shown.items() if name.startswith("xxx")) == ["1.0", "2.0", "3.0"]
    reporter.log_metrics({f"many/{number}": float(number) for number in range(1000)}, 2, 2000.0)
    reporter.flush()
    assert len(server.metrics()) == 256
    assert server.metrics()["many/999"] == "999.0" and "many/0" not in server.metrics()
    reporter.log_metrics({f"{number}{'🚀' * 200}": 1 / 3 for number in range(300)}, 3, 2000.0)
    reporter.flush()
    assert len(server.metrics()) > 100
    assert server.requests == [200] * 4


def test_own_names_come_first(server: StatusServer, tmp_path: Path, hasty: None) -> None:
    """A metric that is called as our own is shown instead of it."""
    reporter = opened(tmp_path, {"max_steps": 10})
    reporter.log_metrics({"current_step": 77.0}, 3, 2000.0)
    reporter.flush()
    assert server.metrics() == {"total_steps": "10", "current_step": "77.0"}


# -- token, trust, outages ---------------------------------------------------------------------------------------------


def test_token_is_read_again(
    server: StatusServer, tmp_path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new token is used at once, also when it comes between our reading the old one and the server's looking at it."""
    file = tmp_path / "token"
    reporter = opened(tmp_path)
    file.write_text("second\n")
    server.token = "second"
    reporter.log_metrics({"loss": 1.0}, 1, 2000.0)
    reporter.flush()
    assert server.metrics()["loss"] == "1.0"

    answer = server.answer

    def rotated(*request: Any) -> tuple[int, dict[str, str], str]:
        file.write_text("third")
        server.token = "third"
        return answer(*request)

    monkeypatch.setattr(server, "answer", rotated)
    reporter.log_metrics({"loss": 2.0}, 2, 2000.0)
    reporter.flush()
    assert server.metrics()["loss"] == "2.0"
    assert server.requests == [200, 200, 403, 200]


@pytest.mark.parametrize("code", [401, 403])
def test_refused_token_is_told(code: int, server: StatusServer, tmp_path: Path) -> None:
    """A token that isn't taken fails the tracker at its start, with the reason and without a second try; it is mended later."""
    server.fail_with = [(code, {})] * 2
    with runcast.start_run("kubeflow", dir=tmp_path, config={"max_steps": 10}) as run:
        run.log({"loss": 1.0}, step=1)
    (row,) = run.deliveries()
    assert row.state == "failed"
    assert f"answered {code}" in row.detail
    assert server.requests == [code]
    server.fail_with = []
    (row,) = sync(run.dir, timeout=PATIENCE)
    assert row.done, row
    assert server.last["progressPercentage"] == 100
    assert server.metrics()["loss"] == "1.0"


def test_server_that_is_busy_is_asked_again(server: StatusServer, tmp_path: Path) -> None:
    """5xx and 429 lose nothing: the same status comes again, after as many seconds as the server says."""
    server.fail_with = [(500, {}), (503, {"Retry-After": "1"}), (429, {"Retry-After": "1"})]
    with runcast.start_run("kubeflow", dir=tmp_path) as run:
        run.log({"loss": 1.0}, step=1)
    (row,) = run.deliveries()
    assert row.done, row
    assert server.requests[:4] == [500, 503, 429, 200]
    assert server.last["progressPercentage"] == 100 and server.metrics()["loss"] == "1.0"


@pytest.mark.parametrize(("after", "verdict"), [("7", 7.0), ("", True)])
def test_retry_after_counts(after: str, verdict: object, server: StatusServer, tmp_path: Path) -> None:
    """The server's own pause is what the courier waits at least."""
    server.fail_with = [(503, {"Retry-After": after})]
    reporter = KubeflowReporter()
    with pytest.raises(StatusError, match="503") as caught:
        reporter.open(RunInfo("id", "name", "project", None, tmp_path, 1000.0), None)
    assert reporter.is_transient(caught.value) == verdict


def test_outage(server: StatusServer, certificates: Certificates, tmp_path: Path) -> None:
    """While there is no server the run goes on, and when it is back the job has the last status."""
    run = runcast.start_run("kubeflow", dir=tmp_path, config={"max_steps": 10})
    run.log({"loss": 1.0}, step=1)
    wait_delivered(run.dir, "kubeflow")
    server.__exit__()
    run.log({"loss": 2.0}, step=2)
    wait_for_state(run.dir, "retrying")
    run.log({"loss": 3.0}, step=3)
    server.__enter__()
    run.finish()
    (row,) = run.deliveries()
    assert row.done, row
    assert server.metrics()["loss"] == "3.0"
    assert server.last["progressPercentage"] == 100


def test_server_has_to_be_vouched_for(server: StatusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose certificate another authority signed gets no token, and isn't asked for ever."""
    (tmp_path / "other").mkdir()
    monkeypatch.setenv(CA_CERT, str(Certificates.made(tmp_path / "other").authority))
    with runcast.start_run("kubeflow", dir=tmp_path / "runs") as run:
        pass
    (row,) = run.deliveries()
    assert row.state == "failed"
    assert "CERTIFICATE_VERIFY_FAILED" in row.detail
    assert server.requests == []


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (URL, "http://127.0.0.1:1/status", "expected https://"),
        (URL, "status", "expected https://"),
        (TOKEN, "", "has to name the file"),
        (TOKEN, "/nowhere/token", "No such file"),
        (CA_CERT, "/nowhere/ca.crt", "No such file"),
    ],
)
def test_wrong_environment(
    variable: str, value: str, words: str, server: StatusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't work is an error of the start that says what is wrong, and no token goes out unencrypted."""
    monkeypatch.setenv(variable, value)
    reporter = KubeflowReporter()
    with pytest.raises((ValueError, OSError), match=words) as caught:
        reporter.open(RunInfo("id", "name", "project", None, tmp_path, 1000.0), None)
    assert reporter.is_transient(caught.value) is False
    assert server.requests == []


def test_redirects_and_proxies_are_not_followed(
    server: StatusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token goes to the server that the controller named, and nowhere else."""
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    reporter = opened(tmp_path)
    assert server.requests == [200]
    server.fail_with = [(307, {"Location": server.url})]
    with pytest.raises(StatusError, match="307"):
        reporter.close("completed")
    assert server.requests == [200, 307]


# -- where it is active ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "status", "mode", "reason"),
    [
        ({}, "inactive", None, "KUBEFLOW_TRAINER_SERVER_URL isn't set"),
        ({URL: ""}, "inactive", None, "KUBEFLOW_TRAINER_SERVER_URL isn't set"),
        ({URL: "https://server/status"}, "ready", "online", ""),
        ({URL: "https://s", "DISABLE_KUBEFLOW_INTEGRATION": "TRUE"}, "inactive", None, "DISABLE_KUBEFLOW_INTEGRATION"),
        ({URL: "https://s", "DISABLE_KUBEFLOW_INTEGRATION": "true"}, "inactive", None, "DISABLE_KUBEFLOW_INTEGRATION"),
        ({URL: "https://s", "DISABLE_KUBEFLOW_INTEGRATION": "FALSE"}, "ready", "online", ""),
    ],
)
def test_availability(
    variables: dict[str, str], status: str, mode: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is active in a TrainJob that takes a status, unless it is switched off as in transformers."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = KubeflowReporter.availability()
    assert (found.status, found.mode) == (status, mode)
    assert re.search(reason, found.reason)
    assert any(reporter.name == "kubeflow" for reporter in resolve_report_to("all")) == (status == "ready")


def test_named_outside_a_job(tmp_path: Path) -> None:
    """Whoever asks for it by name elsewhere is told at once what is missing."""
    with pytest.raises(MissingDependencyError, match="not in a TrainJob"):
        runcast.start_run("kubeflow", dir=tmp_path)


def test_example_runs(server: StatusServer, tmp_path: Path) -> None:
    """The example shows its last values and 100 percent."""
    done = python(Path(__file__).with_name("example.py").read_text(), str(tmp_path))
    assert re.search(r"kubeflow: \d+ of \d+ events", done.stdout)
    assert server.last["progressPercentage"] == 100
    assert server.metrics()["current_step"] == "99"
