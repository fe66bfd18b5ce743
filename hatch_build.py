"""Builds the extras of the distribution: those of pyproject.toml, one for each tracker, ``trackers`` and ``all``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

VERSIONS = Path("src", "runcast", "reporters", "versions.toml")


class ExtrasHook(MetadataHookInterface):
    """Adds ``optional-dependencies`` to the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        table = tomllib.loads((Path(self.root) / VERSIONS).read_text())
        trackers = {name: [_requirement(row), *row.get("brings", [])] for name, row in table.items()}
        # What can't be installed beside the others (alone = true) is in no extra but its own.
        together = ",".join(name for name, row in table.items() if not row.get("alone"))
        metadata["optional-dependencies"] = {
            **self.config["extras"],
            **trackers,
            "trackers": [f"runcast[{together}]"],
            "all": [f"runcast[train,{together}]"],
        }


def _requirement(row: dict[str, Any]) -> str:
    line = f"{row['distribution']}>={row['oldest']}"
    below = row.get("python_below")
    return f"{line}; python_version < '{below}'" if below else line
