"""Runs something in surroundings of its own, and says what it did to them."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from runcast.testing import watch

_GRACE = 30.0
"""Seconds that processes and threads have for ending, once everything is delivered."""
_MARK = "RUNCAST_TESTING_MARK"

# In front of whatever this Python has as its own.
_BOOT = """
watch({log!r})
import sys
_ours = sys.modules.pop("sitecustomize")
sys.path[:] = [path for path in sys.path if path != {folder!r}]
try:
    import sitecustomize
except ImportError:
    sys.modules["sitecustomize"] = _ours
"""


@dataclass
class Seen:
    """What was done to the surroundings, in words.

    Attributes:
        connections: To other machines, or tried; also look-ups of their names.
        prompts: Questions to somebody.
        written: Files in the home and the working directory.
        temporary: Files left in the directory for temporary ones.
        threads: Those left in this process.
        processes: Those left of what was started.
    """

    connections: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[Seen]:
    """For what is done here and in the processes that are started: empty home, working and temporary directories, no network.

    Args:
        folder: Where the directories are made.
    """
    seen = Seen()
    home, here, temporary, boot = (folder / name for name in ("home", "cwd", "tmp", "boot"))
    for path in (home, here, temporary, boot):
        path.mkdir()
    log = folder / "watched"
    (boot / "sitecustomize.py").write_text(inspect.getsource(watch) + _BOOT.format(log=str(log), folder=str(boot)))
    threads = set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
            patch.delenv(variable, raising=False)
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", None)  # which remembers
        patch.setenv("PYTHONPATH", os.pathsep.join([str(boot), *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv(_MARK, str(folder))
        patch.chdir(here)
        watch.watch(str(log))
        try:
            yield seen
        finally:
            watch.unwatch()
            _wait_for_the_end(seen, str(folder), threads)
    seen.written = [str(path) for path in (*home.rglob("*"), *here.rglob("*")) if path.is_file()]
    seen.temporary = [str(path) for path in temporary.rglob("*") if path.is_file()]
    noted = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for kind, found in (("connection", seen.connections), ("prompt", seen.prompts)):
        found.extend(dict.fromkeys(note["what"] for note in noted if note["kind"] == kind))


def _wait_for_the_end(seen: Seen, mark: str, threads: set[threading.Thread]) -> None:
    deadline = time.monotonic() + _GRACE
    while True:
        seen.threads = [thread.name for thread in threading.enumerate() if thread not in threads]
        seen.processes = _marked(mark)
        if not (seen.threads or seen.processes) or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _marked(mark: str) -> list[str]:
    """The processes that were started in these surroundings."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == mark:
                found.append(" ".join(process.cmdline())[:200] or process.name())
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
            continue
    return found
