"""A run folder from a stranger: whatever is in it, it leads to no more than an error."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runcast
from runcast.errors import RuncastError
from runcast.sync import how_far

from ..conftest import Result
from .conftest import PNG, SECRET, written_below


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with something of everything, which its tracker has; only the journal remembers."""
    (tmp_path / "file").write_text("content")
    with runcast.start_run("console", delivery="inline", config={"lr": 0.1}, name="innocent") as run:
        run.log({"loss": 1.0}, step=0)
        run.log_image("picture", _png(tmp_path))
        run.log_table("table", ["a"], [[1]])
        run.log_artifact(tmp_path / "file")
    assert run.dir is not None
    shutil.rmtree(run.dir / "trackers")
    return run.dir


def _png(folder: Path) -> str:
    (folder / "picture.png").write_bytes(PNG)
    return str(folder / "picture.png")


def add(run_dir: Path, **event: Any) -> None:
    """Puts an event before the run's end."""
    journal = run_dir / "journal.jsonl"
    *lines, end = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines, json.dumps({"time": 1.0, "step": 0, **event}), end, ""]))


def change(run_dir: Path, **fields: Any) -> None:
    """Changes the journal's first event."""
    journal = run_dir / "journal.jsonl"
    first, *lines = journal.read_text().splitlines()
    journal.write_text("\n".join([json.dumps(json.loads(first) | fields), *lines, ""]))


def put_state(run_dir: Path, name: str, state: str | dict[str, Any]) -> None:
    """Makes a tracker's state file."""
    (run_dir / "trackers").mkdir(exist_ok=True)
    path = run_dir / "trackers" / f"{name}.json"
    path.write_text(state if isinstance(state, str) else json.dumps(state))


COMMANDS = {
    "show": ("show", "{run}"),
    "show --json": ("show", "{run}", "--json"),
    "ls": ("ls", "{parent}"),
    "sync": ("sync", "{run}"),
    "verify": ("verify", "{run}"),
    "replay --to console": ("replay", "{run}", "--to", "console"),
    "replay --to ledger": ("replay", "{run}", "--to", "ledger"),
}


def everything(cli: Callable[..., Result], run_dir: Path, *commands: str) -> dict[str, Result]:
    """Does what can be done with a stranger's folder: none of it may end in a traceback, or print what terminals obey."""
    results = {}
    for command in commands or COMMANDS:
        result = cli(*(word.format(run=run_dir, parent=run_dir.parent) for word in COMMANDS[command]))
        assert result.code in (0, 1, 2), (command, result)
        for letter in result.out + result.err:
            assert letter in "\n\t" or letter.isprintable(), (command, letter)
        assert SECRET.decode() not in result.out + result.err, command
        results[command] = result
    with contextlib.suppress(RuncastError):
        record = runcast.read_run(run_dir)
        contents = [point.image for series in record.images.values() for point in series]
        contents += [file for artifact in record.artifacts.values() for file in artifact.files.values()]
        for content in contents:
            with contextlib.suppress(OSError):  # it is missing
                assert SECRET not in content.read()
    if not (run_dir / "ledger").is_symlink():
        assert SECRET.decode() not in written_below(run_dir / "ledger"), "the tracker got the victim's file"
    return results


def row_of(run_dir: Path, name: str) -> Any:
    (row,) = [row for row in how_far(run_dir) if row.name == name]
    return row


# -- files that events name --------------------------------------------------------------------------------------------


def add_files(run_dir: Path, path: str) -> None:
    """Adds an image, a table, an artifact and a file of one, all at this place."""
    stored = {"path": path, "size": 24, "sha256": "0" * 64}
    add(run_dir, type="image", key=f"evil {path}", **stored)
    add(run_dir, type="table", key=f"evil {path}", **stored)
    add(run_dir, type="artifact", name=f"evil {path}", kind="file", path=path, files=[stored])
    add(run_dir, type="artifact", name=f"inner {path}", kind="file", path="artifacts", files=[stored])


PATHS = ["../../../victim/secret", "../../victim", "{victim}/secret", "nul\0byte", "pipe", "loop", "", "artifacts", "missing", "x" * 300]  # fmt: skip


def test_paths_of_events_lead_nowhere(cli, run_dir, victim):
    """What is outside, no file, a pipe, or not there is left out and set aside; the rest of the run is delivered."""
    os.mkfifo(run_dir / "pipe")
    (run_dir / "loop").symlink_to("loop")
    for path in PATHS:
        add_files(run_dir, path.format(victim=victim))
    everything(cli, run_dir)
    row = row_of(run_dir, "ledger")
    assert row.state == "complete"
    assert row.refused > 30
    assert (run_dir / "ledger" / "3").exists()


