"""`runcast sync`."""

from __future__ import annotations

import fcntl
import json
import threading

import msgspec
import pytest

import runcast
from runcast.delivery import load_state, log_path, save_state


@pytest.fixture
def held(runs):
    """Takes the lock that a live courier has, and says how to give it back."""
    held = []

    def hold(run_dir):
        file = log_path(run_dir, "shelf").with_suffix(".lock").open("a")
        fcntl.flock(file, fcntl.LOCK_EX)
        held.append(file)
        return file.close

    yield hold
    for file in held:
        file.close()


@pytest.fixture
def pending_run(make_run, runs):
    """A finished run that its tracker has nothing of."""
    (runs / "shelf-is-gone").touch()
    run_dir = make_run()
    (runs / "shelf-is-gone").unlink()
    return run_dir


def test_pending_run_is_delivered(cli, pending_run):
    """What a tracker missed is delivered by a courier in a process, and says so; a second time there is nothing to do."""
    assert load_state(pending_run, "shelf").state == "failed"
    result = cli("sync", pending_run.name, "--json")
    assert result.code == 0
    (run,) = result.json
    assert (run["run"], run["ok"]) == (pending_run.name, True)
    (row,) = run["deliveries"]
    assert (row["name"], row["state"], row["delivered"], row["total"]) == ("shelf", "complete", 12, 12)
    stored = (pending_run / "shelf.jsonl").read_text()
    assert len(stored.splitlines()) == 12  # the config, ten steps, the status
    again = cli("sync", pending_run)
    assert again.code == 0
    assert "12/12" in again.out
    assert (pending_run / "shelf.jsonl").read_text() == stored


def test_tracker_that_is_still_gone_is_no_success(cli, pending_run, runs):
    """A tracker that refuses again is told with its reason, and the exit code is 1."""
    (runs / "shelf-is-gone").touch()
    result = cli("sync", pending_run, "--json")
    assert result.code == 1
    (row,) = result.json[0]["deliveries"]
    assert (row["state"], row["delivered"]) == ("failed", 0)
    assert row["detail"] == "ValueError: the shelf is gone"


def test_waiting_ends_at_the_timeout(cli, pending_run, runs):
    """While a tracker is out of reach the courier tries on; the command gives up waiting, and says it is not done."""
    (runs / "shelf-is-down").touch()
    result = cli("sync", pending_run, "--timeout", "2", "--json")
    assert result.code == 1
    assert result.json[0]["ok"] is False
    (runs / "shelf-is-down").unlink()
    assert cli("sync", pending_run).code == 0  # by the courier that was left at work, or by a new one


def test_all_runs_of_a_folder(cli, pending_run, make_run, runs):
    """`--all` syncs every run of the folder; a run is told of when something was brought to a tracker."""
    complete = make_run()
    result = cli("sync", "--all", "--json")
    assert result.code == 0
    assert {run["run"]: run["ok"] for run in result.json} == {pending_run.name: True, complete.name: True}
    assert {run["run"] for run in cli("sync", "--all", runs, "--json").json} == {pending_run.name, complete.name}
    assert cli("sync", "--all") == (0, "", "")


def test_news_and_what_is_left_are_told_apart(cli, pending_run, make_run, runs):
    """Of all runs, standard output has those that something was brought to, standard error what is not delivered."""
    unheard_of = make_run()
    state = load_state(unheard_of, "shelf")
    save_state(unheard_of, msgspec.structs.replace(state, name="shelv", state="failed"))
    result = cli("sync", "--all")
    assert result.code == 1
    assert "12/12" in result.out
    assert "shelv" not in result.out
    assert result.err.startswith(
        f"{unheard_of}: shelv failed, 12 of 12 events delivered. no tracker is called 'shelv'."
    )
    assert len(result.err.splitlines()) == 1


def test_all_means_below(cli, pending_run, make_run, runs, tmp_path):
    """Runs are found at any depth and once each; run folders, hidden folders and links are not looked into."""
    deep = tmp_path / "experiments" / "a" / "runs"
    deep.mkdir(parents=True)
    found = [pending_run.rename(deep / pending_run.name), make_run().rename(deep.parent / "single")]
    for place in (found[0] / "artifacts", tmp_path / "experiments" / ".trash"):
        place.mkdir(exist_ok=True)
        make_run().rename(place / "hidden")
    (tmp_path / "experiments" / "link").symlink_to(make_run())
    result = cli("sync", "--all", tmp_path / "experiments", deep, "--json")
    assert result.code == 0
    assert sorted(run["dir"] for run in result.json) == sorted(map(str, found))


@pytest.mark.parametrize("content", [b"a diary\n", bytes(range(256)), b'{"type":"run_started","format":99}\n'])
def test_folder_that_cannot_be_read_is_passed_over(cli, pending_run, runs, content):
    """A journal that is none, or damaged, is said in a line and keeps no other run; since it may be a loss, the code is 1."""
    (runs / "foreign").mkdir()
    (runs / "foreign" / "journal.jsonl").write_bytes(content)
    result = cli("sync", "--all", "--json")
    assert result.code == 1
    assert [(run["run"], run["ok"]) for run in result.json] == [(pending_run.name, True)]
    (line,) = result.err.splitlines()
    assert line.startswith("passed over: ")
    assert str(runs / "foreign") in line


def test_run_that_never_began_has_nothing_to_deliver(cli, runs):
    """An empty journal, of a run that starts at this moment, is nothing to tell."""
    (runs / "begins").mkdir()
    (runs / "begins" / "journal.jsonl").touch()
    assert cli("sync", "--all") == (0, "", "")
    assert cli("sync", "--all", "--json").json == []


