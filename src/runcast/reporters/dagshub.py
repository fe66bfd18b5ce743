"""DagsHub: the MLflow server of a repository there, with everything where `mlflow.py` puts it.

The package ``dagshub`` isn't needed. No repository is made, and nobody is asked to log in.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import ClassVar
from urllib.parse import quote, urlsplit

from runcast.redact import redact_text
from runcast.reporter import Availability, Requirement, RunInfo, online
from runcast.reporters._mlflow_store import dagshub_host, whose
from runcast.reporters._versions import requirement
from runcast.reporters.mlflow import MlflowReporter

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


class DagsHubReporter(MlflowReporter):
    """Writes to ``https://dagshub.com/OWNER/NAME.mlflow``.

    Args:
        repo: ``OWNER/NAME``, which must exist. Default: the repository that ``$MLFLOW_TRACKING_URI`` names.
        token: Default: ``$DAGSHUB_USER_TOKEN``; else what is set for MLflow, where the repository is.
        experiment_name: Default: ``$MLFLOW_EXPERIMENT_NAME``, else the run's project.

    Raises:
        ValueError: `repo` is no such name.
    """

    name: ClassVar[str] = "dagshub"
    requires: ClassVar[Requirement] = requirement("dagshub")

    def __init__(self, repo: str | None = None, token: str | None = None, experiment_name: str | None = None) -> None:
        super().__init__(experiment_name=experiment_name)
        if repo is not None and not _REPO.fullmatch(repo):
            raise ValueError(f"a repository of DagsHub's is OWNER/NAME, not {repo!r}")
        self._repo, self._token = repo, token

    @classmethod
    def availability(cls) -> Availability:
        found = super(MlflowReporter, cls).availability()
        missing = cls()._missing()
        if found.status == "ready" and missing:
            return replace(found, status="on request", reason=missing)
        return online(found)

    def joins(self) -> bool:
        """Only a run in this repository."""
        if super().joins() and self._active and redact_text(self._active.tracking_uri) != redact_text(self._configured):
            self._active = None
        return self._active is not None

    def _default(self, run: RunInfo) -> str:
        raise ValueError(f"DagsHub: {self._missing()}")

    @property
    def _configured(self) -> str:
        """The repository's server, with the token in it, which thereby goes to no other."""
        if self._missing():
            return ""
        uri, token = self._address, self._key
        if token is None:
            return uri
        parts = urlsplit(uri)
        secret = quote(token, safe="")
        return parts._replace(netloc=f"{secret}:{secret}@{parts.netloc.rpartition('@')[2]}").geturl()

    @property
    def _address(self) -> str:
        if self._repo:
            return f"{dagshub_host().rstrip('/')}/{self._repo}.mlflow"
        return os.environ.get("MLFLOW_TRACKING_URI", "")

    @property
    def _key(self) -> str | None:
        return self._token or os.environ.get("DAGSHUB_USER_TOKEN")

    def _missing(self) -> str:
        """What there is no setting for, in words."""
        if whose(self._address) != "dagshub":
            return "no repository: set the option `repo` to OWNER/NAME, or MLFLOW_TRACKING_URI to its server"
        # What is set for MLflow is for the server that is set for it.
        same = redact_text(os.environ.get("MLFLOW_TRACKING_URI", "")) == redact_text(self._address)
        theirs = os.environ.get("MLFLOW_TRACKING_USERNAME") or os.environ.get("MLFLOW_TRACKING_TOKEN")
        if self._key or (same and (theirs or "@" in os.environ["MLFLOW_TRACKING_URI"])):
            return ""
        return "no token: set DAGSHUB_USER_TOKEN"