@pytest.mark.parametrize("path", ["link", "folder/secret"])
def test_links_that_events_name_lead_nowhere(cli, run_dir, victim, path):
    """A link in the run folder to somebody's file is not delivered."""
    (run_dir / "link").symlink_to(victim / "secret")
    (run_dir / "folder").symlink_to(victim)
    add_files(run_dir, path)
    everything(cli, run_dir)


def test_names_of_artifacts_lead_nowhere(cli, run_dir, victim):
    """An artifact's name is a name, never a path."""
    for name in ["../../victim/secret", "..", "", f"{victim}/secret", "a\0b", "\x1b[2J", "x" * 10_000, "<script>"]:
        add(run_dir, type="artifact", name=name, kind=name, path="artifacts", files=[])
    assert everything(cli, run_dir)["replay --to ledger"].code == 0


# -- links and pipes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ledger.log", "ledger.lock", "ledger.json", "console.log"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_files_of_couriers_are_not_written_through_links(cli, run_dir, victim, name, kind):
    """A state, lock or log that is a link, a pipe or a folder is an error that says so; nothing is delivered."""
    (run_dir / "trackers").mkdir()
    path = run_dir / "trackers" / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(victim / ("secret" if kind == "link" else "new"))
    everything(cli, run_dir, "sync", "show", "verify")
    result = cli("replay", run_dir, "--to", path.stem, "--json")
    assert result.code == 1
    (row,) = json.loads(result.out)["deliveries"]
    assert row["delivered"] == 0
    assert f"{'it is a link' if 'link' in kind else 'it is not a regular file'}: '{path}'" in row["detail"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("trackers", "link"), ("trackers", "pipe"), ("trackers", "file"),
        ("ledger", "link"), ("ledger", "link to a link"), ("ledger", "file"), ("artifacts", "link"),
    ],
)  # fmt: skip
def test_folders_are_no_links(cli, run_dir, victim, name, kind):
    """A folder of the run folder that is a link, or no folder, is not written to."""
    shutil.rmtree(run_dir / name, ignore_errors=True)
    path = run_dir / name
    match kind:
        case "link":
            path.symlink_to(victim)
        case "link to a link":
            (run_dir / "between").symlink_to(victim)
            path.symlink_to("between")
        case "pipe":
            os.mkfifo(path)
        case "file":
            path.write_text("a file")
    results = everything(cli, run_dir)
    assert results["replay --to ledger"].code == (2 if name == "trackers" else 1)
    assert results["sync"].code == (2 if name == "trackers" else 0)  # which knows of no tracker yet


def test_links_deep_in_a_trackers_folder_are_found(cli, run_dir, victim):
    """Wherever below the run folder a link leads out of it, no tracker's SDK is let loose there."""
    (run_dir / "ledger" / "deep").mkdir(parents=True)
    (run_dir / "ledger" / "deep" / "logs").symlink_to(victim)
    assert everything(cli, run_dir)["replay --to ledger"].code == 1
    assert "leads out of the run folder" in row_of(run_dir, "ledger").detail


def test_links_that_sdks_make_are_fine(cli, run_dir):
    """Some have links within their folder, and to a log by its full path, which leads astray when the run folder moves."""
    (run_dir / "sdk").mkdir()
    (run_dir / "sdk" / "latest").symlink_to("../sdk")
    (run_dir / "sdk" / "debug.log").symlink_to(run_dir / "journal.jsonl")
    moved = run_dir.rename(run_dir.parent / "moved")
    assert cli("replay", moved, "--to", "ledger").code == 0


def test_link_stops_a_run_that_is_gone_on_with(run_dir, victim):
    """Nor does a resumed run write through a link; training goes on, and the loss is counted."""
    shutil.rmtree(run_dir / "artifacts")
    (run_dir / "artifacts").symlink_to(victim)
    with runcast.start_run("none", resume=run_dir) as run:
        run.log_artifact(victim / "secret")
    with runcast.start_run("console", resume=run_dir, delivery="inline") as run:
        run.log_artifact(victim / "secret")
        run.log({"loss": 2.0}, step=7)
    assert runcast.read_run(run_dir).metrics["loss"][-1].step == 7


