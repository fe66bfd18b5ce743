"""OpenTelemetry: a run's numbers as OTLP metrics, for any collector or backend that takes OTLP over HTTP.

    metrics      a gauge of the same name; a histogram is `runcast.histogram/<name>`
    step         the exemplar of each point, and beside it the gauge `runcast.run.step` at the same time
    config       `runcast.run.config`, a series a setting: a number is its value, else 1 with the text as attribute `value`
    summary      `runcast.run.summary`, likewise
    tags         `runcast.run.tag`, 1 for each
    status       `runcast.run.status`, a series a status: 1 for the run's, 0 for the others

Every point has the time at which it was logged, to the nanosecond, and these attributes: `runcast.run.id`,
`runcast.run.name`, `runcast.project`, `runcast.group`, and `runcast.key`, the exact name. A step is no attribute, because
backends make a series of every set of attributes, and a series of one point a step is no curve; `step_attribute` is for
those that don't. Texts, images, tables and files are no metrics and stay out.

Where to, with what headers, certificate, compression and resource: OpenTelemetry's own environment variables say, and its
SDK reads them. Nothing can be read back, as OTLP only sends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time as clock
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, ClassVar, NamedTuple

from runcast import events
from runcast.events import FINAL_STATUSES, RunStatus
from runcast.flatten import flatten, to_text
from runcast.reporter import Availability, NativeRun, Reporter, Requirement, RunInfo, online
from runcast.reporters._versions import requirement

logger = logging.getLogger("runcast")

OURS = "runcast."
STEP, CONFIG, SUMMARY, TAG, STATUS = (f"{OURS}run.{word}" for word in ("step", "config", "summary", "tag", "status"))
HISTOGRAM = f"{OURS}histogram/"
KEY = f"{OURS}key"
AT_ONCE = 5000
"""Points of one request, about a megabyte; collectors refuse requests of many."""
_INT64 = 2**63


class OtlpReporter(Reporter):
    """Sends metrics to the collector that ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``..._METRICS_ENDPOINT`` names.

    Args:
        step_attribute: Each point has its step as the attribute `step`, for backends that keep points, not series.
    """

    name: ClassVar[str] = "otlp"
    requires: ClassVar[Requirement] = requirement("otlp")
    # A point that comes again has the same resource, name, attributes, time and value, which is how backends know it.
    idempotent = True

    def __init__(self, step_attribute: bool = False) -> None:
        self._step_attribute = step_attribute

    @classmethod
    def availability(cls) -> Availability:
        found = online(super().availability())
        if found.status != "ready":
            return found
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return replace(found, status="inactive", reason="switched off: OTEL_SDK_DISABLED", mode=None)
        if os.environ.get("OTEL_METRICS_EXPORTER", "").lower() == "none":
            return replace(found, status="inactive", reason="switched off: OTEL_METRICS_EXPORTER", mode=None)
        if reason := _not_for_us():
            return replace(found, status="on request", reason=reason)
        return found

    # -- the run ---------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        self._sender = _Sender(run)
        self._attributes: dict[str, Any] = {
            f"{OURS}run.id": run.run_id,
            f"{OURS}run.name": run.name,
            f"{OURS}project": run.project,
        }
        if run.group is not None:
            self._attributes[f"{OURS}group"] = run.group
        self._send_status("running")  # also says whether the collector takes anything from us
        return NativeRun(run.run_id, f"{self._sender.where} ({OURS}run.id {run.run_id})")

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self.log_metrics_batch([events.Metrics(time=time, step=step, values=dict(metrics))])

    def log_metrics_batch(self, batch: Sequence[events.Metrics]) -> None:
        points: list[_Named] = []
        for event in batch:
            when = nanoseconds(event.time)
            points.append(self._number(STEP, {}, when, _int64(event.step)))
            for name, value in event.values.items():
                exemplar = None if self._step_attribute else (event.step, value)
                extra = {KEY: name} | ({"step": event.step} if self._step_attribute else {})
                points.append(self._number(_own(name), extra, when, float(value), exemplar))
            if len(points) >= AT_ONCE:
                self._sender.send(points)
                points = []
        if points:
            self._sender.send(points)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        """As cumulative histograms that start anew at every step; only whole counts."""
        from opentelemetry.sdk.metrics.export import HistogramDataPoint

        if not all(count >= 0 and float(count).is_integer() for count in counts):
            raise ValueError(f"histogram {key!r}: OTLP's buckets have whole numbers of values, not {counts!r:.100}")
        when, whole = nanoseconds(time), [int(count) for count in counts]
        extra = {"step": _int64(step)} if self._step_attribute else {}
        unknown: Any = None  # the sum, which is optional in OTLP, not so in the SDK's types
        point = HistogramDataPoint(
            attributes={**self._attributes, KEY: key, **extra},
            start_time_unix_nano=when,
            time_unix_nano=when,
            count=sum(whole),
            sum=unknown,
            bucket_counts=[0, *whole, 0],  # below the first edge and above the last there is nothing
            explicit_bounds=list(edges),
            min=edges[0],
            max=edges[-1],
            exemplars=[] if self._step_attribute else _exemplars(step, edges[0], when),
        )
        self._sender.send([_Named(f"{HISTOGRAM}{key}", point)])

    def log_config(self, config: Mapping[str, Any]) -> None:
        """A series a setting, `runcast.run.config`."""
        self._sender.send(self._facts(CONFIG, flatten(config, ".")))

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """A series a value, `runcast.run.summary`."""
        self._sender.send(self._facts(SUMMARY, values))

    def add_tags(self, tags: Sequence[str]) -> None:
        """A series a tag, `runcast.run.tag`."""
        self._sender.send([self._number(TAG, {"tag": tag}, clock.time_ns(), 1) for tag in tags])

    def close(self, status: RunStatus) -> None:
        """A series a status, `runcast.run.status`."""
        if self._sender.closed:
            return
        self._send_status(status)
        self._sender.close()

    def _send_status(self, status: RunStatus) -> None:
        now, statuses = clock.time_ns(), ("running", *FINAL_STATUSES)
        self._sender.send([self._number(STATUS, {"status": word}, now, int(word == status)) for word in statuses])

    def _facts(self, name: str, values: Mapping[str, Any]) -> list[_Named]:
        now, points = clock.time_ns(), []
        for key, value in values.items():
            plain = isinstance(value, float) or (type(value) is int and abs(value) <= 2**53)
            extra = {KEY: key} if plain else {KEY: key, "value": to_text(value)}
            points.append(self._number(name, extra, now, float(value) if plain else 1.0))
        return points

    def _number(
        self,
        name: str,
        extra: Mapping[str, Any],
        when: int,
        value: float,
        exemplar: tuple[int, float] | None = None,
    ) -> _Named:
        from opentelemetry.sdk.metrics.export import NumberDataPoint

        point = NumberDataPoint(
            attributes={**self._attributes, **extra},
            start_time_unix_nano=0,
            time_unix_nano=when,
            value=value,
            exemplars=_exemplars(*exemplar, when) if exemplar else [],
        )
        return _Named(name, point)


class _Named(NamedTuple):
    """A data point of the metric of that name."""

    name: str
    point: Any


class RejectedError(ValueError):
    """The collector took the request, and threw some of its points away."""


@dataclass
class _Heard:
    """What the last request came to: the exporter tells only whether it went well, and tries again by itself."""

    answer: Any = None
    error: Exception | None = None


class _Stop(Exception):
    """Keeps the exporter from trying again: when to is the courier's decision, which outlives an outage."""


