"""TensorBoard: event files that ``tensorboard --logdir runs`` shows, and that read back exactly.

    scalars      metrics; float32 as TensorBoard wants them, with the doubles beside them in a value its pages ignore
    images       the PNG files as they are
    histograms   counts and edges
    text         texts, tables, and under ``runcast/`` what TensorBoard has no other place for: the run itself, its
                 config, summary and artifacts, each a table that is written whole at step 0, so that the last one counts
    hparams      the config that the run started with, and how it ended

Artifacts are linked, or copied, into ``artifacts/`` beside the event files.

Each start writes a further event file, and never into an earlier one: what a killed process left unfinished there is at
the end of its file, where every reader stops.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import shutil
import socket
import time as clock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from runcast.events import RunStatus
from runcast.flatten import flatten, to_text
from runcast.media import link_or_copy, slug
from runcast.record import RunRecord, inside, merge
from runcast.reporter import Availability, LocalArtifact, NativeRun, Reporter, Requirement, RunInfo, offline, setting
from runcast.reporters._tensorboard_record import ARTIFACT, CONFIG, EXACT, OURS, RUN, SUMMARY, Stored
from runcast.reporters._versions import requirement
from runcast.trust import private

_PLUGIN = "runcast"  # no plugin of TensorBoard's, so that no page shows it

# How the event files are named that are ours to remove; one that ends so has nothing but how the run ended.
_SUFFIX = ".runcast"
_END = f".end{_SUFFIX}"
_STAMP = re.compile(r"events\.out\.tfevents\.(\d{10})\.")
_CHUNK = 1 << 20  # bytes of records that are kept in memory at most

# Channels by the colour type of a PNG: grey, RGB, palette (RGB), grey with alpha, RGBA.
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class TensorBoardReporter(Reporter):
    """Writes event files to ``<run folder>/tensorboard``, or to ``<logdir>/<run id>``.

    Args:
        logdir: A local folder for the runs. Default: ``$TENSORBOARD_LOGGING_DIR``, else inside the run folder.
    """

    name: ClassVar[str] = "tensorboard"
    requires: ClassVar[Requirement] = requirement("tensorboard")

    def __init__(self, logdir: str | None = None) -> None:
        self._logdir = logdir

    @classmethod
    def availability(cls) -> Availability:
        where = os.environ.get("TENSORBOARD_LOGGING_DIR")
        reason = f"event files in {where}" if where else "event files in the run folder: tensorboard --logdir runs"
        return offline(super().availability(), reason, mode="local")

    # -- writing ---------------------------------------------------------------------------------------------------

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        return self._start(run, self._logdir_of(attach), fresh=attach is None)

    def replace(self, run: RunInfo, old: NativeRun) -> NativeRun | None:
        return self._start(run, self._logdir_of(old), fresh=True)

    def _logdir_of(self, attach: NativeRun | None) -> Path | None:
        """The folder for the runs; None for a run whose event files are in its run folder.

        Raises:
            ValueError: It isn't local, or the run began in another. Only the user says where we write.
        """
        wanted = setting(self._logdir, "TENSORBOARD_LOGGING_DIR", "")
        if "://" in wanted:
            raise ValueError(
                f"the log folder is {wanted!r}; expected a local folder (logdir=, $TENSORBOARD_LOGGING_DIR)"
            )
        now = Path(wanted).absolute() if wanted else None
        if attach is None:
            return now
        began = attach.data.get("logdir")
        if began is not None and began != str(now):
            raise ValueError(
                f"the run's event files are below {began!r}; to go on there, say so: logdir=, $TENSORBOARD_LOGGING_DIR"
            )
        return now if began else None

    def _start(self, run: RunInfo, logdir: Path | None, *, fresh: bool) -> NativeRun:
        self._folder = _folder_for(run, logdir)
        if fresh:
            _remove_ours(self._folder)
        for path in self._folder.glob(f"*{_END}"):  # it goes on, and TensorBoard believes the first end that it finds
            path.unlink()
        stored = Stored(self._folder)
        self._kinds = stored.kinds
        self._config, self._summary, self._tags = stored.record.config, stored.record.summary, stored.record.tags
        self._run = {
            "id": run.run_id,
            "name": run.name,
            "project": run.project,
            "group": run.group,
            "started": run.started,
        }
        self._file = _EventFile(self._folder)
        if not stored.ours:
            self._write_hparams(run)
        self._write_run("running")
        self.flush()
        where = f"tensorboard --logdir {shlex.quote(str(logdir or run.dir.parent))}"
        return NativeRun(run.run_id, where, {"dir": str(self._folder), "logdir": logdir and str(logdir)})

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2

        values = []
        for name, value in metrics.items():
            tag = self._tag(name, "metric")
            entry = summary_pb2.Summary.Value(tag=tag, simple_value=value)
            if tag != name:
                entry.metadata.display_name = name
            values.append(entry)
        exact = summary_pb2.Summary.Value(
            tag=EXACT, tensor=tensor_pb2.TensorProto(dtype=types_pb2.DT_DOUBLE, double_val=metrics.values())
        )
        exact.tensor.tensor_shape.dim.add(size=len(values))
        exact.metadata.plugin_data.plugin_name = _PLUGIN
        self._write(step, time, [*values, exact])

    def log_config(self, config: Mapping[str, Any]) -> None:
        """On the text page, as a table; what the run starts with on the hparams page too."""
        self._config = merge(self._config, dict(config))
        self._write_ours(CONFIG, flatten(self._config))

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._write(step, time, [_text(self._tag(key, "text"), key, [text], [])])

    def log_table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int, time: float
    ) -> None:
        """On the text page."""
        cells = [*columns, *(to_text(cell) for row in rows for cell in row)]
        self._write(step, time, [_text(self._tag(key, "table"), key, cells, [len(rows) + 1, len(columns)])])

    def log_image(self, key: str, image: Path, step: int, time: float) -> None:
        from tensorboard.compat.proto import summary_pb2

        data = image.read_bytes()
        entry = summary_pb2.Summary.Value(
            tag=self._tag(key, "image"),
            image=summary_pb2.Summary.Image(
                width=int.from_bytes(data[16:20], "big"),
                height=int.from_bytes(data[20:24], "big"),
                colorspace=_CHANNELS[data[25]],
                encoded_image_string=data,
            ),
        )
        entry.metadata.display_name = key
        self._write(step, time, [entry])

    def log_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int, time: float) -> None:
        from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2
        from tensorboard.plugins.histogram import metadata

        buckets = [number for bucket in zip(edges, edges[1:], counts, strict=False) for number in bucket]
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_DOUBLE, double_val=buckets)
        for size in (len(counts), 3):
            tensor.tensor_shape.dim.add(size=size)
        labels = metadata.create_summary_metadata(display_name=key, description="")
        entry = summary_pb2.Summary.Value(tag=self._tag(key, "histogram"), metadata=labels, tensor=tensor)
        self._write(step, time, [entry])

    def log_artifact(self, artifact: LocalArtifact, step: int | None, time: float) -> None:
        """Linked or copied beside the event files, with a table on the text page."""
        version = hashlib.sha256(f"{artifact.name}\0{time!r}".encode()).hexdigest()[:8]
        folder = f"artifacts/{slug(artifact.name)}-{version}"
        for file in artifact.files:
            target = inside(inside(self._folder, folder), file.path)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # what a courier that died may have left half done
            link_or_copy(artifact.file_path(file), target, link=True)
        rows = {
            "kind": artifact.kind,
            "step": step,
            "metadata": artifact.metadata,
            "folder": folder,
            **{f"file {file.path}": [file.size, file.sha256] for file in artifact.files},
        }
        self._write_ours(f"{ARTIFACT}{artifact.name}", rows, time)

    def set_summary(self, values: Mapping[str, Any]) -> None:
        """On the text page, as a table."""
        self._summary = {**self._summary, **values}
        self._write_ours(SUMMARY, self._summary)

    def add_tags(self, tags: Sequence[str]) -> None:
        """On the text page, in the table of the run."""
        self._tags = tuple(sorted({*self._tags, *tags}))
        self._write_run("running")

    def flush(self) -> None:
        self._file.flush()

    def close(self, status: RunStatus) -> None:
        """On the text page, in the table of the run; the hparams page knows success and failure."""
        if self._file.closed:
            return
        self._write_run(status)
        self.flush()
        self._file.close()
        self._write_session_end(status)

    def _write(self, step: int, time: float, values: Sequence[Any]) -> None:
        self._file.write(_event(step, time, values))

    def _tag(self, key: str, kind: str) -> str:
        """What TensorBoard calls it: there a tag is of one kind for ever, and ``runcast/`` is ours."""
        tag = f"~{key}" if key.lstrip("~").startswith(OURS) else key
        return tag if self._kinds.setdefault(tag, kind) == kind else f"{tag} ({kind})"

    def _write_ours(self, tag: str, rows: Mapping[str, Any], time: float | None = None) -> None:
        cells = ["name", "value"]
        for name, value in rows.items():
            cells += [name, to_text(value)]
        self._write(0, clock.time() if time is None else time, [_text(tag, "", cells, [len(rows) + 1, 2])])

    def _write_run(self, status: RunStatus) -> None:
        finished = None if status == "running" else clock.time()
        self._write_ours(RUN, {**self._run, "tags": self._tags, "status": status, "finished": finished})

    def _write_hparams(self, run: RunInfo) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        flat = {name: _hparam(value) for name, value in flatten(run.config).items()}
        summary = hparams_pb(flat, trial_id=run.run_id, start_time_secs=run.started)
        self._write(0, run.started, summary.value)

    def _write_session_end(self, status: RunStatus) -> None:
        from tensorboard.compat.proto import summary_pb2
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        word = api_pb2.STATUS_SUCCESS if status == "completed" else api_pb2.STATUS_FAILURE
        now = clock.time()
        end = plugin_data_pb2.SessionEndInfo(status=word, end_time_secs=now)
        labels = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        entry = summary_pb2.Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG, metadata=labels, tensor=metadata.NULL_TENSOR
        )
        file = _EventFile(self._folder, _END)
        file.write(_event(0, now, [entry]))
        file.flush()
        file.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, native: NativeRun) -> RunRecord:
        stored = Stored(Path(native.data["dir"]))
        stored.tell_what_is_left_out()
        return stored.record

    def find_runs(self, source: str) -> Sequence[NativeRun]:
        """Every folder with event files, at or below a path; TensorBoard takes each for a run too."""
        root = Path(source).absolute()
        files = [root] if root.is_file() else sorted(root.rglob("*tfevents*"))
        folders = dict.fromkeys(path.parent for path in files if "tfevents" in path.name)
        if not folders:
            raise LookupError(
                f"no event files (*tfevents*) in {source!r}; expected a log folder, a run's folder or a file"
            )
        return [NativeRun(str(folder), data={"dir": str(folder)}) for folder in folders]


def _folder_for(run: RunInfo, logdir: Path | None) -> Path:
    """The folder of a run's event files, made if need be, private to the user.

    Raises:
        ValueError: It would be none of its own: the run folder may come from a stranger.
    """
    if logdir is None:
        folder = run.dir / "tensorboard"
    elif run.run_id in ("", ".", "..") or Path(run.run_id).name != run.run_id:
        raise ValueError(f"the run id {run.run_id!r} is no name for a folder")
    else:
        folder = logdir / run.run_id
        logdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (folder, folder / "artifacts"):
        if path.is_symlink():
            raise ValueError(f"{path} is a link: TensorBoard's files are not written through links")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _remove_ours(folder: Path) -> None:
    """Removes what was written of the run before."""
    for path in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
        path.unlink()
    if (folder / "artifacts").exists():
        shutil.rmtree(folder / "artifacts")


class _EventFile:
    """A new event file, of whole records: one that a full disk cuts off is taken back, and written by the next `flush`."""

    def __init__(self, folder: Path, suffix: str = _SUFFIX) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads the files of a folder in the order of their names: this one is the last, whatever the clock says.
        stamps = [int(found[1]) for path in folder.iterdir() if (found := _STAMP.match(path.name))]
        stamp = max([int(clock.time()), *(stamp + 1 for stamp in stamps)])
        name = f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self._file = open(folder / name, "xb", buffering=0, opener=private)  # noqa: SIM115 -- open as long as the run
        self._end = 0
        self._waiting = io.BytesIO()
        self._records = RecordWriter(self._waiting)
        self.write(event_pb2.Event(wall_time=clock.time(), file_version="brain.Event:2"))

    def write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        if self._waiting.tell() > _CHUNK:
            self._append()

    def flush(self) -> None:
        self._append()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def _append(self) -> None:
        data = memoryview(self._waiting.getvalue())
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise
        self._end = self._file.tell()
        self._waiting.seek(0)
        self._waiting.truncate()


def _event(step: int, time: float, values: Sequence[Any]) -> Any:
    from tensorboard.compat.proto import event_pb2, summary_pb2

    return event_pb2.Event(wall_time=time, step=step, summary=summary_pb2.Summary(value=values))


def _text(tag: str, key: str, cells: Sequence[str], shape: Sequence[int]) -> Any:
    """A value of the text page; one of shape (rows, columns) is shown as a table."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2
    from tensorboard.plugins.text import metadata

    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[cell.encode() for cell in cells])
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if not shape:
        tensor.tensor_shape.SetInParent()
    labels = metadata.create_summary_metadata(display_name=key, description="")
    return summary_pb2.Summary.Value(tag=tag, metadata=labels, tensor=tensor)


def _hparam(value: Any) -> bool | int | float | str:
    """A setting as the hparams page takes it: JSON numbers, and so neither NaN nor great integers, or text."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) <= 2**53:  # false for NaN
        return value
    return to_text(value)
