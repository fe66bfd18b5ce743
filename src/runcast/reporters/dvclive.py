"""DVCLive: a folder of its files, which ``dvc metrics show``, ``dvc plots show`` and DVC's extension for VS Code read.

    plots/metrics/**.tsv    metrics, with step and wall time (milliseconds)
    metrics.json            the latest value of each, and the summary
    params.yaml             the config
    plots/images/           the PNG files as they are, ``<key>/<step>.png``
    plots/custom/           tables and histograms, ``<key>/<step>.json``; the latest that can be drawn is a plot
    texts/                  texts, ``<key>/<step>.md``
    artifacts/              artifacts, linked or copied
    dvc.yaml                tells DVC what is what
    runcast.json            what DVCLive has no place for: the run's identity, tags and status; DVC shows them as parameters
    runcast.jsonl           when and at which step all but the metrics was logged

The files are written here, in DVCLive's layout, and not by its `Live`: that takes no wall time, makes a DVC repository of any
git repository it is started in, and has metric names lead out of its folder. Nothing is told to git or DVC, unless with
``save_dvc_exp``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import time as clock
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runcast.events import Metrics, RunStatus, pack, unpack
from runcast.media import link_or_copy, slug
from runcast.record import RunRecord, inside, merge
from runcast.reporter import Availability, LocalArtifact, NativeRun, Reporter, Requirement, RunInfo, offline, setting
from runcast.reporters import _dvclive_files as files
from runcast.reporters import _dvclive_theirs as theirs
from runcast.reporters._dvclive_record import (
    DESCRIPTION,
    LATEST,
    MEDIA,
    OWN,
    PARAMS,
    media_in,
    metrics_in,
    record_of,
)
from runcast.reporters._versions import requirement
from runcast.trust import own_folder, replace_file

_IMAGES, _CUSTOM, _TEXTS, _ARTIFACTS = "plots/images", "plots/custom", "texts", "artifacts"
_WRITTEN = (files.METRICS, _IMAGES, _CUSTOM, _TEXTS, _ARTIFACTS, PARAMS, LATEST, DESCRIPTION, MEDIA, OWN)
_ARTIFACT_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-/_]*[a-zA-Z0-9])?")  # that DVC's registry of models takes


class DVCLiveReporter(Reporter):
    """Writes the files of DVCLive to ``<run folder>/dvclive``.

    Args:
        dir: Another folder for them, as `Live` takes it: each run writes it anew.
        save_dvc_exp: Saves each run that ends as a DVC experiment, as `Live` does. `dir` must be in the DVC repository that
            training is started in. The experiment is called ``$DVC_EXP_NAME``, else as the run.
    """

    name: ClassVar[str] = "dvclive"
    requires: ClassVar[Requirement] = requirement("dvclive")

    def __init__(self, dir: str | None = None, save_dvc_exp: bool = False) -> None:  # noqa: A002 -- as `Live` calls it
        self._dir = dir
        self._save_dvc_exp = save_dvc_exp
        self._lock: int | None = None

    @classmethod
    def availability(cls) -> Availability:
        return offline(
            super().availability(), "files in the run folder: dvc metrics show, dvc plots show", mode="local"
        )

    # -- starting --------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        return self._start(run, attach, fresh=attach is None)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        return self._start(run, old, fresh=True)

    def _start(self, run: RunInfo, attach: NativeRun | None, *, fresh: bool) -> NativeRun:
        self._let_go()
        self._run = run
        self._folder = folder = self._folder_for(run, attach)
        if self._save_dvc_exp:
            _repository_of(folder)
        self._lock = _locked(folder)
        _check_owner(folder, None if attach is None else run.run_id)
        if fresh:
            _clear(folder)
        self._read_what_is_there()
        self._own |= {"status": "running", "finished": None}
        self.flush()
        where = f"dvc --cd {shlex.quote(str(folder))} plots show"
        return NativeRun(
            run.run_id, where, {"dir": str(folder), "home": self._home and str(self._home), "run": run.run_id}
        )

    def _folder_for(self, run: RunInfo, attach: NativeRun | None) -> Path:
        """The run's folder, made if need be.

        Raises:
            ValueError: The run began in another. Only the user says where we write.
            RunFolderError: It is a link.
        """
        home = Path(self._dir).resolve() if self._dir else None
        if attach is not None and (began := attach.data.get("home")) not in (None, home and str(home)):
            raise ValueError(f"the run's DVCLive folder is {began!r}; to go on there, say so: dir=")
        if attach is not None and attach.data.get("home") is None:
            home = None
        self._home = home
        folder = home or run.dir / "dvclive"
        if home:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return own_folder(folder.parent, folder.name)

    def _read_what_is_there(self) -> None:
        """What of the run is in the folder already; of a file that a killed process was writing, the whole lines."""
        folder, run = self._folder, self._run
        own = files.from_json(folder / OWN)
        self._own: dict[str, Any] = own or {
            "run_id": run.run_id,
            "name": run.name,
            "project": run.project,
            "group": run.group,
            "started": run.started,
            "tags": [],
        }
        self._config = files.from_yaml(folder / PARAMS)
        self._summary: dict[str, Any] = {}
        self._latest: dict[str, float] = {}
        self._step: int | None = None
        self._series: dict[str, Path] = {}
        self._used: set[str] = set()  # paths, in small letters
        self._plots: dict[tuple[str, str], dict[str, Any]] = {}
        self._models: dict[str, dict[str, Any]] = {}
        self._touched: set[Path] = set()
        self._changed = {PARAMS, LATEST, DESCRIPTION, OWN}
        if own:
            self._read_media()
            self._read_metrics()

    def _read_metrics(self) -> None:
        newest = 0.0
        for name, path in metrics_in(self._folder):
            files.mend(path)
            self._series[name] = path
            self._used.add(_small(path.relative_to(self._folder)))
            for row in files.rows(path):
                self._latest[name] = float(row.value)
                if (row.time or 0.0) >= newest:
                    newest, self._step = row.time or 0.0, row.step

    def _read_media(self) -> None:
        if (self._folder / MEDIA).exists():
            files.mend(self._folder / MEDIA)
        latest = files.from_json(self._folder / LATEST)
        for entry in media_in(self._folder):
            self._take_note(entry)
            for name in entry.get("names", ()):
                with contextlib.suppress(LookupError):  # the process was killed before it wrote the value
                    self._summary[name] = unpack(files.in_nested(latest, name))

    # -- writing ---------------------------------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self.log_metrics_batch([Metrics(values=dict(metrics), step=step, time=time)])

    def log_metrics_batch(self, batch: Sequence[Metrics]) -> None:
        lines: dict[str, list[bytes]] = {}
        for event in batch:
            for name, value in event.values.items():
                lines.setdefault(name, []).append(files.line(event.step, float(value), event.time))
        for name, of_name in lines.items():
            path = self._series_of(name)
            files.append(path, files.header(path.name.removesuffix(".tsv")), b"".join(of_name))
            self._touched.add(path)
        for event in batch:
            self._latest |= event.values
            self._step = event.step
        self._changed.add(LATEST)

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._config = merge(self._config, dict(config))
        self._changed.add(PARAMS)

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        """As a file, `texts/<key>/<step>.md`."""
        self._log_medium("text", f"{_TEXTS}/{files.path_of(key)}", ".md", text.encode(), key, step, time)

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        folder = f"{_IMAGES}/{files.path_of(key)}"
        self._log_medium("image", folder, ".png", image.read_bytes(), key, step, time)

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        """As a custom plot's JSON file; it is a plot if all cells are numbers."""
        names = _distinct(columns)
        about: dict[str, Any] = {"columns": list(columns)}
        if rows and len(names) > 1 and all(_is_finite(cell) for row in rows for cell in row):
            about["plot"] = {"template": "linear", "x": names[0], "y": names[1:], "title": key}
        self._log_custom("table", [dict(zip(names, row, strict=True)) for row in rows], key, step, time, about)

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        """As a custom plot, of counts by left edge."""
        bins = zip(edges, edges[1:], counts, strict=False)
        rows = [{"left": left, "right": right, "count": count} for left, right, count in bins]
        plot = {"template": "simple", "x": "left", "y": "count", "title": key}
        self._log_custom("histogram", rows, key, step, time, {"plot": plot})

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        folder = self._free(f"{_ARTIFACTS}/{slug(artifact.name)}", "")
        root = self._folder / folder
        if root.exists():  # what a courier that died may have left half done
            shutil.rmtree(root)
        for file in artifact.files:
            target = inside(root, file.path)
            own_folder(self._folder, *folder.split("/"), *Path(file.path).parts[:-1])
            link_or_copy(artifact.file_path(file), target, link=True)
        about = {"type": artifact.kind, "metadata": dict(artifact.metadata), "files": [f.path for f in artifact.files]}
        self._note({"kind": "artifact", "name": artifact.name, "step": step, "time": time, "path": folder, **about})

    def set_summary(self, values: Mapping[str, Any]) -> None:
        self._summary |= values
        self._note({"kind": "summary", "names": list(values)})
        self._changed.add(LATEST)

    def add_tags(self, tags: Sequence[str]) -> None:
        """In `runcast.json`, a file of parameters."""
        self._own["tags"] = sorted({*self._own["tags"], *tags})
        self._changed.add(OWN)

    def flush(self) -> None:
        folder = self._folder
        for path in tuple(self._touched):
            files.durable(path)
            self._touched.discard(path)
        contents: dict[str, Callable[[], bytes]] = {
            OWN: lambda: files.to_json(self._own),  # first, for it tells whose the others are
            PARAMS: lambda: files.to_yaml(self._config),
            LATEST: lambda: files.to_json(self._latest_values()),
            DESCRIPTION: lambda: files.to_yaml(self._description()),
        }
        for name, content in contents.items():
            if name in self._changed:
                replace_file(folder / name, content())
                files.durable(folder / name)
                self._changed.discard(name)

    def close(self, status: RunStatus) -> None:
        """In `runcast.json`, a file of parameters."""
        self.flush()
        self._own |= {"status": status, "finished": clock.time()}
        self._changed.add(OWN)
        self.flush()
        if self._save_dvc_exp:
            self._save_experiment()
        self._let_go()

    def _let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    # -- files -----------------------------------------------------------------------------------------------------

    def _series_of(self, name: str) -> Path:
        """The table of a metric; its folder is made."""
        if name not in self._series:
            path = f"{files.METRICS}/{files.path_of(name)}.tsv"
            if _small(path) in self._used:
                path = f"{files.METRICS}/{files.path_of(name, spelled=True)}.tsv"
            own_folder(self._folder, *path.split("/")[:-1])
            self._used.add(_small(path))
            if not self._series:
                self._changed.add(DESCRIPTION)
            self._series[name] = self._folder / path
        return self._series[name]

    def _free(self, stem: str, suffix: str) -> str:
        """A path that nothing logged has yet: two of a step are two files."""
        path, number = f"{stem}{suffix}", 1
        while _small(path) in self._used:
            number += 1
            path = f"{stem}-{number}{suffix}"
        return path

    def _log_custom(self, kind: str, rows: Any, key: str, step: int, time: float, about: Mapping[str, Any]) -> None:
        folder = f"{_CUSTOM}/{files.path_of(key)}"
        self._log_medium(kind, folder, ".json", files.to_json(pack(rows)), key, step, time, about)

    def _log_medium(
        self,
        kind: str,
        folder: str,
        suffix: str,
        data: bytes,
        key: str,
        step: int,
        time: float,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        path = self._free(f"{folder}/{step}", suffix)
        own_folder(self._folder, *folder.split("/"))
        replace_file(self._folder / path, data)
        self._note({"kind": kind, "key": key, "step": step, "time": time, "path": path, **(about or {})})

    def _note(self, entry: dict[str, Any]) -> None:
        """Adds a line to ``runcast.jsonl``, once what it tells of is there."""
        if "path" in entry and (self._folder / entry["path"]).is_file():
            self._touched.add(self._folder / entry["path"])
        files.append(self._folder / MEDIA, b"", files.to_line(pack(entry)))
        self._touched.add(self._folder / MEDIA)
        self._take_note(entry)

    def _take_note(self, entry: dict[str, Any]) -> None:
        """Remembers what a line of ``runcast.jsonl`` says."""
        kind, path = entry["kind"], entry.get("path", "")
        self._used.add(_small(path))
        if kind == "artifact" and _ARTIFACT_NAME.fullmatch(entry["name"]):
            (file,) = entry["files"] if len(entry["files"]) == 1 else ("",)
            about = {"path": f"{path}/{file}".rstrip("/"), "type": entry["type"], "meta": entry["metadata"]}
            self._models[entry["name"]] = {name: value for name, value in about.items() if value}
        elif kind in ("table", "histogram"):
            self._plots.pop((kind, entry["key"]), None)
            if "plot" in entry:
                self._plots[kind, entry["key"]] = {path: entry["plot"]}
        self._changed.add(DESCRIPTION)

    def _latest_values(self) -> dict[str, Any]:
        summary = [(name, pack(value)) for name, value in self._summary.items()]
        latest = [(name, files.number_or_word(value)) for name, value in self._latest.items()]
        step = {} if self._step is None else {"step": self._step}
        return files.nested([*summary, *latest]) | step

    def _description(self) -> dict[str, Any]:
        """What ``dvc.yaml`` says, as DVCLive would."""
        plots: list[Any] = [{files.METRICS: {"x": "step"}}] if self._series else []
        if (self._folder / _IMAGES).exists():
            plots.append(_IMAGES)
        plots += self._plots.values()
        description: dict[str, Any] = {"params": [PARAMS, OWN], "metrics": [LATEST]}
        if plots:
            description["plots"] = plots
        if self._models:
            description["artifacts"] = self._models
        return description

    # -- DVC experiments -------------------------------------------------------------------------------------------

    def _save_experiment(self) -> None:
        """Has DVC save what git follows, and the run's files but for its artifacts, as an experiment.

        Raises:
            RuntimeError: DVC doesn't; with what it says.
        """
        if os.environ.get("DVC_ROOT"):  # within `dvc exp run`, which does it, or `dvc repro`, which is not to
            return
        run, root = self._run, _repository_of(self._folder)
        name = slug(run.name) if run.name == run.run_id else f"{slug(run.name)}-{slug(run.run_id)}"
        command = [sys.executable, "-m", "dvc", "exp", "save", "--force", "--name", setting(None, "DVC_EXP_NAME", name)]
        for written in _WRITTEN:
            if written != _ARTIFACTS and (self._folder / written).exists():
                command += ["--include-untracked", str((self._folder / written).resolve().relative_to(root))]
        done = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"dvc exp save: {done.stderr.strip() or done.stdout.strip()}")

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        folder = Path(native.data["dir"])
        told = native.data.get("run")  # None for one that `find_runs` has found
        if not (folder / OWN).exists():
            if told is not None or not folder.is_dir():
                raise LookupError(f"no run in {str(folder)!r} any more")
            return theirs.record_of(folder)
        record = record_of(folder)
        if told not in (None, record.run_id):
            raise ValueError(f"{str(folder)!r} is of another run by now, {record.run_id!r}")
        return record

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """Every DVCLive folder at or below a path, or that a file is in."""
        found = theirs.folders_at(Path(source).absolute())
        if not found:
            raise LookupError(
                f"no files of DVCLive's in {source!r}; expected a DVCLive folder (with plots/metrics), one above, or a file"
            )
        return [NativeRun(str(folder), data={"dir": str(folder)}) for folder in found]


