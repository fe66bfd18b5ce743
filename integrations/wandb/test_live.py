"""What is true of Weights & Biases alone, proven with its SDK and the files it leaves."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

import runcast
from runcast.courier import Courier
from runcast.delivery import load_state, save_state
from runcast.errors import MissingDependencyError
from runcast.media import png
from runcast.record import RunRecord
from runcast.reporter import RunInfo
from runcast.reporters.wandb import WandbReporter
from runcast.testing.couriers import native_of, python, read
from runcast.verify import compare

from .backend import logs, records, rows

PICTURE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
ODD_KEYS = ("plain/picture", "🚀" * 100, "nul\0byte", "a//b/", "_hidden", "dots..here", "global_step", "x" * 250)
PATIENCE = 120.0


class Stored(NamedTuple):
    """A run with what is peculiar to W&B, its journal, and what W&B kept."""

    dir: Path
    journal: RunRecord
    record: RunRecord
    log: Path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("stored")
    (folder / "file.txt").write_text("content")
    config = {"lr": 0.1, "-dashes-": 1, "_wandb": 2, "runcast": 3, "": 4, "a.b": {"_type": "x", "$y": float("inf")}}
    with runcast.start_run(
        "wandb",
        dir=folder,
        project="team/project #1",
        name="N" * 200,
        group="g",
        tags=["t" * 100, "short"],
        config=config,
    ) as run:
        for step in (0, 5, 3, -2):
            run.log({"train/loss": step / 7, "_private": 1.0, "global_step": -1.0}, step=step)
        for key in ODD_KEYS:
            run.log_image(key, PICTURE, step=1)
            run.log_table(key, ["text", "any"], [["a", 1], [None, {"b": [float("nan")]}]], step=1)
        run.log_table("many", ["n"], [[n] for n in range(10_500)], step=2)
        run.log({"note": "NaN"}, step=4)
        run.update_config({"a.b": {"more": [1, 2]}})
        run.set_summary({"train/loss": "best", "_odd": float("nan")})
        run.log_artifact(folder / "file.txt", name="odd/name ✓", kind="dataset", metadata={"runcast": 1, "x": {"y": 2}})
    (log,) = logs(run.dir)
    return Stored(run.dir, runcast.read_run(run.dir), read(run.dir, "wandb"), log)


def test_everything_reads_back(stored: Stored) -> None:
    """Names that are W&B's own, or no file's name, or too long, tables beyond W&B's limit: all as in the journal."""
    assert compare("wandb", stored.journal, stored.record).differences == []
    assert len(stored.record.tables["many"][0].rows) == 10_500


def test_histogram_beyond_wandbs_limit_reads_back(tmp_path: Path) -> None:
    """TensorBoard's and torch's have some 600 bins, where W&B's own allow 512: all are there, and the limit is as before."""
    import wandb

    limit = wandb.Histogram.MAX_LENGTH
    counts, edges = [float(n % 7) for n in range(614)], [n / 7 - 40 for n in range(615)]
    reporter = WandbReporter(mode="offline")
    native = reporter.open(RunInfo("id", "name", "p", None, tmp_path, time.time()), None)
    reporter.log_histogram("weights", counts, edges, 3, time.time())
    reporter.close("completed")
    (point,) = reporter.read(native).histograms["weights"]
    assert (point.step, point.counts, point.edges) == (3, tuple(counts), tuple(edges))
    assert limit == wandb.Histogram.MAX_LENGTH


def test_rows_carry_our_step_and_time(stored: Stored) -> None:
    """W&B's own step counts rows, so that none is dropped; ours is the column that charts use as their x-axis."""
    history = rows(stored.log)
    assert [row["_step"] for row in history] == list(range(len(history)))
    assert [row["global_step"] for row in history[:4]] == [0, 5, 3, -2]
    logged = stored.journal.metrics["train/loss"]
    assert [row["_timestamp"] for row in history[:4]] == [point.time for point in logged]
    (every,) = (metric for metric in records(stored.log, "metric") if metric.glob_name == "*")
    assert every.step_metric == "global_step"
    assert not every.options.step_sync


