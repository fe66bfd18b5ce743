"""Which reporters there are, and what `report_to` means.

Reporters come from the entry-point group ``runcast.reporters`` (our own too) and from `register_reporter`. An entry
point is loaded when its name is needed, one by one, and a broken one becomes an `Availability` that says so.
"""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, TypeAlias

from runcast.errors import MissingDependencyError, UnknownTrackerError
from runcast.probe import known_probes
from runcast.reporter import Availability, Reporter

GROUP = "runcast.reporters"

ReportTo: TypeAlias = (
    "str | Reporter | type[Reporter] | Mapping[str, Mapping[str, Any] | None] | Iterable[ReportTo] | None"
)

_registered: dict[str, type[Reporter]] = {}


def register_reporter(cls: type[Reporter]) -> type[Reporter]:
    """Class decorator: makes a reporter known by its name, in this process.

    A reporter in a distribution of its own declares an entry point in the group ``runcast.reporters`` instead.

    Raises:
        TypeError: The class is no complete reporter; the message says what is missing or misspelt.
        ValueError: Another reporter has that name.
    """
    check_reporter(cls)
    known = _registered.get(cls.name)
    if known is not None and f"{known.__module__}.{known.__qualname__}" != f"{cls.__module__}.{cls.__qualname__}":
        raise ValueError(f"the name {cls.name!r} is taken by {known.__module__}.{known.__qualname__}")
    if known is None and cls.name in _entry_points():
        raise ValueError(f"the name {cls.name!r} is taken by {_entry_points()[cls.name].value}")
    _registered[cls.name] = cls
    return cls


def check_reporter(cls: type[Reporter]) -> None:
    """Fails early, and names the culprit, for a class that can't work as a reporter."""
    if not (isinstance(cls, type) and issubclass(cls, Reporter)):
        raise TypeError(f"{cls!r} is no subclass of runcast.Reporter")
    where = f"reporter {cls.__module__}.{cls.__qualname__}"
    if not isinstance(cls.name, str) or not cls.name or cls.name != cls.name.strip() or set(cls.name) & set("/\\,"):
        raise TypeError(f"{where} needs a class attribute `name`, a text without slash or comma; it is {cls.name!r}")
    if cls.name in ("all", "none", "default"):
        raise TypeError(f"{where} can't be named {cls.name!r}: that word has a meaning in report_to")
    contract = [name for name, member in vars(Reporter).items() if callable(member) and not name.startswith("_")]
    for name in vars(cls):
        if name.startswith(("log_", "set_", "add_")) and name not in contract:
            near = difflib.get_close_matches(name, contract, n=1)
            if near:
                raise TypeError(f"{where} defines `{name}`, which nothing calls; did you mean `{near[0]}`?")
    if not (_takes_metrics(cls) or cls.supports("find_runs")):
        raise TypeError(f"{where} needs a method `log_metrics(self, metrics, step, time)`")


def _takes_metrics(cls: type[Reporter]) -> bool:
    """Whether runs can be reported to it; else it only has a reader, to import from."""
    return cls.supports("log_metrics") or cls.supports("log_metrics_batch")


@functools.cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def known_reporters() -> list[str]:
    """Every name that `report_to` takes, aliases included."""
    return sorted({*_entry_points(), *_registered})


def reporter_class(name: str) -> type[Reporter]:
    """The reporter of that name or alias.

    Raises:
        UnknownTrackerError: Nobody registered it; the message has the known names and the nearest.
    """
    if name in _registered:
        return _registered[name]
    point = _entry_points().get(name)
    if point is None:
        known = known_reporters()
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        if name in known_probes():
            hint = f' That is a probe: probes=["{name}"].'
        raise UnknownTrackerError(f'no tracker is called {name!r}.{hint} Known: {", ".join(known)}, "all", "none".')
    cls = point.load()
    check_reporter(cls)
    return cls  # type: ignore[no-any-return]  # just checked


def is_registered(cls: type[Reporter]) -> bool:
    """Whether this class is what its name stands for, so that the name alone finds it again."""
    try:
        return reporter_class(cls.name) is cls
    except Exception:
        return False