class _Sender:
    """The SDK's exporter, one request a call, every failure an exception."""

    closed = False

    def __init__(self, run: RunInfo) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import MetricExportResult
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._heard = _Heard()
        self._exporter = OTLPMetricExporter(session=_session(self._heard))
        self._success = MetricExportResult.SUCCESS
        # Without an instance of its own the SDK makes one up for each process, and a point that comes again is another.
        ours = {"service.name": run.project, "service.instance.id": run.run_id}
        self._resource = Resource.create(ours | dict(OTELResourceDetector().detect().attributes))
        self._scope = InstrumentationScope("runcast", version("runcast"))
        self.where = endpoint()

    def send(self, points: Iterable[_Named]) -> None:
        """Sends points, and returns when the collector has them.

        Raises:
            RejectedError: It threw some away.
            requests.RequestException: No answer, or none that says yes.
        """
        self._heard.answer = self._heard.error = None
        result = None
        data, count = self._data(points)
        if not count:
            return
        with contextlib.suppress(_Stop):
            result = self._exporter.export(data)
        if self._heard.error is not None:
            raise self._heard.error
        if result is not self._success or self._heard.answer is None:
            raise ValueError("OpenTelemetry's exporter could not send this; its own words are in the tracker's log")
        _check(self._heard.answer.content, count)

    def _data(self, points: Iterable[_Named]) -> tuple[Any, int]:
        from opentelemetry.sdk.metrics import export

        kinds: dict[str, list[Any]] = {}
        for name, point in points:
            kinds.setdefault(name, []).append(point)
        metrics = [
            export.Metric(
                name=name,
                description="",
                unit="",
                data=export.Histogram(of_name, export.AggregationTemporality.CUMULATIVE)
                if isinstance(of_name[0], export.HistogramDataPoint)
                else export.Gauge(of_name),
            )
            for name, of_name in kinds.items()
        ]
        scope = export.ScopeMetrics(self._scope, metrics, "")
        data = export.MetricsData([export.ResourceMetrics(self._resource, [scope], "")])
        return data, sum(map(len, kinds.values()))

    def close(self) -> None:
        self._exporter.shutdown()
        self.closed = True


