r"""The events of a run: the journal's vocabulary, and its encoding as one JSON line each.

An event is immutable and holds plain JSON values, so that nothing downstream checks or converts again: `plain` does
that where an event is made. JSON knows neither NaN nor infinity, therefore

* in `Metrics.values` they are written as the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``,
* in free-form data (config, summary, metadata) as ``{"$float": "NaN"}``; a key of the user's that starts with ``$``
  gets a second ``$``.

Nor is a lone surrogate JSON: it comes back as its escape, the six characters ``\ud800``, in keys and values alike.

A type that this version doesn't know decodes to `Unknown`: kept in the file, skipped by readers. A known type with an
impossible value (a negative size, bins without counts) is no event: whoever reads never has to check again.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

FORMAT = 1
"""The version of the journal's format, named by its first event."""

MAX_DEPTH = 64
"""Nesting of free-form data beyond this is left out: it ends in a word that says so."""

MAX_BITS = 2048
"""Integers beyond this are written as hexadecimal text: Python converts no number of that many decimal digits."""

RunStatus: TypeAlias = Literal["running", "completed", "failed", "killed", "crashed"]
FINAL_STATUSES: tuple[RunStatus, ...] = ("completed", "failed", "killed", "crashed")

_Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class Writer(msgspec.Struct, frozen=True):
    """The process that writes a journal.

    Attributes:
        pid: Its process id.
        started: When that process started, Unix seconds; tells a reused pid from the writer.
        host: The name of its machine.
        boot: Which boot of that machine it ran in: the kernel's boot id. None: not known, as on macOS.
        namespace: Whose process ids these are: the inode of its pid namespace. None: as above.
    """

    pid: _Natural
    started: float
    host: str
    boot: str | None = None
    namespace: int | None = None


class StoredFile(msgspec.Struct, frozen=True):
    """One file of an artifact.

    Attributes:
        path: Where it is inside the artifact, with forward slashes.
        size: Bytes.
        sha256: Of its content, in hexadecimal.
    """

    path: str
    size: _Natural
    sha256: str


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """One fact about a run.

    Attributes:
        time: When it was logged, Unix seconds.
    """

    time: float


class RunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    """The first event of a journal.

    Attributes:
        run_id: The run's id, also the name of its folder.
        project: What trackers file the run under.
        name: What people call the run.
        group: Runs that belong together share it.
        tags: Labels.
        config: Hyper-parameters and settings, nested.
        writer: Who writes this journal.
        format: Version of the journal's format.
    """

    run_id: str
    project: str
    name: str
    writer: Writer
    group: str | None = None
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    format: int = FORMAT


class RunResumed(Event, frozen=True, kw_only=True, tag="run_resumed"):
    """A process went on with the run.

    Attributes:
        writer: Who writes from here on.
        step: The step of the checkpoint; points after it that stand before this event are superseded. None: keep all.
    """

    writer: Writer
    step: int | None = None


class ConfigUpdated(Event, frozen=True, kw_only=True, tag="config_updated"):
    """Settings learnt later; they are merged into the config, nested."""

    config: dict[str, Any]


class Metrics(Event, frozen=True, kw_only=True, tag="metrics", gc=False):
    """Numbers at a step.

    Attributes:
        step: The x-axis.
        values: Metric name to value; NaN and ±inf are values.
    """

    step: int
    values: dict[str, float]


class Text(Event, frozen=True, kw_only=True, tag="text"):
    """A text at a step."""

    step: int
    key: str
    text: str


class Image(Event, frozen=True, kw_only=True, tag="image"):
    """A picture at a step: a PNG file at `path`, relative to the run folder."""

    step: int
    key: str
    path: str
    size: _Natural
    sha256: str


class Table(Event, frozen=True, kw_only=True, tag="table"):
    """A table at a step: a JSON file ``{"columns": [...], "rows": [[...], ...]}`` at `path`, relative to the run folder."""

    step: int
    key: str
    path: str
    size: _Natural
    sha256: str


