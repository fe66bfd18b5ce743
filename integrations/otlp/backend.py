"""A collector that takes OTLP over HTTP, keeps points as a time series database does, and tells what it has of a run."""

from __future__ import annotations

import gzip
import ssl
import subprocess
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from runcast.flatten import from_text, unflatten
from runcast.record import HistogramPoint, Point, RunRecord, merge
from runcast.reporters.otlp import CONFIG, HISTOGRAM, KEY, STATUS, STEP, SUMMARY, TAG

_PLAIN = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}

Attributes = tuple[tuple[str, Any], ...]


def certificate(folder: Path) -> Path:
    """A fresh certificate for this machine that vouches for itself, with its key in the same file."""
    file, key = folder / "server.pem", folder / "server.key"
    about = ["-subj", "/CN=collector", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", *about, "-keyout", str(key), "-out", str(file)]
    subprocess.run(made, check=True, capture_output=True)
    file.write_text(file.read_text() + key.read_text())
    return file


class Answer(NamedTuple):
    """What the collector says to a request."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""


@dataclass(frozen=True)
class Series:
    """What tells one series from another."""

    resource: Attributes
    scope: str
    name: str
    attributes: Attributes

    def __getitem__(self, key: str) -> Any:
        return dict(self.attributes).get(key)


class Collector:
    """A collector on a port of this machine, with TLS if it has a certificate and its key.

    Attributes:
        script: The next answers, in turn; then every request is taken.
        requests: Path and headers (lower case) of every request.
        answers: The status of each.
        points: Of each series: nanoseconds → the data point. One more of the same time takes the place of the first.
        repeats: How many points came again, as they were.
        conflicts: Points that came again with another value.
        reject: Metrics whose points are thrown away, and in what words.
    """

    def __init__(self, reject: Mapping[str, str] | None = None, certificate: Path | None = None) -> None:
        self.script: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answers: list[int] = []
        self.points: dict[Series, dict[int, Any]] = {}
        self.repeats = 0
        self.conflicts: list[Series] = []
        self.reject = dict(reject or {})
        self._certificate = certificate
        self._port = 0

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = collector.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/x-protobuf", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *args: Any) -> None:
                """The tests say what was asked."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def process_request(self, request: Any, client_address: Any) -> None:
                collector._open.append(request)
                super().process_request(request, client_address)

            def handle_error(self, *args: Any) -> None:
                """A client that doesn't trust us hangs up."""

        self._open: list[Any] = []
        self._http = Server(("127.0.0.1", self._port), Handler)
        if self._certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(self._certificate)
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._port = self._http.server_port
        self._busy = threading.Lock()
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        for connection in self._open:  # kept alive by clients
            try:
                connection.shutdown(2)
            except OSError:
                continue

    @property
    def url(self) -> str:
        """Its base address."""
        return f"{'https' if self._certificate else 'http'}://127.0.0.1:{self._port}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Takes a request, or does what the script says."""
        with self._busy:
            self.requests.append((path, headers))
            answer = self.script.pop(0) if self.script else self._stored(path, headers, body)
            self.answers.append(answer.status)
            return answer

    def _stored(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if path != "/v1/metrics" or headers.get("content-type") != "application/x-protobuf":
            return Answer(404)
        request = ExportMetricsServiceRequest.FromString(_PLAIN[headers.get("content-encoding")](body))
        answer = ExportMetricsServiceResponse()
        for series, point in points_of(request):
            if series.name in self.reject:
                answer.partial_success.rejected_data_points += 1
                answer.partial_success.error_message = self.reject[series.name]
                continue
            known = self.points.setdefault(series, {}).setdefault(point.time_unix_nano, point)
            if known is not point:
                same = known.SerializeToString(deterministic=True) == point.SerializeToString(deterministic=True)
                self.repeats += same
                if not same:
                    self.conflicts.append(series)
        return Answer(body=answer.SerializeToString())

    # -- what it has -----------------------------------------------------------------------------------------------

    def of_run(self, run_id: str) -> dict[Series, dict[int, Any]]:
        """The series of a run."""
        return {series: points for series, points in self.points.items() if series["runcast.run.id"] == run_id}

    def named(self, name: str) -> list[tuple[Series, list[Any]]]:
        """The series of a metric, with their points by time."""
        found = [item for item in self.points.items() if item[0].name == name]
        return [(series, [points[when] for when in sorted(points)]) for series, points in found]

    def record(self, run_id: str) -> RunRecord:
        """What it has of a run."""
        record = RunRecord(run_id=run_id)
        config: dict[int, dict[str, Any]] = {}
        latest: dict[str, tuple[int, Any]] = {}
        for series, points in self.of_run(run_id).items():
            record.name, record.project = series["runcast.run.name"], series["runcast.project"]
            record.group = series["runcast.group"]
            key = series[KEY]
            for when in sorted(points):
                point = points[when]
                if series.name.startswith(HISTOGRAM):
                    histogram = HistogramPoint(step_of(series, point), *_bins(point), when / 10**9)
                    record.histograms.setdefault(key, []).append(histogram)
                elif series.name == CONFIG:
                    config.setdefault(when, {})[key] = _fact(series, point)
                elif series.name == SUMMARY:
                    latest[key] = max(
                        latest.get(key, (0, None)), (when, _fact(series, point)), key=lambda item: item[0]
                    )
                elif series.name == TAG:
                    record.tags = tuple(sorted({*record.tags, series["tag"]}))
                elif series.name == STATUS and point.as_int:
                    latest[STATUS] = max(latest.get(STATUS, (0, "")), (when, series["status"]))
                elif series.name not in (STATUS, STEP):
                    step = step_of(series, point)
                    record.metrics.setdefault(key, []).append(Point(step, point.as_double, when / 10**9))
        for when in sorted(config):
            record.config = merge(record.config, unflatten(config[when], "."))
        record.status = latest.pop(STATUS)[1]
        record.summary = {key: value for key, (_, value) in latest.items()}
        return record


def points_of(request: ExportMetricsServiceRequest) -> Iterator[tuple[Series, Any]]:
    """The data points of a request."""
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    origin = plain(resource.resource.attributes)
                    yield Series(origin, scope.scope.name, metric.name, plain(point.attributes)), point


def plain(attributes: Any) -> Attributes:
    """Attributes by name."""
    return tuple(sorted((item.key, getattr(item.value, item.value.WhichOneof("value"))) for item in attributes))


def step_of(series: Series, point: Any) -> int:
    """The step of a point."""
    exemplars = [dict(plain(exemplar.filtered_attributes)) for exemplar in point.exemplars]
    return int(exemplars[0]["step"] if exemplars else series["step"])


def _bins(point: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    first, *counts, last = point.bucket_counts
    assert (first, last, point.count) == (0, 0, sum(counts))
    return tuple(map(float, counts)), tuple(point.explicit_bounds)


def _fact(series: Series, point: Any) -> Any:
    text = series["value"]
    return point.as_double if text is None else from_text(text)