def _locked(folder: Path) -> int:
    """A descriptor that keeps the folder for this run.

    Raises:
        ValueError: Another run is writing it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{str(folder)!r} is being written by another run: choose another dir=") from None
    return descriptor


def _check_owner(folder: Path, run_id: str | None) -> None:
    """Makes sure that what is in the folder is the run's, or, with None, of a run of ours.

    Raises:
        ValueError: It isn't. What we haven't written is not ours to remove.
    """
    own = files.from_json(folder / OWN)
    if not own and any((folder / name).exists() for name in _WRITTEN):
        raise ValueError(f"{str(folder)!r} has files that runcast didn't write: remove them, or choose another dir=")
    if own and run_id is not None and own.get("run_id") != run_id:
        raise ValueError(f"{str(folder)!r} is of another run by now, {own.get('run_id')!r}")


def _clear(folder: Path) -> None:
    """Removes what was written of a run; last of all whose it was."""
    for name in _WRITTEN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _repository_of(folder: Path) -> Path:
    """The DVC repository that training was started in.

    Raises:
        ValueError: There is none, or the folder isn't in it.
    """
    here = Path.cwd()
    for root in (here, *here.parents):
        if (root / ".dvc").is_dir():
            if folder.resolve().is_relative_to(root):
                return root
            break
    raise ValueError(
        f"save_dvc_exp needs a DVC repository around {str(folder)!r} (git init, dvc init), and dir= inside it"
    )


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names of columns as keys: of several alike, all but the first get a number."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column} ({number})"
        names.append(name)
    return names


def _is_finite(cell: Any) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool) and cell - cell == 0


def _small(path: str | Path) -> str:
    return str(path).casefold()
