"""The way to an MLflow store: which ones we may touch, and what MLflow's client must not do behind our back.

MLflow's HTTP client sends again by itself what got no answer, so that a run may be made twice, waits as long as a server
says, and raises errors that keep neither the status nor Retry-After. Within `asking` it sends what changes something
once, and raises what tells the answer: the courier waits, and finds out what arrived.
"""

from __future__ import annotations

import fcntl
import functools
import inspect
import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from packaging.version import Version

from runcast.errors import RunFolderError
from runcast.redact import redact_text
from runcast.reporter import denied

# Before MLflow is imported, unless the user says otherwise: nothing is sent home, printed or drawn, and a server that
# doesn't answer is noticed well before `Reporter.call_timeout`.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
_UPLOAD_RATE = 1 << 20
"""Bytes a second that a server may take at least for a file, on top of a request's own time."""
_DENIED = (401, 403, 407)
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_WORKSPACE = re.compile(
    r"\Aazureml:.*/subscriptions/([^/]+)/resourceGroups/([^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/([^/?]+)"
)

# What a job of Azure ML sets. Without any of these its plugin looks for a login, in the end in a browser.
_JOB = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_RUN_ID")
_JOBS_EXPERIMENT = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")

_CREDENTIALS = {
    None: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "dagshub": "set DAGSHUB_USER_TOKEN to a token that may write to that repository",
    "azureml": "MLFLOW_TRACKING_TOKEN has to be that of a job",
}

_asking = ContextVar("_asking", default=False)


def connect(uri: str, *, in_training: bool = False) -> Any:
    """A client of this store.

    Args:
        in_training: Whether the user's own MLflow run is open in this process: then no settings are made.

    Raises:
        PermissionError: It is Azure ML's, and would ask somebody to log in.
    """
    if whose(uri) == "azureml" and not in_azure_job():
        raise PermissionError(f"outside of an Azure ML job {uri} would have somebody log in, in a browser")
    if not in_training:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    _let_answers_through()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Requests are sent once, and one that is not allowed says what to do about it."""
    token = _asking.set(True)
    try:
        yield
    except PermissionError:
        raise
    except Exception as error:
        if not denied(error):
            raise
        raise PermissionError(
            f"{redact_text(uri)} doesn't let us in: {_CREDENTIALS[whose(uri)]}, then `runcast sync` delivers what is left "
            f"({error})"
        ) from error
    finally:
        _asking.reset(token)


def _let_answers_through() -> None:
    """Wraps the one function that all requests go through; outside of `asking` it does what it always did."""
    rest_utils, requests = import_module("mlflow.utils.rest_utils"), import_module("requests")
    name = "_get_http_response_with_retries"
    ask = getattr(rest_utils, name, None)
    if ask is None or hasattr(ask, "__wrapped__"):
        return
    signature = inspect.signature(ask)

    @functools.wraps(ask)
    def ask_once(*args: Any, **kwargs: Any) -> Any:
        if not _asking.get():
            return ask(*args, **kwargs)
        call = signature.bind(*args, **kwargs).arguments
        call |= {"raise_on_status": False, "respect_retry_after_header": False}
        call["max_retries"] = min(call["max_retries"], 2) if call["method"] == "GET" else 0
        options = call.pop("kwargs", {})
        if hasattr(file := options.get("data"), "fileno"):
            options["timeout"] += os.fstat(file.fileno()).st_size / _UPLOAD_RATE
        response = ask(**call, **options)
        if response.status_code in (*call["retry_codes"], *_DENIED):
            said = f"{response.status_code} {response.reason}: {response.text[:500]}"
            raise requests.HTTPError(said, response=response)
        return response

    setattr(rest_utils, name, ask_once)


@contextmanager
def addressed(client: Any) -> Iterator[None]:
    """Names the client's server in the environment: MLflow 3.0 and before look there for where artifacts go."""
    variable, before = "MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI")
    is_server = urlsplit(client.tracking_uri).scheme in ("http", "https")
    if not is_server or sys.modules["mlflow"].get_tracking_uri() == client.tracking_uri:
        yield
        return
    os.environ[variable] = client.tracking_uri
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


# -- servers with a reporter of their own --------------------------------------------------------------------------


def whose(uri: str) -> str | None:
    """The reporter that is made for this server: ``azureml``, ``dagshub``; None: it is any other, or none."""
    parts = urlsplit(uri)
    if parts.scheme == "azureml":
        return "azureml"
    host = urlsplit(dagshub_host())
    there = (parts.scheme, parts.hostname, parts.port) == (host.scheme, host.hostname, host.port)
    return "dagshub" if there and parts.path.rstrip("/").endswith(".mlflow") else None


def dagshub_host() -> str:
    """Where DagsHub is."""
    return os.environ.get("DAGSHUB_CLIENT_HOST") or "https://dagshub.com"


def in_azure_job() -> bool:
    """Whether this process is in a job of Azure ML."""
    experiment = any(os.environ.get(name) for name in _JOBS_EXPERIMENT)
    return experiment and all(os.environ.get(name) for name in _JOB) and whose(os.environ[_JOB[0]]) == "azureml"


