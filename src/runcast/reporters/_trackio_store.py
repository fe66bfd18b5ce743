"""A Trackio folder: written through Trackio's own storage, read straight from its files.

    <project>.db               SQLite: rows of what was logged, configs, versions of artifacts
    media/<project>/           images
    artifacts/<project>/       the files of artifacts, by content
    inbox/                     rows that wait for a dashboard to take them into the database: Trackio writes them so on a
                               network file system, where SQLite isn't safe

Trackio's storage knows but one folder a process, and is told of another here for as long as a call takes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import threading
import time as clock
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from runcast.media import slug
from runcast.reporter import LocalArtifact
from runcast.trust import check_regular, own_folder, regular, replace_file

logger = logging.getLogger("runcast")

_ONE_AT_A_TIME = threading.RLock()
_MEDIA, _ARTIFACTS, _INBOX = "media", "artifacts", "inbox"
_REGISTRY = "registry-"  # how databases begin that are no project's
_REFUSED_ENDS = (
    "_system",
    "_configs",
    "_traces",
    "_artifacts",
    "_artifact_versions",
    "_artifact_aliases",
    "_artifact_links",
)
_LONGEST = 50  # characters, of up to four bytes each, in the name of a file


class Row(NamedTuple):
    """Something logged.

    Attributes:
        time: As Trackio writes it.
        id: No two rows have the same.
    """

    values: dict[str, Any]
    step: int
    time: str
    id: str


class Known(NamedTuple):
    """A run as the folder has it."""

    id: str
    name: str


def project_of(name: str) -> str:
    """The project that Trackio makes of a name: of its letters, digits, ``-`` and ``_``."""
    return "".join(char for char in name if char.isalnum() or char in "-_") or "default"


def new_project(name: str) -> str:
    """A project that Trackio takes, for a run: neither too long nor called as what it keeps for itself."""
    project = project_of(name)[:_LONGEST]
    return f"runs-{project}-" if project.startswith(_REGISTRY) or project.endswith(_REFUSED_ENDS) else project


class Store:
    """One project in a Trackio folder.

    Args:
        folder: The Trackio folder, ``TRACKIO_DIR``.
        project: As `project_of` or `new_project` has it.
    """

    def __init__(self, folder: Path, project: str) -> None:
        self.folder = folder
        self.project = project
        self.media = folder / _MEDIA
        self._db = folder / f"{project}.db"
        self._touched: set[Path] = set()

    # -- writing ---------------------------------------------------------------------------------------------------

    def prepare(self, run_id: str) -> None:
        """Makes ready for writing.

        Raises:
            RunFolderError: A file of the folder is a link, or none.
        """
        own_folder(self.folder.parent, self.folder.name)
        check_regular(*(self.folder / f"{self.project}{end}" for end in (".db", ".db-wal", ".db-shm", ".lock")))
        self._writer_id = f"{clock.time_ns():020d}-{run_id}"
        self._written = 0

    def write(self, run: Known, rows: Sequence[Row], config: dict[str, Any] | None = None) -> None:
        """Adds rows, all or none; with them the run's whole config, if it is given."""
        with _storage(self.folder) as storage:
            from trackio import fragments, utils

            if utils.get_storage_mode() == "jsonl":
                self._write_to_inbox(fragments, run, rows, config)
                return
            storage.bulk_log(
                project=self.project,
                run=run.name,
                run_id=run.id,
                metrics_list=[row.values for row in rows],
                steps=[row.step for row in rows],
                timestamps=[row.time for row in rows],
                log_ids=[row.id for row in rows],
                config=config,
            )

    def _write_to_inbox(self, fragments: Any, run: Known, rows: Sequence[Row], config: dict[str, Any] | None) -> None:
        writer = own_folder(self.folder, _INBOX, self._writer_id)
        entries = [
            {
                "project": self.project,
                "run": run.name,
                "run_id": run.id,
                "metrics": row.values,
                "step": row.step,
                "timestamp": row.time,
                "log_id": row.id,
                "config": config,
            }
            for row in rows
        ]
        path = writer / f"{self._written:08d}.jsonl"
        replace_file(path, fragments.FragmentWriter.serialize_records(list(map(fragments.metric_record, entries))))
        self._written += 1
        self._touched.add(path)

    def add_image(self, run_id: str, step: int, name: str, data: bytes) -> str:
        """Writes an image; the answer is its path below the media."""
        path = own_folder(self.folder, _MEDIA, self.project, run_id, str(step)) / name
        replace_file(path, data)
        self._touched.add(path)
        return path.relative_to(self.media).as_posix()

    def add_artifact(self, run: Known, name: str, artifact: LocalArtifact, metadata: dict[str, Any]) -> dict[str, Any]:
        """Writes an artifact's files, and a version of it unless there is one with just these.

        Args:
            name: What Trackio calls it. There a name is of one type for ever: with another, the type is added to it.
            metadata: What Trackio shows of it.

        Returns:
            Its name and version in Trackio.
        """
        blobs = own_folder(self.folder, _ARTIFACTS, self.project, "blobs", "sha256")
        with _storage(self.folder) as storage:
            from trackio import cas

            manifest = []
            for file in artifact.files:
                digest, size = cas.stage_blob_into_project(artifact.file_path(file), self.project)
                manifest.append({"path": file.path, "digest": str(digest), "size": size})
                self._touched.add(blobs / digest[:2] / digest)
            version: dict[str, Any] = {}
            for called in (name, f"{name}-{slug(artifact.kind)}"):
                try:
                    version = storage.commit_artifact_version(
                        project=self.project,
                        name=called,
                        type=artifact.kind,
                        description=None,
                        manifest=manifest,
                        metadata=metadata,
                        aliases=[],
                        run_name=run.name,
                        run_id=run.id,
                    )
                    break
                except ValueError:
                    if called != name:
                        raise
        return {"artifact": version["name"], "version": version["version"]}

    def forget(self, run: Known) -> None:
        """Removes a run of ours; what Trackio makes of it, versions of artifacts, stays.

        Raises:
            OSError: Something of it is still there.
        """
        for writer in self.folder.glob(f"{_INBOX}/*"):
            if writer.name.partition("-")[2] == run.id:  # as `prepare` calls it
                shutil.rmtree(writer)
        if self._db.exists():
            with _storage(self.folder) as storage:
                storage.delete_run(self.project, run.name, run_id=run.id)
        if self.config(run.id) is not None or self.rows(run.id):
            raise OSError(f"Trackio couldn't remove the run {run.id!r} from {self._db}")
        images = self.media / self.project / run.id
        if images.exists():
            shutil.rmtree(images)

    def flush(self) -> None:
        """Returns when what was written is on the disk."""
        for path in tuple(self._touched):
            with contextlib.suppress(FileNotFoundError), open(path, "rb", opener=regular) as file:
                os.fsync(file.fileno())  # not there: a dashboard has taken it into the database
            self._touched.discard(path)
        if self._db.exists():
            with closing(sqlite3.connect(self._db)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # -- reading ---------------------------------------------------------------------------------------------------

    def runs(self) -> list[Known]:
        """Every run of the project, the oldest first."""
        found = {known.id: known for known in self._waiting_runs()}
        for row in self.query("SELECT {run}, run_name FROM metrics GROUP BY {run} ORDER BY MIN(id)"):
            found[row[0]] = Known(*row)
        return list(found.values())

    def run(self, run_id: str) -> Known | None:
        """The run of this id, by the name that it has now."""
        for sql in (
            "SELECT {run}, run_name FROM configs WHERE {run} = ?",
            "SELECT {run}, run_name FROM metrics WHERE {run} = ? LIMIT 1",
        ):
            for row in self.query(sql, run_id):
                return Known(*row)
        return next((known for known in self._waiting_runs() if known.id == run_id), None)

    def config(self, run_id: str) -> dict[str, Any] | None:
        """What Trackio calls the run's config; None if it has none."""
        waiting = [entry["config"] for entry in self._waiting(run_id) if entry.get("config")]
        if waiting:
            last: dict[str, Any] = waiting[-1]
            return last
        for (config,) in self.query("SELECT config FROM configs WHERE {run} = ?", run_id):
            found: dict[str, Any] = json.loads(config)
            return found
        return None

    def rows(self, run_id: str) -> list[Row]:
        """What was logged, in that order."""
        waiting = [
            Row(entry.get("metrics") or {}, entry["step"], entry["timestamp"], entry["log_id"])
            for entry in self._waiting(run_id)
        ]
        stored = [
            Row(_decoded(values), step, time, log_id or "")
            for values, step, time, log_id in self.query(
                "SELECT metrics, step, timestamp, {log_id} FROM metrics WHERE {run} = ? ORDER BY id", run_id
            )
        ]
        known = {row.id for row in stored}
        return stored + [row for row in waiting if row.id not in known]

    def query(self, sql: str, *parameters: Any) -> list[Any]:
        """Rows of the database; none where it, or the table, isn't there.

        Args:
            sql: ``{run}`` stands for the column that tells runs apart, ``{log_id}`` for that of the rows' ids: older
                versions of Trackio have none.
        """
        if not self._db.is_file():
            return []
        with closing(_readable(self._db)) as connection:
            columns = {row[1] for row in connection.execute("PRAGMA table_info(metrics)")}
            sql = sql.replace("{run}", "run_id" if "run_id" in columns else "run_name")
            sql = sql.replace("{log_id}", "log_id" if "log_id" in columns else "NULL")
            try:
                return connection.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    def blob(self, digest: str) -> Path:
        """The file of this content."""
        return self.folder / _ARTIFACTS / self.project / "blobs" / "sha256" / digest[:2] / digest

    def _waiting_runs(self) -> Iterator[Known]:
        for entry in self._waiting():
            yield Known(entry.get("run_id") or entry["run"], entry["run"])

    def _waiting(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """The rows in the inbox."""
        return [
            entry
            for entry in waiting_in(self.folder)
            if project_of(entry["project"]) == self.project and run_id in (None, entry.get("run_id") or entry["run"])
        ]


def _decoded(content: str | bytes) -> dict[str, Any]:
    """The values of a row; none where it is damaged."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        logger.warning("a row of Trackio's is left out: %s", error)
        return {}
    return found if isinstance(found, dict) else {}


def projects_in(folder: Path) -> list[str]:
    """The projects of a Trackio folder."""
    stored = {path.stem for path in folder.glob("*.db") if not path.name.startswith(_REGISTRY)}
    return sorted(stored | {project_of(entry["project"]) for entry in waiting_in(folder)})


def waiting_in(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows in a folder's inbox, in the order in which they were written; what is no row is passed over."""
    for path in sorted((folder / _INBOX).glob("*/*.jsonl")):
        try:
            with open(path, "rb", opener=regular) as file:
                lines = file.read().splitlines()
        except OSError as error:  # a dashboard took it into the database, or it is no file
            logger.debug("%s: not read: %s", path, error)
            continue
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and entry.get("kind") == "metric" and entry.get("project") and entry.get("run"):
                yield entry


def _readable(path: Path) -> sqlite3.Connection:
    """A database that is open for reading, also where its folder can't be written.

    Beside it SQLite makes files, which a reader leaves there that may not write, and which one that may takes away again,
    also if a process that was killed has left them. So what isn't there won't stay, and what is there will.
    """
    uri = path.absolute().as_uri()
    mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "rw"
    try:
        connection = sqlite3.connect(f"{uri}?mode={mode}", uri=True, timeout=30.0)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True)
    return connection


@contextlib.contextmanager
def _storage(folder: Path) -> Iterator[Any]:
    """Trackio's storage, at this folder for the moment; nothing is fetched from a bucket that the environment names."""
    from trackio import sqlite_storage, utils

    storage = sqlite_storage.SQLiteStorage
    places = {"TRACKIO_DIR": folder, "MEDIA_DIR": folder / _MEDIA, "ARTIFACTS_DIR": folder / _ARTIFACTS}
    changes: list[tuple[Any, str, Any]] = [
        (module, name, path)
        for module in (utils, sqlite_storage)
        for name, path in places.items()
        if hasattr(module, name)
    ]
    changes.append((storage, "_dataset_import_attempted", True))
    with _ONE_AT_A_TIME:
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
        for owner, name, value in changes:
            setattr(owner, name, value)
        try:
            yield storage
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)
