"""The contract between the courier and one tracker.

A reporter is complete with a `name` and one method, `log_metrics`; every other method may be overridden. What a
reporter does not override it does not support: that *is* its capability list, nothing is declared twice.

A reporter lives in a courier: ``open`` → (``log_*`` … ``flush``) … → ``close``. Calls come one at a time, from one
thread. After a crash of the courier, events behind the last committed cursor come again: a reporter makes repeats
harmless where its tracker can. Constructing one is cheap and imports no SDK; `open` does.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import msgspec
from packaging.version import Version

from runcast import events
from runcast.events import Event, RunStatus, StoredFile
from runcast.record import RunRecord, inside, read_table

AvailabilityStatus = Literal["ready", "on request", "inactive", "missing", "unsupported", "broken"]


@dataclass(frozen=True)
class Requirement:
    """What a reporter needs installed.

    Attributes:
        distribution: The name on the package index, as in ``pip install``.
        module: What is imported.
        oldest: The oldest version that is supported.
        newest: The newest version that was tested; newer ones are tried all the same.
        extra: The extra of runcast that installs it; None for a reporter from elsewhere.
        python_below: The first Python that it can't be installed on, ``"3.13"`` say; None if there is no such.
    """

    distribution: str
    module: str
    oldest: str
    newest: str
    extra: str | None = None
    python_below: str | None = None

    @property
    def install(self) -> str:
        """The command that installs it, or why there is none."""
        python = "{}.{}".format(*sys.version_info)
        if self.python_below is not None and Version(python) >= Version(self.python_below):
            return f"it needs a Python before {self.python_below}, and this is {python}"
        what = f"runcast[{self.extra}]" if self.extra else f"{self.distribution}>={self.oldest}"
        return f'pip install "{what}"'

    def installed_version(self) -> str | None:
        """The installed version, found without importing anything."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Availability:
    """What detection says of a tracker.

    Attributes:
        name: The reporter's name.
        status: ``ready`` (``"all"`` takes it), ``on request`` (works when named), ``inactive`` (not in this
            environment), ``missing``, ``unsupported`` version, ``broken`` (its code can't be loaded).
        reason: Why, in words, with what to do about it.
        version: The installed version of its SDK, if any.
        mode: How it would run: online, offline, local.
    """

    name: str
    status: AvailabilityStatus
    reason: str = ""
    version: str | None = None
    mode: str | None = None

    @property
    def usable(self) -> bool:
        """Whether the tracker works when it is asked for by name."""
        return self.status in ("ready", "on request")


class NativeRun(msgspec.Struct, frozen=True):
    """A run as its tracker knows it.

    Attributes:
        id: The tracker's own run id.
        url: Where people look at it: a URL, or the command or path that shows it.
        data: What the reporter needs to find the run again; JSON values.
    """

    id: str
    url: str | None = None
    data: dict[str, Any] = {}


@dataclass(frozen=True)
class RunInfo:
    """The run that a reporter is opened for.

    Attributes:
        dir: The run folder; a local backend keeps its files below it.
        started: Unix seconds.
    """

    run_id: str
    name: str
    project: str
    group: str | None
    dir: Path
    started: float
    config: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class LocalArtifact:
    """An artifact on its way to a tracker.

    Attributes:
        kind: file | model | checkpoint | dataset.
        path: The file or folder.
        files: What it consists of; a single file has one entry, its base name.
    """

    name: str
    kind: str
    path: Path
    files: tuple[StoredFile, ...]
    metadata: Mapping[str, Any]

    def file_path(self, file: StoredFile) -> Path:
        """Where one of `files` is on disk."""
        return inside(self.path, file.path) if self.path.is_dir() else self.path