class Histogram(Event, frozen=True, kw_only=True, tag="histogram"):
    """A distribution at a step: `counts[i]` values lie between `edges[i]` and `edges[i + 1]`; all are finite."""

    step: int
    key: str
    counts: tuple[float, ...]
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or not all(map(math.isfinite, (*self.counts, *self.edges))):
            raise ValueError(f"a histogram of {len(self.counts)} counts has one edge more, and all are finite")


class Artifact(Event, frozen=True, kw_only=True, tag="artifact"):
    """Files that belong to the run.

    Attributes:
        name: What it is called; a later artifact of the same name is its next version.
        kind: file | model | checkpoint | dataset.
        path: A file or folder, relative to the run folder.
        files: What it consists of; for a single file one entry with its base name.
        metadata: Free-form.
    """

    name: str
    kind: str
    path: str
    files: tuple[StoredFile, ...]
    step: int | None = None
    metadata: dict[str, Any] = {}


class Summary(Event, frozen=True, kw_only=True, tag="summary"):
    """One-off results: one value a name, the last one counts."""

    values: dict[str, Any]


class Tags(Event, frozen=True, kw_only=True, tag="tags"):
    """Labels added later."""

    tags: tuple[str, ...]


class RunFinished(Event, frozen=True, kw_only=True, tag="run_finished"):
    """The run ended. `reason` says why, if it didn't complete."""

    status: RunStatus
    reason: str | None = None


class Unknown(msgspec.Struct, frozen=True):
    """An event of a newer version: kept in the journal, skipped by readers."""

    type: str
    raw: bytes


AnyEvent: TypeAlias = (
    RunStarted
    | RunResumed
    | ConfigUpdated
    | Metrics
    | Text
    | Image
    | Table
    | Histogram
    | Artifact
    | Summary
    | Tags
    | RunFinished
)

EVENT_TYPES: tuple[type[Event], ...] = (
    RunStarted,
    RunResumed,
    ConfigUpdated,
    Metrics,
    Text,
    Image,
    Table,
    Histogram,
    Artifact,
    Summary,
    Tags,
    RunFinished,
)

# The fields that hold free-form data, and so may hold what JSON can't.
_FREE_FORM: dict[type[Event], str] = {
    RunStarted: "config",
    ConfigUpdated: "config",
    Artifact: "metadata",
    Summary: "values",
}
_TAGS = frozenset(str(cls.__struct_config__.tag) for cls in EVENT_TYPES)

_encoder = msgspec.json.Encoder()
# Not strict: only so does msgspec read "NaN" and "Infinity" where a float is expected.
_decoder = msgspec.json.Decoder(AnyEvent, strict=False)
_header = msgspec.json.Decoder(dict[str, Any])
# What decoding raises: malformed JSON, a wrong type or value, bytes that are no UTF-8, nesting without end.
_NOT_AN_EVENT = (msgspec.MsgspecError, ValueError, RecursionError)


def encode(event: Event) -> bytes:
    """The event as one line of JSON, without its newline."""
    kind = type(event)
    data: Event | dict[str, Any] = event
    if kind is Metrics:  # the hot path
        total = sum(event.values.values())  # type: ignore[attr-defined]  # narrowed by hand
        if total - total != 0.0:  # true for NaN and ±inf alone
            data = _with_named_floats(event)  # type: ignore[arg-type]  # as above
    elif field := _FREE_FORM.get(kind):
        data = msgspec.structs.replace(event, **{field: pack(getattr(event, field))})
    try:
        return _encoder.encode(data)
    except UnicodeEncodeError:  # a lone surrogate: JSON text is UTF-8
        return _encoder.encode(escape_surrogates(msgspec.to_builtins(data)))


def decode(line: bytes) -> AnyEvent | Unknown:
    """The event of one line.

    Raises:
        ValueError: The line is no event; the message says why.
    """
    try:
        event: AnyEvent = _decoder.decode(line)
        if field := _FREE_FORM.get(type(event)):
            event = msgspec.structs.replace(event, **{field: unpack(getattr(event, field))})
    except _NOT_AN_EVENT as error:
        return _decode_unknown(line, error)
    return event