def available_reporters() -> list[Availability]:
    """What detection says of every known reporter, by name. Imports no SDK, touches no network, asks nobody."""
    found: dict[str, Availability] = {}
    for name in known_reporters():
        try:
            cls = reporter_class(name)
            if cls.name not in found:
                found[cls.name] = cls.availability()
        except Exception as error:
            found[name] = Availability(name, "broken", f"can't be loaded: {type(error).__name__}: {error}")
    return [found[name] for name in sorted(found)]


def resolve_report_to(report_to: ReportTo) -> list[Reporter]:
    """The concrete reporters that a `report_to` asks for, each once, in the order asked for.

    Args:
        report_to: ``"all"``; ``"none"``, None or an empty list; a name or a comma-separated string; a mapping of names
            to options; a reporter class or instance; or a list of any of these.

    Raises:
        UnknownTrackerError: A name that nobody registered (a ValueError).
        MissingDependencyError: A known tracker that is not installed, with the ``pip install`` line (an ImportError).
        ValueError: ``"none"`` beside others.
        TypeError: Something that is none of the above.
    """
    reporters: dict[str, Reporter] = {}
    wanted = wishes(report_to)
    if "none" in wanted:
        if len(wanted) > 1:
            others = ", ".join(str(wish) for wish in wanted if wish != "none")
            raise ValueError(f'report_to has "none" beside {others}: choose one')
        return []
    for wish in wanted:
        for reporter in _reporters_of(wish):
            explicit = not isinstance(wish, str)
            if reporter.name not in reporters or explicit:
                reporters[reporter.name] = reporter
    return list(reporters.values())


def is_named(report_to: ReportTo, name: str) -> bool:
    """Whether `report_to` asks for that tracker itself, and not only through ``"all"``."""
    return any(_name_of(wish) == name for wish in wishes(report_to) if wish not in ("all", "none"))


def _name_of(wish: _Wish) -> str:
    if isinstance(wish, tuple):
        wish = wish[0]
    return reporter_class(wish).name if isinstance(wish, str) else wish.name


_Wish: TypeAlias = "str | Reporter | type[Reporter] | tuple[str, Mapping[str, Any]]"


def wishes(report_to: ReportTo) -> list[_Wish]:
    """`report_to`, flat: names, instances, classes, and (name, options)."""
    if report_to is None:
        return []
    if isinstance(report_to, str):
        return [name.strip() for name in report_to.split(",") if name.strip()]
    if isinstance(report_to, Reporter) or (isinstance(report_to, type) and issubclass(report_to, Reporter)):
        return [report_to]
    if isinstance(report_to, Mapping):
        return [(str(name), options or {}) for name, options in report_to.items()]
    if isinstance(report_to, Iterable):
        return [wish for item in report_to for wish in wishes(item)]
    raise TypeError(
        f'report_to is {report_to!r}; expected "all", "none", names, a mapping of names to options, a Reporter class or '
        "instance, or a list of these"
    )


def _reporters_of(wish: _Wish) -> list[Reporter]:
    if isinstance(wish, Reporter):
        check_reporter(type(wish))
        _check_takes_metrics(type(wish))
        return [wish]
    if isinstance(wish, type):
        check_reporter(wish)
        return [_made(wish, {})]
    if isinstance(wish, tuple):
        return [_made(reporter_class(wish[0]), wish[1])]
    if wish == "all":
        return [reporter_class(found.name)() for found in available_reporters() if found.status == "ready"]
    return [_made(reporter_class(wish), {})]


def _check_takes_metrics(cls: type[Reporter]) -> None:
    if not _takes_metrics(cls):
        raise UnknownTrackerError(f"nothing can be reported to {cls.name!r}: {cls.availability().reason}")


def _made(cls: type[Reporter], options: Mapping[str, Any]) -> Reporter:
    _check_takes_metrics(cls)
    found = cls.availability()
    if not found.usable:
        raise MissingDependencyError(f"tracker {cls.name!r} can't be used: {found.reason}")
    try:
        return cls(**options)
    except TypeError as error:
        raise TypeError(f"tracker {cls.name!r} doesn't take these options: {error}") from error


def default_report_to() -> str:
    """What `report_to` is when nobody says: $RUNCAST_REPORT_TO, else ``"all"``."""
    return os.environ.get("RUNCAST_REPORT_TO", "all")
