"""A run folder from a stranger does nothing outside of itself but produce an error."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runcast.errors import RunFolderError
from runcast.events import StoredFile
from runcast.reporter import LocalArtifact, NativeRun
from runcast.reporters.mlflow import MlflowReporter

from .backend import prepare
from .test_live import START, Direct


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TAGS"):
        monkeypatch.delenv(f"MLFLOW_{variable}", raising=False)


@pytest.fixture
def direct(tmp_path: Path) -> Direct:
    return Direct(tmp_path / "runs")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that is none of a run folder's business; it must stay as it is."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "diary").write_text("mine")
    return folder


def is_untouched(elsewhere: Path) -> bool:
    return [(path.name, path.read_text()) for path in elsewhere.iterdir()] == [("diary", "mine")]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody who waits for our password."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("call", ["open", "replace", "read"])
@pytest.mark.parametrize("place", ["server", "database", "other file", "folder"])
def test_store_that_only_the_run_folder_names_is_left_alone(
    call: str, place: str, direct: Direct, elsewhere: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server is told our password, and no file made or changed, because a file of the run folder says so."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a secret")
    uri = {
        "server": f"http://127.0.0.1:{listener.getsockname()[1]}",
        "database": f"sqlite:///{elsewhere}/new.db",
        "other file": f"sqlite:///{elsewhere}/diary",
        "folder": elsewhere.as_uri(),
    }[place]
    native = NativeRun(direct.native.id, None, {"tracking_uri": uri})
    reporter = MlflowReporter()
    with pytest.raises(RunFolderError, match="set MLFLOW_TRACKING_URI"):
        if call == "read":
            reporter.read(native)
        else:
            getattr(reporter, call)(direct.info, native)
    assert is_untouched(elsewhere)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_database_that_has_the_run_may_be_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in a database that no setting names any more is gone on with there, if its files are beside that."""
    prepare(tmp_path / "there")
    direct = Direct(tmp_path / "runs", tracking_uri=f"sqlite:///{tmp_path}/there/mlflow.db")
    direct.options = {}
    direct.open()
    direct.reporter.log_text("note", "hello", 0, START)
    assert direct.read().texts["note"][0].text == "hello"
    monkeypatch.chdir(tmp_path)
    relative = NativeRun(direct.native.id, None, {"tracking_uri": "sqlite:///there/mlflow.db"})
    with pytest.raises(RunFolderError, match="set MLFLOW_TRACKING_URI"):
        direct.reporter.open(direct.info, relative)


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow.db.lock", "mlartifacts"])
def test_links_beside_the_run_folder_are_not_followed(name: str, elsewhere: Path, tmp_path: Path) -> None:
    """Neither the database nor its lock nor the artifacts are a link that a stranger made."""
    (tmp_path / "runs").mkdir()
    if name == "mlflow.db":
        (tmp_path / "runs" / name).symlink_to(elsewhere / "diary")
    else:
        prepare(tmp_path / "runs")
        (tmp_path / "runs" / name).symlink_to(elsewhere if name == "mlartifacts" else elsewhere / "diary")
    with pytest.raises(RunFolderError, match="is a link"):
        Direct(tmp_path / "runs")
    assert is_untouched(elsewhere)


@pytest.mark.parametrize("place", ["beside", "anywhere"])
def test_database_that_no_setting_names_does_not_choose_where_files_go(
    place: str, elsewhere: Path, tmp_path: Path
) -> None:
    """A stranger's database may say that the files of its runs belong into our home."""
    runs = tmp_path / ("runs" if place == "beside" else "there")
    Direct(runs).client.create_experiment("theirs", artifact_location=elsewhere.as_uri())
    uri = f"sqlite:///{runs}/mlflow.db"
    native = Direct(runs, "run-2", experiment_name="theirs", tracking_uri=uri).native
    direct = Direct(tmp_path / "runs", "run-2")
    with pytest.raises(RunFolderError, match="outside of"):
        MlflowReporter().open(direct.info, native)
    assert is_untouched(elsewhere)


def test_artifact_names_lead_nowhere(direct: Direct, elsewhere: Path, tmp_path: Path) -> None:
    """Names with dots, slashes and what they may mean are only names: the files stay in their folder, and read back."""
    names = ["../../../up", f"{elsewhere}/absolute", "..", ".", "a/./b", "a/../../c", "...", "..d", "//e"]
    file = tmp_path / "file"
    file.write_text("content")
    for name in names:
        files = (StoredFile(name, 0, ""),)
        direct.reporter.log_artifact(LocalArtifact(name, "file", file, files, {}), None, START)
    found = direct.read().artifacts
    assert {name: list(artifact.files) for name, artifact in found.items()} == {name: [name] for name in names}
    assert is_untouched(elsewhere)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "file", "runs"]


def test_links_among_the_artifacts_are_not_followed(direct: Direct, elsewhere: Path, tmp_path: Path) -> None:
    """A folder or file among a run's artifacts that is a link to elsewhere is neither written nor read."""
    direct.reporter.log_text("note", "hello", 0, START)
    (texts,) = tmp_path.glob("runs/mlartifacts/*/artifacts/texts")
    shutil.rmtree(texts)
    texts.symlink_to(elsewhere)
    with pytest.raises(ValueError, match="leads out of"):
        direct.reporter.log_text("note", "hello", 0, START)
    texts.unlink()
    direct.reporter.log_text("note", "hello", 0, START)
    (file,) = texts.iterdir()
    file.unlink()
    file.symlink_to(elsewhere / "diary")
    with pytest.raises(ValueError, match="leads out of"):
        direct.read()
    assert is_untouched(elsewhere)


def test_manifest_does_not_read_what_is_not_the_runs(direct: Direct, elsewhere: Path, tmp_path: Path) -> None:
    """What an artifact consists of is below the run's artifacts, whatever its manifest says."""
    file = tmp_path / "file"
    file.write_text("content")
    direct.reporter.log_artifact(LocalArtifact("a", "file", file, (StoredFile("file", 0, ""),), {}), None, START)
    (manifest,) = tmp_path.glob("runs/mlartifacts/*/artifacts/manifests/a.json")
    told = json.loads(manifest.read_text())
    wrong = {"folder": str(elsewhere), "files": [["diary", "diary"]]}, {"files": [["diary", "../../../../diary"]]}
    for lie in wrong:
        manifest.write_text(json.dumps({**told, **lie}))
        with pytest.raises(ValueError, match="leads out of"):
            direct.read()
