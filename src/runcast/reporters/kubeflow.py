"""Kubeflow Trainer: the status of the TrainJob that a run is the work of, for ``kubectl get trainjob``.

The controller tells each pod where to send it (``KUBEFLOW_TRAINER_SERVER_URL``, ``..._CA_CERT``, ``..._TOKEN``). One update
replaces the one before, so there is no history and nothing to read back:

    progress    step / max_steps or epoch / num_train_epochs, as far as config and metrics tell; 100 when completed
    remaining   seconds, at the pace since this courier began
    metrics     the latest value of each, as text, beside `current_step` and `total_steps`

The API server takes 256 metrics, the 64 first characters of a name, and 64 KiB: of more, those that were logged last are
shown; a longer name ends in a digest.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import math
import os
import ssl
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from runcast.events import RunStatus
from runcast.flatten import flatten
from runcast.record import merge
from runcast.reporter import Availability, NativeRun, Reporter, RunInfo, online

logger = logging.getLogger("runcast")

URL, CA_CERT, TOKEN = (f"KUBEFLOW_TRAINER_SERVER_{name}" for name in ("URL", "CA_CERT", "TOKEN"))
PERIOD = 5.0
"""Seconds between two updates, at least: the API server is everybody's."""

_TIMEOUT = 5.0
_MOST_METRICS = 256
_LONGEST = 64
_MOST_BYTES = 60_000
_INT32 = 2**31 - 1
_STEPS = ("max_steps", "total_steps", "num_training_steps")
_EPOCHS = ("num_train_epochs", "num_epochs", "max_epochs", "epochs")


class StatusError(OSError):
    """The status server's answer, if it isn't 200.

    Attributes:
        response: With `status_code` and `headers`, as `Reporter.is_transient` wants them.
    """

    def __init__(self, status: int, headers: Mapping[str, str], words: str) -> None:
        super().__init__(f"the Trainer's status server answered {status}: {words}")
        self.response = SimpleNamespace(status_code=status, headers=headers)


