"""SwanLab's log of a run as SwanLab itself reads it, and a server that takes what SwanLab's client uploads."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from runcast.testing.couriers import native_of


def folder_of(run_dir: Path) -> Path:
    """SwanLab's folder of a run."""
    (folder,) = native_of(run_dir, "swanlab").data["dirs"]
    return Path(folder)


def log_of(folder: Path) -> Path:
    (log,) = folder.glob("*.swanlab*")
    return log


def stored(folder: Path, kind: str) -> list[Any]:
    """The messages of a kind in a run's log, read by SwanLab's own reader."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    reader = DataStoreReader()
    reader.open(log_of(folder))
    messages = [Record.FromString(data) for data in reader]
    reader.close()
    return [getattr(message, kind) for message in messages if message.WhichOneof("record_type") == kind]


def points(folder: Path) -> list[tuple[str, int, float]]:
    """Key, step and value of every number in the log."""
    return [(scalar.key, scalar.step, scalar.value.number) for scalar in stored(folder, "scalar")]


@dataclass
class Uploads:
    """What a server was sent.

    Attributes:
        url: The server's.
        start: What SwanLab said of the experiment, each time that it began or went on.
        numbers: Key, step, value.
        media: Key, step, path.
        files: Path → content.
        states: What the experiment ended with.
        down: Whether it answers nothing but 503.
    """

    url: str = ""
    start: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[tuple[str, int, float]] = field(default_factory=list)
    media: list[tuple[str, int, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    down: bool = False

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON, as SwanLab's client understands them."""
        if self.down:
            return 503, {"code": "down", "message": "down"}
        if method == "PUT" and path.startswith("/bucket/"):
            self.files[path.removeprefix("/bucket/")] = body
            return 200, {}
        data = json.loads(body or b"{}")
        if path == "/api/login/api_key":
            return 200, {
                "sid": "s",
                "expiredAt": "2999-01-01T00:00:00.000Z",
                "userInfo": {"username": "me", "name": None},
            }
        if path.endswith("/experiment"):
            self.start.append(data)
            about = {
                "cuid": data["cuid"],
                "slug": data["cuid"],
                "name": data["name"],
                "createdAt": "2026-01-01T00:00:00Z",
            }
            return (201 if len(self.start) == 1 else 200), about
        if "/summaries/" in path:
            last = [{"key": key, "step": step} for key, step in {key: step for key, step, _ in self.numbers}.items()]
            return 200, {"scalar": last, "media": [], "log": []}
        if path == "/api/house/metrics":
            return 200, self._metrics(data)
        if path.endswith("/profile"):
            self.config = data.get("config", self.config)
        if path.endswith("/state"):
            self.states.append(data["state"])
        if path.endswith(("/presigned/put", "/files/prepare")):
            paths = data.get("paths") or [file["path"] for file in data["files"]]
            return 200, {"urls": [f"{self.url}/bucket/{name}" for name in paths]}
        if path == "/api/project":  # before SwanLab 0.10
            return 200, {"username": "me", "name": data["name"]}
        if found := re.fullmatch(r"/api/project/(\w+)/([^/]+)", path):
            user, name = found.groups()
            group, count = {"username": user}, {"experiments": 0}
            about = {
                "cuid": "p",
                "name": name,
                "version": 1,
                "path": f"/{user}/{name}",
                "group": group,
                "_count": count,
            }
            return 200, about
        return 200, {}

    def _metrics(self, data: dict[str, Any]) -> dict[str, Any]:
        for metric in data["metrics"]:
            if data["type"] == "scalar":
                self.numbers.append((metric["key"], metric["index"], float(metric["data"])))
            elif data["type"] == "media":
                self.media += [(metric["key"], metric["index"], path) for path in metric["data"]]
        return {}


@contextmanager
def server() -> Iterator[Uploads]:
    """A server on this machine that speaks as much of SwanLab's HTTP API as its client asks for."""
    uploads, lock = Uploads(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                status, answer = uploads.answer(self.command, self.path.partition("?")[0], body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815 -- names that http.server looks for

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        uploads.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield uploads
        finally:
            http.shutdown()
            thread.join()
