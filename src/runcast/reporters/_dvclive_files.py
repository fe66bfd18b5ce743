"""DVCLive's files: what they are called, and how they are written and read.

A metric is a table ``plots/metrics/<name>.tsv``, so its name is a path. The substitute that `path_of` gives is reversible,
stays below its folder, and no two names share one.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runcast.events import plain
from runcast.flatten import escape, unescape
from runcast.trust import private, regular

MARK = "%"
METRICS = "plots/metrics"
_EMPTY = f"{MARK}{MARK}"
_GOES_ON = f"{MARK}-{MARK}"  # at the end of a folder: what is below belongs to the same part of the name
_FORBIDDEN = r"[\x00-\x1f\x7f\\]"
_COLUMNS = ("step", "timestamp")  # of every table, so that no metric's column can have their name
_SUFFIXES = (".tsv", ".json", ".png", ".md")  # of files beside which a folder may come to be
_LONGEST = 240  # bytes of a file's name, without a suffix; file systems take 255
_MOST = 1_000_000  # values in a YAML file
_PIECE = 30  # characters, of which each may become eight bytes


def path_of(name: str, *, spelled: bool = False) -> str:
    """A name as a relative path without suffix; `name_of` is its inverse.

    Args:
        name: Any text.
        spelled: By the numbers of its letters, where a file system that ignores their case would make two names one.
    """
    forbidden = rf"{_FORBIDDEN}|\w" if spelled else _FORBIDDEN
    return "/".join(piece for part in name.split("/") for piece in _pieces(part, forbidden))


def name_of(path: str) -> str:
    """What `path_of` was given."""
    name = ""
    for piece in path.split("/"):
        if piece.endswith(_GOES_ON):
            name += unescape(piece.removesuffix(_GOES_ON), MARK)
        else:
            name += ("" if piece == _EMPTY else unescape(piece, MARK)) + "/"
    return name.removesuffix("/")


def _pieces(part: str, forbidden: str) -> list[str]:
    whole = _piece(part, forbidden)
    if len(whole.encode()) <= _LONGEST:
        return [whole]
    *first, last = (_piece(part[start : start + _PIECE], forbidden) for start in range(0, len(part), _PIECE))
    return [*(f"{piece}{_GOES_ON}" for piece in first), last]


def _piece(text: str, forbidden: str) -> str:
    """A part of a name as that of a file or folder: no hidden one, which git or DVC might take for theirs."""
    if not text:
        return _EMPTY
    piece = escape(text, forbidden, MARK)
    if piece.startswith(".") or piece in _COLUMNS:
        piece = f"{MARK}{ord(piece[0]):x}{MARK}{piece[1:]}"
    stem, dot, suffix = piece.rpartition(".")
    return f"{stem}{MARK}{ord(dot):x}{MARK}{suffix}" if f"{dot}{suffix}".lower() in _SUFFIXES else piece


# -- tables of metrics -------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A value of a metric; `time` in Unix seconds, if DVCLive was told to note it."""

    step: int
    value: str
    time: float | None


def header(path: str) -> bytes:
    """The first line of a metric's table, as DVCLive writes it."""
    line = io.StringIO()
    csv.writer(line, delimiter="\t", lineterminator="\n").writerow(["timestamp", "step", path.rpartition("/")[2]])
    return line.getvalue().encode()


def line(step: int, value: float, time: float) -> bytes:
    """A line of a metric's table: milliseconds, step and the shortest text that is the same double."""
    return f"{round(time * 1000)}\t{step}\t{value!r}\n".encode()


def rows(path: Path) -> Iterator[Row]:
    """A metric's table; a torn last line is none, and what isn't DVCLive's is passed over."""
    with open(path, "rb", opener=regular) as file:
        data = file.read()
    text = data[: data.rfind(b"\n") + 1].decode(errors="replace")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    with contextlib.suppress(csv.Error):
        next(lines, None)
        for cells in lines:
            # By their number, for DVCLive may begin to write the time in the middle of a table.
            with contextlib.suppress(ValueError, OverflowError):
                if len(cells) in (2, 3):
                    yield Row(int(cells[-2]), cells[-1], int(cells[0]) / 1000 if len(cells) == 3 else None)


