"""The courier's loop, on scripted faults: what is tried again, set aside, or given up."""

from __future__ import annotations

import errno
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from runcast import courier as courier_module
from runcast import events
from runcast.courier import Courier, courier_alive
from runcast.delivery import deliveries, load_state, log_path, state_path
from runcast.journal import FILE_NAME, Journal
from runcast.writer import this_writer
from runcast.reporter import NativeRun, Reporter, denied, transient


class Scripted(Reporter):
    """Remembers every call, and fails as its script says: method name → errors, one a call, None for success."""

    name = "scripted"

    def __init__(self, **script) -> None:
        self.script = {method: list(errors) for method, errors in script.items()}
        self.calls: list[tuple] = []

    def _call(self, method, *arguments):
        errors = self.script.get(method)
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        self.calls.append((method, *arguments))

    def open(self, run, attach):
        self._call("open", attach and attach.id)
        return NativeRun(id="native-1", url="http://look.here")

    def log_metrics(self, metrics, step, time):
        if "refused" in metrics:
            raise ValueError("refused is not allowed")
        self._call("log_metrics", step)

    def log_config(self, config):
        self._call("log_config", dict(config))

    def flush(self):
        self._call("flush")

    def close(self, status):
        self._call("close", status)

    def of(self, method):
        return [call[1] for call in self.calls if call[0] == method]


@pytest.fixture
def run_dir(tmp_path):
    """A run folder with a start and three numbers."""
    journal = Journal(tmp_path / FILE_NAME)
    start = events.RunStarted(time=0.0, run_id="r", project="p", name="n", writer=this_writer(), config={"lr": 1})
    for event in (start, metric(0), metric(1), metric(2)):
        journal.append(event)
    return tmp_path


def metric(step, name="loss"):
    return events.Metrics(time=float(step), step=step, values={name: 1.0})


def finish(run_dir, status="completed"):
    Journal(run_dir / FILE_NAME).append(events.RunFinished(time=9.0, status=status))


def deliver(run_dir, reporter, rounds=100):
    """Advances until there is nothing more to do now; returns the last pause."""
    courier = Courier(run_dir, reporter)
    for _ in range(rounds):
        pause = courier.advance()
        if pause is None or pause > 0 and courier.state.state != "retrying":
            break
    courier.abandon()
    return pause


def test_everything_is_delivered_in_order_and_closed(run_dir):
    """Open, config, numbers, flush, close: then the state is complete and the cursor at the end."""
    reporter = Scripted()
    finish(run_dir)
    assert deliver(run_dir, reporter) is None
    assert [call[0] for call in reporter.calls] == ["open", "log_config", *["log_metrics"] * 3, "flush", "close"]
    assert reporter.of("log_metrics") == [0, 1, 2]
    state = load_state(run_dir, "scripted")
    assert (state.state, state.events, state.offset) == ("complete", 5, (run_dir / FILE_NAME).stat().st_size)
    assert deliveries(run_dir)[0].done
    assert deliveries(run_dir)[0].where == "http://look.here"


def test_courier_goes_on_from_its_cursor(run_dir):
    """A second courier attaches to the same run and delivers only what is new."""
    deliver(run_dir, Scripted())
    Journal(run_dir / FILE_NAME).append(metric(3))
    finish(run_dir)
    second = Scripted()
    deliver(run_dir, second)
    assert second.of("open") == ["native-1"]
    assert second.of("log_metrics") == [3]
    assert second.of("close") == ["completed"]


def test_transient_errors_are_tried_again(run_dir):
    """At open, at an event, at flush and at close: the same again until it works; nothing is set aside."""
    finish(run_dir)
    down = ConnectionError("down")
    reporter = Scripted(open=[down, down], log_metrics=[None, down], flush=[down], close=[TimeoutError("slow")])
    assert deliver(run_dir, reporter) is None
    assert sorted(set(reporter.of("log_metrics"))) == [0, 1, 2]
    assert reporter.of("close") == ["completed"]
    assert deliveries(run_dir)[0].done


