"""`runcast ls`."""

from __future__ import annotations

import runcast


def test_runs_are_listed_newest_first(cli, make_run):
    """Id, name, project, status, steps, last values and delivery of each run."""
    old = make_run(name="old", project="p")
    new = make_run(name="new", steps=3)
    result = cli("ls", "--json")
    assert result.code == 0
    assert [run["id"] for run in result.json] == [new.name, old.name]
    run = result.json[1]
    assert (run["name"], run["project"], run["status"], run["steps"]) == ("old", "p", "completed", 9)
    assert run["metrics"] == {"train/loss": 0.1, "eval/accuracy": 0.9}
    assert [(row["name"], row["state"], row["delivered"], row["total"]) for row in run["deliveries"]] == [
        ("shelf", "complete", 12, 12)
    ]


def test_table_shows_the_same_runs(cli, make_run):
    """The table is a view of the same structure."""
    run_dir = make_run(name="[odd] name")
    out = cli("ls").out
    assert run_dir.name in out
    assert "[odd] name" in out
    assert "1 complete" in out


def test_damaged_and_foreign_folders_are_said(cli, make_run, runs):
    """A folder that is no run, or a journal that is none, is listed as unreadable and hides no other run."""
    good = make_run()
    for name, content in {"foreign": b"a diary\n", "binary": bytes(range(256)), "empty": b""}.items():
        (runs / name).mkdir()
        (runs / name / "journal.jsonl").write_bytes(content)
    (runs / "no-run-at-all").mkdir()
    found = {run["id"]: run for run in cli("ls", "--json").json}
    assert found[good.name]["status"] == "completed"
    assert {name: found[name]["status"] for name in ("foreign", "binary", "empty")} == {
        "foreign": "unreadable",
        "binary": "unreadable",
        "empty": "unreadable",
    }
    assert "no-run-at-all" not in found
    assert "is not a run's journal" in cli("ls").out


def test_run_without_an_end_is_crashed(cli, make_run):
    """A run whose process vanished, its last line torn, is listed as crashed with what there is."""
    journal = make_run() / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    events = [line for line in lines if b"run_finished" not in line]
    started = events[0].replace(b'"pid":', b'"pid":9')  # another process, and gone
    journal.write_bytes(started + b"".join(events[1:]) + b'{"type":"metr')
    (run,) = cli("ls", "--json").json
    assert (run["status"], run["steps"]) == ("crashed", 9)


def test_numbers_that_are_not_finite_are_valid_json(cli):
    """NaN and infinities are the journal's words, so that any JSON reader takes them."""
    with runcast.start_run("shelf", delivery="inline") as run:
        run.log({"a": float("nan"), "b": float("-inf")}, step=0)
    assert cli("ls", "--json").json[0]["metrics"] == {"a": "NaN", "b": "-Infinity"}


def test_other_folders_can_be_named(cli, make_run, tmp_path):
    """DIR is the parent of runs, or a run itself; an empty one is said, a missing one is an error."""
    run_dir = make_run()
    assert [run["id"] for run in cli("ls", run_dir, "--json").json] == [run_dir.name]
    assert cli("ls", tmp_path, "--json").json == []
    assert "no runs in" in cli("ls", tmp_path).out
    missing = cli("ls", tmp_path / "missing")
    assert missing.code == 2
    assert missing.error == f"no folder {tmp_path / 'missing'}: name another, or set RUNCAST_DIR"