def _session(heard: _Heard) -> Any:
    """A session that notes what becomes of each request."""
    import requests

    session: Any = requests.Session()
    plain = session.request

    def request(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("allow_redirects", False)  # the headers are for this collector
        kwargs.setdefault("verify", session.verify)  # else $REQUESTS_CA_BUNDLE counts more than OpenTelemetry's own
        try:
            answer = plain(*args, **kwargs)
            if not 200 <= answer.status_code < 300:
                words = f"the collector answered {answer.status_code} {answer.reason}: {answer.text[:500]}"
                raise requests.HTTPError(words, response=answer)
        except Exception as error:
            heard.error = error
            raise _Stop(str(error)) from error
        heard.answer = answer
        return answer

    session.request = request  # which its `post` calls, too
    return session


def _check(answer: bytes, count: int) -> None:
    """Looks whether the collector says that it has thrown points away.

    Raises:
        RejectedError: It has.
    """
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    try:
        partial = ExportMetricsServiceResponse.FromString(answer).partial_success
    except DecodeError:  # a backend with an answer of its own; its status said yes
        return
    if partial.rejected_data_points:
        raise RejectedError(
            f"the collector rejected {partial.rejected_data_points} of {count} points: {partial.error_message}"
        )
    if partial.error_message:
        logger.warning("the collector took everything, and says: %s", partial.error_message)


def endpoint() -> str:
    """Where metrics go, as OpenTelemetry's environment variables say."""
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
    return os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") or f"{base.removesuffix('/')}/v1/metrics"


def _not_for_us() -> str:
    """Why metrics are sent only on request; empty if the environment names a collector for them."""
    names = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not any(os.environ.get(name) for name in names):
        return f"no collector is configured: set {names[1]}; by name, metrics go to {endpoint()}"
    protocols = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next(filter(None, map(os.environ.get, protocols)), "")
    if protocol not in ("", "http/protobuf"):
        return f"the collector is configured for {protocol}, and this speaks http/protobuf: set {protocols[0]}"
    if not protocol and ":4317" in endpoint():
        return f"port 4317 is gRPC's, and this speaks http/protobuf: set {names[0]}, or {protocols[0]}"
    return ""


def nanoseconds(time: float) -> int:
    """Unix seconds as nanoseconds: exactly, as far as a float is exact."""
    seconds, fraction = divmod(time, 1)
    return int(seconds) * 1_000_000_000 + round(fraction * 1e9)


def _own(name: str) -> str:
    """The metric of that name; what begins with ``runcast.`` is ours."""
    return f"~{name}" if name.lstrip("~").startswith(OURS) else name


def _exemplars(step: int, value: float, when: int) -> list[Any]:
    """The step, where it makes no series: among the attributes of a measurement that its point leaves out."""
    from opentelemetry.sdk.metrics import Exemplar

    return [Exemplar({"step": _int64(step)}, float(value), when)]


def _int64(step: int) -> int:
    if not -_INT64 <= step < _INT64:
        raise ValueError(f"step {step} has more than OTLP's 64 bits")
    return step
