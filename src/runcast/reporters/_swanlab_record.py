"""What SwanLab stored of a run, as a `RunRecord`.

SwanLab's folder of a run has a log, ``run-<id>.swanlab``, of protobuf messages; ``media/``, the files they name; and
``files/``, with the config and what was saved.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from runcast.events import unpack
from runcast.flatten import escape, unescape
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
from runcast.reporters._record_log import RecordLog

IDENT = b":SWL"
OURS = "runcast"  # in the config, and in charts
MARK = "~"  # escapes
CONFIG = Path("files", "config.yaml")
BEFORE = ".before"  # ends the name of a log that is being written anew
DATA = frozenset({"scalar", "media", "save"})  # kinds of messages that hold what is logged

# SwanLab keeps the first value that a key has at a step, from 0 to 2**48, and drops any further one. So a key may end with
# a number: that of the values at that step; and, for other steps, how many times 2**48 are to be added.
SPAN = 1 << 48
_NUMBERED = re.compile(r" \((\d+)(?:, (-?\d+))?\)\Z")
# What SwanLab takes off the ends of a key, refuses in it, keeps for itself, or what would read as such a number.
_IN_KEY = r"[\x00-\x1f\x7f]|\A[\s./]|[\s./]\Z|\A_(?=_swanlab__\.)|\((?=\d+(?:, -?\d+)?\)\Z)"
_IN_CONFIG = r"\Ar(?=uncast\Z)"
_MAX_KEY = 480  # characters, of 512


def imported(name: str) -> Any:
    """A module of SwanLab's, imported when it is needed."""
    return import_module(f"swanlab.{name}")


# -- names -------------------------------------------------------------------------------------------------------------


@functools.lru_cache(10_000)
def key_of(name: str) -> tuple[str, bool]:
    """A name as SwanLab takes it, and whether `name_of` is the inverse: not of one too long or empty."""
    key = escape(name, _IN_KEY, MARK)
    if 0 < len(key) <= _MAX_KEY:
        return key, True
    return f"{key[: _MAX_KEY - 20]}{MARK}{hashlib.sha256(name.encode()).hexdigest()[:16]}", False


def name_of(key: str) -> str:
    """What a name was before it was escaped."""
    return unescape(key, MARK)


def numbered(key: str, number: int, high: int) -> str:
    """The key of the values that are at their step the `number`-th."""
    return f"{key} ({number}, {high})" if high else f"{key} ({number})" if number > 1 else key


def setting_key(name: str) -> str:
    """A setting's name beside our own."""
    return escape(name, _IN_CONFIG, MARK)


# -- reading -----------------------------------------------------------------------------------------------------------


def log_in(folder: Path) -> Path:
    """The log of a run's folder.

    Raises:
        FileNotFoundError: It has none.
    """
    logs = sorted(folder.glob("run-*.swanlab"))
    aside = sorted(folder.glob(f"run-*.swanlab{BEFORE}"))  # then the other one is not yet whole
    if not logs and not aside:
        raise FileNotFoundError(f"no log of SwanLab's (run-*.swanlab) in {str(folder)!r}")
    return (aside or logs)[0]


def messages(log: RecordLog) -> Iterator[Any]:
    """What is in a log: SwanLab's messages; of one that is being written, what has come since the last call."""
    record = imported("proto.swanlab.record.v1.record_pb2").Record
    return map(record.FromString, log.payloads())


def settings_in(folder: Path) -> dict[str, Any]:
    """SwanLab's config of a run, ours included."""
    path = folder / CONFIG
    if not path.exists():
        return {}
    yaml = import_module("yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, but faster
    found = yaml.load(inside(folder, str(CONFIG)).read_bytes(), loader) or {}
    return {key: item["value"] for key, item in found.items() if isinstance(item, dict) and "value" in item}


def media_path(folder: Path, media: Any, item: Any) -> Path:
    """Where the file of a medium is."""
    return inside(folder, f"media/{media_folder(media.type)}/{item.filename}")


def media_folder(kind: int) -> str:
    """``text``, ``image``, ... for SwanLab's column types."""
    names = imported("proto.swanlab.metric.column.v1.column_pb2").ColumnType
    return str(names.Name(kind)).removeprefix("COLUMN_TYPE_").lower()


def seconds(timestamp: Any) -> float:
    """Unix seconds, the same floating-point number that was written."""
    return float(timestamp.seconds + timestamp.nanos / 1e9)


def own_record(folder: Path) -> RunRecord:
    """The record of a run of ours, which may be gone on with meanwhile: then its log is written anew."""
    while True:
        log = log_in(folder)
        with contextlib.suppress(FileNotFoundError):
            number = log.stat().st_ino
            record = _own_record(folder, log)
            if log_in(folder) == log and log.stat().st_ino == number:
                return record


def _own_record(folder: Path, log: Path) -> RunRecord:
    settings = settings_in(folder)
    own = unpack(settings[OURS])
    record = RunRecord(own["run_id"], own["name"], own["project"], own["group"], own["status"])
    record.started, record.finished = own["started"], own["finished"]
    record.config = {name_of(key): unpack(value) for key, value in settings.items() if key != OURS}
    record.tags, record.summary = tuple(sorted(own["tags"])), own["summary"]
    for name, stored in own["artifacts"].items():
        files = {path: Content.of_file(inside(folder, f"{stored['folder']}/{path}")) for path in stored["files"]}
        record.artifacts[name] = ArtifactRecord(name, stored["kind"], files, stored["step"], stored["metadata"])
    for message in messages(RecordLog(log)):
        kind = message.WhichOneof("record_type")
        if kind == "scalar":
            key, step, time = _where(message.scalar, own["names"])
            record.metrics.setdefault(key, []).append(Point(step, message.scalar.value.number, time))
        elif kind == "media":
            key, step, time = _where(message.media, own["names"])
            for item in message.media.value.items:
                _add_medium(record, key, step, time, media_path(folder, message.media, item))
    return record


def _where(message: Any, names: Mapping[str, str]) -> tuple[str, int, float]:
    """Name, step and time of a value."""
    key, high = message.key, 0
    if found := _NUMBERED.search(key):
        key, high = key[: found.start()], int(found[2] or 0)
    return names.get(key) or name_of(key), message.step + high * SPAN, seconds(message.timestamp)


def _add_medium(record: RunRecord, key: str, step: int, time: float, path: Path) -> None:
    if path.suffix == ".txt":
        text = path.read_bytes().decode()
        record.texts.setdefault(key, []).append(TextPoint(step, text, time))
    elif path.suffix == ".png":
        record.images.setdefault(key, []).append(ImagePoint(step, Content.of_file(path), time))
    else:
        chart = unpack(json.loads(path.read_bytes())[OURS])
        if "rows" in chart:
            rows = tuple(map(tuple, chart["rows"]))
            record.tables.setdefault(key, []).append(TablePoint(step, tuple(chart["columns"]), rows, time))
        else:
            counts, edges = tuple(chart["counts"]), tuple(chart["edges"])
            record.histograms.setdefault(key, []).append(HistogramPoint(step, counts, edges, time))
