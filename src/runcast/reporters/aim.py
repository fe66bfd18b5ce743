"""Aim, in a local repository: ``.aim`` beside the run folders, which ``aim up --repo runs`` shows.

    metrics        metrics, with step and wall time
    text, image    texts, and the PNG files as they are
    distributions  histograms, with their exact edges beside what Aim draws
    text           tables too, a line of JSON each row, with the context ``{"type": "table"}``
    hparams        the config; ``summary`` the summary; ``runcast`` what Aim has no place for: the run's identity, its
                   status, its artifacts' kind, step and metadata
    artifacts      linked or copied into ``.aim/artifacts/<hash>``
    experiment     the project; name and tags are Aim's own

Aim keeps one value of a name, context and step, the last. So a further one has a context of its own, ``{"repeat": 2}``.

Aim's hash of a run is made of its id and start, so that a run whose first delivery was interrupted is begun once. A
repository is made under another name and then renamed: Aim itself fails where several processes make one at once, and where
one was killed while it did.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import os
import shlex
import shutil
import tempfile
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from runcast.events import RunStatus
from runcast.media import link_or_copy, slug
from runcast.record import RunRecord, inside, merge
from runcast.reporter import Availability, LocalArtifact, NativeRun, Reporter, Requirement, RunInfo, offline, transient
from runcast.reporters._aim_record import (
    CONFIG,
    EDGES,
    OURS,
    REPEAT,
    SUMMARY,
    TABLE,
    TYPE,
    fits,
    key_of,
    own_record,
    table_text,
    to_plain,
    to_stored,
)
from runcast.reporters._aim_store import StoredRun, repository, run_hashes
from runcast.reporters._aim_theirs import their_record
from runcast.reporters._versions import requirement
from runcast.trust import private

_LOCK = "runcast.lock"
_PASSING = ("No space left on device", "LOCK:", "database is locked", "database or disk is full")


class AimReporter(Reporter):
    """Logs to an Aim repository on this machine.

    Args:
        repo: The folder that has it, or is to have it, as in ``aim up --repo``. Default: that of the run folders.
        experiment: Default: the run's project.
    """

    name: ClassVar[str] = "aim"
    requires: ClassVar[Requirement] = requirement("aim")

    def __init__(self, repo: str | None = None, experiment: str | None = None) -> None:
        if repo is not None and "://" in repo:
            raise ValueError(f"repo is {repo!r}; expected a local folder")
        self._home = None if repo is None else _home_of(Path(repo).expanduser().absolute())
        self._experiment = experiment
        self._run: Any = None

    @classmethod
    def availability(cls) -> Availability:
        return offline(super().availability(), "a repository beside the run folders: aim up --repo runs", mode="local")

    # -- starting --------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        return self._start(run, attach, fresh=attach is None)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        return self._start(run, old, fresh=True)

    def _start(self, run: RunInfo, attach: NativeRun | None, *, fresh: bool) -> NativeRun:
        self._let_go()
        home, run_hash = self._home_for(run, attach), _hash_of(run)
        self._aim = aim = _made(home)
        self._artifacts = aim / "artifacts" / run_hash
        for path in (self._artifacts.parent, self._artifacts):
            if path.is_symlink():
                raise ValueError(f"{path} is a link: Aim's files are not written through links")
        if fresh:
            _remove(home, run_hash)
            self._own = _identity(run)
            self._config, self._summary = {}, {}
        else:
            stored = to_plain(StoredRun(home, run_hash).attributes)
            self._own, self._config, self._summary = stored[OURS], stored.get(CONFIG, {}), stored.get(SUMMARY, {})
        self._open(home, run_hash, run)
        self._repeats: dict[tuple[str, str, int], int] = {}
        self._write_status("running", None)
        self.flush()
        data = {"repo": str(home), "home": str(self._home) if self._home else None}
        return NativeRun(run_hash, f"aim up --repo {shlex.quote(str(home))}", data)

    def _home_for(self, run: RunInfo, attach: NativeRun | None) -> Path:
        """The folder of the repository.

        Raises:
            ValueError: The run began in another. Only the user says where we write.
        """
        began = attach and attach.data.get("home")
        if attach is not None and began != (str(self._home) if self._home else None):
            where = repr(began) if began else "the folder of the run folders"
            raise ValueError(f"the run's Aim repository is in {where}; to go on there, say so: repo=")
        return self._home or run.dir.absolute().parent

    def _open(self, home: Path, run_hash: str, run: RunInfo) -> None:
        from aim import Run
        from aim.sdk.repo import Repo

        repo = Repo(str(home))
        # Aim takes no hash but one that it knows: it knows those that have such a folder.
        trees = [repo.request_tree(name, run_hash, read_only=False) for name in ("meta", "seqs")]
        self._containers = [tree.container for tree in trees]
        Repo._all_run_hashes.cache_clear()
        created = datetime.fromtimestamp(run.started, UTC).replace(tzinfo=None)
        with _alone(self._aim):
            if not repo.structured_db.find_run(run_hash):
                repo.structured_db.create_run(run_hash, created)
            self._run = Run(
                run_hash,
                repo=repo,
                experiment=self._experiment or run.project,
                # A killed courier leaves its lock, and its process's number may be another's by now.
                force_resume=(self._aim / "locks" / f"{run_hash}.softlock").exists(),
                system_tracking_interval=None,
                capture_terminal_logs=False,
            )
            self._run.name = run.name
        for ending in ("set_run_end_time", "finalize_run"):  # else it would end in Aim when this process does
            setattr(self._run._resources, ending, lambda: None)
        self._context = functools.cache(_context)

    def _let_go(self) -> None:
        """Leaves a run that an earlier `open` has begun, without an end."""
        run, self._run, self._containers = self._run, None, []
        if run is not None:
            with contextlib.suppress(Exception):
                run.close()

    # -- writing ---------------------------------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        for name, value in metrics.items():
            self._track(value, name, step, time, "float")

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._config = merge(self._config, dict(config))
        self._run[CONFIG] = to_stored(self._config)

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        from aim import Text

        self._track(Text(text), key, step, time, "aim.text")

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        from aim import Image
        from aim.storage.types import BLOB

        picture = Image(str(image))
        picture.storage["data"] = BLOB(data=image.read_bytes())  # instead of one that is encoded anew
        self._track(picture, key, step, time, "aim.image")

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        """As a text with the context `type: table`, a line of JSON each row."""
        from aim import Text

        self._track(Text(table_text(columns, rows)), key, step, time, "aim.text", TABLE)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        import numpy as np
        from aim import Distribution
        from aim.storage.types import BLOB

        distribution = Distribution(hist=np.array(counts, float), bin_range=(edges[0], edges[-1]))
        distribution.storage[EDGES] = BLOB(data=np.array(edges, float).tobytes())
        self._track(distribution, key, step, time, "aim.distribution")

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        from aim.sdk.objects.artifact import Artifact

        name = slug(artifact.name)
        folder = name if name == artifact.name else f"{name}-{_digest(artifact.name)[:8]}"
        root = inside(self._artifacts, folder)
        shutil.rmtree(root, ignore_errors=True)
        tree = self._run.meta_run_tree.subtree("artifacts")
        for path in self._own["artifacts"].get(artifact.name, {}).get("files", ()):
            del tree[f"{folder}/{path}"]
        uri = f"file://{self._artifacts}"  # as it is: Aim takes no %20 for a space
        for file in artifact.files:
            target = inside(root, file.path)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            link_or_copy(artifact.file_path(file), target, link=True)
            aim_name = f"{folder}/{file.path}"
            tree[aim_name] = Artifact(str(target), uri=uri, name=aim_name)
        self._run.meta_run_tree["artifacts_uri"] = uri.removesuffix(f"/{self._artifacts.name}")
        self._own["artifacts"][artifact.name] = {
            "kind": artifact.kind,
            "step": step,
            "metadata": dict(artifact.metadata),
            "folder": folder,
            "files": [file.path for file in artifact.files],
        }
        self._write_own()

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """Among the run's parameters, `summary`."""
        self._summary = {**self._summary, **values}
        self._run[SUMMARY] = to_stored(self._summary)

    def add_tags(self, tags: Sequence[str]) -> None:
        with _alone(self._aim):
            for tag in tags:
                if tag not in self._run.tags:
                    self._run.add_tag(tag)

    def flush(self) -> None:
        """Returns when RocksDB's logs are on disk."""
        for container in self._containers:
            container.db.flush_wal(True)

    def close(self, status: RunStatus) -> None:
        """Among the run's parameters, `runcast/status`; the end time, and that it was successful, as Aim has them."""
        if self._run is None:
            return
        finished = clock.time()
        self._write_status(status, finished)
        self._run.meta_run_tree["end_time"] = finished
        if status == "completed":
            self._run.report_successful_finish()
        self.flush()
        run, self._run, self._containers = self._run, None, []
        run.close()

    def is_transient(self, error: Exception) -> bool | float:
        return transient(error) or any(words in str(error) for words in _PASSING)

    def _track(self, value: Any, name: str, step: int, time: float, kind: str, type_: str = "") -> None:
        if not fits(step):
            raise ValueError(f"step {step} is none for Aim, whose integers have 64 bits")
        tracker, key = self._run._tracker, key_of(name)
        context, index = self._place(key, step, kind, type_)
        tracker._track(value, time, key, step, context=context)
        series = tracker.sequence_infos[index, key]
        if step < 0 and series.count == 0:  # by itself, Aim notes a last step from 0 on, and can't go on without
            trace = self._run.meta_run_tree.subtree(("traces", index, key))
            trace["last"], trace["last_step"] = value, step
            series.count = step + 1

    def _place(self, key: str, step: int, kind: str, type_: str) -> tuple[dict[str, Any], int]:
        """The first context in which Aim has nothing of this name and step, nor anything of another kind; its index."""
        known = self._run._tracker.sequence_infos
        for number in itertools.count(self._repeats.get((key, type_, step), 1)):
            context, index = self._context(type_, number)
            series = known.get((index, key))
            if series is None or not series.initialized:
                break
            if series.dtype == kind and not _has(series, step):
                break
        if number > 1:
            self._repeats[key, type_, step] = number
        return context, index

    def _write_status(self, status: RunStatus, finished: float | None) -> None:
        self._own |= {"status": status, "finished": finished}
        self._write_own()

    def _write_own(self) -> None:
        self._run[OURS] = to_stored(self._own)

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        stored = StoredRun(Path(native.data["repo"]), native.id)
        return own_record(stored) if OURS in stored.attributes else their_record(stored)

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """All runs of a repository (its folder, or ``.aim`` itself), one as ``<folder>#<hash>``, or by its hash.

        A hash is looked for in `repo`, in the working directory and those above it as Aim does, and in ``runs``.
        """
        place, _, wanted = source.rpartition("#")
        named = [(place, wanted)] if place else []
        for folder, meant in ((source, None), *named, *((home, source) for home in self._usual_homes())):
            home = _home_of(Path(folder).expanduser().absolute())
            found = [run_hash for run_hash in run_hashes(home) if meant in (None, run_hash)]
            if found:
                return [NativeRun(run_hash, data={"repo": str(home)}) for run_hash in found]
        raise LookupError(
            f"no run of Aim's for {source!r}; expected the folder of a repository (.aim), <folder>#<hash> or a hash"
        )

    def _usual_homes(self) -> Iterator[str]:
        if self._home is not None:
            yield str(self._home)
        here = Path.cwd()
        yield from map(str, (here, *here.parents))
        yield os.environ.get("RUNCAST_DIR") or "runs"


