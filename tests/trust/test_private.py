"""A run folder is its owner's alone, whatever the umask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PNG, mode

SCRIPT = """
import os, runcast
os.umask(int(os.environ["UMASK"], 8))
with runcast.start_run("ledger", config={"lr": 1}) as run:
    run.log({"loss": 1.0, "note": "text"}, step=0)
    run.log_image("a/picture", "picture.png")
    run.log_table("table", ["a"], [[1]])
    run.log_artifact("picture.png")
    run.log_artifact("checkpoint", kind="checkpoint")
print(run.dir)
"""


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_run_folder_is_private(umask, tmp_path, ledger):
    """Folders are 0700 and files 0600, but for those of a checkpoint, which are hard links to the user's own."""
    (tmp_path / "picture.png").write_bytes(PNG)
    (tmp_path / "checkpoint" / "deep" / "deeper").mkdir(parents=True)
    weights = tmp_path / "checkpoint" / "deep" / "deeper" / "weights"
    weights.write_text("weights")
    weights.chmod(0o640)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={
            **os.environ,
            "UMASK": umask,
            "PYTHONPATH": os.pathsep.join([str(ledger), os.environ.get("PYTHONPATH", "")]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    run_dir = Path(result.stdout.strip())
    assert mode(run_dir) == 0o700
    ours = [path for path in run_dir.rglob("*") if "ledger" not in path.relative_to(run_dir).parts]
    names = {path.name for path in ours}
    assert {"journal.jsonl", "trackers", "ledger.json", "ledger.log", "ledger.lock", "artifacts", "weights"} <= names
    for path in ours:
        expected = 0o700 if path.is_dir() else mode(weights) if path.name == "weights" else 0o600
        assert oct(mode(path)) == oct(expected), path
