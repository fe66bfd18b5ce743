"""Runs that were logged with plain Trackio: where they are, and what of them a `RunRecord` can hold.

Trackio keeps no status and no tags of a run.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runcast.errors import MissingDependencyError
from runcast.events import plain
from runcast.flatten import to_text
from runcast.media import png
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
from runcast.reporters._trackio_record import files_of
from runcast.reporters._trackio_store import Known, Store, project_of, projects_in
from runcast.reporters._trackio_values import HISTOGRAM, IMAGE, NOT_FINITE, TABLE, TEXT, name_of, seconds

logger = logging.getLogger("runcast")


def find(source: str, configured: str) -> list[tuple[Store, Known]]:
    """The runs that `source` means, by path or by name.

    Args:
        configured: The Trackio folder where names are looked up; empty: Trackio's default.
    """
    path = Path(source).absolute()
    if path.is_file() and path.suffix == ".db":
        return _all_of(Store(path.parent, path.stem))
    if path.is_dir():
        for folder in (path, path / "trackio"):
            found = [run for project in projects_in(folder) for run in _all_of(Store(folder, project))]
            if found:
                return found
        beside = path.parent / "trackio"  # of a run folder
        found = [run for run in _in(beside, projects_in(beside)) if run[1].id == path.name]
        if found:
            return found
    folder = Path(configured).absolute() if configured else _default_folder()
    project, _, run = source.partition("/")
    found = _in(folder, [project_of(project)]) if project else []
    if run:
        return [(store, known) for store, known in found if run in known]
    return found or [(store, known) for store, known in _in(folder, projects_in(folder)) if known.id == source]


def _default_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser() / "trackio"


def _in(folder: Path, projects: list[str]) -> list[tuple[Store, Known]]:
    return [run for project in projects for run in _all_of(Store(folder, project))]


def _all_of(store: Store) -> list[tuple[Store, Known]]:
    return [(store, known) for known in store.runs()]


def record_of(store: Store, run: Known, config: dict[str, Any]) -> RunRecord:
    """The record of a run.

    Args:
        config: Trackio's, with what it notes there itself.
    """
    record = RunRecord(run.id, run.name, store.project, config.get("_Group"), status="completed")
    record.config = {key: _meant(value) for key, value in plain(config).items() if not key.startswith("_")}
    times = []
    for row in store.rows(run.id):
        time = seconds(row.time)
        times.append(time)
        for key, value in _flat(row.values):
            try:
                _add(record, store, key, value, int(row.step), time)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, MissingDependencyError) as error:
                logger.warning("%r at step %s is left out: %s: %s", key, row.step, type(error).__name__, error)
    times += _add_system(record, store, run)
    _add_alerts(record, store, run)
    _add_traces(record, store, run)
    _add_artifacts(record, store, run)
    saved = sorted(path.name for path in (store.media / store.project / "files").rglob("*") if path.is_file())
    if saved:  # with `trackio.save`
        logger.warning("files that belong to the project %r, not to a run, are left out: %s", store.project, saved)
    created = config.get("_Created")
    record.started = seconds(created) if isinstance(created, str) else min(times, default=None)
    record.finished = max(times, default=record.started)
    return record


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; an object that is no medium is names with ``/``."""
    for key, value in values.items():
        name = f"{above}{name_of(key)}"
        if isinstance(value, dict) and "_type" not in value and value:
            yield from _flat(value, f"{name}/")
        else:
            yield name, value


def _add(record: RunRecord, store: Store, key: str, value: Any, step: int, time: float) -> None:
    if isinstance(value, bool | int | float) or (isinstance(value, str) and value in NOT_FINITE):
        record.metrics.setdefault(key, []).append(Point(step, float(value), time))
    elif isinstance(value, dict) and "_type" in value:
        _add_medium(record, store, key, value, step, time)
    elif value is not None:
        record.texts.setdefault(key, []).append(TextPoint(step, to_text(plain(value)), time))