def _decode_unknown(line: bytes, error: Exception) -> Unknown:
    try:
        tag = _header.decode(line).get("type")
    except _NOT_AN_EVENT as worse:
        raise ValueError(f"not an event: {worse}") from error
    if isinstance(tag, str) and tag not in _TAGS:
        return Unknown(type=tag, raw=bytes(line))
    raise ValueError(f"not an event: {error}") from error


def _with_named_floats(event: Metrics) -> dict[str, Any]:
    values = {key: value if math.isfinite(value) else float_name(value) for key, value in event.values.items()}
    return {"type": "metrics", "time": event.time, "step": event.step, "values": values}


def escape_surrogates(value: Any) -> Any:
    """Plain values whose texts and keys are valid Unicode: a lone surrogate is written as its escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {escape_surrogates(key): escape_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape_surrogates(item) for item in value]
    return value


def float_name(value: float) -> str:
    """NaN or an infinity as the word that JSON's extensions and `float` agree on."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def pack(value: Any) -> Any:
    """Plain values with the non-finite floats written as ``{"$float": name}``; `unpack` is its inverse."""
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": float_name(value)}
    if isinstance(value, dict):
        return {f"${key}" if key.startswith("$") else key: pack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item) for item in value]
    return value


def unpack(value: Any, depth: int = 0) -> Any:
    """What `pack` was given.

    Raises:
        ValueError: It is nothing that `pack` wrote.
    """
    if depth > 2 * MAX_DEPTH:  # deeper than any that is written: a reader's stack is not for strangers to exhaust
        raise ValueError(f"data nested deeper than {2 * MAX_DEPTH}")
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("$float"), str):
            return float(value["$float"])
        return {key.removeprefix("$"): unpack(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [unpack(item, depth + 1) for item in value]
    return value


def plain(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Anything as plain JSON values: None, bool, int, float, str, list, and dict with string keys.

    Numpy and torch scalars become numbers, paths and dates text, dataclasses and mappings dicts, tuples and sets lists;
    a class or function its qualified name; anything else what `str` says of it. Data that contains itself ends there,
    and so does what is nested too deep.

    Args:
        above: The ids of what the value is inside of.
    """
    if value is None or type(value) in (bool, float, str):
        return value
    if type(value) is int:
        return value if value.bit_length() <= MAX_BITS else hex(value)
    # Instead of its text, which may go on without end, and hold secrets.
    if id(value) in above:
        return f"<{type(value).__name__} inside itself>"
    if len(above) >= MAX_DEPTH:
        return f"<{type(value).__name__} nested too deep>"
    above = (*above, id(value))
    if isinstance(value, enum.Enum):
        return plain(value.value, above)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_text(key): plain(item, above) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, above) for item in value]
    if isinstance(value, AbstractSet):
        return sorted((plain(item, above) for item in value), key=repr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), above) for f in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name), above) for name in value.__struct_fields__}
    if (number := scalar(value)) is not None:
        return plain(number)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, date):  # a datetime is one too
        return value.isoformat()
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "tolist") and getattr(value, "size", None) is not None and not callable(value.size):
        return plain(value.tolist(), above) if value.size <= 1000 else str(value)
    if type(value).__module__ == "argparse":
        return plain(vars(value), above)
    return _text(value)


def _text(value: Any) -> str:
    """What `str` says of a value; of one that can't say, its type."""
    try:
        return str(value)
    except Exception:  # whatever a class of the user's raises
        return f"<{type(value).__name__} without text>"


def scalar(value: Any) -> int | float | bool | None:
    """A number from Python, numpy, torch or anything else with a scalar ``item()``; None if it is no number."""
    if isinstance(value, bool | int | float):
        return float(value) if isinstance(value, float) else int(value) if not isinstance(value, bool) else value
    if isinstance(value, str | bytes):
        return None
    item = getattr(value, "item", None)
    if callable(item):
        try:
            value = item()
        except (ValueError, TypeError, RuntimeError):  # more than one element
            return None
        return value if type(value) in (bool, int, float) else None
    if hasattr(value, "__float__"):  # Decimal, Fraction, ...
        try:
            return float(value)
        except (ValueError, TypeError, OverflowError):
            return None
    return None
