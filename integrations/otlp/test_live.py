"""What a collector gets, decoded with OpenTelemetry's own protocol buffers; and what becomes of it when that says no."""

from __future__ import annotations

import math
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import requests

import runcast
from runcast.delivery import load_state
from runcast.events import Metrics
from runcast.folder import read_run
from runcast.registry import resolve_report_to
from runcast.reporter import RunInfo
from runcast.reporters.otlp import AT_ONCE, CONFIG, STATUS, STEP, OtlpReporter, RejectedError, nanoseconds
from runcast.sync import sync
from runcast.testing.couriers import PATIENCE, deliver_again, kill_courier, python, wait_delivered
from runcast.verify import compare

from .backend import Answer, Collector, certificate, step_of

KINDS = ("metrics", "config", "histograms", "summary", "tags", "status")
INFO = RunInfo("id", "name", "project", "group", Path(), 1000.0)


def opened(collector: Collector, **options: Any) -> OtlpReporter:
    """A reporter that has begun a run."""
    reporter = OtlpReporter(**options)
    reporter.open(INFO, None)
    return reporter


def differences(run: runcast.Run, collector: Collector) -> list[str]:
    """Where the collector has something else than the journal."""
    assert run.dir is not None
    return compare("otlp", read_run(run.dir), collector.record(run.id), KINDS).differences


def wait_for_state(run_dir: Path, state: str) -> None:
    """Waits until the courier is there."""
    deadline = time.monotonic() + PATIENCE
    while (found := load_state(run_dir, "otlp")) is None or found.state != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


# -- what a point is ---------------------------------------------------------------------------------------------------


def test_points_are_exact(collector: Collector) -> None:
    """Doubles to the last bit, NaN and infinity, steps out of order and huge, and times to the nanosecond."""
    values = [0.1 + 0.2, 5e-324, -0.0, math.inf, -math.inf, math.nan, 1.7976931348623157e308]
    reporter = opened(collector)
    times = [1_700_000_000.123456, 1_700_000_000.25, 1_700_000_001.0, 1e9, 1e9 + 0.5, 1e9 + 0.25, 0.0]
    steps = [7, 3, 2**62, 0, 5, 5, 2**53 + 1]
    for value, step, when in zip(values, steps, times, strict=True):
        reporter.log_metrics({"train/loss": value}, step, when)
    ((series, points),) = collector.named("train/loss")
    found = {point.time_unix_nano: (struct.pack("d", point.as_double), step_of(series, point)) for point in points}
    expected = zip(times, values, steps, strict=True)
    assert found == {nanoseconds(when): (struct.pack("d", value), step) for when, value, step in expected}
    assert all(nanosecond / 10**9 == when for nanosecond, when in zip(map(nanoseconds, times), times, strict=True))
    ((_, beside),) = collector.named(STEP)
    assert {point.time_unix_nano: point.as_int for point in beside} == {
        nanoseconds(t): s for t, s in zip(times, steps, strict=True)
    }


def test_nanoseconds_are_whole() -> None:
    """No digit of a time is lost or made up by its conversion."""
    assert nanoseconds(1_700_000_000.5) == 1_700_000_000_500_000_000
    assert nanoseconds(1_700_000_000.1234567) == 1_700_000_000_123_456_717  # what that float is
    assert nanoseconds(0.0) == 0


def test_attributes_tell_runs_and_names_apart(collector: Collector) -> None:
    """Each point says whose it is, in no attribute that changes from step to step; names that look alike stay two."""
    reporter = opened(collector)
    names = ["train/loss", "train_loss", "~runcast.run.step", "runcast.run.step", "漢字 🚀"]
    for step in range(3):
        reporter.log_metrics({name: float(step) for name in names}, step, 1000.0 + step)
    for name, metric in zip(names, [*names[:2], "~~runcast.run.step", "~runcast.run.step", names[4]], strict=True):
        ((series, points),) = collector.named(metric)
        assert dict(series.attributes) == {
            "runcast.run.id": "id",
            "runcast.run.name": "name",
            "runcast.project": "project",
            "runcast.group": "group",
            "runcast.key": name,
        }
        assert [point.as_double for point in points] == [0.0, 1.0, 2.0]
        assert series.scope == "runcast"


def test_step_attribute(collector: Collector) -> None:
    """Whoever asks for it has the step as an attribute of each point, of histograms too."""
    reporter = opened(collector, step_attribute=True)
    for step in (3, 1):
        reporter.log_metrics({"loss": 1.0}, step, 1000.0)
        reporter.log_histogram("weights", [1.0], [0.0, 1.0], step, 1000.0)
    for name in ("loss", "runcast.histogram/weights"):
        assert [(series["step"], len(points)) for series, points in collector.named(name)] == [(3, 1), (1, 1)]
        assert not any(point.exemplars for _, points in collector.named(name) for point in points)


