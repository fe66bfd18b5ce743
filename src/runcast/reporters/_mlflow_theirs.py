"""A run that was logged with MLflow itself: what of it a `RunRecord` can hold.

config       the params, where the run came from (``mlflow.user``, ``mlflow.source.name``, ...), and ``mlflow.datasets``
images       those of ``log_image`` with a key, and PNG files at the top
tables       those of ``log_table``
texts        text files at the top, and the run's description
artifacts    every other file at the top, and every other folder; a folder with an ``MLmodel`` is a model
tags         ``key=value``
group        the parent's name
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from runcast.flatten import literal, unflatten
from runcast.record import ArtifactRecord, Content, ImagePoint, RunRecord, TablePoint, TextPoint
from runcast.reporters._mlflow_names import WORDS
from runcast.reporters._mlflow_record import Stored

# Older versions put % and # where newer ones have + and ~.
_IMAGE = re.compile(
    r"images/(?P<key>[^/]+)[+%]step[+%](?P<step>-?\d+)[+%]timestamp[+%](?P<ms>\d+)[+%][0-9a-f-]+(?P<kind>.*)"
)
_TEXTS = (".txt", ".md")
_LONGEST = 1 << 20
"""Bytes of a file that counts as a text."""
_PNG = b"\x89PNG\r\n\x1a\n"
_ORIGINS = ("mlflow.user", "mlflow.source.", "mlflow.project.", "mlflow.docker.", "mlflow.databricks.")


def their_record(stored: Stored) -> RunRecord:
    """The record of a run in whose tags runcast left nothing."""
    info, tags, started = stored.info, stored.tags, stored.info.start_time / 1000
    ended = info.end_time / 1000 if info.end_time and info.status in WORDS else None
    datasets = _datasets(stored)
    origin = {key: value for key, value in tags.items() if key.startswith(_ORIGINS)}
    record = RunRecord(
        run_id=info.run_id,
        name=info.run_name or info.run_id,
        project=stored.client.get_experiment(info.experiment_id).name,
        group=_parent(stored),
        status=WORDS.get(info.status, "running"),
        config={**_config(stored.params), **origin, **({"mlflow.datasets": datasets} if datasets else {})},
        metrics={name: stored.points(name) for name in stored.metrics},
        tags=tuple(
            sorted(f"{key}={value}" if value else key for key, value in tags.items() if not key.startswith("mlflow."))
        ),
        started=started,
        finished=ended,
    )
    if note := tags.get("mlflow.note.content"):
        record.texts["mlflow.note.content"] = [TextPoint(0, note, started)]
    rest = list(_typed(record, stored, started))
    for top, paths in _by_top(rest).items():
        files = {path.removeprefix(f"{top}/"): stored.content(path) for path in paths}
        record.artifacts[top] = ArtifactRecord(top, _kind(files), files)
    _add_models(record, stored)
    return record


def _add_models(record: RunRecord, stored: Stored) -> None:
    """Each by its own name; with the step, else the id, where it isn't the only one that is called so."""
    models = sorted(stored.models(), key=lambda model: (model.step, model.time, model.id))
    named = Counter(model.name for model in models)
    at_step = Counter((model.name, model.step) for model in models)
    for model in models:
        name = model.name
        if named[name] > 1 or name in record.artifacts:
            name = f"{model.name}/{model.step}"
        if at_step[model.name, model.step] > 1 or name in record.artifacts:
            name = f"{model.name}/{model.id}"
        params = {key: text for key, text in model.params.items() if stored.params.get(key) != text}
        about = {"model_id": model.id, **({"params": _config(params)} if params else {})}
        files = {path: model.files.content(path) for path in model.files.walk()}
        record.artifacts[name] = ArtifactRecord(name, "model", files, model.step, about)


def _datasets(stored: Stored) -> list[dict[str, Any]]:
    """The inputs that were logged: which they are, and what for."""
    found = []
    for dataset, tags in stored.datasets():
        told = {"name": dataset.name, "digest": dataset.digest, "source_type": dataset.source_type}
        context = {tag.removeprefix("mlflow.data."): value for tag, value in tags.items()}
        found.append({**told, "source": literal(dataset.source), **context})
    return found


def _parent(stored: Stored) -> str | None:
    parent = stored.tags.get("mlflow.parentRunId")
    if parent is None:
        return None
    try:
        return str(stored.client.get_run(parent).info.run_name or parent)
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
            raise
        return parent


def _config(params: dict[str, str]) -> dict[str, Any]:
    """The params, nested at their slashes, unless a name is also the beginning of another's path."""
    values = {name: literal(text) for name, text in params.items()}  # MLflow makes texts with `str`
    above = {name.rsplit("/", depth)[0] for name in values for depth in range(1, name.count("/") + 1)}
    return {**values} if above & values.keys() else unflatten(values)


def _typed(record: RunRecord, stored: Stored, started: float) -> Iterator[str]:
    """Puts the files that have a meaning in their place, and gives the others."""
    tables = _tables(stored)
    for path in stored.walk():
        image = _IMAGE.fullmatch(path)
        if image is not None and image["kind"] != ".png":
            continue  # the small picture beside it
        content = stored.content(path)
        if image is not None:
            name = re.sub("[~#]", "/", image["key"])
            point = ImagePoint(int(image["step"]), content, int(image["ms"]) / 1000)
            record.images.setdefault(name, []).append(point)
        elif path in tables and (table := _table(content, started)) is not None:
            record.tables[path] = [table]
        elif "/" not in path and path.endswith(".png") and content.read().startswith(_PNG):
            record.images[path] = [ImagePoint(0, content, started)]
        elif "/" not in path and path.endswith(_TEXTS) and (text := _text(content)) is not None:
            record.texts[path] = [TextPoint(0, text, started)]
        else:
            yield path
    for points in record.images.values():
        points.sort(key=lambda point: (point.time, point.step))


def _tables(stored: Stored) -> set[str]:
    """The paths that `log_table` has noted."""
    noted = json.loads(stored.tags.get("mlflow.loggedArtifacts", "[]"))
    return {str(entry["path"]) for entry in noted if entry.get("type") == "table"}


def _table(content: Content, time: float) -> TablePoint | None:
    try:
        data = json.loads(content.read())
        columns, rows = tuple(map(str, data["columns"])), tuple(tuple(row) for row in data["data"])
    except (ValueError, LookupError, TypeError):
        return None
    return TablePoint(0, columns, rows, time)


def _text(content: Content) -> str | None:
    if content.size > _LONGEST:
        return None
    try:
        return content.read().decode()
    except UnicodeDecodeError:
        return None


def _by_top(paths: Iterable[str]) -> dict[str, list[str]]:
    tops: dict[str, list[str]] = {}
    for path in paths:
        tops.setdefault(path.partition("/")[0], []).append(path)
    return tops


def _kind(files: Iterable[str]) -> str:
    return "model" if "MLmodel" in files else "file"
