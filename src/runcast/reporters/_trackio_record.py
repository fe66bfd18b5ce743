"""What Trackio has of a run that runcast wrote.

What Trackio has no place for is in the run's config. Its dashboard shows ``runcast/status``, ``runcast/tags`` and
``runcast/summary`` among the settings; the rest is under ``_runcast``, for names that begin with ``_`` are hidden there.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from runcast.record import (
    ArtifactRecord,
    Content,
    HistogramPoint,
    ImagePoint,
    Point,
    RunRecord,
    TablePoint,
    TextPoint,
    inside,
)
from runcast.reporters._trackio_store import Row, Store
from runcast.reporters._trackio_values import (
    HISTOGRAM,
    IMAGE,
    TABLE,
    TEXT,
    columns_and_rows,
    exact,
    from_exact,
    moment,
    name_of,
    seconds,
)

logger = logging.getLogger("runcast")

OWN, STATUS, TAGS, SUMMARY = "_runcast", "runcast/status", "runcast/tags", "runcast/summary"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def config_of(record: RunRecord, artifacts: dict[str, Any]) -> dict[str, Any]:
    """The config to write for what a record says of its run as a whole.

    Args:
        artifacts: What `Store.add_artifact` said of each, with its kind, step and metadata.
    """
    config = {_shielded(key): exact(value) for key, value in record.config.items()}
    config[STATUS], config[TAGS] = record.status, list(record.tags)
    if record.summary:
        config[SUMMARY] = exact(record.summary)
    started = None if record.started is None else moment(record.started)
    own = {name: getattr(record, name) for name in ("run_id", "project", "group", "started", "finished")}
    return config | {
        "_Username": None,
        "_Created": started,
        "_Group": record.group,
        OWN: own | {"artifacts": artifacts},
    }


def without_series(config: dict[str, Any], name: str) -> RunRecord:
    """What `config_of` was given: the record but for its series and artifacts."""
    own = config[OWN]
    return RunRecord(
        run_id=own["run_id"],
        name=name,
        project=own["project"],
        group=own["group"],
        status=config[STATUS],
        config={
            _unshielded(key): from_exact(value)
            for key, value in config.items()
            if not key.startswith(("_", "runcast/"))
        },
        tags=tuple(config[TAGS]),
        summary=from_exact(config.get(SUMMARY, {})),
        started=own["started"],
        finished=own["finished"],
    )


def record_of(store: Store, run_id: str, name: str, config: dict[str, Any]) -> RunRecord:
    """The record of the run whose config this is."""
    record = without_series(config, name)
    for row in store.rows(run_id):
        for key, value in row.values.items():
            try:
                _add(record, store, name_of(key), value, row, seconds(row.time))
            except (OSError, ValueError, LookupError, TypeError) as error:
                logger.warning(
                    "Trackio's %r at step %s is left out: %s: %s", key, row.step, type(error).__name__, error
                )
    for artifact, about in config[OWN]["artifacts"].items():
        try:
            record.artifacts[artifact] = _artifact(store, artifact, about)
        except (OSError, ValueError, LookupError, TypeError) as error:
            logger.warning("the artifact %r is left out: %s: %s", artifact, type(error).__name__, error)
    return record


def _add(record: RunRecord, store: Store, name: str, value: Any, row: Row, time: float) -> None:
    if not isinstance(value, dict):
        record.metrics.setdefault(name, []).append(Point(row.step, float(value), time))
        return
    match value["_type"]:
        case str() as kind if kind == TEXT:
            record.texts.setdefault(name, []).append(TextPoint(row.step, value["_value"], time))
        case str() as kind if kind == IMAGE:
            content = Content.of_file(inside(store.media, value["file_path"]))
            record.images.setdefault(name, []).append(ImagePoint(row.step, content, time))
        case str() as kind if kind == TABLE:
            columns, rows = columns_and_rows(value)
            record.tables.setdefault(name, []).append(TablePoint(row.step, columns, rows, time))
        case str() as kind if kind == HISTOGRAM:
            point = HistogramPoint(row.step, tuple(value["values"]), tuple(value["bins"]), time)
            record.histograms.setdefault(name, []).append(point)


def _artifact(store: Store, name: str, about: dict[str, Any]) -> ArtifactRecord:
    found = store.query(
        "SELECT manifest FROM artifact_versions JOIN artifacts ON artifacts.id = artifact_id WHERE name = ? AND version = ?",
        about["artifact"],
        about["version"],
    )
    if not found:
        raise LookupError(f"Trackio has no {about['artifact']}:v{about['version']} any more")
    files = files_of(store, found[0][0])
    return ArtifactRecord(name, about["kind"], files, about["step"], from_exact(about["metadata"]))


def files_of(store: Store, manifest: str) -> dict[str, Content]:
    """The files of an artifact; what it only refers to is elsewhere, and left out.

    Raises:
        OSError: One isn't there.
        ValueError: The manifest is damaged.
    """
    files = {}
    for entry in json.loads(manifest):
        if "ref" in entry:
            continue
        if not _DIGEST.fullmatch(entry["digest"]):
            raise ValueError(f"{entry['digest']!r} is no SHA-256")
        files[entry["path"]] = Content.of_file(inside(store.folder, str(store.blob(entry["digest"]))))
    return files


def _shielded(key: str) -> str:
    """A setting's name; Trackio hides those with ``_`` in front, and ``runcast/`` is ours."""
    return f"~{key}" if key.lstrip("~").startswith(("_", "runcast/")) else key


def _unshielded(key: str) -> str:
    return key[1:] if key.startswith("~") and key.lstrip("~").startswith(("_", "runcast/")) else key
