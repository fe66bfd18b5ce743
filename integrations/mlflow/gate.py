"""The door of a real server: asks for a password or token, and may have rules, as hosted servers do."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Rule = Callable[[str, str, bytes], str | None]
"""Method, path and body of a request → why it is refused, if it is."""


def bearer(token: str) -> str:
    """The header that carries a token."""
    return f"Bearer {token}"


def basic(user: str, password: str) -> str:
    """The header that carries a user's name and password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


class Gate:
    """Lets requests through to a server on this machine.

    Args:
        server_port: The server's, which need not be there yet; it may be set later, as `authorization` may.
        authorization: The header that a request must have; anything else is answered 401, and the server doesn't see it.
        prefix: What paths begin with here, and not there; requests without it are answered 404.
        rule: What is refused on top of that, with 400 and MLflow's own kind of answer.
        tls: Makes it HTTPS.

    Attributes:
        asked: How many requests came.
        refused: How many of them had the wrong header.
        paths: Where the others went.
        broken: What the rule said, each time.
    """

    def __init__(
        self,
        server_port: int,
        authorization: str,
        prefix: str = "",
        rule: Rule | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.asked = self.refused = 0
        self.paths: list[str] = []
        self.broken: list[str] = []
        self.server_port = server_port
        self.authorization, self._prefix, self._rule = authorization, prefix, rule
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.port = int(self._http.server_address[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
                body = (
                    b"".join(self._chunks()) if chunked else self.rfile.read(int(self.headers["Content-Length"] or 0))
                )
                status, headers, answer = gate._answer(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            def _chunks(self) -> Iterator[bytes]:
                """The body of a file without a length, an empty one say."""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():  # trailers
                    pass

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        return Handler

    def _answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        self.asked += 1
        if headers.pop("Authorization", None) != self.authorization:
            self.refused += 1
            return 401, {"WWW-Authenticate": "Basic"}, b"who are you?"
        self.paths.append(path)
        if not path.startswith(self._prefix):
            return 404, {}, b"no such place"
        path = path.removeprefix(self._prefix)
        if self._rule is not None and (reason := self._rule(method, path, body)):
            self.broken.append(reason)
            return 400, {}, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": reason}).encode()
        return self._forward(method, path, headers, body)

    def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        line = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=120)
        try:
            headers = {name: value for name, value in headers.items() if name not in ("Host", "Transfer-Encoding")}
            line.request(method, path, body, headers)
            answer: Any = line.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() == "content-type"}
            return answer.status, kept, answer.read()
        finally:
            line.close()
