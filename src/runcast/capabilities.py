"""What each tracker can hold, as the conformance kit has seen it: ``reporters/capabilities.json``, never typed.

The kit's pytest plugin writes such a file (``--capabilities FILE``); ``integrations/capability_table.py`` puts those of all
trackers together.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec


class Capability(msgspec.Struct, frozen=True):
    """What the kit has seen of one feature of one tracker.

    Attributes:
        result: ``yes``: proven, by reading back from the tracker. ``no``: the reporter has no such thing, and nothing of it
            reaches the tracker. ``failed``: a test failed.
        how: In words, where the tracker has no such thing and it goes another way.
    """

    result: Literal["yes", "no", "failed"]
    how: str = ""


Capabilities: TypeAlias = dict[str, dict[str, Capability]]
"""Tracker → feature → what was seen."""


def read_capabilities(path: Path) -> Capabilities:
    """A file that the plugin has written.

    Raises:
        OSError: It can't be read.
        msgspec.MsgspecError: It is something else.
    """
    return msgspec.json.decode(path.read_bytes(), type=Capabilities)


def known_capabilities() -> Capabilities:
    """Those of the trackers that runcast brings, as they were tested for this version."""
    file = resources.files("runcast.reporters").joinpath("capabilities.json")
    return msgspec.json.decode(file.read_bytes(), type=Capabilities)


def features(found: Capabilities) -> list[str]:
    """All features, in the order in which the kit tests them."""
    return list(dict.fromkeys(feature for row in found.values() for feature in row))
