"""No secret reaches the journal, a tracker, a file, a log or the process list, whichever door it comes through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import runcast
from runcast.delivery import load_state
from runcast.redact import MASK
from runcast.run import Run

from .conftest import PNG, written_below

TOKEN = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"
PASSWORD = f"hunter2{uuid.uuid4().hex}"  # which is in no other argument list of this machine


# -- what is logged ----------------------------------------------------------------------------------------------------


def _failing(run: Run, folder: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), run:
        raise ValueError(f"wrong: --password {PASSWORD}, {TOKEN}")


DOORS: dict[str, Callable[[Run, Path], Any]] = {
    "a metric's name": lambda run, folder: run.log({f"loss/{TOKEN}": 1.0}),
    "a text": lambda run, folder: run.log({"note": f"api_key={PASSWORD} {TOKEN}"}),
    "a text's name": lambda run, folder: run.log({f"note {TOKEN}": "x"}),
    "log_text": lambda run, folder: run.log_text(TOKEN, f"{{'password': '{PASSWORD}'}}"),
    "log_image": lambda run, folder: run.log_image(TOKEN, str(folder / "picture.png")),
    "log_table": lambda run, folder: run.log_table(TOKEN, [TOKEN, "password"], [[f"see {TOKEN}", PASSWORD]]),
    "a table of the environment": lambda run, folder: run.log_table("env", ["name", "value"], [["DB_PASSWORD", PASSWORD]]),
    "log_histogram": lambda run, folder: run.log_histogram(TOKEN, [1.0, 2.0]),
    "an artifact's name": lambda run, folder: run.log_artifact(folder / "picture.png", name=TOKEN),
    "an artifact's metadata": lambda run, folder: run.log_artifact(folder / "picture.png", metadata={"by": {"password": PASSWORD, TOKEN: 1}}),
    "update_config": lambda run, folder: run.update_config({"hub": [{"hub_token": PASSWORD}], "url": f"https://me:{PASSWORD}@h"}),
    "set_summary": lambda run, folder: run.set_summary({"best": TOKEN, "password": PASSWORD, TOKEN: 1}),
    "add_tags": lambda run, folder: run.add_tags(TOKEN, f"password={PASSWORD}"),
    "the reason of its end": _failing,
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_secret_stays_out_of_the_run_folder(door, tmp_path):
    """Whatever of a run is given a secret, neither journal nor artifacts nor tracker have it, by name or by content."""
    (tmp_path / "picture.png").write_bytes(PNG)
    run = runcast.start_run("ledger", delivery="inline", finish_timeout=0.0)
    DOORS[door](run, tmp_path)
    run.finish()
    written = written_below(run.dir)
    assert TOKEN not in written
    assert PASSWORD not in written
    assert MASK in written or door in ("log_image", "log_histogram")
    assert run.deliveries()[0].done


def test_secret_stays_out_of_the_start(tmp_path, monkeypatch):
    """Nor do project, name, group, tags and config of a new run have it, nor those of a run that is gone on with."""
    secrets = {
        "name": f"run {TOKEN}",
        "group": f"password={PASSWORD}",
        "tags": [TOKEN],
        "config": {"api_key": PASSWORD},
    }
    with runcast.start_run("ledger", delivery="inline", project=TOKEN, **secrets) as run:
        assert TOKEN not in run.name + run.project
    runcast.start_run(delivery="inline", resume=run.id, tags=[TOKEN], config={TOKEN: {"password": PASSWORD}}).finish()
    monkeypatch.setenv("RUNCAST_PROJECT", f"of {TOKEN}")
    runcast.start_run("ledger", delivery="inline").finish()
    written = written_below(tmp_path)
    assert TOKEN not in written
    assert PASSWORD not in written


def test_names_that_are_masked_keep_their_values():
    """A metric whose name had to be masked is logged all the same, and so are its later points."""
    with runcast.start_run("ledger", delivery="inline") as run:
        for step in range(3):
            run.log({f"loss/{TOKEN}": step / 2}, step=step)
    assert [point.value for point in runcast.read_run(run.dir).metrics[f"loss/{MASK}"]] == [0.0, 0.5, 1.0]


# -- what a reporter is given ------------------------------------------------------------------------------------------

SCRIPT = """
import json, os, psutil, runcast, sys
options, password = json.load(sys.stdin)  # in no argument, and in no variable, where it would be masked anyway
run = runcast.start_run({"ledger": options}, delivery=os.environ["DELIVERY"])
try:
    run.wait_started()
