"""An experiment that was logged to Comet without runcast, in offline archives: what of it a `RunRecord` can hold.

config       the parameters
metrics      numbers; what was logged in a context (``with experiment.train():``) is ``train/<name>``, like all else
texts        texts, metrics that are words, what was written on the terminal, the addresses of remote assets
images       images
tables       CSV files
histograms   histograms
artifacts    models, HTML, every other asset; one that comes again is an artifact a step
summary      what is under Other
"""

from __future__ import annotations

import csv
import io
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from runcast.distinct import Distinct
from runcast.flatten import nest
from runcast.record import (
    ArtifactRecord,
    Content,
    HistogramPoint,
    ImagePoint,
    Point,
    RunRecord,
    TablePoint,
    TextPoint,
)
from runcast.redact import redact_text
from runcast.reporters._comet_histogram import histogram

logger = logging.getLogger("runcast")

_DESCRIPTION, _MESSAGES = "experiment.json", "messages.json"
_OWN = frozenset({"offline_experiment", "Created from", "Name", "hasNestedParams"})
"""What the SDK notes by itself under Other, and the name, which has a place of its own."""
_SURROUNDINGS = frozenset(
    {
        "cloud_details",
        "file_name",
        "git_metadata",
        "gpu_static_info",
        "installed_packages",
        "log_dependency",
        "os_packages",
        "system_details",
        "system_info",
    }
)
"""The messages in which the SDK describes the machine and the program by itself."""

T = TypeVar("T")


class _Thing(NamedTuple):
    """What Comet tells apart.

    Attributes:
        context: That in which it was logged; empty outside of any.
    """

    kind: str
    context: str
    name: str


class _File(NamedTuple):
    """A file of an artifact."""

    thing: _Thing
    path: str
    content: Content
    step: int | None