@pytest.mark.parametrize("kind", ["link to a secret", "link to a journal", "pipe", "folder", "empty"])
def test_journal_is_a_file_of_its_own(cli, run_dir, victim, tmp_path, kind):
    """A journal that is a link is not read, and so nobody's run is delivered where a stranger says."""
    journal = run_dir / "journal.jsonl"
    other = tmp_path / "other-journal.jsonl"
    shutil.copy(journal, other)
    journal.unlink()
    match kind:
        case "link to a secret":
            journal.symlink_to(victim / "secret")
        case "link to a journal":
            journal.symlink_to(other)
        case "pipe":
            os.mkfifo(journal)
        case "folder":
            journal.mkdir()
        case "empty":
            journal.touch()
    results = everything(cli, run_dir)
    assert {result.code for name, result in results.items() if name != "ls"} == {2}


# -- state files -------------------------------------------------------------------------------------------------------

STATES = {
    "import path": {"reporter": "os:system", "options": {"command": "touch evil-was-here"}},
    "name of another file": {"name": "../../victim/secret"},
    "unknown option": {"options": {"__class__": 1, "self": 2}},
    "options of wrong types": {"options": {"api_key": {"a": [1]}, "url": 5, "headers": "x"}},
    "native of wrong types": {"native": {"id": "x", "data": {"dir": 5}}},
    "native elsewhere": {"native": {"id": "../../victim", "url": "\x1b]0;evil\x07", "data": {"dir": "/etc"}}},
    "offset before the journal": {"offset": -5, "events": -7},
    "offset behind the journal": {"offset": 2**62, "events": 2**62},
    "offset beyond every file": {"offset": 2**80},
    "offset within a line": {"offset": 7},
    "nonsense set aside": {"native": {"id": "x"}, "set_aside": [{"offset": -1, "type": "\x1b[2J", "reason": "\x1b[2J"}], "refused": 1},
    "writer of no process": {"writer": {"pid": 2**40, "started": 1.0, "host": os.uname().nodename}},
    "complete": {"state": "complete", "offset": 2**40, "events": 999},
}  # fmt: skip


@pytest.mark.parametrize("kind", STATES)
def test_state_files_are_not_believed(cli, run_dir, victim, kind, tmp_path, monkeypatch):
    """A state file names neither code nor places, and nonsense in it is an error, or a delivery from the start."""
    monkeypatch.chdir(tmp_path)
    put_state(run_dir, "ledger", {"name": "ledger", **STATES[kind]})
    everything(cli, run_dir, "show", "sync", "verify", "replay --to ledger")
    assert not Path("evil-was-here").exists()


def test_unknown_trackers_are_an_error_each(cli, run_dir, victim, tmp_path, monkeypatch):
    """A name that nobody registered is said to be unknown; a module of that name is not imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("evil.py").write_text("open('evil-was-here', 'w')")
    names = ["os:system", "evil", "..", "...", "a b", "-rf", "\x1b[2J", "ledger,console", "all", "none", "ünï", os.fsdecode(b"\xff")]  # fmt: skip
    for name in names:
        put_state(run_dir, name, {"name": name.encode(errors="replace").decode(), "reporter": f"{name[:1]}:Evil"})
    results = everything(cli, run_dir)
    assert results["sync"].code == 1
    assert results["sync"].out.count("no tracker is called") == len(names)
    assert not Path("evil-was-here").exists()


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", ["", "null", "\0", DEEP, f'{{"name": "ledger", "options": {{"a": {DEEP}}}}}'])
def test_state_files_of_any_form_are_read_or_passed_over(cli, run_dir, text):
    """What is no state counts as none, however deep."""
    put_state(run_dir, "ledger", text)
    assert everything(cli, run_dir, "show", "replay --to ledger")["replay --to ledger"].code == 0


def test_nested_options_are_an_error_in_words(cli, run_dir):
    """Options that are nested as no options are don't end in a traceback."""
    nested = '{"a":' * 500 + "1" + "}" * 500
    put_state(
        run_dir,
        "ledger",
        f'{{"name": "ledger", "options": {{"headers": {nested}}}, "native": {{"id": "x", "data": {nested}}}}}',
    )
    everything(cli, run_dir, "show", "sync", "verify")


def test_ten_thousand_states_are_only_slow(cli, run_dir):
    """A crowd of trackers is a long list."""
    for number in range(10_000):
        put_state(run_dir, f"t{number}", {"name": f"t{number}"})
    result = cli("sync", run_dir, "--json")
    assert result.code == 1
    assert len(json.loads(result.out)[0]["deliveries"]) == 10_000