class Reporter:
    """Projects a run's events into one tracker. Subclass it, give it a `name`, override what the tracker can hold.

    Example:
        ```python
        class PrintReporter(Reporter):
            name = "print"

            def log_metrics(self, metrics, step, time):
                print(step, dict(metrics))
        ```

    Attributes:
        name: What `report_to` says.
        requires: What must be installed; None if nothing.
        in_process: True for a reporter that must share the training process, because it writes to its terminal.
        idempotent: True if delivering an event once more changes nothing in the tracker. Else the tracker is read back
            after a crash, to learn what it has (if the reporter has a reader).
        call_timeout: Seconds after which a call that has not returned is taken for hanging: its courier is ended and
            started again. An artifact has a second more a megabyte.
        options: The keyword arguments it was made with.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[Requirement | None] = None
    in_process: ClassVar[bool] = False
    idempotent: bool = False
    call_timeout: float = 300.0
    options: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        try:
            self.options = dict(inspect.signature(cls.__init__).bind(self, *args, **kwargs).arguments)
        except TypeError:  # __init__ is about to say it better
            self.options = kwargs
        self.options.pop(next(iter(inspect.signature(cls.__init__).parameters)), None)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @classmethod
    def availability(cls) -> Availability:
        """Whether this reporter can run here, and why not. Imports nothing heavy, touches no network, asks nobody."""
        need = cls.requires
        if need is None:
            return Availability(cls.name, "ready")
        found = need.installed_version()
        if found is None:
            return Availability(cls.name, "missing", f"{need.distribution} is not installed: {need.install}")
        if Version(found) < Version(need.oldest):
            reason = f"{need.distribution} {found} is older than {need.oldest}: {need.install}"
            return Availability(cls.name, "unsupported", reason, found)
        untested = Version(found).release[:2] > Version(need.newest).release[:2]
        reason = f"newer than the newest tested version, {need.newest}" if untested else ""
        return Availability(cls.name, "ready", reason, found)

    def recipe(self) -> tuple[str, dict[str, Any]]:
        """How another process makes the same reporter: the import path of its class (or of a function), and arguments."""
        return f"{type(self).__module__}:{type(self).__qualname__}", self.options

    def joins(self) -> bool:
        """Whether the user has a run of this tracker open in this process, which `open` would join.

        Told without importing the SDK: one that isn't imported has no open run. A run that is joined is delivered to from
        a thread of this process, and `close` doesn't end it.
        """
        return False

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        """Starts the run in the tracker, or goes on with the run `attach` that an earlier `open` returned."""
        return NativeRun(id=run.run_id)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        """Starts the run anew in the place of `old`, and leaves nothing of that to be seen. Called instead of `open`.

        The run went on from a checkpoint, and `old` has points that were logged behind it. Everything but those comes
        again. A crash may repeat the call, so some or all of `old` may be gone already.

        Returns:
            The new run; None if the tracker can't: then `open` attaches, and the old points stay.
        """
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        """Numbers by name at a step. `time`, here and below: when it was logged, Unix seconds."""
        raise TypeError(f"{type(self).__name__} has no log_metrics")

    def log_metrics_batch(self, batch: Sequence[events.Metrics]) -> None:
        """Many events of numbers, in order. Override it where the tracker takes many at once."""
        for event in batch:
            self.log_metrics(event.values, event.step, event.time)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Settings, nested plain values: first those the run started with, then updates to merge."""

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        """A text at a step."""

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        """A PNG file at a step."""

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        """A table of plain values at a step."""

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        """A distribution at a step: ``len(edges) == len(counts) + 1``."""

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        """A file or folder."""

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """One-off results, plain values by name; the last one of a name counts."""

    def add_tags(self, tags: Sequence[str]) -> None:
        """Labels, in addition to those there are."""

    def flush(self) -> None:
        """Returns when what was delivered is durable, as far as the SDK can tell, and seen by `read`."""

    def close(self, status: RunStatus) -> None:
        """Ends the run with its final status. If it raises, `open` attaches again before the next try."""

    def read(self, native: NativeRun) -> RunRecord:
        """What the tracker stored of the run, read back from the tracker itself."""
        raise TypeError(f"{type(self).__name__} has no reader")

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """The stored runs that `source` means, for `read`; also of runs that runcast didn't write. For ``runcast import``.

        Args:
            source: A path (of a file, a run's folder or a store of runs), or the tracker's own run id or URL.

        Raises:
            LookupError: There is none; the message says what was looked for, and what `source` may be.
        """
        raise LookupError(f"{type(self).__name__} can't look for runs")

    def is_transient(self, error: Exception) -> bool | float:
        """Whether to try again (True, or after so many seconds) or to set the event aside.

        The default: connections that fail, names that aren't resolved, time-outs, a full disk, and the HTTP answers 408, 429
        and 5xx; of the standard library, requests, httpx, aiohttp, and who names them alike.
        """
        return transient(error)

    @classmethod
    def supports(cls, method: str) -> bool:
        """Whether the reporter overrides this method of the contract."""
        return getattr(cls, method) is not getattr(Reporter, method)


def setting(option: str | None, variable: str, default: str) -> str:
    """A reporter's setting: its option, else the tracker's own environment variable, else the default."""
    return option or os.environ.get(variable) or default


def offline(availability: Availability, reason: str, mode: str = "offline") -> Availability:
    """The availability of a tracker that runs without an account, with the one line that says so."""
    if availability.status != "ready":
        return availability
    return replace(availability, mode=mode, reason="; ".join(filter(None, (availability.reason, reason))))


def online(availability: Availability) -> Availability:
    """The availability of a tracker that is configured for its server."""
    return replace(availability, mode="online") if availability.status == "ready" else availability


