"""Reversible substitutes for trackers that know only flat names, texts, or a few characters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from runcast.events import pack, unpack

_LITERALS = {"True": True, "False": False, "None": None}


def flatten(config: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """A nested dict as one level, keys joined by `separator`; `unflatten` is its inverse.

    Only dicts with content are nesting; ``{}`` and lists are values. A separator within a key is written ``%2F``-like
    (and ``%`` as ``%25``), so that no two keys become one.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = _quote(key, separator)
        if isinstance(value, Mapping) and value:
            for rest, leaf in flatten(value, separator).items():
                flat[f"{name}{separator}{rest}"] = leaf
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """The nested dict that `flatten` was given."""
    return nest(flat, separator, lambda part: _unquote(part, separator))


def nest(flat: Mapping[str, Any], separator: str = "/", key: Callable[[str], str] = str) -> dict[str, Any]:
    """Names that are paths, as a nested dict. A path through what is itself a value stays a name, whole, on top.

    Args:
        key: Makes a key of a part of a path.
    """
    paths = {name: tuple(map(key, name.split(separator))) for name in flat}
    values = set(paths.values())
    nested: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    for name, (*parents, last) in paths.items():
        if any(paths[name][:depth] in values for depth in range(1, len(parents) + 1)):
            whole[name] = flat[name]
            continue
        level = nested
        for part in parents:
            level = level.setdefault(part, {})
        level[last] = flat[name]
    return nested | whole


def _quote(key: str, separator: str) -> str:
    return key.replace("%", "%25").replace(separator, f"%{ord(separator):02X}")


def _unquote(part: str, separator: str) -> str:
    return part.replace(f"%{ord(separator):02X}", separator).replace("%25", "%")


def to_text(value: Any) -> str:
    """A plain value as text that people can read and `from_text` can turn back.

    A string stays as it is unless it would read as another value; everything else is JSON.
    """
    if isinstance(value, str) and from_text(value) == value:
        return value
    return json.dumps(pack(value), ensure_ascii=False)


def from_text(text: str) -> Any:
    """The value that `to_text` was given."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return unpack(value)


def literal(text: str) -> Any:
    """The value that a text of another program's means, where the text is exactly what JSON or `str` make of it.

    So neither ``3.10`` nor ``12e4567`` is a number, and a text in quotes is that text.
    """
    if text in _LITERALS:
        return _LITERALS[text]
    try:
        value = json.loads(text, parse_constant=_no_constant)
        texts = (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, separators=(",", ":")))
    except (ValueError, RecursionError):
        return text
    return value if text in texts and not isinstance(value, str) else text


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def escape(name: str, forbidden: str, mark: str) -> str:
    """`name` in a tracker's alphabet; `unescape` is its inverse.

    Args:
        name: Any text.
        forbidden: A regular expression that matches one character the tracker refuses.
        mark: An allowed character that opens and closes the code point, in hexadecimal, of an escaped one.
    """
    return re.sub(f"{re.escape(mark)}|{forbidden}", lambda match: f"{mark}{ord(match[0]):x}{mark}", name)


def unescape(name: str, mark: str) -> str:
    """What `escape` was given."""
    return re.sub(f"{re.escape(mark)}([0-9a-f]+){re.escape(mark)}", lambda match: chr(int(match[1], 16)), name)