# -- what is printed ---------------------------------------------------------------------------------------------------

ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202egnp\u2066 [red]red[/red] \r\x08\x7f<script>alert(1)</script>\u2028"


def test_terminal_escapes_are_shown_and_not_obeyed(cli, run_dir):
    """In names, tags, texts, config, errors: everywhere they are made visible, and markup stays text."""
    change(run_dir, name=ESCAPES, project=ESCAPES, group=ESCAPES, tags=[ESCAPES], config={ESCAPES: ESCAPES})
    add(run_dir, type="metrics", values={ESCAPES: 1.0})
    add(run_dir, type="text", key=ESCAPES, text=ESCAPES)
    add(run_dir, type="summary", values={ESCAPES: [ESCAPES]})
    add(run_dir, type="tags", tags=[ESCAPES])
    add(run_dir, type="artifact", name=ESCAPES, kind=ESCAPES, path=ESCAPES, files=[])
    put_state(
        run_dir,
        "ledger",
        {"name": "ledger", "state": "failed", "error": ESCAPES, "native": {"id": ESCAPES, "url": ESCAPES}},
    )
    name = ESCAPES.replace("/", "")
    put_state(run_dir, name, {"name": name, "state": "failed", "error": ESCAPES})
    results = everything(cli, run_dir)
    for command in ("show", "ls", "replay --to console"):
        out = results[command].out.replace("\n", "")
        assert r"\x1b]0;pwned\x07\x1b[2J\x9b31m\u202egnp\u2066 [red]red[/red] " in out, command


def test_names_forge_no_lines(cli, run_dir):
    """A name with an end of line stays one line."""
    change(run_dir, name="good\ncompleted", project="a\nb", tags=["x\ny"])
    assert "good\\ncompleted · a\\nb" in cli("show", run_dir).out
    assert "good\\ncompleted" in cli("ls", run_dir.parent).out


@pytest.mark.parametrize("run_id", ["../../victim/x", "a/b", "a\0b", "", "."])
def test_run_id_is_no_path(cli, run_dir, victim, run_id):
    """Trackers name folders by a run's id; one that leads elsewhere is an error."""
    change(run_dir, run_id=run_id)
    assert cli("replay", run_dir, "--to", "ledger").code == 2
    assert cli("show", run_dir).code == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"time": 1e300}, {"time": "-Infinity"}, {"time": "NaN"}, {"format": 2**40},
        {"writer": {"pid": 2**40, "started": 1e300, "host": os.uname().nodename}},
        {"writer": {"pid": 1, "started": "NaN", "host": os.uname().nodename}},
    ],
)  # fmt: skip
def test_first_event_is_not_believed(cli, run_dir, fields):
    """Times that are none and processes that can't be: an error, or shown as what they are."""
    change(run_dir, **fields)
    everything(cli, run_dir)


def test_events_beyond_measure_are_shown_or_refused(cli, run_dir):
    """Numbers and names without measure don't end in a traceback."""
    add(run_dir, type="metrics", step=2**80, values={"a": 1.0})
    add(run_dir, type="metrics", step=-(2**62), values={"a": 1e308})
    add(run_dir, type="metrics", values={"$\\frac{": 1.0, "": 2.0, "/": 3.0, "a" * 100_000: 4.0})
    add(run_dir, type="metrics", values={"time": 1.0}, time=1e300)
    add(run_dir, type="summary", values={"a": 10**4200, "b": 2**64, "c": 1e308})
    add(run_dir, type="histogram", key="h", counts=[1e308, 1e308], edges=[-1e308, 0, 1e308])
    add(run_dir, type="run_resumed", writer={"pid": 2**40, "started": 0.0, "host": os.uname().nodename}, step=2**80)
    add(run_dir, type="run_finished", status="completed", time=1e300)
    everything(cli, run_dir)


@pytest.mark.parametrize("name", ["[red] %s", "\x1b[2J", "-rf '\"", os.fsdecode(b"\xff\xfe"), "a\nb"])
def test_folder_may_be_called_anything(cli, run_dir, name):
    """A run folder's own name is printed, passed on and written to whatever it is."""
    odd = run_dir.rename(run_dir.parent / name)
    results = everything(cli, odd)
    assert results["show"].code == 0
    assert results["replay --to ledger"].code == 0
