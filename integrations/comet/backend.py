"""Comet's offline mode: what it leaves on disk, in Comet's own terms."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from runcast.testing.couriers import native_of


def archives(run_dir: Path) -> list[Path]:
    """The archives of a run, one each time that it was opened, oldest first."""
    return [Path(session["archive"]) for session in native_of(run_dir, "comet").data["sessions"]]


def experiment(archive: Path) -> dict[str, Any]:
    """What an archive says of its experiment."""
    with zipfile.ZipFile(archive) as found:
        return json.loads(found.read("experiment.json"))


def messages(archive: Path) -> list[dict[str, Any]]:
    """What `comet upload` would send."""
    with zipfile.ZipFile(archive) as found:
        return [json.loads(line) for line in found.read("messages.json").splitlines()]


def points(*archives: Path) -> list[tuple[str, int, float]]:
    """Name, step and value of every metric message, as often as it is there."""
    metrics = [m["payload"]["metric"] for archive in archives for m in messages(archive) if m["type"] == "metric_msg"]
    return [(metric["metricName"], metric["step"], float(metric["metricValue"])) for metric in metrics]


def assets(*archives: Path) -> list[dict[str, Any]]:
    """The metadata of every file, as often as it is there."""
    payloads = [m["payload"] for archive in archives for m in messages(archive) if m["type"] == "file_upload"]
    found = [payload["metadata"] or {} for payload in payloads]
    return [json.loads(about) if isinstance(about, str) else about for about in found]
