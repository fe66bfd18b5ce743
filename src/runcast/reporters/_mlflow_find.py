"""The stored runs that somebody means, to import them: by a path, an id, a page's address, an experiment.

A store that is shown by its path is left as it is: a newer MLflow would migrate the tables of an older one for good, and
makes folders. So a database is copied first, and folders are linked to. It may come from a stranger, and says itself where
the files of its runs are: they count only below its own folder, unless our settings name the store.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runcast.errors import RunFolderError
from runcast.redact import redact_text
from runcast.reporters._mlflow_record import Stored, folder_of
from runcast.reporters._mlflow_store import connect, sqlite_file

_PAGE = re.compile(r"(?P<server>https?://.*?)/?#/experiments/(?P<experiment>[^/?]+)(?:/runs/(?P<run>[^/?]+))?.*")
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class Shown:
    """A store that somebody has shown by its path.

    Args:
        path: The database, or the folder of a file store.
        wanted: A run or an experiment in it, if not all.

    Attributes:
        uri: What MLflow calls it.
    """

    def __init__(self, path: Path, wanted: str | None = None) -> None:
        self.uri = path.as_uri() if path.is_dir() else f"sqlite:///{path}"
        self.wanted = wanted
        self._path = path
        self._copy = tempfile.TemporaryDirectory(prefix="runcast-")
        self._client: Any = None

    def runs(self) -> list[str]:
        """The ids of its runs."""
        return find(self._connected(), self.wanted) if self.wanted else all_runs(self._connected())

    def stored(self, run_id: str) -> Stored:
        """One of its runs.

        Raises:
            RunFolderError: Its files are elsewhere.
        """
        return Stored(self._connected(), run_id, self._folder)

    def _connected(self) -> Any:
        if self._client is None:
            copy = Path(self._copy.name)
            if self._path.is_dir():
                for child in self._path.iterdir():
                    if child.name != ".trash":
                        (copy / child.name).symlink_to(child)
                with _file_stores_allowed():
                    self._client = connect(copy.as_uri())
            else:
                _copy_database(self._path, copy / "mlflow.db")
                self._client = connect(f"sqlite:///{copy / 'mlflow.db'}")
        return self._client

    def _folder(self, location: str, usual: str) -> Path:
        """The folder of a run's or model's files, also where the store was moved since."""
        base = self._path if self._path.is_dir() else self._path.parent
        ours = usual.partition("/")[2]  # without the experiment
        here = [base / usual, base / "mlruns" / usual, base / "mlartifacts" / usual, base / "mlartifacts" / ours]
        told = folder_of(location)
        if told is not None and told.resolve().is_relative_to(base.resolve()):
            here.insert(0, told)
        for folder in here:
            if folder.is_dir():
                return folder
        if told is not None and not told.exists():
            return here[0]  # there are none
        raise RunFolderError(
            f"the files of this run are in {redact_text(location)!r}, outside of {str(base)!r}: if that is right, set "
            f"MLFLOW_TRACKING_URI to {self.uri}"
        )


def shown_at(source: str) -> Shown | None:
    """The store at a path, if there is one: a database, a folder that has one, a file store, or a part of it."""
    if path := sqlite_file(source.partition("#")[0]):
        source = f"{path}{''.join(source.partition('#')[1:])}"
    if Path(source).exists():
        name, run_id = source, ""
    else:
        name, _, run_id = source.rpartition("#")
    path = Path(name).absolute()
    if not name or not path.exists():
        return None
    if path.is_file():
        return Shown(path, run_id or None) if _is_database(path) else None
    for part in (path / "mlflow.db", path, path / "mlruns"):
        if part.is_file() and _is_database(part):
            return Shown(part, run_id or None)
        if any(part.glob("*/meta.yaml")) and not (part / "meta.yaml").exists():
            return Shown(part, run_id or None)
    if (path / "meta.yaml").exists():
        if (path.parent / "meta.yaml").exists():
            return Shown(path.parent.parent, path.name)
        return Shown(path.parent, run_id or path.name)
    return None


def find(client: Any, source: str) -> list[str]:
    """The ids of the runs that `source` means in this store: an id, ``runs:/ID``, or an experiment's name or id.

    Raises:
        LookupError: There are none.
    """
    page = _PAGE.fullmatch(source)
    if page is not None:
        if page["server"] != redact_text(client.tracking_uri).rstrip("/"):
            raise LookupError(f"{page['server']!r} is not where our settings point: set MLFLOW_TRACKING_URI to it")
        source = page["run"] or page["experiment"]
    run_id = source.removeprefix("runs:/").rstrip("/")
    run = _or_none(lambda: client.get_run(run_id))
    if run is not None:
        return [str(run.info.run_id)]
    experiment = client.get_experiment_by_name(source) or _or_none(lambda: client.get_experiment(source))
    found = [] if experiment is None else _runs_in(client, [experiment.experiment_id])
    if not found:
        raise LookupError(
            f"MLflow has no run or experiment {source!r} in {redact_text(client.tracking_uri)}; expected a run's id, "
            "an experiment's name or id, or the path of a database or of a folder mlruns"
        )
    return found


def all_runs(client: Any) -> list[str]:
    """The ids of all runs in this store, those left out that were deleted.

    Raises:
        LookupError: There are none.
    """
    experiments = [each.experiment_id for each in _pages(lambda token: client.search_experiments(page_token=token))]
    found = _runs_in(client, experiments)
    if not found:
        raise LookupError("MLflow's store has no runs")
    return found


def _runs_in(client: Any, experiments: list[str]) -> list[str]:
    runs = _pages(lambda token: client.search_runs(experiments, page_token=token))
    return [str(run.info.run_id) for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))]


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        page = ask(token)
        yield from page
        if not (token := page.token):
            return


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ValueError:  # no number, where a database has only those
        return None
    except Exception as error:
        if getattr(error, "error_code", None) in _NOT_THERE:
            return None
        raise


def _is_database(path: Path) -> bool:
    """Whether a file is a SQLite database with a table of runs."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
        try:
            return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone() is not None
        except sqlite3.Error:
            return False


def _copy_database(path: Path, copy: Path) -> None:
    """A copy as of now, also of a database that is being written."""
    source = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    with closing(source), closing(sqlite3.connect(copy)) as target:
        source.backup(target)


@contextmanager
def _file_stores_allowed() -> Iterator[None]:
    """Newer versions refuse file stores: they would have new runs in databases, but these are only read."""
    variable = "MLFLOW_ALLOW_FILE_STORE"
    before = os.environ.get(variable)
    os.environ[variable] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
