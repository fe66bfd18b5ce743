"""What W&B's offline mode leaves on disk, as W&B's own records."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from runcast.reporters._wandb_store import Log


def logs(root: Path) -> list[Path]:
    """The transaction logs below a folder, one each time that the run was opened, oldest first."""
    return sorted(root.glob("wandb/*run-*/*.wandb"))


def records(path: Path, kind: str) -> list[Any]:
    """The records of one kind of a transaction log."""
    return [getattr(record, kind) for record in Log(path).records() if record.WhichOneof("record_type") == kind]


def rows(path: Path) -> list[dict[str, Any]]:
    """The history, nested values by the path of their names."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in records(path, "history")
    ]


def points(*paths: Path) -> Counter[tuple[str, int]]:
    """How often logs have each of our columns at each of our steps."""
    return Counter(
        (column.split("/_type")[0], row["global_step"])
        for path in paths
        for row in rows(path)
        if "global_step" in row
        for column in row
        if column != "global_step" and not column.startswith("_") and ("/" not in column or column.endswith("/_type"))
    )
