"""ClearML's offline mode: what it leaves on disk, in ClearML's own terms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runcast.testing.couriers import native_of


def folders(run_dir: Path) -> list[Path]:
    """The task folders of a run, one each time that it was opened, oldest first."""
    return [Path(session["folder"]) for session in native_of(run_dir, "clearml").data["sessions"]]


def task(folder: Path) -> dict[str, Any]:
    """What ClearML knows of the task."""
    return json.loads((folder / "task.json").read_text())


def events(folder: Path) -> list[dict[str, Any]]:
    """What `Task.import_offline_session` would report."""
    path = folder / "metrics.jsonl"
    return [event for line in path.read_text().splitlines() for event in json.loads(line)] if path.exists() else []


def points(*folders: Path) -> list[tuple[str, str, int, float]]:
    """Title, series, iteration and value of every scalar, as often as it is there."""
    found = [event for folder in folders for event in events(folder) if event["type"] == "training_stats_scalar"]
    return [(event["metric"], event["variant"], event["iter"], event["value"]) for event in found]
