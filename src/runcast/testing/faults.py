"""Fault injection: a real reporter that fails as you say, in whatever process its courier runs.

Example:
    ```python
    reporter = inject(MyReporter(), Fault("flush", "raise"), Fault("log", "segv", nth=10), ledger=tmp_path / "struck")
    with runcast.start_run(reporter) as run:
        ...
    assert strikes(tmp_path / "struck") == ["flush raise", "log segv"]
    ```

The ledger counts over all processes, so a fault that is to happen once does so although it ends the courier.
"""

from __future__ import annotations

import errno
import faulthandler
import functools
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import msgspec

from runcast.hosts import made
from runcast.reporter import Reporter

Place: TypeAlias = Literal["open", "log", "flush", "committed", "close"]
Action: TypeAlias = Literal[
    "raise", "refuse", "reset", "401", "429", "500", "disk full", "hang", "slow", "exit", "segv", "kill"
]

_LOGS = (
    "log_config",
    "log_text",
    "log_image",
    "log_table",
    "log_histogram",
    "log_artifact",
    "set_summary",
    "add_tags",
)


class Fault(msgspec.Struct, frozen=True):
    """What goes wrong, and where.

    Attributes:
        at: ``open``, ``log`` (any event), ``flush``, ``committed`` (the first call after a flush, and so after the cursor
            was committed) or ``close``.
        action: ``raise`` an error that looks like passing (a lost connection), ``refuse`` with one that doesn't,
            ``reset`` the connection, answer ``401``, ``429`` (with Retry-After: 1) or ``500``, say that the ``disk full``,
            ``hang`` for ever, be ``slow`` (a second), ``exit`` the process, ``segv``, or ``kill`` it.
        nth: From the nth event, or call, of the process on.
        times: So often, in all processes together; 0: always.
        after: Once the reporter has done its work, rather than instead of it.
    """

    at: Place
    action: Action
    nth: int = 1
    times: int = 1
    after: bool = False