# -- the repository ----------------------------------------------------------------------------------------------------


def _home_of(path: Path) -> Path:
    """The folder of a repository, which may be told by the repository itself."""
    return path.parent if path.name == repository(path).name else path


def _made(home: Path) -> Path:
    """The repository in a folder, made if need be, private to the user.

    Raises:
        BlockingIOError: It isn't whole: another process is making it, or was killed while it did.
        ValueError: It was made by a version of Aim that is too old.
    """
    aim = repository(home)
    if not aim.exists():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(home, aim)
    if not (aim / "VERSION").exists():
        raise BlockingIOError(errno.EAGAIN, "Aim's repository isn't whole; if nobody is making it, remove it", str(aim))

    from aim.sdk.repo import Repo, RepoStatus

    if Repo.check_repo_status(str(home)) == RepoStatus.UPDATE_REQUIRED:
        raise ValueError(f"the Aim repository {str(aim)!r} is of an older version: aim upgrade --repo {home} 2to3")
    return aim


def _make(home: Path, aim: Path) -> None:
    from aim.sdk.repo import Repo

    with tempfile.TemporaryDirectory(prefix=f"{aim.name}-", dir=home, ignore_cleanup_errors=True) as folder:
        repo = Repo(folder, init=True)
        repo.structured_db.engine.dispose()
        del repo
        new = repository(Path(folder))
        new.chmod(0o700)
        try:
            new.rename(aim)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process was faster
                raise


