"""What neptune-exporter wrote: a row an attribute or point, in parquet files, and the files that were uploaded.

``<data>/<project>/<run>_part_<n>.parquet`` is complete if part 0 is there; paths of files are relative to
``<files>/<project>``. The two folders stand beside each other; that of the files is called ``files``. Where the export was
told otherwise, a link of that name does.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runcast.errors import missing_extra
from runcast.record import Content, RunRecord
from runcast.reporter import NativeRun
from runcast.reporters._neptune_record import Attributes, Entry, content_of, following
from runcast.trust import regular

logger = logging.getLogger("runcast")

_FIRST = "_part_0.parquet"
_REGISTRY = ("models", "model_versions")  # of the model registry, which are no runs


def find_exports(root: Path) -> list[NativeRun]:
    """The runs of the exports at or below a path.

    Raises:
        MissingDependencyError: There are some, and what reads them isn't installed.
    """
    firsts = [root] if root.is_file() and root.name.endswith(_FIRST) else sorted(root.rglob(f"*{_FIRST}"))
    firsts = [path for path in firsts if path.parent.name not in _REGISTRY]
    if firsts:
        _parquet()
    return [_native(path) for path in firsts]


def _native(first: Path) -> NativeRun:
    stem = first.name.removesuffix(_FIRST)
    parts = sorted(
        (path for path in first.parent.glob("*.parquet") if path.name.rpartition("_part_")[0] == stem),
        key=lambda path: int(path.stem.rpartition("_part_")[2]),
    )
    project = first.parent
    files = project.parent.parent / "files" / project.name
    return NativeRun(stem, data={"parts": [str(part) for part in parts], "files": str(files)})


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow, which reads Neptune's exports,", "neptune") from error
    return pyarrow.parquet


def read_export(native: NativeRun) -> RunRecord:
    """The run that these parts hold."""
    fold = _Fold(Path(native.data["files"]))
    for part in native.data["parts"]:
        for row in _rows(Path(part)):
            fold.add(row)
    return fold.record(native.id)


def _rows(part: Path) -> Iterator[dict[str, Any]]:
    with open(part, "rb", opener=regular) as file:
        for batch in _parquet().ParquetFile(file).iter_batches():
            yield from batch.to_pylist()


class _Fold:
    """What the rows amount to.

    Args:
        files: The folder of the project's files.
    """

    def __init__(self, files: Path) -> None:
        self._files = files
        self._attributes = Attributes()
        self._run_id = self._project = ""
        self._created: float | None = None
        self._unknown: set[str] = set()
        self._said = False

    def record(self, native_id: str) -> RunRecord:
        record = self._attributes.record(self._run_id or native_id, self._project, self._created)
        record.started = self._created
        record.finished = self._attributes.last
        return record

    def add(self, row: dict[str, Any]) -> None:
        self._run_id, self._project = row["run_id"], row["project_id"]
        path, kind, attributes = row["attribute_path"], row["attribute_type"], self._attributes
        match kind:
            case "float" | "int" | "string" | "bool":
                self._add_value(path, row[f"{kind}_value"])
            case "datetime":
                self._add_datetime(path, row["datetime_value"])
            case "string_set":
                attributes.sets[path] = set(row["string_set_value"] or ())
            case "float_series":
                self._append(attributes.floats, row, row["float_value"])
            case "string_series":
                self._append(attributes.strings, row, row["string_value"])
            case "histogram_series":
                self._append(attributes.histograms, row, _histogram(row["histogram_value"]))
            case "file" | "artifact" | "file_set" | "file_series":
                self._add_file(path, kind, row)
            case _ if kind not in self._unknown:
                self._unknown.add(kind)
                logger.warning("attributes of the type %r can't be imported (%r)", kind, path)

    def _add_value(self, path: str, value: Any) -> None:
        if value is not None:  # there is a row for what another run has and this one hasn't
            self._attributes.values[path] = value

    def _add_datetime(self, path: str, moment: dt.datetime | None) -> None:
        if moment is None:
            return
        self._attributes.values[path] = moment.isoformat()
        if path == "sys/creation_time":
            self._created = moment.timestamp()

    def _append(self, kind: dict[str, list[Entry]], row: dict[str, Any], value: Any) -> None:
        if value is None:
            return
        series = kind.setdefault(row["attribute_path"], [])
        moment = row["timestamp"]
        step = row["step"] if row["step"] is not None else following(series)
        series.append(Entry(step, value, None if moment is None else moment.timestamp()))

    def _add_file(self, path: str, kind: str, row: dict[str, Any]) -> None:
        stored = (row["file_value"] or {}).get("path")
        if stored is None or not self._has_files():
            return
        if kind == "file_series":
            self._append(self._attributes.file_series, row, content_of(self._files, stored, path))
        elif (files := dict(self._contents(stored, path))) != {}:
            self._attributes.files[path] = files

    def _has_files(self) -> bool:
        if self._files.is_dir():
            return True
        if not self._said:
            self._said = True
            logger.warning("the files of this export are left out: there is no folder %s", self._files)
        return False

    def _contents(self, stored: str, whose: str) -> Iterator[tuple[str, Content]]:
        """A file, or all files below a folder."""
        root = self._files / stored
        if root.is_dir() and root.resolve().is_relative_to(self._files.resolve()):
            names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
            found = [(name, content_of(self._files, str(root / name), whose)) for name in names]
        else:
            found = [(root.name, content_of(self._files, stored, whose))]
        yield from ((name, content) for name, content in found if content is not None)


def _histogram(value: dict[str, Any] | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    return None if value is None else (tuple(value["values"]), tuple(value["edges"]))
