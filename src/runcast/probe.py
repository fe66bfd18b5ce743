"""Probes: what measures beside the training, and writes into the run at an interval.

    start → measure … measure → stop        in one thread of the training process, that ends with the run

A probe's numbers are metrics at the run's latest step, which they don't move, with the time when they were measured. So
a step may have many points of a probe, or none: trackers keep them all, and draw them against steps like a loss, or
against time. A resume from an older checkpoint takes them back like every other point behind it.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any, ClassVar, TypeAlias

from packaging.version import Version

from runcast.errors import MissingDependencyError
from runcast.reporter import Requirement

logger = logging.getLogger("runcast")

GROUP = "runcast.probes"
STOP_TIMEOUT = 10.0
"""Seconds that the end of a run waits for its probes."""


class Probe:
    """Measures something at an interval. Subclass it, give it a `name`, override `measure`.

    An instance serves one run at a time, and the next one after that; all of its methods are called in one thread.

    Example:
        ```python
        class LoadAverage(Probe):
            name = "load"

            def measure(self):
                return {"system/load": os.getloadavg()[0]}
        ```

    Args:
        interval: Seconds between two measurements.

    Attributes:
        name: What ``probes=`` says.
        requires: What must be installed; None if nothing.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[Requirement | None] = None
    interval: float = 10.0

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval

    def __repr__(self) -> str:
        return f"{type(self).__name__}(interval={self.interval})"

    def start(self) -> None:
        """Gets ready to measure; a run begins. Called again, after `stop`, by the next one."""

    def measure(self) -> Mapping[str, float]:
        """What is the case now: numbers by metric name."""
        raise TypeError(f"{type(self).__name__} has no measure")

    def stop(self) -> Mapping[str, Any]:
        """The run ends: lets go of everything, and returns values for the run's summary."""
        return {}


Probes: TypeAlias = "str | Probe | type[Probe] | Iterable[str | Probe | type[Probe]]"


def resolve_probes(probes: Probes) -> list[Probe]:
    """The probes that are asked for, each once, the last of a name.

    Args:
        probes: A name or a comma-separated string, a probe's class or instance, or a list of these.

    Raises:
        ValueError: No probe has that name, or an interval is no time.
        MissingDependencyError: What it needs isn't installed; the message has the ``pip install`` line.
        TypeError: Something that is none of the above, or no complete probe.
    """
    found = [_made(wish) for wish in _wishes(probes)]
    return list({probe.name: probe for probe in found}.values())


def default_probes() -> str:
    """What `probes` is when nobody says: $RUNCAST_PROBES, else none."""
    return os.environ.get("RUNCAST_PROBES", "")


@functools.cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def known_probes() -> list[str]:
    """Every name that `probes` takes: the entry points of the group ``runcast.probes``."""
    return sorted(_entry_points())


def probe_names(probes: Iterable[Probe]) -> list[str]:
    """Those among the probes that a name alone finds again."""
    names = set(known_probes())
    return [probe.name for probe in probes if probe.name in names and _entry_points()[probe.name].load() is type(probe)]


def asked_names(probes: Probes) -> list[str]:
    """`probes` with names in place of classes and instances."""
    return [wish if isinstance(wish, str) else wish.name for wish in _wishes(probes)]


def _wishes(probes: Any) -> list[Any]:
    if isinstance(probes, str):
        return [name.strip() for name in probes.split(",") if name.strip()]
    if isinstance(probes, Iterable) and not isinstance(probes, Mapping):
        return [wish for item in probes for wish in _wishes(item)]
    return [probes]


def _made(wish: Any) -> Probe:
    if isinstance(wish, str):
        point = _entry_points().get(wish)
        if point is None:
            near = difflib.get_close_matches(wish.lower(), known_probes(), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no probe is called {wish!r}.{hint} Known: {', '.join(known_probes())}.")
        wish = point.load()
    cls = wish if isinstance(wish, type) else type(wish)
    if not issubclass(cls, Probe):
        raise TypeError(f"probes has {wish!r}; expected names, Probe classes or instances")
    if not cls.name or cls.measure is Probe.measure:
        raise TypeError(f"probe {cls.__qualname__} needs a class attribute `name` and a method `measure(self)`")
    _check_installed(cls)
    probe = wish() if isinstance(wish, type) else wish
    if not 0 < probe.interval <= threading.TIMEOUT_MAX:
        raise ValueError(f"the interval of probe {probe.name!r} is {probe.interval!r}; expected seconds, more than 0")
    return probe  # type: ignore[no-any-return]  # just checked


def _check_installed(cls: type[Probe]) -> None:
    need = cls.requires
    if need is None:
        return
    found = need.installed_version()
    if found is None:
        raise MissingDependencyError(f"probe {cls.name!r} needs {need.distribution}: {need.install}")
    if Version(found) < Version(need.oldest):
        raise MissingDependencyError(
            f"probe {cls.name!r} needs {need.distribution} {need.oldest}, not {found}: {need.install}"
        )


class Measuring:
    """Probes at work for one run. What goes wrong in one is said once, and ends that one only.

    Args:
        probes: The probes.
        log: Takes what they measure.
        summarize: Takes what they say in the end.
    """

    def __init__(
        self,
        probes: Iterable[Probe],
        log: Callable[[Mapping[str, float]], None],
        summarize: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._threads = [_Thread(probe, log, summarize) for probe in probes]
        for thread in self._threads:
            try:
                thread.start()
            except RuntimeError as error:  # the process may have no more threads
                logger.warning("probe %r can't start: %s", thread.probe.name, error)

    def end(self) -> None:
        """Ends all of them, and waits until they have written their last; a second call has nothing to do."""
        for thread in self._threads:
            thread.ending.set()
        deadline = time.monotonic() + STOP_TIMEOUT
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("probe %r doesn't end: the run ends without its last words", thread.probe.name)
        self._threads = []


class _Thread(threading.Thread):
    def __init__(
        self,
        probe: Probe,
        log: Callable[[Mapping[str, float]], None],
        summarize: Callable[[Mapping[str, Any]], None],
    ) -> None:
        super().__init__(name=f"runcast-probe-{probe.name}", daemon=True)
        self.probe = probe
        self.ending = threading.Event()
        self._log = log
        self._summarize = summarize
        self._failed = False

    def run(self) -> None:
        self._guarded(self.probe.start)
        if self._failed:
            return
        self._guarded(self._measure)
        self._guarded(lambda: self._summarize(self.probe.stop()))

    def _measure(self) -> None:
        count = 0
        while not self.ending.wait(self.probe.interval):
            self._log(self.probe.measure())
            count += 1
        if not count:  # a run that is shorter than the interval
            self._log(self.probe.measure())

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a probe raises
            if not self._failed:
                logger.warning("probe %r ends: %s: %s", self.probe.name, type(error).__name__, error)
            self._failed = True