def test_native_fields_hold_what_people_look_for(stored: Stored) -> None:
    """Project, group, tags and exit code are W&B's own, within W&B's limits."""
    native = records(stored.log, "run")[-1]
    assert native.project == "team~2f~project ~23~1"
    assert native.run_group == "g"
    assert "short" in native.tags
    assert all(len(tag) <= 64 for tag in native.tags)
    assert len(native.display_name) == 128
    assert records(stored.log, "exit")[-1].exit_code == 0


def test_png_is_kept_byte_for_byte(stored: Stored) -> None:
    """W&B's media folder has the file that was logged."""
    (image,) = stored.record.images["plain/picture"]
    assert image.image.read() == png(PICTURE)
    assert list(stored.log.parent.glob("files/media/images/plain/picture_*.png"))


def test_everything_lies_in_the_run_folder(stored: Stored) -> None:
    """Staged tables are in the run folder, and a logged file is not copied once more."""
    assert list((stored.dir / "wandb" / "data" / "artifacts" / "staging").iterdir())
    places = [
        Path(entry.local_path) for artifact in records(stored.log, "artifact") for entry in artifact.manifest.contents
    ]
    assert places
    assert all(place.is_relative_to(stored.dir) for place in places)
    assert any(place.is_relative_to(stored.dir / "artifacts") for place in places)


def test_nothing_is_gathered_unasked(stored: Stored) -> None:
    """No console output, package list, code, git state or system metrics."""
    names = {path.name for path in (stored.log.parent / "files").rglob("*")}
    assert not names & {"output.log", "requirements.txt", "wandb-metadata.json", "conda-environment.yaml", "diff.patch"}
    assert not records(stored.log, "output_raw")
    assert not records(stored.log, "stats")
    assert not records(stored.log, "run")[0].git.commit


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("killed", 143)])
def test_exit_code_tells_the_status(status: str, code: int, tmp_path: Path) -> None:
    """W&B's own status comes from the exit code; our word is beside it."""
    run = runcast.start_run("wandb", dir=tmp_path)
    run.finish(status)
    assert records(logs(run.dir)[0], "exit")[-1].exit_code == code
    assert read(run.dir, "wandb").status == status


def test_terminal_is_never_asked(tmp_path: Path) -> None:
    """With a terminal, no account and the SDK in the same process, nothing is prompted: the run is offline."""
    code = (
        "import sys, runcast; assert sys.stdin.isatty()\n"
        "with runcast.start_run('wandb', dir=sys.argv[1], delivery='inline', strict=True) as run: run.log({'a': 1.0})\n"
    )
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    said = b""
    while chunk := _read_terminal(master):
        said += chunk
    os.close(master)
    assert process.wait(PATIENCE) == 0, said.decode()
    assert b"API key" not in said


def _read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError:  # nobody has the other end open any more
        return b""


def test_process_is_left_as_it_was(tmp_path: Path) -> None:
    """Where the SDK does run in the training process, its hooks and variables are gone again after each run."""
    code = (
        "import os, sys, runcast\n"
        "state = lambda: (sys.exit, sys.excepthook, vars(sys.stdout).get('write'), vars(sys.stderr).get('write'),\n"
        "                 dict(os.environ), os.getcwd())\n"
        "before = state()\n"
        "for _ in range(2):\n"
        "    with runcast.start_run('wandb', dir=sys.argv[1], delivery='inline', strict=True) as run:\n"
        "        run.log({'a': 1.0}); run.log_table('t', ['x'], [[1]])\n"
        "        assert state()[1:] == before[1:]\n"  # `sys.exit` is the open run's own
        "    assert (run.dir / 'wandb' / 'data' / 'artifacts').is_dir()\n"
        "assert 'wandb' in sys.modules and state() == before\n"
    )
    python(code, str(tmp_path))


