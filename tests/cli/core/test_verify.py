"""`runcast verify`."""

from __future__ import annotations

import json

import pytest

import runcast


def test_complete_tracker_matches(cli, make_run):
    """Every value is counted by kind, and the exit code is 0."""
    result = cli("verify", make_run(), "--json")
    assert (result.code, result.json["ok"]) == (0, True)
    (tracker,) = result.json["trackers"]
    assert tracker["compared"] == {
        "metrics": {"matched": 20, "total": 20},
        "config": {"matched": 1, "total": 1},
        "status": {"matched": 1, "total": 1},
    }
    assert (tracker["ok"], tracker["differences"], tracker["error"]) == (True, [], None)
    assert tracker["delivery"]["delivered"] == 12


def test_changed_value_is_told(cli, make_run):
    """A number that the tracker has otherwise is named, and the exit code is 1."""
    run_dir = make_run()
    store = run_dir / "shelf.jsonl"
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    lines[3][1]["train/loss"] = 7.0
    store.write_text("\n".join(map(json.dumps, lines)))
    result = cli("verify", run_dir, "--json")
    assert result.code == 1
    (tracker,) = result.json["trackers"]
    assert tracker["compared"]["metrics"] == {"matched": 19, "total": 20}
    (difference,) = tracker["differences"]
    assert "train/loss" in difference
    assert "7.0" in difference
    out = cli("verify", run_dir).out
    assert "19/20" in out
    assert f"shelf: {difference}" in out


def test_kinds_without_a_place_are_no_difference(cli):
    """What the tracker can't hold is named as unsupported, and shown as a dash."""
    with runcast.start_run("shelf", delivery="inline") as run:
        run.log_text("note", "a text")
    result = cli("verify", run.dir, "--json")
    assert result.code == 0
    assert result.json["trackers"][0]["unsupported"] == ["texts"]
    (row,) = (line for line in cli("verify", run.dir).out.splitlines() if "texts" in line)
    assert "—" in row


def test_undelivered_run_does_not_match(cli, make_run, runs):
    """A tracker that has nothing yet is no match, with the reason and how far it is."""
    (runs / "shelf-is-gone").touch()
    result = cli("verify", make_run(), "--json")
    assert result.code == 1
    (tracker,) = result.json["trackers"]
    assert tracker["error"] == "nothing was delivered yet"
    assert tracker["delivery"]["state"] == "failed"
    assert "the shelf is gone" in tracker["delivery"]["detail"]


def test_tracker_that_cannot_be_read_is_told(cli, make_run):
    """An error of the reader is the tracker's result, not the end of the command."""
    run_dir = make_run()
    (run_dir / "shelf.jsonl").unlink()
    result = cli("verify", run_dir, "--json")
    assert result.code == 1
    assert "FileNotFoundError" in result.json["trackers"][0]["error"]


def test_run_without_trackers_is_not_verified(cli, make_run):
    """Nothing compared is not "all matches"."""
    run_dir = make_run("console")
    result = cli("verify", run_dir)
    assert result.code == 1
    assert "nothing to compare" in result.out


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("shelf", 0, None),
        ("console", 1, "this run was not reported to it"),
    ],
)
def test_one_tracker_can_be_chosen(cli, make_run, name, code, said):
    """`--tracker` compares that one; one that the run was not reported to is no match."""
    result = cli("verify", make_run(), "--tracker", name, "--json")
    assert result.code == code
    assert [(tracker["name"], tracker["error"]) for tracker in result.json["trackers"]] == [(name, said)]


def test_unknown_tracker_is_wrong_usage(cli, make_run):
    """A name that nobody registered is one line with the nearest known one."""
    result = cli("verify", make_run(), "--tracker", "shelv")
    assert result.code == 2
    assert "Did you mean 'shelf'?" in result.error