def test_histograms(collector: Collector) -> None:
    """Counts and edges come as they are, with nothing outside of them; counts that are not whole are refused."""
    reporter = opened(collector)
    reporter.log_histogram("weights", [3.0, 0.0, 5.0], [-1.0, 0.1, 0.2, 2.5], 4, 1_700_000_000.25)
    ((series, (point,)),) = collector.named("runcast.histogram/weights")
    assert list(point.explicit_bounds) == [-1.0, 0.1, 0.2, 2.5]
    assert list(point.bucket_counts) == [0, 3, 0, 5, 0]
    assert (point.count, point.min, point.max, point.HasField("sum")) == (8, -1.0, 2.5, False)
    assert point.time_unix_nano == point.start_time_unix_nano == 1_700_000_000_250_000_000
    assert (series["runcast.key"], step_of(series, point)) == ("weights", 4)
    with pytest.raises(ValueError, match="whole numbers"):
        reporter.log_histogram("weights", [0.5], [0.0, 1.0], 5, 1000.0)


def test_run_is_described(collector: Collector, tmp_path: Path) -> None:
    """Numbers of config and summary are values, everything else is text; a status is 1, the others 0."""
    config = {"lr": 0.1, "layers": [1, 2], "a": {"b.c": {"d": "3"}}, "flag": True, "huge": 2**60}
    with runcast.start_run("otlp", project="p", dir=tmp_path, config=config, tags=["t"]) as run:
        run.update_config({"lr": "high", "a": {"new": None}})
        run.set_summary({"best": 7, "word": "x"})
        run.set_summary({"best": 8})
    facts = {
        (series["runcast.key"], series["value"]): points[0].as_double for series, points in collector.named(CONFIG)
    }
    assert facts == {
        ("lr", None): 0.1,
        ("layers", "[1, 2]"): 1.0,
        ("a.b%2Ec.d", '"3"'): 1.0,
        ("flag", "true"): 1.0,
        ("huge", str(2**60)): 1.0,
        ("lr", "high"): 1.0,
        ("a.new", "null"): 1.0,
    }
    states = {series["status"]: [point.as_int for point in points] for series, points in collector.named(STATUS)}
    assert states == {"running": [1, 0], "completed": [0, 1], "failed": [0, 0], "killed": [0, 0], "crashed": [0, 0]}
    assert differences(run, collector) == []
    assert run.deliveries()[0].where == f"{collector.url}/v1/metrics (runcast.run.id {run.id})"


def test_long_batches_are_divided(collector: Collector) -> None:
    """No request has many more points than collectors take."""
    reporter = opened(collector)
    batch = [Metrics(time=1000.0 + step, step=step, values={f"m/{n}": 1.0 for n in range(9)}) for step in range(1200)]
    reporter.log_metrics_batch(batch)
    assert len(collector.requests) == 1 + math.ceil(12_000 / AT_ONCE)
    assert len(collector.named("m/8")[0][1]) == 1200


def test_step_beyond_64_bits_is_refused(collector: Collector) -> None:
    """It isn't cut to another step."""
    reporter = opened(collector)
    with pytest.raises(ValueError, match="64 bits"):
        reporter.log_metrics({"loss": 1.0}, 2**63, 1000.0)
    assert collector.named("loss") == []


# -- again, and after a crash ------------------------------------------------------------------------------------------


def test_points_that_come_again_are_the_same_points(collector: Collector, tmp_path: Path) -> None:
    """From another process too: resource, name, attributes, time and value are equal, so nothing is there twice."""
    with runcast.start_run("otlp", dir=tmp_path, config={"a": 1}) as run:
        for step in range(20):
            run.log({"loss": step / 7, "lr": 0.1}, step=step)
        run.log_histogram("weights", [1.0, 2.0], step=3)
    assert differences(run, collector) == []
    before = {series: len(points) for series, points in collector.points.items() if "runcast.run." not in series.name}
    deliver_again(run.dir, "otlp")
    assert collector.repeats >= 41 and collector.conflicts == []
    after = {series: len(points) for series, points in collector.points.items() if "runcast.run." not in series.name}
    assert after == before
    assert differences(run, collector) == []


def test_killed_courier_loses_nothing(collector: Collector, tmp_path: Path) -> None:
    """After SIGKILL of the courier the next one delivers what is missing."""
    run = runcast.start_run("otlp", dir=tmp_path, config={"a": 1})
    for step in range(50):
        run.log({"loss": step / 7}, step=step)
    wait_delivered(run.dir, "otlp")
    kill_courier(run.dir, "otlp")
    for step in range(50, 60):
        run.log({"loss": step / 7}, step=step)
    run.finish()
    assert run.deliveries()[0].done
    assert differences(run, collector) == [] and collector.conflicts == []


