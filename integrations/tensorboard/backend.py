"""TensorBoard's real server over a folder of runs, on the loopback interface, and its own reader of event files."""

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
from collections import Counter
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


class Files:
    """What TensorBoard's own reader finds in a folder of event files, with nothing sampled away.

    Attributes:
        points: How often it has each metric at each step.
        status: What its HParams page says; None before the end.
        others: How many points its text, table, histogram and image series have.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams import api_pb2, metadata

        found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
        found.Reload()
        self.points = Counter((tag, event.step) for tag in found.Tags()["scalars"] for event in found.Scalars(tag))
        self.status: str | None = None
        if metadata.SESSION_END_INFO_TAG in found.Tags()["tensors"]:
            content = found.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
            end = metadata.parse_session_end_info_plugin_data(content)
            self.status = api_pb2.Status.Name(end.status)
        series = [tag for tag in found.Tags()["tensors"] if not tag.startswith(("runcast/", "_hparams_/"))]
        self.others = Counter({tag: len(found.Tensors(tag)) for tag in series})
        self.others.update({tag: len(found.Images(tag)) for tag in found.Tags()["images"]})
