"""TensorBoard's real server over a folder of runs, on the loopback interface."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_TIMEOUT = 60.0
LOAD_TIMEOUT = 30.0


class Server:
    """What a browser would ask of a running TensorBoard."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> bytes:
        """The answer to ``/data/<path>``."""
        return self._open(urllib.request.Request(f"{self.url}/data/{path}"))

    def json(self, path: str, **query: Any) -> Any:
        return json.loads(self.get(f"{path}?{urllib.parse.urlencode(query)}"))

    def post(self, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        return json.loads(
            self._open(urllib.request.Request(f"{self.url}/data/{path}", json.dumps(body).encode(), headers))
        )

    def _open(self, request: urllib.request.Request) -> bytes:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def wait_for(self, path: str, *names: str) -> Any:
        """The answer once it mentions all of `names`: the server loads in the background."""
        deadline = time.monotonic() + LOAD_TIMEOUT
        while True:
            answer = self.json(path)
            if all(name in json.dumps(answer, ensure_ascii=False) for name in names):
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"TensorBoard shows {answer}, expected {names}")
            time.sleep(0.2)


@contextlib.contextmanager
def server(logdir: Path) -> Iterator[Server]:
    """Runs ``tensorboard --logdir <logdir>`` as users do, with its default loader."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    try:
        yield Server(_url_of(process))
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its data server too
        process.wait()
        process.stderr.close()


def _url_of(process: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + START_TIMEOUT
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
        if time.monotonic() > deadline:
            break
    raise RuntimeError(f"TensorBoard did not start: {said}")