# -- when the collector says no ----------------------------------------------------------------------------------------


def test_collector_that_is_busy_is_asked_again(collector: Collector, tmp_path: Path) -> None:
    """429, 502, 503 and 504 lose nothing."""
    collector.script = [Answer(code, {"Retry-After": "1"}) for code in (503, 429)] + [Answer(502), Answer(504)]
    with runcast.start_run("otlp", dir=tmp_path) as run:
        run.log({"loss": 1.0}, step=1)
    assert run.deliveries()[0].done
    assert collector.answers[:5] == [503, 429, 502, 504, 200]
    assert differences(run, collector) == []


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(503, {"Retry-After": "7"}), 7.0),
        (Answer(429, {"Retry-After": "3"}), 3.0),
        (Answer(503), True),
        (Answer(400, {}, b"bad data"), False),
        (Answer(413), False),
        (Answer(307, {"Location": "http://127.0.0.1:1/"}), False),
    ],
)
def test_verdicts(answer: Answer, verdict: object, collector: Collector) -> None:
    """Each answer is heard at once, by the courier, which decides when to try again; the exporter doesn't."""
    reporter = opened(collector)
    collector.script = [answer]
    with pytest.raises(requests.RequestException) as caught:
        reporter.log_metrics({"loss": 1.0}, 1, 1000.0)
    assert reporter.is_transient(caught.value) == verdict
    assert collector.answers == [200, answer.status]
    reporter.log_metrics({"loss": 1.0}, 1, 1000.0)
    assert len(collector.named("loss")) == 1


def test_outage(collector: Collector, tmp_path: Path) -> None:
    """While there is no collector the run goes on; afterwards it has everything, with the times as they were."""
    run = runcast.start_run("otlp", dir=tmp_path)
    run.log({"loss": 1.0}, step=1)
    wait_delivered(run.dir, "otlp")
    collector.__exit__()
    for step in range(2, 50):
        run.log({"loss": 1 / step}, step=step)
    wait_for_state(run.dir, "retrying")
    collector.__enter__()
    run.finish()
    assert run.deliveries()[0].done
    assert differences(run, collector) == []


def test_rejected_points_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a collector throws away, though it says 200, is set aside with its words; all the rest arrives."""
    with Collector(reject={"bad": "out of bounds"}) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with runcast.start_run("otlp", dir=tmp_path) as run:
            for step in range(20):
                run.log({"loss": float(step)}, step=step)
            run.log({"bad": 1.0, "good": 2.0}, step=20)
            run.log({"loss": 21.0}, step=21)
        (row,) = run.deliveries()
        assert (row.state, row.refused) == ("complete", 1)
        assert "rejected 1 of 3 points: out of bounds" in row.detail
        record = collector.record(run.id)
        assert [point.step for point in record.metrics["loss"]] == [*range(20), 21]
        assert record.metrics["good"][0].value == 2.0 and "bad" not in record.metrics
        assert collector.conflicts == []
        collector.reject.clear()
        (row,) = sync(run.dir, timeout=PATIENCE)
        assert row.done, row
        assert differences(run, collector) == []


def test_warning_of_the_collector_is_told(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that rejects nothing but has something to say is no error."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

    answer = ExportMetricsServiceResponse()
    answer.partial_success.error_message = "slow down"
    reporter = opened(collector)
    collector.script = [Answer(body=answer.SerializeToString()), Answer(body=b"{}"), Answer(204)]
    for step in range(3):
        reporter.log_metrics({"loss": 1.0}, step, 1000.0)
    assert [record.getMessage() for record in caplog.records if record.name == "runcast"] == [
        "the collector took everything, and says: slow down"
    ]
    answer.partial_success.rejected_data_points = 2
    collector.script = [Answer(body=answer.SerializeToString())]
    with pytest.raises(RejectedError, match="2 of 2 points: slow down"):
        reporter.log_metrics({"loss": 1.0}, 3, 1000.0)


@pytest.mark.parametrize(("code", "words"), [(401, "401"), (404, "404")])
def test_collector_that_refuses_us(code: int, words: str, collector: Collector, tmp_path: Path) -> None:
    """A wrong key or address fails the tracker at its start, in words, after one try."""
    collector.script = [Answer(code)] * 3
    with runcast.start_run("otlp", dir=tmp_path) as run:
        run.log({"loss": 1.0}, step=1)
    (row,) = run.deliveries()
    assert row.state == "failed" and words in row.detail
    assert collector.answers == [code]


# -- the environment ---------------------------------------------------------------------------------------------------


def test_environment_keeps_its_meaning(collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's variables say where to, with which headers, how packed, and what the resource is."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{collector.url}/v1/metrics")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=team,authorization=Bearer%20key")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "trainer")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=pod-1,service.instance.id=mine,service.name=other")
    with runcast.start_run("otlp", dir=tmp_path) as run:
        run.log({"loss": 1.0}, step=1)
    assert run.deliveries()[0].done
    for _, headers in collector.requests:
        assert (headers["x-tenant"], headers["authorization"]) == ("team", "Bearer key")
        assert headers["content-encoding"] == "gzip"
    resources = {series.resource for series in collector.of_run(run.id)}
    (resource,) = map(dict, resources)
    assert (resource["service.name"], resource["service.instance.id"]) == ("trainer", "mine")
    assert resource["k8s.pod.name"] == "pod-1" and resource["telemetry.sdk.name"] == "opentelemetry"
    assert "Bearer key" not in "".join(path.read_text() for path in (run.dir / "trackers").glob("*.*"))


def test_resource_without_environment(collector: Collector) -> None:
    """A run is an instance of its project."""
    opened(collector)
    resource = dict(next(iter(collector.points)).resource)
    assert (resource["service.name"], resource["service.instance.id"]) == ("project", "id")


def test_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector with TLS is believed if OTEL_EXPORTER_OTLP_CERTIFICATE vouches for it, whatever requests' own says."""
    with Collector(certificate=certificate(tmp_path)) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with pytest.raises(requests.exceptions.SSLError):
            opened(collector)
        assert collector.requests == []
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "server.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.certs.where())
        opened(collector)
        assert collector.answers == [200]