class KubeflowReporter(Reporter):
    """Shows a run's progress and latest metrics as the status of its TrainJob. Where to: the pod's environment says."""

    name: ClassVar[str] = "kubeflow"
    idempotent = True

    @classmethod
    def availability(cls) -> Availability:
        found = online(super().availability())
        if os.environ.get("DISABLE_KUBEFLOW_INTEGRATION", "").upper() == "TRUE":
            return replace(found, status="inactive", reason="switched off: DISABLE_KUBEFLOW_INTEGRATION", mode=None)
        if not os.environ.get(URL):
            reason = f"not in a TrainJob that takes a status: {URL} isn't set (feature gate TrainJobStatus)"
            return replace(found, status="inactive", reason=reason, mode=None)
        return found

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        self._config: dict[str, Any] = dict(run.config)
        self._latest: dict[str, float] = {}  # in the order of their last values
        self._step, self._epoch = -1, 0.0
        self._seen = run.started
        self._first: tuple[float, float] | None = None  # when this courier saw how much done
        self._sent = -math.inf
        self._pending = attach is None
        url = os.environ.get(URL, "")
        if self._pending:
            self._send(progress=0)  # also says whether the server takes anything from us
        return NativeRun(run.run_id, url)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Not shown: only looked at for how long the training is."""
        self._config = merge(self._config, dict(config))

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        """Only the latest value of each name, as text."""
        for name, value in metrics.items():
            self._latest.pop(name, None)
            self._latest[name] = value
            if name.rpartition("/")[2] == "epoch" and math.isfinite(value):
                self._epoch = max(self._epoch, value)
        self._step = max(self._step, step)
        self._seen = max(self._seen, time)
        self._pending = True
        if self._first is None and (done := self._done()) is not None:
            self._first = self._seen, done

    def flush(self) -> None:
        if self._pending:
            clock.sleep(max(0.0, min(PERIOD, self._sent + PERIOD - clock.monotonic())))
            self._send()

    def close(self, status: RunStatus) -> None:
        """100 percent if it completed; of another end Kubeflow hears from the pod itself."""
        self._seen = clock.time()
        self._send(progress=100 if status == "completed" else None, ended=True)

    def is_transient(self, error: Exception) -> bool | float:
        return not isinstance(error, ssl.SSLCertVerificationError) and super().is_transient(error)

    # -- what is shown ---------------------------------------------------------------------------------------------

    def _done(self) -> float | None:
        """How many percent of the training are done, if anything tells."""
        steps, epochs = self._setting(_STEPS), self._setting(_EPOCHS)
        if steps is not None:
            return min(100 * max(self._step, 0) / steps, 100.0)
        if epochs is not None and self._epoch > 0:
            return min(100 * self._epoch / epochs, 100.0)
        return None

    def _setting(self, names: Sequence[str]) -> float | None:
        """A positive number of one of these names, the least nested first. transformers' -1 means "not said"."""
        flat = sorted(flatten(self._config).items(), key=lambda item: item[0].count("/"))
        for wanted in names:
            for path, value in flat:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if path.rpartition("/")[2] == wanted and number and 0 < value < math.inf:
                    return float(value)
        return None

    def _status(self, progress: int | None, *, ended: bool) -> dict[str, Any]:
        seen = datetime.fromtimestamp(self._seen, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        status: dict[str, Any] = {"lastUpdatedTime": seen}
        done = self._done()
        if progress is None and done is not None:
            progress = min(int(done), 99)
        if progress is not None:
            status["progressPercentage"] = progress
        if progress == 100:
            status["estimatedRemainingSeconds"] = 0
        elif not ended and done is not None and self._first is not None and done > self._first[1]:
            pace = (self._seen - self._first[0]) / (done - self._first[1])
            status["estimatedRemainingSeconds"] = min(round(pace * (100 - done)), _INT32)
        if metrics := self._metrics():
            status["metrics"] = metrics
        return status

    def _metrics(self) -> list[dict[str, str]]:
        values = {_short(name): repr(value) for name, value in reversed(self._latest.items())}
        if self._step >= 0:
            steps = self._setting(_STEPS)
            ours = {"current_step": str(self._step)} | ({"total_steps": f"{steps:.0f}"} if steps else {})
            values = {name: value for name, value in ours.items() if name not in self._latest} | values
        return [{"name": name, "value": value} for name, value in list(values.items())[:_MOST_METRICS]]

    # -- sending it ------------------------------------------------------------------------------------------------

    def _send(self, progress: int | None = None, *, ended: bool = False) -> None:
        status = self._status(progress, ended=ended)
        while len(body := json.dumps({"trainerStatus": status}, ensure_ascii=False).encode()) > _MOST_BYTES:
            status["metrics"] = status["metrics"][: len(status["metrics"]) * 3 // 4]
        token = _token()
        try:
            _post(body, token)
        except StatusError as error:
            if error.response.status_code not in (401, 403) or (newer := _token()) == token:
                raise
            _post(body, newer)  # it was replaced in between
        finally:
            self._sent = clock.monotonic()
        self._pending = False


def _short(name: str) -> str:
    """The name as the API server takes it; no two become one."""
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9]}~{digest}"


def _token() -> str:
    """The token as of now: the file is replaced long before the token in it ends."""
    path = os.environ.get(TOKEN)
    if not path:
        raise ValueError(f"no token for the Trainer's status server: {TOKEN} has to name the file")
    return Path(path).read_text().strip()


def _post(body: bytes, token: str) -> None:
    """One request. It follows no redirect and no proxy: the token is for this server alone.

    Raises:
        StatusError: The answer isn't 200.
        ConnectionError: There is none.
        ssl.SSLCertVerificationError: The server isn't whom the CA file vouches for.
        ValueError: The URL is none, or not encrypted.
    """
    url = urlsplit(os.environ.get(URL, ""))
    if url.scheme != "https" or not url.hostname:
        raise ValueError(f"the Trainer's status server is {url.geturl()!r}; expected https://... in {URL}")
    trusted = ssl.create_default_context(cafile=os.environ.get(CA_CERT) or None)
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=_TIMEOUT, context=trusted)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    path = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        words = answer.read(2000).decode(errors="replace")
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"no answer from the Trainer's status server: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise StatusError(answer.status, dict(answer.headers), words)