def append(path: Path, first: bytes, data: bytes) -> None:
    """Appends whole lines to a private file, or, if they don't fit, nothing.

    Args:
        path: Its folder exists.
        first: What a new file begins with.
        data: Complete lines.
    """
    with open(path, "ab", buffering=0, opener=private) as file:
        end = file.tell()
        rest = memoryview(data if end else first + data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise


def mend(path: Path) -> None:
    """Takes off a last line that a killed process has not completed."""
    with open(path, "rb+", opener=private) as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def durable(path: Path) -> None:
    """Returns when what was written to a file is on the disk."""
    with open(path, "rb", opener=regular) as file:
        os.fsync(file.fileno())


# -- metrics.json ------------------------------------------------------------------------------------------------------


def nested(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Values by name, nested at each ``/`` as DVCLive nests them; the first of a name counts.

    A name below another one (``a/b`` beside ``a``), for which DVCLive has no place, is a key as it is.
    """
    by_path: dict[str, Any] = {}
    for name, value in values:
        by_path.setdefault(path_of(name), value)
    tree: dict[str, Any] = {}
    for path, value in by_path.items():
        *parents, last = path.split("/")
        if any(above in by_path for above in itertools.accumulate(parents, "{}/{}".format)):
            tree[path] = value
            continue
        level = tree
        for part in parents:
            level = level.setdefault(part, {})
        level[last] = value
    return tree


def in_nested(tree: Mapping[str, Any], name: str) -> Any:
    """The value that `nested` has put there.

    Raises:
        LookupError: There is none.
    """
    path = path_of(name)
    if path in tree:
        return tree[path]
    level: Any = tree
    for part in path.split("/"):
        if not isinstance(level, Mapping) or part not in level:
            raise LookupError(name)
        level = level[part]
    return level


def number_or_word(value: float) -> float | str:
    """A metric's latest value as DVCLive writes it to JSON, which has no NaN."""
    return value if value - value == 0 else str(value)


# -- YAML and JSON -----------------------------------------------------------------------------------------------------


def to_yaml(content: Mapping[str, Any]) -> bytes:
    """Plain values as the YAML that DVC reads."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 1 << 20  # nothing is folded
    yaml.representer.ignore_aliases = lambda _: True
    out = io.BytesIO()
    yaml.dump(_quoted(content), out)
    return out.getvalue()


def _quoted(value: Any) -> Any:
    """With quotes around what YAML would change otherwise, such as a line separator."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, Mapping):
        return {_quoted(key): _quoted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(item) for item in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not value.isprintable() else value


def from_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; none if there is no such file.

    Raises:
        ValueError: It is no YAML, or no mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        with open(path, "rb", opener=regular) as file:
            content = YAML(typ="safe").load(file.read())
        if _size(content, {}) > _MOST:
            raise ValueError(f"{path} means more than {_MOST} values")
    except FileNotFoundError:
        return {}
    except (YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    return _mapping(plain(content), path)


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values there are, if each alias is written out: a few lines can mean more than fit into memory."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(item, known) for item in items)
    return known[id(value)]


def to_json(content: Any) -> bytes:
    """As DVCLive writes it."""
    return json.dumps(content, indent=4, ensure_ascii=False).encode() + b"\n"


def to_line(content: Any) -> bytes:
    """A line of JSON."""
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def from_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; none if there is no such file.

    Raises:
        ValueError: It is no JSON, or no object.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            content = json.loads(file.read())
    except FileNotFoundError:
        return {}
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep") from error
    return _mapping(content, path)


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict | None):
        raise ValueError(  # noqa: TRY004 -- it is the file that is wrong, not the call
            f"{path} holds a {type(content).__name__}; expected a mapping"
        )
    return content or {}
