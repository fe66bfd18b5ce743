"""A run that was logged with plain DVCLive: what of its folder a `RunRecord` can hold.

DVCLive keeps no name, status or times of a run, and the steps of images only where their files are called so.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runcast.errors import MissingDependencyError
from runcast.events import plain
from runcast.flatten import flatten
from runcast.media import png
from runcast.record import ArtifactRecord, Content, ImagePoint, Point, RunRecord, TablePoint, TextPoint, inside
from runcast.reporters._dvclive_files import METRICS, from_json, from_yaml, rows
from runcast.reporters._dvclive_record import DESCRIPTION, LATEST, OWN, PARAMS

logger = logging.getLogger("runcast")

_IMAGES, _CUSTOM, _SKLEARN, _ARTIFACTS = "plots/images", "plots/custom", "plots/sklearn", "artifacts"
_KINDS = (METRICS, _IMAGES, _CUSTOM, _SKLEARN)
_PICTURES = (".png", ".jpg", ".jpeg", ".gif")


def folders_at(source: Path) -> list[Path]:
    """The DVCLive folders at or below a path, or that of a file."""
    if source.is_file():
        return next(([folder] for folder in source.parents if _is_one(folder)), [])
    found = _below(source)
    if not found and any((source / name).is_file() for name in (LATEST, PARAMS)):  # without plots: its word is taken
        return [source]
    return found


def _below(source: Path) -> list[Path]:
    found = []
    for path, folders, _ in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if _is_one(Path(path)):
            found.append(Path(path))
            folders.clear()
    return found


def _is_one(folder: Path) -> bool:
    if (folder / OWN).is_file() or any((folder / kind).is_dir() for kind in _KINDS):
        return True
    return folder.name == "dvclive" and (folder / LATEST).is_file()


def record_of(folder: Path) -> RunRecord:
    """The record of a run that plain DVCLive wrote."""
    own_name = folder.parent if folder.name == "dvclive" else folder  # every run's folder may be called that
    record = RunRecord(run_id=own_name.name, name=own_name.name, project=own_name.parent.name, status="completed")
    record.config = from_yaml(folder / PARAMS)
    for path in sorted((folder / METRICS).rglob("*.tsv")):
        _add_series(record, path.relative_to(folder / METRICS).as_posix().removesuffix(".tsv"), path)
    known = {*record.metrics, *record.texts, "step"}
    latest = plain(from_json(folder / LATEST))
    record.summary = {name: value for name, value in flatten(latest).items() if name not in known}
    for path in _files(folder / _IMAGES):
        if path.suffix.lower() in _PICTURES:
            _add_image(record, path.relative_to(folder / _IMAGES), path)
    for place in (_CUSTOM, _SKLEARN):
        for path in _files(folder / place):
            if path.suffix == ".json":
                _add_plot(record, path.relative_to(folder / place).with_suffix("").as_posix(), path)
    _add_artifacts(record, folder)
    record.started = min(_times(record, folder), default=None)
    return record


def _add_series(record: RunRecord, name: str, path: Path) -> None:
    """Numbers are a metric, words a text; what DVCLive didn't note the time of is from when its table was written."""
    written = path.stat().st_mtime
    for row in rows(path):
        time = written if row.time is None else row.time
        try:
            record.metrics.setdefault(name, []).append(Point(row.step, float(row.value), time))
        except ValueError:
            record.texts.setdefault(name, []).append(TextPoint(row.step, row.value, time))
    if not record.metrics.get(name, True):
        del record.metrics[name]


def _add_image(record: RunRecord, name: Path, path: Path) -> None:
    """``folder/5.png`` is `folder` at step 5, as DVC's image slider has it."""
    stepped = name.stem.isdecimal() and len(name.parts) > 1
    key, step = (name.parent.as_posix(), int(name.stem)) if stepped else (name.with_suffix("").as_posix(), 0)
    try:
        content = Content.of_bytes(png(path))
    except (OSError, ValueError, MissingDependencyError) as error:
        logger.warning("the image %s is left out: %s", path, error)
        return
    record.images.setdefault(key, []).append(ImagePoint(step, content, path.stat().st_mtime))
    record.images[key].sort(key=lambda point: point.step)


