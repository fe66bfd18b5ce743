"""DVC itself: repositories, and what its commands say of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def repository(folder: Path, *, dvc: bool = True) -> Path:
    """A git repository with a commit, and with DVC in it unless told otherwise."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    git(folder, "config", "user.email", "tester@example.com")
    git(folder, "config", "user.name", "Tester")
    if dvc:
        run_dvc(folder, "init", "-q")
    (folder / "train.txt").write_text("code\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def git(folder: Path, *arguments: str) -> str:
    """The output of a git command."""
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def run_dvc(folder: Path, *arguments: str) -> str:
    """The output of a command of DVC's, which fails with what it says."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics(folder: Path, *files: str) -> dict[str, dict[str, Any]]:
    """``dvc metrics show``: file → values."""
    shown = json.loads(run_dvc(folder, "metrics", "show", "--json", *files))
    return {path: result["data"] for path, result in shown[""]["data"].items()}


def plots(folder: Path) -> dict[str, Any]:
    """``dvc plots show``: file → the points that are drawn; of an image, the copy that is shown."""
    shown = json.loads(run_dvc(folder, "plots", "show", "--json", "-o", "shown"))
    assert "errors" not in shown, shown["errors"]
    drawn = {}
    for path, (plot,) in shown["data"].items():
        vega = plot["type"] == "vega"
        drawn[path] = plot["content"]["data"]["values"] if vega else Path(folder, plot["url"])
    return drawn
