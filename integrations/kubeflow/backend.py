"""A status server that does what Kubeflow Trainer's does: TLS, a bearer token, and the validation of the TrainJob's schema."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

JOB = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs/job/status"
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass
class Certificates:
    """Files: the authority's certificate, and the server's certificate and key."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def made(cls, folder: Path) -> Certificates:
        """Fresh ones, for 127.0.0.1 and nobody else."""
        ca, ca_key, request = folder / "ca.crt", folder / "ca.key", folder / "server.csr"
        certificate, key, extensions = folder / "server.crt", folder / "server.key", folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        new = ["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        _openssl(*new, "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", ca_key, "-out", ca)
        _openssl(*new, "-subj", "/CN=server", "-keyout", key, "-out", request)
        signed_by = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2"]
        _openssl("x509", "-req", "-in", request, *signed_by, "-extfile", extensions, "-out", certificate)
        return cls(ca, certificate, key)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Update(NamedTuple):
    """What was taken: the status, and when (monotonic seconds)."""

    status: dict[str, Any]
    when: float


class StatusServer:
    """Serves one TrainJob.

    Attributes:
        token: The one that is taken.
        fail_with: Status codes that are answered next, whatever is asked, with the headers to send.
        updates: What was taken.
        requests: The answers that were given, by status code.
    """

    def __init__(self, certificates: Certificates, token: str, port: int = 0) -> None:
        self.token = token
        self.fail_with: list[tuple[int, dict[str, str]]] = []
        self.updates: list[Update] = []
        self.requests: list[int] = []
        self._certificates = certificates
        self._port = port

    def __enter__(self) -> Self:
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code, headers, words = server.answer(self.path, dict(self.headers), body)
                server.requests.append(code)
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(words.encode())

            def log_message(self, *args: Any) -> None:
                """The tests say what was asked."""

        class Http(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                """A client that doesn't trust us hangs up."""

        self._http = Http(("127.0.0.1", self._port), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._certificates.certificate, self._certificates.key)
        self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        """What the controller puts into the environment."""
        return f"https://127.0.0.1:{self._port}{JOB}"

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], str]:
        """Code, headers and words, in the order in which the real server looks."""
        if self.fail_with:
            return *self.fail_with.pop(0), "as told"
        if path != JOB:
            return 404, {}, "Not found"
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 403, {}, "Forbidden"
        if len(body) > 1 << 16:
            return 413, {}, "too large"
        try:
            status = json.loads(body)["trainerStatus"]
            check(status)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            return 422, {}, f"Invalid payload: {type(error).__name__}: {error}"
        if headers.get("Content-Type") != "application/json":
            return 415, {}, "no JSON"
        self.updates.append(Update(status, time.monotonic()))
        return 200, {}, body.decode()

    @property
    def last(self) -> dict[str, Any]:
        """The TrainJob's status as it is."""
        return self.updates[-1].status

    def metrics(self) -> dict[str, str]:
        """The metrics of the TrainJob's status."""
        return {metric["name"]: metric["value"] for metric in self.last["metrics"]}


def check(status: dict[str, Any]) -> None:
    """The rules of the resource's schema."""
    known = {"lastUpdatedTime", "progressPercentage", "estimatedRemainingSeconds", "metrics"}
    assert set(status) <= known, f"unknown fields {sorted(set(status) - known)}"
    assert _RFC3339.fullmatch(status["lastUpdatedTime"]), "lastUpdatedTime is required"
    for field, most in (("progressPercentage", 100), ("estimatedRemainingSeconds", 2**31 - 1)):
        value = status.get(field, 0)
        assert type(value) is int and 0 <= value <= most, f"{field} is {value!r}"
    assert len(status.get("metrics", [])) <= 256, "too many metrics"
    for metric in status.get("metrics", []):
        assert set(metric) == {"name", "value"}, metric
        assert all(type(text) is str and 1 <= len(text) <= 64 for text in metric.values()), metric
