"""Reads a reporter's runs back in a process of its own, as `runcast verify` does, and brings the records here.

A record's files are read there too, so that it says what the tracker really has, and is whole when that is gone.
"""

from __future__ import annotations

import functools
import pickle
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from runcast.hosts import python_process, reporter_of, spec_of
from runcast.record import Content, RunRecord
from runcast.reporter import NativeRun, Reporter


@dataclass
class ReadBack:
    """What reading gave.

    Attributes:
        records: One for each native run; an error in words where it couldn't be read.
        imported: The same run found by `Reporter.find_runs`, and by which source; None if it found nothing.
        sought: What each source gave, in words.
    """

    records: list[RunRecord | str] = field(default_factory=list)
    imported: tuple[str, RunRecord] | None = None
    sought: list[str] = field(default_factory=list)


def read_in_process(
    reporter: Reporter, run_dir: Path, natives: Sequence[NativeRun], result: Path, sources: Sequence[str] = ()
) -> ReadBack:
    """Makes the same reporter in a process of its own, and reads there.

    Args:
        run_dir: Any of the run folders.
        result: A file for the answer.
        sources: What to ask `Reporter.find_runs` for, until one has the first of `natives`.

    Raises:
        RuntimeError: The process failed; with its output.
    """
    spec = spec_of(reporter, run_dir)
    spec |= {"natives": msgspec.to_builtins(list(natives)), "result": str(result), "sources": list(sources)}
    process = python_process(f"{__name__}:main", spec, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(
            f"reading back ended with exit code {process.returncode}:\n{output.decode(errors='replace')}"
        )
    back: ReadBack = load(result)
    return back


def main(spec: dict[str, Any]) -> None:
    """The main function of that process."""
    reporter = reporter_of(spec)
    natives = [msgspec.convert(native, NativeRun) for native in spec["natives"]]
    save(read_here(reporter.read, reporter.find_runs, natives, spec["sources"]), Path(spec["result"]))


def read_here(
    read: Callable[[NativeRun], RunRecord],
    find_runs: Callable[[str], Sequence[NativeRun]],
    natives: Sequence[NativeRun],
    sources: Sequence[str] = (),
) -> ReadBack:
    """Reads in this process."""
    back = ReadBack()
    for native in natives:
        try:
            back.records.append(whole(read(native)))
        except Exception as error:  # whatever an SDK raises
            back.records.append(f"{type(error).__name__}: {error}")
    if sources and isinstance(back.records[0], RunRecord):
        _find(read, find_runs, back.records[0].run_id, sources, back)
    return back


def _find(
    read: Callable[[NativeRun], RunRecord],
    find_runs: Callable[[str], Sequence[NativeRun]],
    run_id: str,
    sources: Sequence[str],
    back: ReadBack,
) -> None:
    for source in sources:
        try:
            found = [read(native) for native in find_runs(source)]
        except Exception as error:  # it may well be another of the sources
            back.sought.append(f"{source}: {type(error).__name__}: {error}")
            continue
        same = [record for record in found if record.run_id == run_id]
        if same:
            back.imported = source, whole(same[0])
            return
        back.sought.append(f"{source}: the run is not among the {len(found)} there")


def whole(record: RunRecord) -> RunRecord:
    """The record with the files' bytes in it, sizes and hashes being those of the bytes."""
    images = {
        key: [point._replace(image=_whole(point.image)) for point in points] for key, points in record.images.items()
    }
    artifacts = {
        name: replace(artifact, files={path: _whole(content) for path, content in artifact.files.items()})
        for name, artifact in record.artifacts.items()
    }
    return replace(record, images=images, artifacts=artifacts)


def _whole(content: Content) -> Content:
    data = content.read()
    return replace(Content.of_bytes(data), read=functools.partial(bytes, data))  # which can be pickled


def save(value: Any, path: Path) -> None:
    """Writes what a process of the kit has to say."""
    path.write_bytes(pickle.dumps(value))


def load(path: Path) -> Any:
    """What a process of the kit said."""
    return pickle.loads(path.read_bytes())  # noqa: S301 -- our own process wrote it, into a test's own folder