@dataclass
class _Found:
    """What the messages have told so far.

    Attributes:
        time: When the last one was logged that says so.
        others: How many there are of each kind that isn't read.
    """

    time: float
    config: dict[_Thing, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[_Thing, list[Point]] = field(default_factory=dict)
    texts: dict[_Thing, list[TextPoint]] = field(default_factory=dict)
    images: dict[_Thing, list[ImagePoint]] = field(default_factory=dict)
    tables: dict[_Thing, list[TablePoint]] = field(default_factory=dict)
    histograms: dict[_Thing, list[HistogramPoint]] = field(default_factory=dict)
    files: list[_File] = field(default_factory=list)
    html: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def stored_experiments(source: Path) -> dict[str, list[Path]]:
    """The experiments whose archives are at or below a path: key → archives, oldest first."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in [source] if source.is_file() else sorted(source.rglob("*.zip")):
        about = _description(path)
        if about is not None:
            found.setdefault(str(about["offline_id"]), []).append((about.get("start_time") or 0, path))
    return {key: [path for _, path in sorted(archives)] for key, archives in found.items()}


def _description(archive: Path) -> dict[str, Any] | None:
    """What an archive says of its experiment; None if it is none of Comet's, or not finished."""
    try:
        with zipfile.ZipFile(archive) as found:
            about = json.loads(found.read(_DESCRIPTION))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    return about if isinstance(about, dict) and "offline_id" in about else None


def record_of(archives: Sequence[Path]) -> RunRecord:
    """The record of an experiment, of one or several archives."""
    abouts = [_description(path) or {} for path in archives]
    about = abouts[-1]
    record = RunRecord(run_id=str(about.get("offline_id", "")), project=about.get("project_name") or "general")
    record.tags = tuple(sorted({tag for one in abouts for tag in one.get("tags") or ()}))
    record.started = _seconds(abouts[0].get("start_time"))
    record.finished = _seconds(about.get("stop_time"))
    failed = about.get("customer_error_reported")  # an earlier session that failed was gone on with
    record.status = "failed" if failed else "running" if record.finished is None else "completed"
    found = _Found(record.started or 0.0)
    for archive in archives:
        _add_all(found, archive)
    record.config = nest(_named(found.config, "|"), "|")
    record.metrics, record.texts, record.images = _named(found.metrics), _named(found.texts), _named(found.images)
    record.tables, record.histograms = _named(found.tables), _named(found.histograms)
    record.artifacts = _artifacts(found)
    record.name = str(found.summary.get("Name") or record.run_id)
    record.summary = {key: value for key, value in found.summary.items() if key not in _OWN}
    for kind, number in found.others.items():
        logger.warning("%d messages of the kind %r are left out", number, kind)
    return record


def _named(found: dict[_Thing, T], separator: str = "/") -> dict[str, T]:
    """Each by its name. What was logged in no context keeps its own, whatever else looks like it."""
    names = Distinct()
    things = sorted(found, key=lambda thing: bool(thing.context))
    return {names.name(thing, _path(thing, separator)): found[thing] for thing in things}


def _path(thing: _Thing, separator: str = "/") -> str:
    return f"{thing.context}{separator}{thing.name}" if thing.context else thing.name


def _artifacts(found: _Found) -> dict[str, ArtifactRecord]:
    files = list(found.files)
    if found.html:
        content = Content.of_bytes("\n".join(found.html).encode())
        files.append(_File(_Thing("html", "", "html"), "page.html", content, None))
    groups: dict[_Thing, list[_File]] = {}
    for file in files:
        groups.setdefault(file.thing, []).append(file)
    names = Distinct()
    artifacts: dict[str, ArtifactRecord] = {}
    for thing in sorted(groups, key=lambda thing: bool(thing.context)):
        again = Counter(file.path for file in groups[thing]).most_common(1)[0][1] > 1
        before: Counter[tuple[int | None, str]] = Counter()
        for file in groups[thing]:
            step = file.step if again else None
            label = _path(thing) if step is None else f"{_path(thing)}/{step}"
            name = names.name((thing, step, before[step, file.path]), label)
            before[step, file.path] += 1
            kind = "model" if thing.kind == "model" else "file"
            artifacts.setdefault(name, ArtifactRecord(name, kind, {}, file.step)).files[file.path] = file.content
    return artifacts


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _messages(archive: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with zipfile.ZipFile(archive) as found, found.open(_MESSAGES) as lines:
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:  # torn
                continue
            yield message["type"], message["payload"]


def _add_all(found: _Found, archive: Path) -> None:
    console: list[str] = []
    since: float | None = None
    for kind, payload in _messages(archive):
        found.time = _seconds(payload.get("local_timestamp")) or found.time
        if kind == "standard_output":
            console.append(payload["output"])
            since = found.time if since is None else since
        elif kind == "file_upload":
            _add_upload(found, archive, payload)
        elif kind not in _SURROUNDINGS:
            _add(found, kind, payload)
    if since is not None:
        point = TextPoint(0, "".join(console), since)
        found.texts.setdefault(_Thing("console", "", "console"), []).append(point)


def _add(found: _Found, kind: str, payload: dict[str, Any]) -> None:
    context = payload.get("context") or ""
    if kind == "metric_msg":
        metric = payload["metric"]
        _add_metric(found, _Thing(kind, context, metric["metricName"]), metric["metricValue"], int(metric["step"] or 0))
    elif kind == "parameter_msg":
        parameter = payload.get("param") or payload.get("params")  # a list comes under the plural
        if parameter and parameter.get("source") != "auto-logged":
            found.config[_Thing(kind, context, parameter["paramName"])] = parameter["paramValue"]
    elif kind == "log_other":
        found.summary[payload["key"]] = payload["value"]
    elif kind == "html":
        found.html.append(payload["html"])
    elif kind == "htmlOverride":
        found.html = [payload["htmlOverride"]]
    elif kind == "remote_file":
        about, address = payload.get("additional_params") or {}, str(payload["remote_uri"])
        thing = _Thing(kind, about.get("context") or "", str(about.get("fileName") or kind))
        logger.warning(
            "the asset %s is left out: it is at %s, which is kept as a text", thing.name, redact_text(address)
        )
        found.texts.setdefault(thing, []).append(TextPoint(int(about.get("step") or 0), address, found.time))
    else:
        found.others[kind] += 1


def _add_metric(found: _Found, thing: _Thing, value: Any, step: int) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):  # Comet takes words for metrics
        found.texts.setdefault(thing, []).append(TextPoint(step, str(value), found.time))
    else:
        found.metrics.setdefault(thing, []).append(Point(step, number, found.time))


def _add_upload(found: _Found, archive: Path, payload: dict[str, Any]) -> None:
    kind, about, time = payload["upload_type"], payload["additional_params"] or {}, found.time
    name = str(about.get("figName") or about.get("fileName") or kind)
    content = _content(archive, payload["file_path"])
    if content is None:
        logger.warning("%s is left out: its file is not in %s", name, archive.name)
        return
    thing, step = _Thing(kind, about.get("context") or "", name), int(about.get("step") or 0)
    if kind == "visualization" and about.get("extension") != "svg":
        found.images.setdefault(thing, []).append(ImagePoint(step, content, time))
    elif kind == "text-sample":
        text = TextPoint(step, content.read().decode(), time)
        found.texts.setdefault(thing._replace(name="text"), []).append(text)
    elif kind in ("asset", "dataframe") and name.endswith(".csv") and (rows := _csv(content)):
        table = TablePoint(step, rows[0], tuple(rows[1:]), time)
        found.tables.setdefault(thing, []).append(table)
    elif kind == "histogram3d" and (point := histogram(content.read(), step, time)) is not None:
        found.histograms.setdefault(thing, []).append(point)
    else:  # assets, models, pictures of Comet's own shapes
        _add_file(found, thing, about, content)


def _add_file(found: _Found, thing: _Thing, about: dict[str, Any], content: Content) -> None:
    group, path = about.get("groupingName"), thing.name.rsplit("/", 1)[-1]
    if thing.kind == "model-element" and group:
        path, thing = thing.name, thing._replace(kind="model", name=str(group))
    else:
        thing = thing._replace(kind="file")
    if about.get("overwrite"):
        found.files = [file for file in found.files if (file.thing, file.path) != (thing, path)]
    found.files.append(_File(thing, path, content, about.get("step")))


def _csv(content: Content) -> list[tuple[str, ...]]:
    """Rows of one width; none if it is no such table."""
    try:
        rows = [tuple(row) for row in csv.reader(io.StringIO(content.read().decode(), newline="")) if row]
    except (UnicodeDecodeError, csv.Error):
        return []
    return rows if len(_widths(rows)) == 1 else []


def _widths(rows: Iterable[tuple[str, ...]]) -> set[int]:
    return {len(row) for row in rows}


def _content(archive: Path, name: str) -> Content | None:
    """A file of an archive; None if it isn't there."""
    try:
        with zipfile.ZipFile(archive) as found:
            whole = Content.of_bytes(found.read(name))
    except KeyError:
        return None

    def read() -> bytes:
        with zipfile.ZipFile(archive) as again:
            return again.read(name)

    return Content(whole.size, whole.sha256, read)