def test_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that says nothing is given up after the seconds of OTEL_EXPORTER_OTLP_TIMEOUT, for now."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        with pytest.raises(requests.ReadTimeout) as caught:
            OtlpReporter().open(INFO, None)
    assert OtlpReporter().is_transient(caught.value) is True


@pytest.mark.parametrize(
    ("variables", "status", "reason"),
    [
        ({}, "on request", "no collector is configured.*localhost:4318"),
        ({"ENDPOINT": "http://c:4318"}, "ready", ""),
        ({"METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, "ready", ""),
        ({"ENDPOINT": "http://c:4317", "PROTOCOL": "grpc"}, "on request", "configured for grpc"),
        ({"ENDPOINT": "http://c:4317"}, "on request", "port 4317"),
        ({"ENDPOINT": "http://c:4317", "PROTOCOL": "http/protobuf"}, "ready", ""),
        ({"ENDPOINT": "http://c", "PROTOCOL": "grpc", "METRICS_PROTOCOL": "http/protobuf"}, "ready", ""),
        ({"ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, "inactive", "OTEL_SDK_DISABLED"),
        ({"ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, "inactive", "OTEL_METRICS_EXPORTER"),
    ],
)
def test_availability(variables: dict[str, str], status: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is active where the environment names a collector that it can speak to."""
    for name, value in variables.items():
        monkeypatch.setenv(name if name.startswith("OTEL_") else f"OTEL_EXPORTER_OTLP_{name}", value)
    found = OtlpReporter.availability()
    assert found.status == status
    assert re.search(reason, found.reason)
    assert any(reporter.name == "otlp" for reporter in resolve_report_to("all")) == (status == "ready")


def test_process_is_left_as_it_was(collector: Collector, tmp_path: Path) -> None:
    """Neither a global meter provider is set nor a thread left, and training imports no SDK."""
    python(
        """
import sys, threading
from pathlib import Path
import runcast
run = runcast.start_run("otlp", dir=sys.argv[1])
run.log({"loss": 1.0}); run.finish()
assert run.deliveries()[0].done
assert not [name for name in sys.modules if name.startswith(("opentelemetry", "requests"))]
from opentelemetry import metrics
from runcast.reporter import RunInfo
from runcast.reporters.otlp import OtlpReporter
threads, provider = threading.active_count(), metrics.get_meter_provider()
reporter = OtlpReporter()
reporter.open(RunInfo("id", "n", "p", None, Path(), 0.0), None)
reporter.close("completed")
assert (threading.active_count(), metrics.get_meter_provider()) == (threads, provider)
""",
        str(tmp_path),
    )


def test_example_runs(collector: Collector, tmp_path: Path) -> None:
    """The example delivers everything and says where."""
    done = python(Path(__file__).with_name("example.py").read_text(), str(tmp_path))
    assert re.search(r"otlp: (\d+) of \1 events. Look at them in: http://127.0.0.1:\d+/v1/metrics", done.stdout)
    assert len(collector.named("train/loss")[0][1]) == 100
