"""A run that was logged with Aim itself: what of it a `RunRecord` can hold.

config       the run's parameters, but for the environment variables
metrics      numbers; one with the context ``{"subset": "train"}`` is ``train/<name>``
texts        texts, the run's description, what was written on its terminal and to `log_info` and the like
images       images, made PNG where they are of another format
histograms   distributions
artifacts    files that are below the repository's folder; sounds and figures, one a step
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runcast.media import png
from runcast.record import ArtifactRecord, Content, ImagePoint, Point, RunRecord, TextPoint, inside
from runcast.reporters._aim_record import histogram
from runcast.reporters._aim_store import Row, Series, StoredRun

logger = logging.getLogger("runcast")

_TEXTS = ("aim.text", "aim.log_line")


def their_record(stored: StoredRun) -> RunRecord:
    """The record of a run in whose attributes runcast left nothing."""
    record = RunRecord(
        run_id=stored.hash,
        name=stored.name or stored.hash,
        project=stored.experiment or "default",
        status="running" if stored.ended is None else "completed",
        config=_config(stored.attributes),
        tags=tuple(sorted(stored.tags)),
        started=stored.created,
        finished=stored.ended,
    )
    if stored.description:
        record.texts["description"] = [TextPoint(0, stored.description, stored.created or 0.0)]
    taken: set[tuple[str, str]] = set()
    for series in sorted(stored.series(), key=lambda series: len(series.context)):
        name = _name(series)
        if (series.kind, name) in taken:  # another's name happens to look like that
            name = f"{name} {json.dumps(series.context, sort_keys=True)}"
        taken.add((series.kind, name))
        for row in series.rows:
            for value in row.value if isinstance(row.value, list | tuple) else (row.value,):
                _add(record, name, series.kind, row, value)
    for name, files in _artifacts(stored).items():
        record.artifacts[name] = ArtifactRecord(name, "file", files)
    return record


def _config(attributes: dict[str, Any]) -> dict[str, Any]:
    config = dict(attributes)
    system = config.get("__system_params")
    if isinstance(system, dict):
        config["__system_params"] = {key: value for key, value in system.items() if key != "env_variables"}
    return config


def _name(series: Series) -> str:
    """A series' name with its context before it, as a slash path."""
    return "/".join((*(str(series.context[key]) for key in sorted(series.context, key=str)), series.name))


def _add(record: RunRecord, name: str, kind: str, row: Row, value: Any) -> None:
    kind = kind.removeprefix("list(").removesuffix(")")
    if kind == "number":
        record.metrics.setdefault(name, []).append(Point(row.step, float(value), row.time))
    elif kind in _TEXTS:
        record.texts.setdefault(name, []).append(TextPoint(row.step, value.data, row.time))
    elif kind == "aim.log_record":
        record.texts.setdefault(name, []).append(TextPoint(row.step, value.message, row.time))
    elif kind == "aim.image":
        content = Content.of_bytes(png(bytes(value.storage["data"])))
        record.images.setdefault(name, []).append(ImagePoint(row.step, content, row.time))
    elif kind == "aim.distribution":
        record.histograms.setdefault(name, []).append(histogram(row.step, value, row.time))
    elif kind in ("aim.audio", "aim.figure"):
        _add_file(record, f"{name}/{row.step}", kind, row.step, value)
    else:
        logger.warning("%s at step %d is left out: it is of the type %s", name, row.step, kind)


def _add_file(record: RunRecord, name: str, kind: str, step: int, value: Any) -> None:
    data = value.storage["data"].load()
    content = Content.of_bytes(data.encode() if isinstance(data, str) else bytes(data))
    word = kind.removeprefix("aim.")
    suffix = "json" if word == "figure" else value.storage["format"]
    artifact = record.artifacts.setdefault(name, ArtifactRecord(name, "file", {}, step, {"type": word}))
    number = len(artifact.files)  # several at a step
    artifact.files[f"{word}-{number}.{suffix}" if number else f"{word}.{suffix}"] = content


def _artifacts(stored: StoredRun) -> dict[str, dict[str, Content]]:
    """Artifact → path → content, of the files that can be had."""
    found: dict[str, dict[str, Content]] = {}
    for name, content in _files(stored):
        top, _, rest = name.partition("/")
        found.setdefault(top, {})[rest or top] = content
    return found


def _files(stored: StoredRun) -> Iterator[tuple[str, Content]]:
    root = stored.aim.parent
    for name, artifact in stored.artifacts.items():
        where = urlsplit(artifact.uri)
        try:  # a repository may come from a stranger, and name any file
            path = inside(root, str(Path(where.path))) if where.scheme == "file" else None
        except ValueError:
            path = None
        if path is not None and path.is_file():
            yield name, Content.of_file(path)
        else:
            logger.warning("artifact %s is left out: %s is no file below %s", name, artifact.uri, root)
