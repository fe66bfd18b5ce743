"""Trackio itself: what its command line, its Python API and its dashboard's server say of a folder."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runcast.testing.couriers import native_of, python

_SERVE = """
import trackio
url = trackio.show(open_browser=False, block_thread=False)[1]
print("URL", url, flush=True)
input()
"""


def at(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a process whose Trackio folder this is."""
    return {**os.environ, "TRACKIO_DIR": str(folder), **variables}


def folder_of(run_dir: Path) -> Path:
    """The Trackio folder that a run is in."""
    return Path(native_of(run_dir, "trackio").data["dir"])


def cli(folder: Path, *arguments: str) -> Any:
    """What a command of Trackio's answers, with ``--json``."""
    done = subprocess.run(
        [sys.executable, "-m", "trackio.cli", *arguments, "--json"],
        env=at(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def points(folder: Path, project: str, run: str, metric: str) -> list[tuple[int, Any]]:
    """Step and value of every point of a metric, as ``trackio get metric`` has them."""
    found = cli(folder, "get", "metric", "--project", project, "--run", run, "--metric", metric)
    return [(point["step"], point["value"]) for point in found["values"]]


def query(folder: Path, project: str, sql: str) -> list[dict[str, Any]]:
    """What ``trackio query project`` answers."""
    rows: list[dict[str, Any]] = cli(folder, "query", "project", "--project", project, "--sql", sql)["rows"]
    return rows


def plain(code: str, folder: Path, *arguments: str, **variables: str) -> str:
    """Runs code that uses Trackio without runcast; the answer is what it printed."""
    return python(code, *arguments, env=at(folder, **variables)).stdout


class Server:
    """What a browser would ask of a running dashboard."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, call: str, **arguments: Any) -> Any:
        """The answer to ``/api/<call>``."""
        body = json.dumps({"args": [], "kwargs": arguments}).encode()
        request = urllib.request.Request(f"{self.url}api/{call}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = json.load(answer)
        assert content.get("error") is None, content
        return content["data"]

    def file(self, path: Path) -> bytes:
        """A file that a page shows."""
        with urllib.request.urlopen(f"{self.url}file?path={urllib.parse.quote(str(path))}", timeout=60) as answer:
            content: bytes = answer.read()
        return content


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Runs what ``trackio show`` runs, without a browser, on the loopback interface."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        env=at(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if line.startswith("URL "):
                yield Server(line.split()[1])
                break
        else:
            raise RuntimeError(f"the dashboard did not start: {''.join(said)}")
    finally:
        process.kill()
        process.communicate()