def _remove(home: Path, run_hash: str) -> None:
    """Removes what was written of the run before, but for its row in the database."""
    aim = repository(home)
    stored = [aim / name / "chunks" / run_hash for name in ("meta", "seqs")]
    if stored[0].exists():
        _remove_from_index(home, run_hash)
    for path in (*stored, aim / "artifacts" / run_hash):
        if path.exists():
            shutil.rmtree(path)


def _remove_from_index(home: Path, run_hash: str) -> None:
    """What `aim up` has indexed of it: while that runs nobody else may, and it notices by itself what is new."""
    from aim.sdk.repo import Repo
    from aimrocks.errors import RocksIOError

    with contextlib.suppress(RocksIOError):
        index = Repo(str(home))._get_index_container("meta", timeout=0)
        del index.tree().subtree(("meta", "chunks"))[run_hash]


@contextlib.contextmanager
def _alone(aim: Path) -> Iterator[None]:
    """Keeps other couriers from the repository's database: Aim takes no care of two that write to it."""
    descriptor = private(str(aim / _LOCK), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# -- a run -------------------------------------------------------------------------------------------------------------


def _hash_of(run: RunInfo) -> str:
    """Aim's hash of a run: as long as those that Aim makes."""
    return _digest(f"{run.run_id} {run.started!r}")[:24]


def _identity(run: RunInfo) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "project": run.project,
        "group": run.group,
        "started": run.started,
        "artifacts": {},
    }


def _context(type_: str, number: int) -> tuple[dict[str, Any], int]:
    """A context, and Aim's index of it."""
    from aim.storage.context import Context

    context: dict[str, Any] = {TYPE: type_} if type_ else {}
    if number > 1:
        context[REPEAT] = number
    return context, Context(context).idx


def _has(series: Any, step: int) -> bool:
    """Whether a series has a whole value at a step."""
    if step >= series.count:  # beyond its last
        return False
    last_written = series.time_view if series.step_view is None else series.step_view
    try:
        last_written[series.step_hash_fn(step)]
    except KeyError:
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
