"""The versions that our own reporters need: rows of ``versions.toml``."""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import Any

from runcast.reporter import Requirement


def requirement(name: str) -> Requirement:
    """What the reporter `name` needs installed; its extra has the same name."""
    row = _table()[name]
    return Requirement(row["distribution"], row["module"], row["oldest"], row["newest"], name, row.get("python_below"))


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("runcast.reporters").joinpath("versions.toml").read_text())
