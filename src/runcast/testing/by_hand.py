"""Calls a reporter by hand, as a courier does but also as it shouldn't, and says what that did to the process."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from runcast import events
from runcast.events import RunStatus
from runcast.hosts import python_process, reporter_of, spec_of
from runcast.record import RunRecord
from runcast.reporter import LocalArtifact, NativeRun, Reporter, RunInfo
from runcast.testing.readback import load, read_here, save

_GRACE = 10.0
"""Seconds that threads and processes have for ending, once the run is closed."""
STARTED = 1_700_000_000.0
"""Unix seconds: when the runs began."""


@dataclass
class ByHand:
    """What came of it.

    Attributes:
        natives: The runs: one closed twice, one closed after a failure.
        errors: What was raised where nothing may be, by what was done.
        changed: What of the process was another after the run.
        threads: Those that are left; likewise `children`.
        answers: Bytes that were read from standard input.
        printed: Bytes that were written to standard output.
        records: The runs as they read back; an error in words where one didn't.
    """

    natives: dict[str, NativeRun] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    answers: int = 0
    printed: bytes = b""
    records: dict[str, RunRecord | str] = field(default_factory=dict)

    def read(self, read: Callable[[NativeRun], RunRecord]) -> None:
        """Reads the runs back."""
        back = read_here(read, lambda _: (), list(self.natives.values()))
        self.records = dict(zip(self.natives, back.records, strict=True))


def call_in_process(reporter: Reporter, folder: Path, result: Path) -> ByHand:
    """Does it in a process of its own, and reads back there.

    Args:
        reporter: Its class is registered.
        folder: Where the run folders go.
        result: A file for the answer.
    """
    spec = spec_of(reporter, folder) | {"result": str(result)}
    process = python_process(f"{__name__}:main", spec, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"it ended with exit code {process.returncode}:\n{output.decode(errors='replace')}")
    done: ByHand = load(result)
    return done


def main(spec: dict[str, Any]) -> None:
    """The main function of that process."""
    done = call(lambda: reporter_of(spec), Path(spec["run_dir"]), alone=True)
    done.read(reporter_of(spec).read)
    save(done, Path(spec["result"]))


def call(make: Callable[[], Reporter], folder: Path, *, alone: bool = False) -> ByHand:
    """Does it in this process.

    Args:
        alone: Whether it is the reporter's own: then random numbers may be drawn, and left what ends with it.
    """
    done = ByHand()
    threads, children = set(threading.enumerate()), set(_children())
    with random_numbers():
        before = state_of_process()
        with _a_human(done):
            _closed_twice(make(), folder, done)
            _closed_after_failure(make(), folder, done)
        after = state_of_process()
    if alone:
        before = {name: value for name, value in before.items() if "random" not in name}
    done.changed = sorted(name for name in before if before[name] != after[name])
    deadline = time.monotonic() + _GRACE
    while True:
        left = [thread for thread in threading.enumerate() if thread not in threads and not (alone and thread.daemon)]
        processes = [] if alone else [child for child in _children() if child not in children]
        if not (left or processes) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    done.threads = [thread.name for thread in left]
    done.children = [_line_of(child) for child in processes]
    return done


@contextlib.contextmanager
def random_numbers() -> Iterator[None]:
    """Python's generator begins somewhere new: one that is seeded again where it was seeded before is seen as well."""
    before = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(before)


def state_of_process() -> dict[str, Any]:
    """What a library should leave alone in a process that isn't its own."""
    found: dict[str, Any] = {
        "the working directory": os.getcwd(),
        "sys.stdout": (id(sys.stdout), sys.stdout.write),
        "sys.stderr": (id(sys.stderr), sys.stderr.write),
        "sys.stdin": id(sys.stdin),
        "sys.excepthook": sys.excepthook,
        "sys.unraisablehook": sys.unraisablehook,
        "sys.exit": sys.exit,
        "threading.excepthook": threading.excepthook,
        "the random state of Python": random.getstate(),
        "the root logger": [*logging.getLogger().handlers],
    }
    for number in signal.valid_signals():
        found[f"the handler of {_name_of(number)}"] = signal.getsignal(number)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        found["the random state of numpy"] = [str(part) for part in numpy.random.get_state()]
    return found


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if _status_of(child) != psutil.STATUS_ZOMBIE]


def _status_of(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:  # gone meanwhile
        return str(psutil.STATUS_ZOMBIE)


def _line_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200] or process.name()
    except psutil.Error:  # gone meanwhile
        return str(process)


@contextlib.contextmanager
def _a_human(done: ByHand) -> Iterator[None]:
    """Standard input is somebody who says yes to everything; standard output is noted."""
    sys.stdout.flush()
    with tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as printed:
        answers.write(b"y\n" * 10_000)
        answers.seek(0)
        kept = os.dup(0), os.dup(1)
        os.dup2(answers.fileno(), 0)
        os.dup2(printed.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            done.answers = os.lseek(0, 0, os.SEEK_CUR)
            os.dup2(kept[0], 0)
            os.dup2(kept[1], 1)
            for descriptor in kept:
                os.close(descriptor)
            printed.seek(0)
            done.printed = printed.read()


def _info(folder: Path, name: str) -> RunInfo:
    run_dir = folder / name
    run_dir.mkdir(mode=0o700, parents=True)
    return RunInfo(name, name, "contract", None, run_dir, STARTED, {"a": 1}, ("tag",))


def _closed_twice(reporter: Reporter, folder: Path, done: ByHand) -> None:
    """One run after all the rules, and then its end once more."""
    info = _info(folder, "closed-twice")
    done.natives[info.name] = reporter.open(info, None)
    reporter.log_config(info.config)
    reporter.add_tags(info.tags)
    _log(reporter, 3)
    reporter.flush()
    _close(reporter, "completed", "the first close", done)
    _close(reporter, "completed", "the second close", done)


def _closed_after_failure(reporter: Reporter, folder: Path, done: ByHand) -> None:
    """One run in which calls fail, whose end has to come all the same."""
    info = _info(folder, "closed-after-failure")
    done.natives[info.name] = reporter.open(info, None)
    _log(reporter, 3)
    gone = LocalArtifact("gone", "file", info.dir / "gone", (events.StoredFile("gone", 1, "0" * 64),), {})
    with contextlib.suppress(Exception):  # it may well refuse
        reporter.log_artifact(gone, 1, STARTED + 5)
    with contextlib.suppress(Exception):  # likewise
        reporter.log_image("gone", info.dir / "gone.png", 1, STARTED + 5)
    _close(reporter, "failed", "close after calls that failed", done)


def _log(reporter: Reporter, steps: int) -> None:
    batch = [events.Metrics(time=STARTED + step, step=step, values={"loss": float(step)}) for step in range(steps)]
    reporter.log_metrics_batch(batch)


def _close(reporter: Reporter, status: RunStatus, what: str, done: ByHand) -> None:
    try:
        reporter.close(status)
    except Exception as error:  # whatever an SDK raises
        done.errors[what] = f"{type(error).__name__}: {error}"
