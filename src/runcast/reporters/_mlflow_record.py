"""What MLflow has of a run, read with its client: the raw parts, and our own runs as a `RunRecord`."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from runcast.events import RunStatus, unpack
from runcast.flatten import from_text, to_text, unescape, unflatten
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
from runcast.reporters._mlflow_names import CLAIM, MORE, NATIVE, PIECES, REMOVED, WORDS, digest_in, finite_tag
from runcast.reporters._mlflow_store import addressed

logger = logging.getLogger("runcast")

_MEDIA = re.compile(
    r"(?P<code>[^+/]*)\+step\+(?P<step>-?\d+)\+timestamp\+(?P<ms>\d+)\+(?P<digest>[0-9a-f]{16})[0-9a-f-]*\.(?:png|txt|json|svg)"
)

_SMALL = 1 << 16
"""Bytes of a file that is kept once it was fetched."""


class Files:
    """The files in one of MLflow's places: a run's artifacts, or a model.

    Args:
        client: Whose server it is.
        folder: Where they are on this machine; None: on the server.
        listing: What the client has in a folder of theirs, which ``None`` means the place itself.
        fetch: Copies the file at a path into a folder, and says where it is.

    Attributes:
        folder: As above.
    """

    def __init__(
        self,
        client: Any,
        folder: Path | None,
        listing: Callable[[str | None], Sequence[Any]],
        fetch: Callable[[str, str], str],
    ) -> None:
        self.client, self.folder = client, folder
        self._listing, self._fetch = listing, fetch

    def listed(self, folder: str) -> list[str]:
        """The paths of the files in a folder, sorted."""
        return sorted(path for path, is_folder in self._entries(folder) if not is_folder)

    def walk(self, folder: str = "") -> Iterator[str]:
        """The paths of all files."""
        for path, is_folder in sorted(self._entries(folder)):
            if is_folder:
                yield from self.walk(path)
            else:
                yield path

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        if self.folder is not None:
            root = inside(self.folder, folder)
            prefix = f"{folder}/" if folder else ""
            return [(f"{prefix}{each.name}", each.is_dir()) for each in root.iterdir()] if root.is_dir() else []
        with addressed(self.client):
            return [(str(file.path), bool(file.is_dir)) for file in self._listing(folder or None)]

    def content(self, path: str) -> Content:
        """A file, fetched when it is asked for."""
        with self._file(path) as file:
            if self.folder is None and file.stat().st_size <= _SMALL:
                return Content.of_bytes(file.read_bytes())
            return replace(Content.of_file(file), read=lambda: self.data(path))

    def data(self, path: str) -> bytes:
        """What is in a file."""
        with self._file(path) as file:
            return file.read_bytes()

    @contextmanager
    def _file(self, path: str) -> Iterator[Path]:
        """A stored file: itself if it is on this machine, else a copy."""
        if self.folder is not None:
            yield inside(self.folder, path)
            return
        with tempfile.TemporaryDirectory(prefix="runcast-") as folder, addressed(self.client):
            yield Path(self._fetch(path, folder))


class Model(NamedTuple):
    """A model of MLflow 3's: the step and the time at which it was logged, its id, name, parameters and files."""

    step: int
    time: int
    id: str
    name: str
    params: dict[str, str]
    files: Files


def folder_of(location: str, usual: str = "") -> Path | None:
    """Where files are on this machine, by what MLflow says; None: they are on a server.

    Args:
        location: What it says.
        usual: Where, below its store, they usually are.
    """
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