def test_state_says_that_it_is_retrying_and_why(run_dir):
    """While a tracker is down, the state has the error."""
    courier = Courier(run_dir, Scripted(open=[ConnectionError("connection refused")]))
    pause = courier.advance()
    assert pause > 0
    state = load_state(run_dir, "scripted")
    assert (state.state, state.error) == ("retrying", "ConnectionError: connection refused")
    assert "Traceback" in log_path(run_dir, "scripted").read_text()


def test_backoff_grows_and_retry_after_is_obeyed(run_dir):
    """Each failure waits longer, up to a bound; a server's own delay counts where it is longer."""

    class Throttled(Scripted):
        def is_transient(self, error):
            return 77.0 if "later" in str(error) else True

    down = [ConnectionError("x")] * 12
    courier = Courier(run_dir, Throttled(open=[*down, ConnectionError("later")]))
    pauses = [courier.advance() for _ in range(12)]
    assert pauses[0] < 1.0 < pauses[-1] <= courier_module._BACKOFF_MAX
    assert courier.advance() == 77.0


def test_refused_event_is_set_aside_and_does_not_stop_the_others(run_dir):
    """One bad event in a batch costs itself alone; place, type and reason are kept."""
    journal = Journal(run_dir / FILE_NAME)
    journal.append(metric(3, "refused"))
    journal.append(metric(4))
    finish(run_dir)
    reporter = Scripted()
    deliver(run_dir, reporter)
    assert set(reporter.of("log_metrics")) == {0, 1, 2, 4}
    state = load_state(run_dir, "scripted")
    assert (state.state, state.refused, state.events) == ("complete", 1, 7)
    assert state.set_aside[0].reason == "ValueError: refused is not allowed"
    assert next(journal.read(state.set_aside[0].offset)).event == metric(3, "refused")
    (row,) = deliveries(run_dir)
    assert (row.delivered, row.total, row.done) == (6, 7, False)


def test_start_that_is_refused_for_good_is_a_failure(run_dir):
    """The state has the reason; a later courier tries again."""
    finish(run_dir)
    assert deliver(run_dir, Scripted(open=[PermissionError("bad key")])) is None
    state = load_state(run_dir, "scripted")
    assert (state.state, state.error, state.native) == ("failed", "PermissionError: bad key", None)
    deliver(run_dir, Scripted())
    assert deliveries(run_dir)[0].done


def test_sdk_that_exits_does_not_end_the_courier(run_dir):
    """SystemExit from an SDK is an error like others."""
    finish(run_dir)
    assert deliver(run_dir, Scripted(open=[SystemExit(1)])) is None
    assert load_state(run_dir, "scripted").state == "failed"


def test_secrets_in_errors_reach_neither_state_nor_log(run_dir):
    """An SDK's message that quotes a token is masked."""
    token = "hf_abcdefghijklmnopqrstuvwxyz"
    deliver(run_dir, Scripted(open=[PermissionError(f"key {token} at https://u:p@host/ is wrong")]))
    written = state_path(run_dir, "scripted").read_text() + log_path(run_dir, "scripted").read_text()
    assert token not in written
    assert "u:p@" not in written


def test_secret_options_are_not_written_down(run_dir):
    """The state keeps the options that `sync` needs, but no secret one."""

    class Keyed(Scripted):
        def __init__(self, api_key, url):
            super().__init__()

    deliver(run_dir, Keyed(api_key="plain-secret", url="http://h"))
    assert load_state(run_dir, "scripted").options == {"url": "http://h"}
    assert "plain-secret" not in state_path(run_dir, "scripted").read_text()


def test_lost_state_means_delivering_again(run_dir):
    """A damaged cursor is replay, never loss."""
    finish(run_dir)
    deliver(run_dir, Scripted())
    state_path(run_dir, "scripted").write_text("garbage")
    again = Scripted()
    deliver(run_dir, again)
    assert again.of("log_metrics") == [0, 1, 2]