def test_run_that_cannot_be_written_keeps_no_other(cli, pending_run, make_run, runs):
    """Where a courier can't start, here for a link in place of its log, the reason is told and the others are delivered."""
    (runs / "shelf-is-gone").touch()
    linked = make_run()
    (runs / "shelf-is-gone").unlink()
    log_path(linked, "shelf").unlink()
    log_path(linked, "shelf").symlink_to(runs / "elsewhere")
    result = cli("sync", "--all", "--json")
    assert result.code == 1
    rows = {run["run"]: run["deliveries"][0] for run in result.json}
    assert rows[pending_run.name]["state"] == "complete"
    assert rows[linked.name]["state"] == "failed"
    assert "it is a link" in rows[linked.name]["detail"]
    assert not (runs / "elsewhere").exists()


def test_refused_event_is_tried_again(cli, make_run, runs):
    """What a tracker refused is offered to it once more, and once only in a command."""
    (runs / "shelf-refuses").touch()
    run_dir = make_run()
    assert load_state(run_dir, "shelf").refused == 10
    before = log_path(run_dir, "shelf").read_text().count("ValueError: the shelf refuses")
    result = cli("sync", run_dir, "--json")
    assert result.code == 1
    assert (result.json[0]["deliveries"][0]["state"], result.json[0]["deliveries"][0]["refused"]) == ("complete", 10)
    assert log_path(run_dir, "shelf").read_text().count("ValueError: the shelf refuses") == before + 10
    (runs / "shelf-refuses").unlink()
    assert cli("sync", "--all", "--json").json[0]["ok"] is True
    steps = [line for line in (run_dir / "shelf.jsonl").read_text().splitlines() if "metrics" in line]
    assert len(steps) == 10


def test_torn_line_is_nothing_to_deliver(cli, make_run):
    """A run whose last line was cut short, and that is delivered as far as there are events, stays as it is."""
    run_dir = make_run()
    with (run_dir / "journal.jsonl").open("a") as file:
        file.write('{"type":"met')
    stored = (run_dir / "shelf.jsonl").read_text()
    assert cli("sync", "--all") == (0, "", "")
    assert (run_dir / "shelf.jsonl").read_text() == stored


def test_live_courier_is_waited_for(cli, pending_run, held):
    """A tracker whose lock is held is not delivered to twice; it is taken over when the lock is free."""
    release = held(pending_run)
    state = load_state(pending_run, "shelf")
    state.state = "delivering"
    save_state(pending_run, state)
    result = cli("sync", pending_run, "--timeout", "0.3", "--json")
    assert result.code == 1
    assert result.json[0]["deliveries"][0]["state"] == "delivering"
    assert not (pending_run / "shelf.jsonl").exists()
    threading.Timer(0.5, release).start()
    assert cli("sync", pending_run).code == 0
    assert len((pending_run / "shelf.jsonl").read_text().splitlines()) == 12


def test_dead_courier_is_pending(cli, pending_run, monkeypatch):
    """A state that says "delivering" while nobody holds the lock is shown as pending."""
    state = load_state(pending_run, "shelf")
    state.state = "delivering"
    save_state(pending_run, state)
    assert cli("show", pending_run, "--json").json["deliveries"][0]["state"] == "pending"


def test_run_that_is_being_written_is_up_to_date(cli, runs):
    """Of a run that goes on, a tracker that has all there is so far counts as delivered."""
    with runcast.start_run("shelf", delivery="thread") as run:
        run.wait_started()
        run.log({"loss": 1.0}, step=0)
        result = cli("sync", run.dir, "--json")
        assert result.code == 0
        assert result.json[0]["deliveries"][0]["state"] == "delivering"


def test_nobody_to_deliver_to_is_fine(cli, make_run):
    """A run that knows no tracker has nothing pending."""
    run_dir = make_run()
    (run_dir / "trackers" / "shelf.json").unlink()
    assert cli("sync", run_dir, "--json").json == [
        {"run": run_dir.name, "dir": str(run_dir), "ok": True, "deliveries": []}
    ]
    assert "reported to no tracker" in cli("sync", run_dir).out


def test_folder_never_names_the_code_that_runs(cli, pending_run, monkeypatch, tmp_path):
    """A reporter is found by its registered name; a class path in the state file is not imported."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'evil-was-here')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = pending_run / "trackers" / "shelf.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "reporter": "evil:Evil"}))
    (pending_run / "trackers" / "evil.json").write_text(json.dumps({**state, "name": "evil", "reporter": "evil:Evil"}))
    result = cli("sync", pending_run, "--json")
    assert result.code == 1
    rows = {row["name"]: row for row in result.json[0]["deliveries"]}
    assert rows["shelf"]["state"] == "complete"
    assert rows["evil"]["state"] == "failed"
    assert "no tracker is called 'evil'" in rows["evil"]["detail"]
    assert not (tmp_path / "evil-was-here").exists()


def test_options_are_those_of_the_run(cli, make_run, runs):
    """A tracker is made anew with the options that the run had, as far as they are no secret."""
    (runs / "shelf-is-gone").touch()
    run_dir = make_run({"shelf": {"suffix": "log", "api_key": "k-123"}})
    (runs / "shelf-is-gone").unlink()
    assert "k-123" not in (run_dir / "trackers" / "shelf.json").read_text()
    assert cli("sync", run_dir).code == 0
    assert (run_dir / "shelf.log").exists()


def test_nothing_named_is_wrong_usage(cli, runs):
    """Without a run and without `--all` the command says how to name them."""
    result = cli("sync")
    assert result.code == 2
    assert "--all" in result.error
    assert cli("sync", "unheard-of").error.startswith("no run 'unheard-of'")
    assert cli("sync", "--all", runs / "missing").error.startswith("no folder")