def _add_medium(record: RunRecord, store: Store, key: str, value: dict[str, Any], step: int, time: float) -> None:
    kind = value["_type"]
    if kind == TEXT:
        record.texts.setdefault(key, []).append(TextPoint(step, value["_value"], time))
    elif kind == IMAGE:
        content = Content.of_bytes(png(inside(store.media, value["file_path"])))
        record.images.setdefault(key, []).append(ImagePoint(step, content, time))
    elif kind == TABLE:
        rows = value["_value"]
        columns = tuple(dict.fromkeys(column for row in rows for column in row))
        cells = tuple(
            tuple(_cell(record, store, f"{key}/{column}", row.get(column), step, time) for column in columns)
            for row in rows
        )
        record.tables.setdefault(key, []).append(TablePoint(step, columns, cells, time))
    elif kind == HISTOGRAM:
        counts, edges = tuple(map(float, value["values"])), tuple(map(float, value["bins"]))
        if len(edges) == len(counts) + 1 and all(map(math.isfinite, (*counts, *edges))):
            record.histograms.setdefault(key, []).append(HistogramPoint(step, counts, edges, time))
    else:  # sound, film, page, solid
        path = inside(store.media, value["file_path"])
        about = {"type": kind, "caption": value.get("caption")}
        name = f"{key}/{step}"
        record.artifacts[name] = ArtifactRecord(name, "file", {path.name: Content.of_file(path)}, step, about)


def _cell(record: RunRecord, store: Store, key: str, value: Any, step: int, time: float) -> Any:
    """A table's cell; images in it are images of their own, ``<table>/<column>``, and their captions or names stay."""
    images = value if isinstance(value, list) else [value]
    if not images or not all(isinstance(image, dict) and image.get("_type") == IMAGE for image in images):
        return _meant(plain(value))
    names = []
    for image in images:
        try:
            _add_medium(record, store, key, image, step, time)
        except (OSError, ValueError, LookupError, TypeError, MissingDependencyError) as error:
            logger.warning("an image of %r at step %s is left out: %s: %s", key, step, type(error).__name__, error)
        names.append(str(image.get("caption") or Path(str(image.get("file_path"))).name))
    return ", ".join(names)


def _meant(value: Any) -> Any:
    """A setting or a cell with the numbers that JSON doesn't know, as Trackio reads them: what is missing is NaN, too."""
    if isinstance(value, dict):
        return {key: _meant(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_meant(item) for item in value]
    return float(value) if isinstance(value, str) and value in NOT_FINITE else value


def _add_system(record: RunRecord, store: Store, run: Known) -> list[float]:
    """What Trackio measured of the machine, as metrics ``system/<name>``: it has no steps, so the rows are counted."""
    times = []
    found = store.query("SELECT timestamp, metrics FROM system_metrics WHERE {run} = ? ORDER BY id", run.id)
    for step, (moment, content) in enumerate(found):
        time = seconds(moment)
        times.append(time)
        for key, value in _flat(json.loads(content)):
            _add(record, store, f"system/{key}", value, step, time)
    return times


def _add_alerts(record: RunRecord, store: Store, run: Known) -> None:
    """Alerts, as texts ``alert/<level>``."""
    found = store.query("SELECT timestamp, level, title, text, step FROM alerts WHERE {run} = ? ORDER BY id", run.id)
    for moment, level, title, text, step in found:
        point = TextPoint(int(step or 0), "\n\n".join(filter(None, (title, text))), seconds(moment))
        record.texts.setdefault(f"alert/{level}", []).append(point)


def _add_traces(record: RunRecord, store: Store, run: Known) -> None:
    """Traces, as texts: their messages in JSON."""
    found = store.query("SELECT key, step, timestamp, messages FROM traces WHERE {run} = ? ORDER BY rowid", run.id)
    for key, step, moment, messages in found:
        text = messages.decode() if isinstance(messages, bytes) else messages
        record.texts.setdefault(name_of(key), []).append(TextPoint(int(step), text, seconds(moment)))


def _add_artifacts(record: RunRecord, store: Store, run: Known) -> None:
    """The versions that the run wrote; of several of an artifact, the last."""
    found = store.query(
        "SELECT name, type, manifest, metadata FROM run_artifact_links AS link "
        "JOIN artifact_versions AS version ON version.id = link.artifact_version_id "
        "JOIN artifacts ON artifacts.id = version.artifact_id "
        "WHERE direction = 'output' AND link.{run} = ? ORDER BY link.id",
        run.id,
    )
    for name, kind, manifest, metadata in found:
        try:
            about = plain(json.loads(metadata)) if metadata else {}
            record.artifacts[name] = ArtifactRecord(name, kind, files_of(store, manifest), None, about)
        except (OSError, ValueError, LookupError, TypeError) as error:
            logger.warning("the artifact %r is left out: %s: %s", name, type(error).__name__, error)