def _add_plot(record: RunRecord, name: str, path: Path) -> None:
    """The points of a plot are a table."""
    try:
        data = plain(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        logger.warning("the plot %s is left out: %s", path, error)
        return
    points: Any = next(iter(data.values()), None) if isinstance(data, dict) else data  # as scikit-learn's plots are
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        logger.warning("the plot %s is left out: it is no list of points", path)
        return
    columns = tuple(dict.fromkeys(column for point in points for column in point))
    cells = tuple(tuple(point.get(column) for column in columns) for point in points)
    record.tables.setdefault(name, []).append(TablePoint(0, columns, cells, path.stat().st_mtime))


def _add_artifacts(record: RunRecord, folder: Path) -> None:
    """What was copied into the folder, and what a ``dvc.yaml`` there or above, which also has types and metadata, names."""
    places = _in_repository(folder)
    described: dict[Path, tuple[str, dict[str, Any]]] = {}
    tracked: set[Path] = set()
    for place in places:
        tracked |= {path.with_suffix("").resolve() for path in place.glob("*.dvc") if path.is_file()}
        try:
            description = from_yaml(place / DESCRIPTION)
            entries = description.get("artifacts") or {}
            found = {(place / entry["path"]).resolve(): (name, entry) for name, entry in entries.items()}
            tracked -= found.keys()
            if place == folder or _names(description, place, folder):
                described |= found
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            logger.warning("%s: the artifacts are told without their types: %s", place / DESCRIPTION, error)
    root = folder / _ARTIFACTS
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.suffix == ".dvc" or path.name == ".gitignore":
            continue
        name, entry = described.pop(path.resolve(), (path.name, {}))
        record.artifacts[name] = _artifact(name, entry, path, root)
    for target, (name, entry) in described.items():
        if not target.is_relative_to(places[-1].resolve()):
            logger.warning("the artifact %r is left out: %s is outside of the repository", name, target)
        elif not target.exists():
            logger.warning("the artifact %r is left out: there is no %s; `dvc pull` may bring it", name, target)
        elif not any(_is_one(parent) and parent != folder.resolve() for parent in target.parents):  # else another run's
            record.artifacts[name] = _artifact(name, entry, target, target.parent)
    if tracked:
        paths = ", ".join(sorted(path.name for path in tracked))
        logger.warning("%s: DVC tracks these, but no dvc.yaml says that a run logged them: %s", places[-1], paths)


def _artifact(name: str, entry: dict[str, Any], path: Path, above: Path) -> ArtifactRecord:
    base = path if path.is_dir() else above
    files = {file.relative_to(base).as_posix(): Content.of_file(file) for file in _files(path)}
    about = {key: value for key, value in entry.items() if key in ("desc", "labels", "meta")}
    return ArtifactRecord(name, str(entry.get("type") or "file"), files, None, about)


def _names(description: dict[str, Any], place: Path, folder: Path) -> bool:
    """Whether a ``dvc.yaml`` is of the run in a folder: it names files there."""
    entries = [entry for section in ("params", "metrics", "plots") for entry in description.get(section) or ()]
    paths = [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]
    return any((place / path).resolve().is_relative_to(folder.resolve()) for path in paths)


def _in_repository(folder: Path) -> list[Path]:
    """The folder and those around it, up to the root of the repository; the next one at least."""
    places = [folder]
    for parent in folder.parents:
        places.append(parent)
        if any((parent / name).exists() for name in (".dvc", ".git")):
            return places
    return places[:2]


def _files(path: Path) -> Iterator[Path]:
    """A file, or the files below a folder; links that lead out of it are passed over."""
    base = path if path.is_dir() else path.parent
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            if inside(base, str(file.relative_to(base))).is_file():
                yield file
        except ValueError as error:
            logger.warning("%s is left out: %s", file, error)


def _times(record: RunRecord, folder: Path) -> Iterator[float]:
    for series in (record.metrics, record.texts, record.images, record.tables):
        yield from (point.time for points in series.values() for point in points)
    yield from ((folder / name).stat().st_mtime for name in (PARAMS, LATEST) if (folder / name).exists())
