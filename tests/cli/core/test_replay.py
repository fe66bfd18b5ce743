"""`runcast replay`."""

from __future__ import annotations

import json
import signal

import pytest


@pytest.fixture
def unknown_to_all(make_run):
    """A finished run that knows no tracker."""
    run_dir = make_run()
    for file in [*(run_dir / "trackers").iterdir(), run_dir / "shelf.jsonl"]:
        file.unlink()
    return run_dir


def test_tracker_that_never_knew_the_run_gets_all_of_it(cli, unknown_to_all):
    """From the first event to the status, and the comparison proves it."""
    result = cli("replay", unknown_to_all, "--to", "shelf", "--json")
    assert result.code == 0
    assert (result.json["ok"], result.json["already"]) == (True, [])
    assert [(row["name"], row["state"], row["delivered"]) for row in result.json["deliveries"]] == [
        ("shelf", "complete", 12)
    ]
    assert cli("verify", unknown_to_all).code == 0


def test_tracker_that_has_the_run_is_left_alone(cli, make_run):
    """Said, exit code 0, and nothing is delivered twice."""
    run_dir = make_run()
    stored = (run_dir / "shelf.jsonl").read_bytes()
    result = cli("replay", run_dir, "--to", "shelf")
    assert result.code == 0
    assert "shelf already has this run" in result.out
    assert cli("replay", run_dir, "--to", "shelf", "--json").json["already"] == ["shelf"]
    assert (run_dir / "shelf.jsonl").read_bytes() == stored


def test_crashed_run_ends_as_crashed(cli, runs, python):
    """A run whose process was killed is replayed with every point and the status crashed."""
    code = (
        "import os, signal, runcast\n"
        "run = runcast.start_run('console', delivery='inline')\n"
        "for step in range(50): run.log({'loss': float(step)}, step=step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert python(code).returncode == -signal.SIGKILL
    (run_dir,) = runs.iterdir()
    assert cli("replay", run_dir, "--to", "shelf").code == 0
    *points, status = (json.loads(line) for line in (run_dir / "shelf.jsonl").read_text().splitlines())
    assert [point[2] for point in points] == list(range(50))
    assert status == ["status", "crashed"]


def test_json_stays_clean_beside_a_reporter_that_prints(cli, unknown_to_all):
    """What the console reporter prints goes to standard error, so that standard output is JSON alone."""
    result = cli("replay", unknown_to_all, "--to", "console", "--json")
    assert result.json["deliveries"][0]["state"] == "complete"
    assert "train/loss" in result.err


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("shelv", "Did you mean 'shelf'?"),
        ("none", "names no tracker"),
        ("", "names no tracker"),
        ("none,shelf", 'report_to has "none" beside shelf'),
    ],
)
def test_trackers_that_make_no_sense_are_refused(cli, unknown_to_all, names, said):
    """An unknown tracker, and none at all, are one line each, and nothing is written."""
    result = cli("replay", unknown_to_all, "--to", names)
    assert result.code == 2
    assert said in result.error
    assert list((unknown_to_all / "trackers").iterdir()) == []


def test_tracker_that_is_down_is_no_success(cli, unknown_to_all, runs):
    """Exit code 1, and `sync` delivers it later."""
    (runs / "shelf-is-gone").touch()
    assert cli("replay", unknown_to_all, "--to", "shelf").code == 1
    (runs / "shelf-is-gone").unlink()
    assert cli("sync", unknown_to_all).code == 0