_TRANSIENT_NAMES = frozenset(
    {"ConnectionError", "ConnectTimeout", "Timeout", "NetworkError", "TransportError", "ProtocolError", "TimeoutError"}
    | {"gaierror", "IncompleteRead", "BadStatusLine", "SSLEOFError", "SSLZeroReturnError", "ClientConnectionError"}
)
"""By name, as not every library is installed, or imported."""
_TRANSIENT_ERRNOS = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}
    | {errno.ENOSPC, errno.EDQUOT}  # somebody may make room
)


def transient(error: BaseException) -> bool | float:
    """The default verdict of `Reporter.is_transient`, also on the error's causes."""
    for seen in _with_causes(error):
        status, headers = _http_answer(seen)
        if status is not None:
            if status not in (408, 429) and status < 500:
                return False
            after = str(headers.get("Retry-After", ""))
            return float(after) if after.isdigit() else True
        if isinstance(seen, ConnectionError | TimeoutError | BlockingIOError):
            return True
        if isinstance(seen, OSError) and seen.errno in _TRANSIENT_ERRNOS:
            return True
        if any(cls.__name__ in _TRANSIENT_NAMES for cls in type(seen).__mro__):
            return True
    return False


def denied(error: BaseException) -> bool:
    """Whether the tracker takes nothing from us: HTTP 401, 403 or 407, also as a cause."""
    for seen in _with_causes(error):
        status, _ = _http_answer(seen)
        if status is None and callable(of_error := getattr(seen, "get_http_status_code", None)):
            status = of_error()
        if status in (401, 403, 407):
            return True
    return False


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the latest first."""
    seen: BaseException | None = error
    known: set[int] = set()
    while seen is not None and id(seen) not in known:
        known.add(id(seen))
        yield seen
        reason = getattr(seen, "reason", None)  # as urllib's URLError has it
        seen = seen.__cause__ or seen.__context__ or (reason if isinstance(reason, BaseException) else None)


def _http_answer(error: BaseException) -> tuple[int | None, Mapping[str, str]]:
    """Status and headers of the HTTP answer that the error stands for, if it does."""
    response = getattr(error, "response", None)  # requests, httpx
    status = getattr(response, "status_code", None)
    headers = getattr(response, "headers", None)
    if status is None and hasattr(error, "headers"):  # the error is the answer; else its code may be anything
        headers = error.headers
        status = getattr(error, "code", None) or getattr(error, "status", None)  # urllib, aiohttp
    return status if isinstance(status, int) else None, headers or {}


def _config(reporter: Reporter, event: events.ConfigUpdated, run_dir: Path) -> None:
    reporter.log_config(event.config)


def _started(reporter: Reporter, event: events.RunStarted, run_dir: Path) -> None:
    if event.config:
        reporter.log_config(event.config)
    if event.tags:
        reporter.add_tags(event.tags)


def _metrics(reporter: Reporter, event: events.Metrics, run_dir: Path) -> None:
    reporter.log_metrics_batch([event])


def _text(reporter: Reporter, event: events.Text, run_dir: Path) -> None:
    reporter.log_text(event.key, event.text, event.step, event.time)


def _image(reporter: Reporter, event: events.Image, run_dir: Path) -> None:
    reporter.log_image(event.key, inside(run_dir, event.path), event.step, event.time)


def _table(reporter: Reporter, event: events.Table, run_dir: Path) -> None:
    if reporter.supports("log_table"):  # else don't read the file
        columns, rows = read_table(inside(run_dir, event.path))
        reporter.log_table(event.key, columns, rows, event.step, event.time)


def _histogram(reporter: Reporter, event: events.Histogram, run_dir: Path) -> None:
    reporter.log_histogram(event.key, event.counts, event.edges, event.step, event.time)


def _artifact(reporter: Reporter, event: events.Artifact, run_dir: Path) -> None:
    local = LocalArtifact(event.name, event.kind, inside(run_dir, event.path), event.files, event.metadata)
    reporter.log_artifact(local, event.step, event.time)


def _summary(reporter: Reporter, event: events.Summary, run_dir: Path) -> None:
    reporter.set_summary(event.values)


def _tags(reporter: Reporter, event: events.Tags, run_dir: Path) -> None:
    reporter.add_tags(event.tags)


PROJECTIONS: dict[type[Event], Callable[[Reporter, Any, Path], None]] = {
    events.RunStarted: _started,
    events.ConfigUpdated: _config,
    events.Metrics: _metrics,
    events.Text: _text,
    events.Image: _image,
    events.Table: _table,
    events.Histogram: _histogram,
    events.Artifact: _artifact,
    events.Summary: _summary,
    events.Tags: _tags,
}
"""Event type → the call it becomes. `RunResumed` and `RunFinished` steer the courier itself."""
