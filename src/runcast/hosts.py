"""Where couriers run: a process each (default, `supervisor.py`), a thread, or inline.

A registered reporter can be made anew in another process by its class and options, and so gets a process of its own.
A class or instance of yours that isn't registered may hold live objects, or be defined in a notebook: it is used as it
is, in a thread. The reporter's options travel through the process's standard input, never in a file or an argument.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
import termios
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from runcast.courier import Courier, courier_alive
from runcast.delivery import FINAL_STATES, check_files, load_state, log_path
from runcast.events import plain
from runcast.journal import FILE_NAME
from runcast.redact import secrets_in
from runcast.registry import is_registered
from runcast.reporter import Reporter
from runcast.trust import private

logger = logging.getLogger("runcast")

Mode: TypeAlias = Literal["process", "thread", "inline"]
MODES: tuple[Mode, ...] = ("process", "thread", "inline")

RESTARTS = 3
"""How often a courier's process is started again whose supervisor died too."""

# `runcast` itself may be importable only through the parent's sys.path, so that comes first.
_BOOT = (
    "import json, sys; spec = json.loads(sys.stdin.buffer.readline()); sys.path[:] = spec['sys_path']; "
    "from runcast.hosts import leave_terminal; leave_terminal(); from {module} import {function}; {function}(spec)"
)


class Host(Protocol):
    """One courier and the place where it runs."""

    name: str

    def start(self) -> None:
        """Starts delivering."""

    def poke(self) -> None:
        """Says that the journal has something new."""

    def wait(self, seconds: float) -> None:
        """Gives the courier that much time, or less if it is through before."""

    def alive(self) -> bool:
        """Whether it is still at work."""

    def stop(self) -> None:
        """Ends the delivery where it is; the cursor stays."""


def host_for(reporter: Reporter, run_dir: Path, mode: Mode) -> Host:
    """The host of a reporter's courier, not yet started."""
    joined = reporter.joins()  # first of all: a reporter may have to ask in the user's own thread
    if mode == "inline":
        return InlineHost(reporter, run_dir)
    if mode == "thread" or reporter.in_process or joined or not portable(reporter):
        return ThreadHost(reporter, run_dir)
    return ProcessHost(reporter, run_dir)


def portable(reporter: Reporter) -> bool:
    """Whether another process can make the same reporter."""
    cls = type(reporter)
    if not is_registered(cls) or cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        return False
    try:
        msgspec.json.encode(reporter.recipe())
    except (TypeError, ValueError):
        return False
    return True


def spec_of(reporter: Reporter, run_dir: Path) -> dict[str, Any]:
    """What another process needs to make the same reporter for the same run."""
    make, arguments = reporter.recipe()
    return {
        "run_dir": str(run_dir),
        "name": reporter.name,
        "make": make,
        "arguments": msgspec.to_builtins(arguments),
        "secrets": secrets_in(plain(reporter.options)),
        "sys_path": [path or os.getcwd() for path in sys.path],
    }


def reporter_of(spec: dict[str, Any]) -> Reporter:
    """The reporter that `spec_of` described."""
    return made(spec["make"], spec["arguments"])


def made(make: str, arguments: dict[str, Any]) -> Reporter:
    """The reporter of a `Reporter.recipe`."""
    module, _, path = make.partition(":")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    reporter = found(**arguments)
    assert isinstance(reporter, Reporter)
    return reporter


def python_process(main: str, spec: dict[str, Any], **options: Any) -> subprocess.Popen[bytes]:
    """A Python process that calls the function ``module:name``, with `spec` from its standard input.

    It is out of the terminal's reach: Ctrl-C doesn't get there, nor does it get at the terminal. Its session stays
    that of training: Linux may give every session its equal share of the processor, however low its priority within.
    """
    module, _, function = main.partition(":")
    boot = _BOOT.format(module=module, function=function)
    process = subprocess.Popen([sys.executable, "-P", "-c", boot], stdin=subprocess.PIPE, process_group=0, **options)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(json.dumps(spec).encode() + b"\n")
    process.stdin = None  # else `communicate` flushes the closed pipe
    return process


def leave_terminal() -> None:
    """Gives up this process's terminal, so that no SDK can ask somebody there."""
    with contextlib.suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        try:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
        finally:
            os.close(terminal)


class ProcessHost:
    """A courier in a process of its own, which outlives this one."""

    def __init__(self, reporter: Reporter, run_dir: Path) -> None:
        self.name = reporter.name
        self._run_dir = run_dir
        self._spec = spec_of(reporter, run_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> None:
        check_files(self._run_dir, self.name)
        with open(log_path(self._run_dir, self.name), "ab", opener=private) as log:
            self._process = python_process("runcast.supervisor:courier_process", self._spec, stdout=log, stderr=log)
        self._starts += 1

    def poke(self) -> None:
        """The courier watches the journal by itself."""

    def wait(self, seconds: float) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def alive(self) -> bool:
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            return True
        if courier_alive(self._run_dir, self.name):
            return True  # one from before the run was resumed, or of a `sync`, is at it
        if self._through() or self._starts > RESTARTS:
            return False
        if code:  # else it found another one at work, which has ended since
            logger.warning("the courier of %s ended with exit code %s; starting it again", self.name, code)
        self.start()
        return True

    def _through(self) -> bool:
        state = load_state(self._run_dir, self.name)
        if state is None or state.state not in FINAL_STATES:
            return False
        return state.state != "complete" or state.offset >= (self._run_dir / FILE_NAME).stat().st_size

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._starts = RESTARTS + 1
            self._process.terminate()
            self.wait(10.0)


class ThreadHost:
    """A courier in a daemon thread of this process."""

    def __init__(self, reporter: Reporter, run_dir: Path) -> None:
        self.name = reporter.name
        self._courier = Courier(run_dir, reporter)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"runcast-{self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        while (pause := self._courier.advance()) is not None:
            if self._stop.wait(pause):
                self._courier.abandon()
                return

    def poke(self) -> None:
        """The courier watches the journal by itself."""

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10.0)


class InlineHost:
    """A courier that works when it is poked, in the calling thread. For tests and short scripts: it does block."""

    def __init__(self, reporter: Reporter, run_dir: Path) -> None:
        self.name = reporter.name
        self._courier = Courier(run_dir, reporter)
        self._next = 0.0
        self._through = False
        self._busy = threading.Lock()

    def start(self) -> None:
        self.poke()

    def poke(self) -> None:
        if self._through or time.monotonic() < self._next or not self._busy.acquire(blocking=False):
            return
        try:
            pause: float | None = 0.0
            while pause == 0.0:
                pause = self._courier.advance()
            self._through = pause is None
            retrying = self._courier.state.state == "retrying"
            self._next = time.monotonic() + pause if retrying and pause else 0.0
        finally:
            self._busy.release()

    def wait(self, seconds: float) -> None:
        self.poke()
        if not self._through:
            time.sleep(min(seconds, max(self._next - time.monotonic(), 0.01)))

    def alive(self) -> bool:
        return not self._through

    def stop(self) -> None:
        self._through = True
        self._courier.abandon()