def test_damaged_line_is_counted_once_and_passed(run_dir):
    """Damage in the middle is neither delivered nor waited for."""
    with (run_dir / FILE_NAME).open("ab") as file:
        file.write(b"garbage\n")
    Journal(run_dir / FILE_NAME).append(metric(3))
    reporter = Scripted()
    courier = Courier(run_dir, reporter)
    for _ in range(5):
        courier.advance()
    finish(run_dir)
    while courier.advance() is not None:
        pass
    state = load_state(run_dir, "scripted")
    assert (state.damaged, state.events, state.state) == (1, 6, "complete")
    assert deliveries(run_dir)[0].done
    assert log_path(run_dir, "scripted").read_text().count("skipped a damaged line") == 1


def test_writer_that_vanished_closes_the_run_as_crashed(run_dir):
    """The courier sees that nobody writes any more, a torn last line included."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    import psutil

    writer = events.Writer(process.pid, psutil.Process(process.pid).create_time(), os.uname().nodename)
    journal = Journal(run_dir / FILE_NAME)
    journal.append(events.RunResumed(time=1.0, writer=writer))
    journal.append(metric(3))
    reporter = Scripted()
    courier = Courier(run_dir, reporter)
    while courier.advance() == 0:
        pass
    assert reporter.of("close") == []
    with journal.path.open("ab") as file:
        file.write(b'{"type":"metrics","ti')
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while courier.advance() is not None and time.monotonic() < deadline:  # not yet reaped: a zombie is dead too
        time.sleep(0.01)
    process.wait()
    assert reporter.of("close") == ["crashed"]
    assert reporter.of("log_metrics") == [0, 1, 2, 3]
    assert deliveries(run_dir)[0].done


def test_run_that_goes_on_after_its_end_is_closed_at_the_last_end(run_dir):
    """A finished and resumed run that is delivered late is closed once, with its final status."""
    finish(run_dir, "failed")
    journal = Journal(run_dir / FILE_NAME)
    journal.append(events.RunResumed(time=1.0, writer=this_writer()))
    journal.append(metric(3))
    finish(run_dir, "completed")
    reporter = Scripted()
    deliver(run_dir, reporter)
    assert reporter.of("close") == ["completed"]
    assert reporter.of("log_metrics") == [0, 1, 2, 3]


def test_end_is_delivered_by_a_courier_that_comes_later(run_dir):
    """A courier that dies before closing leaves the end to the next one, which closes with the right status."""
    finish(run_dir, "failed")
    first = Courier(run_dir, Scripted())
    first.advance()
    first.abandon()
    second = Scripted()
    deliver(run_dir, second)
    assert second.of("close") == ["failed"]


def test_second_courier_keeps_away(run_dir):
    """Two couriers never deliver the same run to the same tracker at once."""
    first, second = Scripted(), Scripted()
    courier = Courier(run_dir, first)
    courier.advance()
    assert courier_alive(run_dir, "scripted")
    assert Courier(run_dir, second).advance() is None
    assert second.calls == []
    courier.abandon()
    assert not courier_alive(run_dir, "scripted")


def test_event_of_a_newer_version_is_passed(run_dir):
    """An unknown type is counted and does not stop anything."""
    with (run_dir / FILE_NAME).open("ab") as file:
        file.write(b'{"type":"hologram","time":1.0}\n')
    finish(run_dir)
    reporter = Scripted()
    deliver(run_dir, reporter)
    assert deliveries(run_dir)[0].done
    assert reporter.of("close") == ["completed"]


def test_artifact_path_that_leads_out_of_the_run_folder_is_refused(run_dir):
    """A hostile journal can't make a reporter read other files."""

    class Pictures(Scripted):
        def log_image(self, key, image, step, time):
            self._call("log_image", Path(image))

    Journal(run_dir / FILE_NAME).append(
        events.Image(time=1.0, step=0, key="k", path="../../etc/passwd", size=1, sha256="")
    )
    reporter = Pictures()
    deliver(run_dir, reporter)
    assert reporter.of("log_image") == []
    assert "leads out of" in load_state(run_dir, "scripted").set_aside[0].reason


class Response:
    def __init__(self, status, **headers):
        self.status_code = status
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}


class HttpError(Exception):
    def __init__(self, *arguments, **headers):
        super().__init__(str(arguments))
        self.response = Response(*arguments, **headers)