def test_environment_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WANDB_PROJECT, WANDB_DIR, WANDB_RUN_ID, WANDB_NAME, WANDB_TAGS and WANDB_RUN_GROUP say what W&B shows."""
    settings = {
        "PROJECT": "mine",
        "DIR": str(tmp_path / "there"),
        "RUN_ID": "abc",
        "NAME": "n",
        "RUN_GROUP": "grp",
        "TAGS": "u,v",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with runcast.start_run("wandb", dir=tmp_path / "runs", project="ours", tags=["w"]) as run:
        run.log({"loss": 1.0}, step=0)
    (log,) = logs(tmp_path / "there")
    native = records(log, "run")[-1]
    assert (native.project, native.run_id, native.display_name, native.run_group) == ("mine", "abc", "n", "grp")
    assert set(native.tags) == {"u", "v", "w"}
    assert compare("wandb", runcast.read_run(run.dir), read(run.dir, "wandb")).differences == []


class TestAvailability:
    """Online and offline are told from W&B's own settings, without importing it."""

    def test_offline_without_an_account(self) -> None:
        """No key: offline, with a line that says how to go online."""
        found = WandbReporter.availability()
        assert (found.status, found.mode) == ("ready", "offline")
        assert "wandb login" in found.reason

    @pytest.mark.parametrize("variable", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
    def test_online_with_a_key_in_the_environment(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key, or a file with an identity token, is enough."""
        monkeypatch.setenv(variable, "x" * 40)
        assert WandbReporter.availability().mode == "online"

    @pytest.mark.parametrize("host", ["api.wandb.ai", "api.forge.coreweave.com"])
    def test_online_after_wandb_login(self, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A netrc entry for the old or the new default host counts."""
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".netrc").write_text(f"machine {host} login user password {'x' * 40}\n")
        assert WandbReporter.availability().mode == "online"

    def test_key_for_another_server_does_not_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a server of one's own in the settings file, the key must be that server's."""
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".config" / "wandb").mkdir(parents=True)
        (tmp_path / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
        (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
        assert WandbReporter.availability().mode == "offline"
        (tmp_path / ".netrc").write_text("machine wandb.example.org login user password x\n")
        assert WandbReporter.availability().mode == "online"

    @pytest.mark.parametrize("mode", ["offline", "dryrun"])
    def test_offline_mode_wins_over_a_key(self, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """WANDB_MODE decides."""
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setenv("WANDB_MODE", mode)
        assert WandbReporter.availability().mode == "offline"

    @pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")])
    def test_switched_off_is_not_used(self, variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """ "all" leaves it out, and its name is an error that says why."""
        monkeypatch.setenv(variable, value)
        assert WandbReporter.availability().status == "inactive"
        assert "wandb" not in [reporter.name for reporter in runcast.resolve_report_to("all")]
        with pytest.raises(MissingDependencyError, match=variable):
            runcast.resolve_report_to("wandb")

    def test_online_without_a_key_is_an_error_and_no_prompt(self, tmp_path: Path) -> None:
        """Who asks for online mode learns which command is missing."""
        with pytest.raises(ValueError, match="wandb login"):
            WandbReporter(mode="online").open(RunInfo("id", "id", "p", None, tmp_path, time.time()), None)

    def test_unknown_mode_is_an_error(self) -> None:
        """The message has the modes there are."""
        with pytest.raises(ValueError, match="'online' or 'offline', not 'off'"):
            WandbReporter(mode="off")


def test_server_out_of_reach_is_tried_again_and_a_refusal_is_not() -> None:
    """W&B wraps both in one exception."""
    from wandb.errors import AuthenticationError, CommError

    reporter = WandbReporter()
    assert reporter.is_transient(CommError("while retrying: dial tcp 127.0.0.1:9: connect: connection refused"))
    assert reporter.is_transient(CommError("Run initialization has timed out after 90.0 sec."))
    assert not reporter.is_transient(CommError("Error 403: permission denied"))
    assert not reporter.is_transient(AuthenticationError("The API key you provided is invalid"))


def test_whole_journal_delivered_twice_is_there_once(tmp_path: Path) -> None:
    """After a crash of the courier a second session has no row that the first has, but config, tags and summary."""
    with runcast.start_run("wandb", dir=tmp_path, config={"a": {"b": 1}}, tags=["t"]) as run:
        for step in (5, 3, 4):
            run.log({"loss": step / 7}, step=step)
        run.log_image("picture", PICTURE, step=0)
        run.update_config({"a": {"c": 2}})
        run.set_summary({"best": 3})
    state = load_state(run.dir, "wandb")
    state.offset, state.events, state.state, state.clean = 0, 0, "delivering", False
    save_state(run.dir, state)
    courier = Courier(run.dir, WandbReporter())
    while courier.advance() == 0.0:
        pass
    first, second = logs(run.dir)
    assert [row["_step"] for row in rows(first)] == list(range(4))
    assert rows(second) == []
    native = records(second, "run")[0]
    assert list(native.tags) == ["t"]
    assert {"a", "runcast"} < {item.key for item in native.config.update}
    assert compare("wandb", runcast.read_run(run.dir), read(run.dir, "wandb")).differences == []


def test_what_is_committed_survives_sigkill_of_courier_and_sdk(tmp_path: Path) -> None:
    """The cursor moves only when W&B's file has the rows: killing all of it loses none, and a new courier goes on."""
    run = runcast.start_run("wandb", dir=tmp_path, config={"a": 1})
    for step in range(50):
        run.log({"loss": step / 7}, step=step)
    _wait(lambda: (load_state(run.dir, "wandb") or 0) and load_state(run.dir, "wandb").events == 51)
    (courier,) = (process for process in psutil.Process().children() if _delivers(process, run.dir))
    for process in (courier, *courier.children(recursive=True)):  # first the supervisor, which would start another
        process.kill()
    courier.wait(PATIENCE)
    stored = read(run.dir, "wandb")
    assert [point.step for point in stored.metrics["loss"]] == list(range(50))
    assert (stored.status, stored.config) == ("running", {"a": 1})
    run.log({"loss": 50 / 7}, step=50)
    run.finish()
    assert len(logs(run.dir)) == 2
    assert compare("wandb", runcast.read_run(run.dir), read(run.dir, "wandb")).differences == []


def test_death_of_the_sdk_process_alone_is_mended(tmp_path: Path) -> None:
    """When wandb-core is killed, the reporter starts another and what was not on disk comes again."""
    run = runcast.start_run("wandb", dir=tmp_path)
    run.log({"loss": 0.0}, step=0)
    _wait(lambda: (load_state(run.dir, "wandb") or 0) and load_state(run.dir, "wandb").events == 2)
    (courier,) = (process for process in psutil.Process().children() if _delivers(process, run.dir))
    (core,) = (process for process in courier.children(recursive=True) if process.name() == "wandb-core")
    core.send_signal(signal.SIGKILL)
    for step in range(1, 20):
        run.log({"loss": step / 7}, step=step)
    run.finish()
    assert run.deliveries()[0].done, run.deliveries()
    assert compare("wandb", runcast.read_run(run.dir), read(run.dir, "wandb")).differences == []


def _delivers(process: psutil.Process, run_dir: Path) -> bool:
    return any("courier_process" in word for word in process.cmdline())


def _wait(done: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_wandb_sync_takes_what_we_say(stored: Stored) -> None:
    """The command that says where to look finds the run, in W&B's own dry run."""
    command = f"{shlex.quote(sys.executable)} -m {native_of(stored.dir, 'wandb').url} --dry-run"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    if "No such option" in done.stderr:
        pytest.skip("this version's `wandb sync` has no dry run, and a real one needs a server")
    assert done.returncode == 0, done.stderr
    assert stored.log.name in done.stdout + done.stderr


def test_example_runs(tmp_path: Path) -> None:
    """The example of this folder works offline, without an account, and says where to look."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("example.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "offline: wandb sync" in done.stdout
    (run_dir,) = tmp_path.iterdir()
    assert compare("wandb", runcast.read_run(run_dir), read(run_dir, "wandb")).differences == []
    assert native_of(run_dir, "wandb").data["mode"] == "offline"