class HTTPError(Exception):
    """An answer of a server, as HTTP clients raise it."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"the server answered {status}")
        self.response = SimpleNamespace(
            status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )


def inject(
    reporter: Reporter, *faults: Fault, ledger: str | os.PathLike[str], call_timeout: float | None = None
) -> Reporter:
    """The same reporter, with faults.

    Args:
        ledger: A file that counts how often each has struck; see `strikes`.
        call_timeout: Seconds until a hang is taken for one, instead of the reporter's own: from the time on when the
            reporter is open, since starting an SDK takes long, unless `open` is what is to hang.
    """
    make, arguments = reporter.recipe()
    again = {
        "make": make,
        "arguments": arguments,
        "faults": [msgspec.to_builtins(fault) for fault in faults],
        "ledger": os.fspath(ledger),
        "call_timeout": call_timeout,
    }
    # On the object, not in a subclass: its class, name, options and capabilities are those of the real one.
    reporter.recipe = lambda: (f"{__name__}:remake", again)  # type: ignore[method-assign]  # on purpose
    injector = _Injector(faults, Path(ledger))
    for name in ("open", "replace"):
        _shorten(reporter, name, call_timeout)
        injector.wrap(reporter, name, "open")
    if call_timeout is not None and any(fault.at == "open" and fault.action == "hang" for fault in faults):
        reporter.call_timeout = call_timeout
    injector.wrap(reporter, "flush", "flush")
    injector.wrap(reporter, "close", "close")
    for name in _LOGS:
        if reporter.supports(name):
            injector.wrap(reporter, name, "log")
    if reporter.supports("log_metrics_batch"):
        injector.wrap_batch(reporter)
    else:
        injector.wrap(reporter, "log_metrics", "log")
    return reporter


def remake(
    make: str, arguments: dict[str, Any], faults: list[dict[str, Any]], ledger: str, call_timeout: float | None
) -> Reporter:
    """The reporter that `inject` made, once more, in another process."""
    again = [msgspec.convert(fault, Fault) for fault in faults]
    return inject(made(make, arguments), *again, ledger=ledger, call_timeout=call_timeout)


def strikes(ledger: str | os.PathLike[str]) -> list[str]:
    """What has struck so far, in order: place and action of each fault."""
    path = Path(ledger)
    return path.read_text().splitlines() if path.exists() else []


def _shorten(reporter: Reporter, method: str, call_timeout: float | None) -> None:
    """Has the limit apply once the reporter is open."""
    inner = getattr(reporter, method)

    def opened(*args: Any, **kwargs: Any) -> Any:
        native = inner(*args, **kwargs)
        if call_timeout is not None and native is not None:
            reporter.call_timeout = call_timeout
        return native

    setattr(reporter, method, opened)


class _Injector:
    def __init__(self, faults: Sequence[Fault], ledger: Path) -> None:
        self._faults = faults
        self._ledger = ledger
        self._seen: dict[str, int] = dict.fromkeys(("open", "log", "flush", "committed", "close"), 0)
        self._flushed = False
        self._inside = False  # what a reporter calls of its own methods is no call of the courier's

    def wrap(self, reporter: Reporter, method: str, place: Place) -> None:
        inner = getattr(reporter, method)

        @functools.wraps(inner)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return inner(*args, **kwargs)
            self._seen[place] += 1
            self._was_committed(place)
            self._strike(place, after=False)
            self._inside = True
            try:
                result = inner(*args, **kwargs)
            finally:
                self._inside = False
            self._flushed = place == "flush"
            self._strike(place, after=True)
            return result

        setattr(reporter, method, wrapped)

    def wrap_batch(self, reporter: Reporter) -> None:
        """Counts the events of a batch; what is before the fault is delivered."""
        inner: Callable[[Sequence[Any]], None] = reporter.log_metrics_batch

        def wrapped(batch: Sequence[Any]) -> None:
            waiting: list[Any] = []
            self._was_committed("log")
            for event in batch:
                self._seen["log"] += 1
                if self._due("log", after=False) is not None:
                    if waiting:
                        inner(waiting)
                    waiting = []
                    self._strike("log", after=False)
                waiting.append(event)
                if self._due("log", after=True) is not None:
                    inner(waiting)
                    waiting = []
                    self._strike("log", after=True)
            if waiting:
                inner(waiting)

        reporter.log_metrics_batch = wrapped  # type: ignore[method-assign]  # on purpose

    def _was_committed(self, place: Place) -> None:
        if self._flushed and place != "flush":
            self._flushed = False
            self._seen["committed"] += 1
            self._strike("committed", after=False)

    def _due(self, place: Place, *, after: bool) -> Fault | None:
        for fault in self._faults:
            if fault.at != place or fault.after != after or self._seen[place] < fault.nth:
                continue
            if fault.times == 0 or strikes(self._ledger).count(f"{fault.at} {fault.action}") < fault.times:
                return fault
        return None

    def _strike(self, place: Place, *, after: bool) -> None:
        fault = self._due(place, after=after)
        if fault is None:
            return
        with self._ledger.open("a") as file:
            file.write(f"{fault.at} {fault.action}\n")
        _ACTIONS[fault.action]()


def _raise(error: Callable[[], Exception]) -> Callable[[], None]:
    def act() -> None:
        raise error()

    return act


def _hang() -> None:
    while True:
        time.sleep(3600)


_ACTIONS: dict[str, Callable[[], object]] = {
    "raise": _raise(lambda: ConnectionError("injected: no route to the tracker")),
    "refuse": _raise(lambda: ValueError("injected: the SDK refuses")),
    "reset": _raise(lambda: ConnectionResetError(errno.ECONNRESET, "injected: connection reset by peer")),
    "401": _raise(lambda: HTTPError(401)),
    "429": _raise(lambda: HTTPError(429, Retry_After="1")),
    "500": _raise(lambda: HTTPError(500)),
    "disk full": _raise(lambda: OSError(errno.ENOSPC, "injected: no space left on device")),
    "hang": _hang,
    "slow": lambda: time.sleep(1.0),
    "exit": lambda: os._exit(13),
    "segv": faulthandler._sigsegv,  # type: ignore[attr-defined]  # there, for tests
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