class ClientResponseError(Exception):
    """As aiohttp has it."""

    def __init__(self, status, headers):
        super().__init__(status)
        self.status, self.headers = status, headers


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectionResetError("x"), True), (TimeoutError("x"), True), (HttpError(503), True), (HttpError(401), False), (HttpError(404), False),
        (HttpError(429, Retry_After="7"), 7.0), (HttpError(429), True), (ValueError("x"), False), (OSError(28, "disk full"), True), (OSError(13, "not allowed"), False),
        (type("ConnectTimeout", (OSError,), {})("requests has its own"), True),
        (socket.gaierror(-3, "Temporary failure in name resolution"), True), (OSError(errno.ENETUNREACH, "x"), True), (OSError(errno.EHOSTUNREACH, "x"), True),
        (URLError(socket.gaierror(-2, "Name or service not known")), True), (URLError("unknown url type"), False), (URLError(ssl.SSLCertVerificationError("x")), False),
        (http.client.IncompleteRead(b""), True), (http.client.RemoteDisconnected(), True), (ssl.SSLEOFError(8, "EOF occurred"), True),
        (HTTPError("http://x", 503, "busy", {"Retry-After": "3"}, None), 3.0), (HTTPError("http://x", 502, "bad", {}, None), True), (HTTPError("http://x", 404, "no", {}, None), False),
        (ClientResponseError(429, {"Retry-After": "5"}), 5.0), (SystemExit(503), False),
    ],
)  # fmt: skip
def test_default_verdict_on_errors(error, verdict):
    """Connections, names, time-outs, a full disk, 408, 429 and 5xx are worth another try; refusals are not."""
    assert transient(error) == verdict


@pytest.mark.parametrize(
    "error", [HttpError(401), HTTPError("http://x", 403, "no", {}, None), ClientResponseError(407, {})]
)
def test_tracker_that_takes_nothing_from_us(error):
    """HTTP 401, 403 and 407 are about us, not about an event."""
    assert denied(error)
    assert not denied(ValueError("x"))


def test_server_that_is_busy_for_a_while_gets_everything(run_dir):
    """Its 503 costs a wait, and no event is set aside: also for a reporter that uses nothing but urllib."""
    answers, got = [200, 503, 503], []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            step = self.rfile.read(int(self.headers["Content-Length"]))
            status = answers.pop(0) if answers else 200
            if status == 200:
                got.append(int(step))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            """Nobody reads it."""

    class Web(Reporter):
        name = "web"

        def log_metrics(self, metrics, step, time):
            urlopen(Request(url, str(step).encode(), method="POST")).close()

    finish(run_dir)
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        deliver(run_dir, Web())
        server.shutdown()
    assert got == [0, 1, 2]
    state = load_state(run_dir, "web")
    assert (state.state, state.refused) == ("complete", 0)


def test_cause_of_an_error_counts():
    """An SDK's own exception around a lost connection is transient."""
    try:
        try:
            raise ConnectionError("down")
        except ConnectionError as error:
            raise RuntimeError("upload failed") from error
    except RuntimeError as wrapped:
        assert transient(wrapped) is True


@pytest.mark.parametrize("behind", [b"garbage\n", b"\n", b'{"type":"of_the_future","time":1.0}\n'])
def test_run_is_closed_whatever_stands_behind_its_end(run_dir, behind):
    """A damaged line or an event of a newer version behind the end changes neither status nor completeness."""
    finish(run_dir, "failed")
    with (run_dir / FILE_NAME).open("ab") as file:
        file.write(behind)
    reporter = Scripted()
    assert deliver(run_dir, reporter) is None
    assert reporter.of("close") == ["failed"]
    (row,) = deliveries(run_dir)
    assert row.done, row


def test_run_that_went_on_is_closed_once(run_dir):
    """An end in the middle of the journal, behind which the run was resumed, is no end."""
    finish(run_dir, "failed")
    Journal(run_dir / FILE_NAME).append(events.RunResumed(time=10.0, writer=this_writer()))
    finish(run_dir, "completed")
    reporter = Scripted()
    assert deliver(run_dir, reporter) is None
    assert reporter.of("close") == ["completed"]