class Stored(Files):
    """What MLflow has of a run.

    Args:
        place: `folder_of`, or another that knows better.

    Attributes:
        params: Code to text, as MLflow has them; likewise `tags`.
        native_tags: Those that MLflow has as tags.
        tags_in_files: Those that its store had no room for, and `tag_files`, how many files they are in.
        metrics: The codes of its metrics.
    """

    def __init__(self, client: Any, run_id: str, place: Callable[[str, str], Path | None] = folder_of) -> None:
        run = client.get_run(run_id)
        folder = place(run.info.artifact_uri, f"{run.info.experiment_id}/{run_id}/artifacts")
        super().__init__(
            client, folder, partial(client.list_artifacts, run_id), partial(client.download_artifacts, run_id)
        )
        self.info = run.info
        self.params: dict[str, str] = {key: value for key, value in run.data.params.items() if key != CLAIM}
        self.native_tags: dict[str, str] = dict(run.data.tags)
        self.metrics = sorted(run.data.metrics)
        self._run, self._place = run, place
        files = self.listed("tags") if MORE in self.native_tags else []  # numbered
        self.tags_in_files: dict[str, str] = {}
        for path in files:
            self.tags_in_files |= json.loads(self.data(path))
        self.tags = self.native_tags | self.tags_in_files
        self.tag_files = len(files)

    @property
    def ours(self) -> bool:
        """Whether runcast wrote it."""
        return "runcast.run_id" in self.tags

    def points(self, code: str) -> list[Point]:
        """A metric's points in the order of their times; old file stores keep repeats, so each counts once."""
        found = {}
        for point in self.client.get_metric_history(self.info.run_id, code):
            value = point.value
            # SQL stores have no infinity, and put the greatest number for it.
            if (
                abs(value) == sys.float_info.max
                and finite_tag(code, point.step, point.timestamp, value) not in self.tags
            ):
                value = math.copysign(math.inf, value)
            found[point.timestamp, point.step, repr(value)] = Point(point.step, value, point.timestamp / 1000)
        return [point for _, point in sorted(found.items(), key=lambda item: item[0][:2])]

    def models(self) -> Iterator[Model]:
        """The models that MLflow 3 keeps beside the run; one that was deleted is said."""
        outputs = getattr(self._run, "outputs", None)
        for output in outputs.model_outputs if outputs else ():
            try:
                model = self.client.get_logged_model(output.model_id)
            except Exception as error:
                if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
                    raise
                logger.warning("the model %s is left out: it was deleted", output.model_id)
                continue
            folder = self._place(
                model.artifact_location, f"{self.info.experiment_id}/models/{model.model_id}/artifacts"
            )
            listing = partial(self.client.list_logged_model_artifacts, model.model_id)
            files = Files(self.client, folder, listing, partial(_fetch, self.client, model))
            yield Model(
                output.step, model.creation_timestamp, model.model_id, model.name, dict(model.params or {}), files
            )

    def datasets(self) -> Iterator[tuple[Any, dict[str, str]]]:
        """What the run was told to have read: MLflow's `Dataset`, and the tags that say what for."""
        inputs = getattr(self._run, "inputs", None)
        for entry in inputs.dataset_inputs if inputs else ():
            yield entry.dataset, {tag.key: tag.value for tag in entry.tags}


def _fetch(client: Any, model: Any, path: str, folder: str) -> str:
    artifacts: Any = import_module("mlflow.artifacts")
    location = f"{model.artifact_location}/{path}"
    return str(artifacts.download_artifacts(artifact_uri=location, dst_path=folder, tracking_uri=client.tracking_uri))


