"""Verification: reads every tracker back and compares it with the journal, number by number.

Each tracker is read in a process of its own, because the SDKs hook each other. What a reporter does not support is
named, never counted as matched.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from runcast.delivery import TrackerState, load_state, states
from runcast.flatten import flatten
from runcast.folder import read_run
from runcast.hosts import python_process, reporter_of, spec_of
from runcast.record import ArtifactRecord, RunRecord
from runcast.redact import masked, secrets_of_environment
from runcast.registry import reporter_class
from runcast.reporter import Reporter

TIME_TOLERANCE = 0.0015
"""Seconds: several trackers keep whole milliseconds."""
_SHOWN = 100

# Kind of data → the reporter's method that must be overridden for the tracker to hold it.
KINDS: dict[str, str] = {
    "metrics": "log_metrics",
    "config": "log_config",
    "texts": "log_text",
    "images": "log_image",
    "tables": "log_table",
    "histograms": "log_histogram",
    "artifacts": "log_artifact",
    "summary": "set_summary",
    "tags": "add_tags",
    "status": "close",
}


class Tally(msgspec.Struct, frozen=True):
    """How many values of a kind match, out of how many in the journal."""

    matched: int
    total: int


class Verification(msgspec.Struct, frozen=True):
    """What the comparison of one tracker with the journal gave.

    Attributes:
        compared: Kind of data → tally. Metrics are counted by point, config by leaf.
        differences: In words, the first hundred.
        unsupported: Kinds that the journal has and the tracker has no place for.
        error: Why the tracker could not be read.
    """

    name: str
    compared: dict[str, Tally] = {}
    differences: list[str] = []
    unsupported: list[str] = []
    error: str | None = None

    @property
    def matches(self) -> bool:
        """Whether the tracker has what the journal has, and nothing else."""
        return self.error is None and not self.differences


def verify(run_dir: Path, names: Iterable[str] | None = None) -> list[Verification]:
    """Compares trackers with the journal of a run.

    Args:
        run_dir: The run folder.
        names: Which trackers; default: all that the run was reported to and that can be read back.
    """
    chosen = [state for state in states(run_dir) if state.state != "removed" and (names is None or state.name in names)]
    missing = set(names or ()) - {state.name for state in chosen}
    processes = [(state, _start(run_dir, state)) for state in chosen if names is not None or _readable(state)]
    results = [_result(state, process) for state, process in processes]
    return results + [Verification(name, error="this run was not reported to it") for name in sorted(missing)]


def _readable(state: TrackerState) -> bool:
    try:
        return reporter_class(state.name).supports("read")
    except Exception:  # an unregistered reporter of the user's own
        return False


def _start(run_dir: Path, state: TrackerState) -> subprocess.Popen[bytes] | Exception:
    try:
        reporter = reporter_class(state.name)(**state.options)
        spec = spec_of(reporter, run_dir)
        return python_process("runcast.verify:verify_process", spec, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except Exception as error:  # an unknown name, options that no longer fit
        return error


def _result(state: TrackerState, process: subprocess.Popen[bytes] | Exception) -> Verification:
    if isinstance(process, Exception):
        return Verification(state.name, error=str(process))
    out, err = process.communicate()
    # SDKs print; the answer is the last line.
    try:
        return msgspec.json.decode(out.strip().rsplit(b"\n", 1)[-1], type=Verification)
    except msgspec.MsgspecError:
        words = err.decode(errors="replace").strip().splitlines() or ["no output"]
        said = masked(words[-1], secrets_of_environment())
        return Verification(state.name, error=f"reading it back ended with exit code {process.returncode}: {said}")


def verify_process(spec: dict[str, Any]) -> None:
    """The main function of the process that reads one tracker back."""
    result = verify_tracker(Path(spec["run_dir"]), reporter_of(spec))
    sys.stdout.flush()
    sys.__stdout__.buffer.write(b"\n" + msgspec.json.encode(result) + b"\n")  # type: ignore[union-attr]  # a pipe
    sys.__stdout__.flush()  # type: ignore[union-attr]  # as above


def verify_tracker(run_dir: Path, reporter: Reporter) -> Verification:
    """Reads one tracker back, in this process, and compares it with the journal."""
    state = load_state(run_dir, reporter.name)
    if state is None or state.native is None:
        return Verification(reporter.name, error="nothing was delivered yet")
    try:
        found = reporter.read(state.native)
    except Exception as error:  # whatever an SDK raises
        return Verification(
            reporter.name, error=f"{type(error).__name__}: {masked(str(error), secrets_of_environment())}"
        )
    return compare(reporter.name, read_run(run_dir), found, _supported(type(reporter)))


def _supported(cls: type[Reporter]) -> set[str]:
    supported = {kind for kind, method in KINDS.items() if cls.supports(method)}
    return supported | ({"metrics"} if cls.supports("log_metrics_batch") else set())


def compare(name: str, expected: RunRecord, found: RunRecord, kinds: Iterable[str] = tuple(KINDS)) -> Verification:
    """Compares two records.

    Args:
        name: Of the tracker, for the result.
        expected: What the journal says.
        found: What the tracker has.
        kinds: What the tracker can hold, of `KINDS`.
    """
    wanted, tracker = _items(expected), _items(found)
    supported = set(kinds)
    compared: dict[str, Tally] = {}
    differences: list[str] = []
    for kind in KINDS:
        if kind not in supported:
            continue
        matched = 0
        for key in sorted({*wanted[kind], *tracker[kind]}):
            good, words = _compare_series(wanted[kind].get(key, []), tracker[kind].get(key, []))
            matched += good
            differences += [f"{kind} {key}: {word}" if key else f"{kind}: {word}" for word in words]
        compared[kind] = Tally(matched, sum(map(len, wanted[kind].values())))
    unsupported = [kind for kind in KINDS if kind not in supported and wanted[kind]]
    return Verification(name, compared, differences[:_SHOWN], unsupported)


def _items(record: RunRecord) -> dict[str, dict[str, list[Any]]]:
    """A record as kind → key → list of comparable values."""
    return {
        "metrics": dict(record.metrics),
        "config": {key: [value] for key, value in flatten(record.config).items()},
        "texts": dict(record.texts),
        "images": dict(record.images),
        "tables": dict(record.tables),
        "histograms": dict(record.histograms),
        "artifacts": {name: [_artifact(artifact)] for name, artifact in record.artifacts.items()},
        "summary": {key: [value] for key, value in record.summary.items()},
        "tags": {tag: [tag] for tag in record.tags},
        "status": {"": [record.status]},
    }


def _artifact(artifact: ArtifactRecord) -> dict[str, Any]:
    files = {path: (content.size, content.sha256) for path, content in artifact.files.items()}
    return {"kind": artifact.kind, "files": files, "metadata": artifact.metadata}


def _compare_series(wanted: Sequence[Any], found: Sequence[Any]) -> tuple[int, list[str]]:
    """How many values match, and the differences in words. Order within a step is the order of logging."""
    if len(wanted) > 1 or len(found) > 1:
        wanted, found = sorted(wanted, key=_by_step), sorted(found, key=_by_step)
    words = []
    matched = 0
    for expected, actual in zip(wanted, found, strict=False):
        if same(expected, actual):
            matched += 1
        else:
            words.append(f"expected {_short(expected)}, found {_short(actual)}")
    if len(found) < len(wanted):
        words.append(f"{len(wanted) - len(found)} of {len(wanted)} missing, the first {_short(wanted[len(found)])}")
    if len(found) > len(wanted):
        words.append(f"{len(found) - len(wanted)} too many, the first {_short(found[len(wanted)])}")
    return matched, words


def _by_step(point: Any) -> tuple[int, int]:
    return (point.step, round(point.time * 1000))


def same(expected: Any, found: Any) -> bool:
    """Equality in which NaN equals NaN, sequences compare by element, and a point's time has a tolerance."""
    if hasattr(expected, "step") and hasattr(found, "step"):
        # The last field of every kind of point is its time.
        return same(expected[:-1], found[:-1]) and abs(expected.time - found.time) <= TIME_TOLERANCE
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, float) and isinstance(found, float) and math.isnan(expected):
        return math.isnan(found)
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return expected.keys() == found.keys() and all(same(value, found[key]) for key, value in expected.items())
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return len(expected) == len(found) and all(map(same, expected, found))
    return bool(expected == found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"
