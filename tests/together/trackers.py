"""The trackers that live together in one environment."""

from __future__ import annotations

import tomllib
from importlib import resources

from runcast.registry import reporter_class

_VERSIONS = tomllib.loads(resources.files("runcast.reporters").joinpath("versions.toml").read_text())

# What is installed beside the others, can be read back, and needs neither an account nor a job around it.
TOGETHER = sorted(
    name
    for name, row in _VERSIONS.items()
    if not row.get("alone") and reporter_class(name).supports("read") and reporter_class(name).availability().mode
)