class OurRun:
    """A run that runcast wrote.

    Attributes:
        flat: The flat config: name to text, as it is now.
    """

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._tags = stored.tags
        changed = {key.removeprefix("config.") for key in self._tags if key.startswith("config.")}
        texts = {
            code: self._tag(f"config.{code}", stored.params.get(code))
            for code in {**stored.params, **dict.fromkeys(changed)}
        }
        self.flat = {self._name(code): text for code, text in texts.items() if text not in (None, REMOVED)}

    def record(self) -> RunRecord:
        """All of it."""
        stored, info = self._stored, self._stored.info
        status = self._status()
        return RunRecord(
            run_id=self._told("run_id", info.run_id),
            name=self._told("name", info.run_name or ""),
            project=self._told("project", None) or stored.client.get_experiment(info.experiment_id).name,
            group=self._told("group", None),
            status=status,
            config=self.config(),
            metrics={
                self._name(code): stored.points(code) for code in stored.metrics if not code.startswith("summary/")
            },
            texts=self._media("texts", lambda step, file, time: TextPoint(step, file.read().decode(), time)),
            images=self._media("images", ImagePoint),
            tables=self._media("tables", _table),
            histograms=self._media("histograms", _histogram),
            artifacts={artifact.name: artifact for artifact in self._artifacts()},
            tags=tuple(sorted(self._values("tag.").values())),
            summary=self._values("summary."),
            started=self._told("started", info.start_time / 1000),
            finished=info.end_time / 1000 if info.end_time and status != "running" else None,
        )

    def config(self) -> dict[str, Any]:
        """The config, nested."""
        return unflatten({key: from_text(text) for key, text in self.flat.items()})

    def _name(self, code: str, mark: str = ":") -> str:
        """The name that became this code."""
        if digest := digest_in(code, mark):
            return str(from_text(self._tag(f"runcast.name.{digest}", to_text(code)) or code))
        return "" if code == mark * 2 else unescape(code, mark)

    def _status(self) -> RunStatus:
        """Our word for the status, if it still means what MLflow says; or if the run's end is not ours to tell MLflow."""
        if "runcast.joined" in self._tags:
            return cast("RunStatus", self._told("status", "running"))
        for word, native in NATIVE.items():
            if native == self._stored.info.status and word == self._told("status", ""):
                return word
        return WORDS.get(self._stored.info.status, "running")

    def _told(self, key: str, default: Any) -> Any:
        text = self._tag(f"runcast.{key}")
        return default if text is None else from_text(text)

    def _tag(self, key: str, default: str | None = None) -> str | None:
        """A tag's text, put together if it is in pieces."""
        text = self._tags.get(key, default)
        if text is not None and (found := PIECES.fullmatch(text)):
            return "".join(self._tags.get(f"piece.{number}.{key}", "") for number in range(int(found[1])))
        return text

    def _values(self, prefix: str) -> dict[str, Any]:
        codes = [key.removeprefix(prefix) for key in self._tags if key.startswith(prefix)]
        return {self._name(code): from_text(self._tag(f"{prefix}{code}") or "") for code in codes}

    def _media(self, folder: str, point: Callable[[int, Content, float], Any]) -> dict[str, list[Any]]:
        series: dict[str, list[Any]] = {}
        for path in self._stored.listed(folder):
            if match := _MEDIA.fullmatch(path.rpartition("/")[2]):
                content = self._stored.content(path)
                if not content.sha256.startswith(match["digest"]):
                    continue  # somebody else's, or an upload that broke off, which came again since
                name = self._name(match["code"].replace("~", "/"), "=")
                series.setdefault(name, []).append(point(int(match["step"]), content, int(match["ms"]) / 1000))
        for points in series.values():
            points.sort(key=lambda each: (each.time, each.step))
        return series

    def _artifacts(self) -> Iterator[ArtifactRecord]:
        """The artifacts, the versions of one in the order in which they were logged."""
        manifests = [unpack(json.loads(self._stored.data(path))) for path in self._stored.listed("manifests")]
        for told in sorted(manifests, key=lambda told: told.get("time", 0.0)):
            files = {name: self._stored.content(f"{told['folder']}/{stored}") for name, stored in told["files"]}
            yield ArtifactRecord(told["name"], told["kind"], files, told["step"], told["metadata"])


def _table(step: int, file: Content, time: float) -> TablePoint:
    data = unpack(json.loads(file.read()))
    return TablePoint(step, tuple(data["columns"]), tuple(tuple(row) for row in data["data"]), time)


def _histogram(step: int, file: Content, time: float) -> HistogramPoint:
    data = json.loads(re.findall(r"<metadata>(.*)</metadata>", file.read().decode())[0])
    return HistogramPoint(step, tuple(data["counts"]), tuple(data["edges"]), time)