except runcast.TrackerStartError as error:
    print("it did not start:", error)
def words(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""
listed = [words(process) for process in psutil.process_iter()]
couriers = [child for child in psutil.Process().children() if "runcast.supervisor" in words(child)]
assert couriers or os.environ["LEDGER"] == "refuse" or os.environ["DELIVERY"] == "thread"
print("in the process list:", password in " ".join(listed))
run.log({"loss": 1.0})
run.finish()
print(run.dir)
"""
OPTIONS = {
    "a key": {"api_key": PASSWORD},
    "a URL": {"url": f"http://user:{PASSWORD}@127.0.0.1:1/"},
    "a header": {"headers": {"Authorization": f"Bearer {PASSWORD}"}},
}


@pytest.fixture
def report(tmp_path: Path, ledger: Path) -> Callable[..., tuple[str, str]]:
    """Reports a run from a process of its own; gives what it printed, and what is on disk when all is over."""

    def call(options: dict[str, Any], told: str = "", delivery: str = "process") -> tuple[str, str]:
        home = tmp_path / "home"
        home.mkdir()
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=home,
            env={
                **os.environ,
                **{
                    "HOME": str(home),
                    "TMPDIR": str(home),
                    "RUNCAST_DIR": str(home / "runs"),
                    "PYTHONPATH": _path(ledger),
                },
                **{"LEDGER": told, "DELIVERY": delivery},
            },
            input=json.dumps([options, PASSWORD]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        wait_for_couriers(home)
        return result.stdout + result.stderr, written_below(home)

    return call


def wait_for_couriers(folder: Path) -> None:
    """Waits until no process is left that was started in a folder, so that nobody writes there any more."""
    while any(_cwd(process) == str(folder) for process in psutil.process_iter()):
        time.sleep(0.05)


def _cwd(process: psutil.Process) -> str | None:
    try:
        return process.cwd() if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _path(site: Path) -> str:
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("told", ["", "refuse", "refuse events"])
def test_secret_option_is_nowhere(kind, told, report):
    """It is in no file, no argument list and no message, also when the tracker's error quotes it."""
    printed, written = report(OPTIONS[kind], told)
    assert "in the process list: False" in printed
    assert PASSWORD not in printed
    assert PASSWORD not in written
    assert ("wrong credentials" in written) == bool(told)


@pytest.mark.parametrize("kind", OPTIONS)
def test_secret_option_that_an_sdk_prints_is_masked_in_the_log(kind, report):
    """The log has what the SDK and its children print, to either output and by any means, but for the secret."""
    printed, written = report(OPTIONS[kind], "print")
    assert PASSWORD not in printed
    assert PASSWORD not in written
    assert written.count("wrong credentials") == 4
    assert MASK in written or "[None, 'http://127.0.0.1:1/', None]" in written


def test_secret_option_is_in_no_file_of_a_thread(report):
    """A courier in a thread keeps it from its log and its state, too."""
    _, written = report({"api_key": PASSWORD}, "refuse events", "thread")
    assert PASSWORD not in written
    assert f"wrong credentials: ['{MASK}'" in written


def test_secret_of_the_environment_is_masked_in_errors(monkeypatch):
    """Most keys come from the environment; a tracker's error that quotes one is masked as well."""
    monkeypatch.setenv("LEDGER_API_KEY", PASSWORD)
    monkeypatch.setenv("LEDGER", "refuse")
    with runcast.start_run({"ledger": {"headers": [os.environ["LEDGER_API_KEY"]]}}, delivery="inline") as run:
        pass
    error = load_state(run.dir, "ledger").error
    assert "wrong credentials" in error
    assert PASSWORD not in error


def test_options_that_are_written_down_are_enough_to_go_on():
    """A URL is written down without its userinfo, so that `sync` looks in the right place; what is all secret is left out."""
    options = {"url": f"http://user:{PASSWORD}@127.0.0.1:1/", "api_key": PASSWORD}
    with runcast.start_run({"ledger": options}, delivery="inline") as run:
        pass
    assert load_state(run.dir, "ledger").options == {"url": "http://127.0.0.1:1/"}
