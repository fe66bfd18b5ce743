"""What five trackers make is private; a stranger's run folder leads none of them out of itself; none is told a secret."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runcast.delivery import load_state, save_state, state_path
from runcast.testing.contract import PATIENCE, wait_until_through

FIVE = ["clearml", "comet", "mlflow", "tensorboard", "wandb"]
# MLflow's database is beside the run folders; integrations/mlflow/test_trust.py has its own doors.
IN_THE_RUN_FOLDER = ["clearml", "comet", "tensorboard", "wandb"]

SCRIPT = """
import os, pathlib, runcast
from runcast.testing import canonical
os.umask(0)
with runcast.start_run(os.environ["TRACKERS"], config=canonical.CONFIG, finish_timeout=float(os.environ["PATIENCE"]), strict=True) as run:
    canonical.log_everything(run, pathlib.Path("files"))
print(run.dir)
"""


def in_home(home: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python where all that anybody writes is below one folder."""
    for name in ("work", "tmp"):
        (home / name).mkdir(parents=True, exist_ok=True)
    settings = {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "RUNCAST_DIR": str(home / "runs"),
        "PATIENCE": str(PATIENCE),
        "TRACKERS": ",".join(FIVE),
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=home / "work",
        env={**os.environ, **settings, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run with something of everything was reported to all five, by somebody whose umask forbids nothing."""
    home = tmp_path_factory.mktemp("home")
    home.chmod(0o755)
    result = in_home(home, "-c", SCRIPT)
    assert result.returncode == 0, result.stderr
    return home


@pytest.fixture
def run_dir(home: Path, tmp_path: Path) -> Path:
    """That run's folder, as a stranger sends it: a copy."""
    (original,) = (path.parent for path in home.glob("runs/*/journal.jsonl"))
    (tmp_path / "runs").mkdir()
    return Path(shutil.copytree(original, tmp_path / "runs" / original.name, symlinks=True))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder that is to stay as it is."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "diary").write_text("mine")
    return folder


def tree(folder: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Everything below a folder: mode and content."""
    return {
        str(path.relative_to(folder)): (os.lstat(path).st_mode, _content(path)) for path in (folder, *folder.rglob("*"))
    }


def _content(path: Path) -> bytes | str | None:
    if path.is_symlink():
        return os.readlink(path)
    return path.read_bytes() if path.is_file() else None


# -- private -----------------------------------------------------------------------------------------------------------


def open_to_others(folder: Path) -> list[Path]:
    """What anybody but the owner can read, change or list, for no folder above it is closed."""
    found = []
    for path in folder.iterdir():
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        if path.is_symlink() or not mode & 0o077:
            continue
        found += [path, *open_to_others(path)] if path.is_dir() else [path]
    return found


def test_run_folders_and_what_is_beside_them_are_private(home: Path) -> None:
    """Whatever the umask, nobody else can read the run, in the folder or in a database beside it."""
    assert {"mlflow.db", "mlartifacts"} <= {path.name for path in (home / "runs").iterdir()}
    assert open_to_others(home / "runs") == []


def test_files_of_ours_are_private_each(home: Path) -> None:
    """Journal, states, logs and artifacts are 0600, their folders 0700, wherever the run folder is moved to."""
    (run_dir,) = (path.parent for path in home.glob("runs/*/journal.jsonl"))
    ours = [run_dir, run_dir / "journal.jsonl"]
    for name in ("trackers", "artifacts"):
        ours += [run_dir / name, *(run_dir / name).rglob("*")]
    linked = {path.name for path in (home / "work" / "files").rglob("*")}  # the user's own, by another name
    wrong = {
        str(path): oct(stat.S_IMODE(path.stat().st_mode))
        for path in ours
        if path.name not in linked and stat.S_IMODE(path.stat().st_mode) != (0o700 if path.is_dir() else 0o600)
    }
    assert wrong == {}


def test_nothing_is_left_elsewhere(home: Path) -> None:
    """Neither the working directory nor the temporary one has anything of the run; what SDKs leave at home is no data of it."""
    assert [path.name for path in (home / "work").iterdir()] == ["files"]
    assert list((home / "tmp").iterdir()) == []
    others = [path for path in home.rglob("*") if path.is_file() and not path.is_relative_to(home / "runs")]
    (run_dir,) = (path.parent for path in home.glob("runs/*/journal.jsonl"))
    assert all(run_dir.name.encode() not in path.read_bytes() for path in others)


# -- a stranger's run folder -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IN_THE_RUN_FOLDER)
@pytest.mark.parametrize("deep", [False, True])
def test_link_in_the_run_folder_leads_no_tracker_out(name: str, deep: bool, run_dir: Path, victim: Path) -> None:
    """Where the tracker's folder is a link, or has one, nothing is written to its end, be the run new to it or not."""
    before = tree(victim)
    if not deep:
        shutil.rmtree(run_dir / name)
        (run_dir / name).symlink_to(victim)
    else:
        inner = next(path for path in sorted((run_dir / name).rglob("*")) if path.is_dir() and not path.is_symlink())
        shutil.rmtree(inner)
        inner.symlink_to(victim)
    state = load_state(run_dir, name)
    state.offset = state.events = 0
    state.clean = False
    save_state(run_dir, state)
    for attached in (True, False):
        if not attached:
            state_path(run_dir, name).unlink()
        result = in_home(run_dir.parent.parent, "-m", "runcast", "replay", str(run_dir), "--to", name, "--json")
        assert result.returncode == 1, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        (row,) = json.loads(result.stdout)["deliveries"]
        assert row["state"] == "failed"
        assert tree(victim) == before


@pytest.mark.parametrize("name", IN_THE_RUN_FOLDER)
def test_state_leads_no_tracker_out(name: str, run_dir: Path, victim: Path) -> None:
    """Where the state says that the tracker's files are in another run's folder, that run stays as it is."""
    theirs = Path(shutil.copytree(run_dir, victim / run_dir.name, symlinks=True))
    (home_of_it,) = {str(Path(path).parent) for path in _paths(run_dir, name)}
    before = tree(victim)
    state = load_state(run_dir, name)
    text = json.dumps(state.native.data).replace(home_of_it, str(theirs.parent))
    assert str(victim) in text
    path = state_path(run_dir, name)
    raw = json.loads(path.read_text())
    raw["native"]["data"] = json.loads(text)
    path.write_text(json.dumps(raw | {"clean": False, "offset": 0, "events": 0, "state": "delivering"}))
    for command in (["sync", str(run_dir), "--json"], ["verify", str(run_dir), "--tracker", name, "--json"]):
        result = in_home(run_dir.parent.parent, "-m", "runcast", *command)
        assert result.returncode in (0, 1), result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        assert tree(victim) == before, command


def _paths(run_dir: Path, name: str) -> list[str]:
    """The run folders that a tracker's state names."""
    text = json.dumps(load_state(run_dir, name).native.data)
    return [word[: word.index(run_dir.name) + len(run_dir.name)] for word in text.split('"') if run_dir.name in word]


# -- a secret option ---------------------------------------------------------------------------------------------------

SECRET = "hunter2secret"
OUTAGE = """
import os, time, runcast
from runcast.delivery import load_state
uri = f"http://user:{os.environ['GIVEN']}@127.0.0.1:1/"
run = runcast.start_run({"mlflow": {"tracking_uri": uri}}, finish_timeout=0.0)
run.log({"loss": 1.0})
while (load_state(run.dir, "mlflow").state) == "starting":
    time.sleep(0.1)
print(run.deliveries())
run.remove_reporter("mlflow")
run.finish()
"""


def test_password_of_a_server_is_written_nowhere(tmp_path: Path) -> None:
    """MLflow's server is away, and its errors quote where it was looked for: no file, no message has the password."""
    result = in_home(tmp_path, "-c", OUTAGE, GIVEN=SECRET)
    assert result.returncode == 0, result.stderr
    assert "retrying" in result.stdout
    assert SECRET not in result.stdout + result.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.log" and b"127.0.0.1" in path.read_bytes() for path in files)
    assert all(SECRET.encode() not in path.read_bytes() for path in files)