# -- places --------------------------------------------------------------------------------------------------------


def database_beside(folder: Path) -> str:
    """The store beside the run folders of `folder`.

    Raises:
        ValueError: Its name would mean something else in a URL.
        RunFolderError: It is a link, and the folder may come from a stranger.
    """
    if "?" in str(folder.absolute()):
        raise ValueError(f"MLflow can't keep a database in {str(folder)!r}, for its '?'; set MLFLOW_TRACKING_URI")
    for name in ("mlflow.db", "mlflow.db.lock", "mlartifacts"):
        if (folder / name).is_symlink():
            raise RunFolderError(
                f"{str(folder / name)!r} is a link, which we don't follow: name the place with MLFLOW_TRACKING_URI"
            )
    return f"sqlite:///{folder.absolute()}/mlflow.db"


def absolute(uri: str) -> str:
    """The same in every working directory."""
    if path := sqlite_file(uri):
        return f"sqlite:///{path}{''.join(uri.partition('?')[1:])}"
    if uri and not urlsplit(uri).scheme and not uri.startswith("databricks"):
        return Path(uri).absolute().as_uri()
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database; None for any other store."""
    scheme, slashes, path = uri.partition(":///")
    if not slashes or scheme.partition("+")[0] != "sqlite":
        return None
    return Path(path.partition("?")[0]).absolute()


def trusted(stored: str, run_id: str, ours: list[str]) -> str:
    """The store that a run folder names, if our own settings name it too, or it is a database that has the run.

    Anything else might be a stranger's server, which is not to get our password, or a file that is not to be touched.
    What the folder says of a database was absolute when we wrote it.

    Args:
        stored: What the run folder says, without a password.
        run_id: MLflow's.
        ours: What our settings say, with it.

    Raises:
        RunFolderError: It is neither.
    """
    for uri in ours:
        if redact_text(uri) == stored:
            return uri
    path = sqlite_file(stored)
    if path is not None and stored.startswith(f"sqlite:///{path}") and _holds(path, run_id):
        return stored
    raise RunFolderError(
        f"the run folder says that its MLflow run {run_id!r} is in {stored!r}, which is not where our settings point: "
        "if it is right, set MLFLOW_TRACKING_URI to it"
    )


def _holds(path: Path, run_id: str) -> bool:
    """Whether a SQLite file is a database of MLflow with this run. Writes nothing."""
    for mode in ("mode=ro", "mode=ro&immutable=1"):  # the second reads also what a killed process left half written
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True)) as database:
                return database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone() is not None
        except sqlite3.Error:
            continue
    return False


def takes_repeats(client: Any, experiment: str) -> bool:
    """Whether a point that comes again changes nothing, and costs little.

    File stores keep it twice. SQL stores don't, but before MLflow 3.16 they read all that the run has of each of its metrics
    to find out (https://github.com/mlflow/mlflow/issues/24577), for minutes with a long run, and refuse a NaN.

    A server doesn't say which kind its store is; but SQL stores count their experiments, from the 0 that all stores have, while
    file stores (and Databricks) draw long numbers.
    """
    uri = client.tracking_uri
    if urlsplit(uri).scheme.partition("+")[0] in _DATABASES:
        return _is_new(import_module("mlflow").__version__)
    if is_local(uri) or not (experiment.isdecimal() and 0 < int(experiment) < 10**9):
        return False
    try:  # as MLflow's own client asks it
        credentials = client._tracking_client.store.get_host_creds()
        answer = import_module("mlflow.utils.rest_utils").http_request(credentials, "/version", "GET", timeout=10)
        return bool(answer.ok) and _is_new(answer.text)
    except Exception:
        return False


def _is_new(version: str) -> bool:
    return Version(version).release >= (3, 16)


@contextmanager
def one_creates(uri: str) -> Iterator[None]:
    """Keeps other couriers away while a SQLite file, its tables and the experiment are made."""
    path = sqlite_file(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "a", opener=_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            open(path, "a", opener=_private).close()
        yield


def _private(name: str, flags: int) -> int:
    """Opens a file that is its owner's alone if it is new, as run folders are, and never through a link."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)


def is_local(uri: str) -> bool:
    """Whether this is a folder or database of ours, not a server's."""
    return urlsplit(uri).scheme.partition("+")[0] in ("", "file", *_DATABASES) and not uri.startswith("databricks")


def where(uri: str, experiment: str, run_id: str) -> str:
    """Where to look at a run: its page, or the command that serves it."""
    if is_local(uri):
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    if workspace := _WORKSPACE.search(uri):
        names = "/subscriptions/{}/resourcegroups/{}/workspaces/{}".format(*workspace.groups())
        return f"https://ml.azure.com/runs/{run_id}?wsid={names}"
    if urlsplit(uri).scheme in ("http", "https"):
        return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
    return f"run {run_id} in {uri}"
