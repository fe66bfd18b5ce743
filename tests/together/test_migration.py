"""Every tracker's runs move to every other tracker: imported from what the one stored, replayed, read back from the other."""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

import runcast
from runcast.reporter import Reporter
from runcast.registry import reporter_class
from runcast.testing import canonical
from runcast.testing.contract import PATIENCE
from runcast.verify import KINDS, Verification, compare, verify

from .trackers import TOGETHER

PAIRS = list(permutations(TOGETHER, 2))
pytestmark = pytest.mark.timeout(3000)  # the first test of each fixture waits for dozens of couriers


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with something of everything, in every tracker."""
    folder = tmp_path_factory.mktemp("origin")
    with runcast.start_run(
        TOGETHER,
        project="migration",
        name="the run",
        group="those that move",
        config=canonical.CONFIG,
        dir=folder / "runs",
        finish_timeout=PATIENCE,
        strict=True,
    ) as run:
        canonical.log_everything(run, folder / "files")
        canonical.log_odd_names(run)
    assert run.dir is not None
    return run.dir


def stored_at(run_dir: Path, tracker: str) -> str:
    """What a user would name to import the run from where a tracker keeps it by default."""
    beside = {"mlflow": "mlflow.db", "trackio": "trackio", "aim": ""}
    return str(run_dir.parent / beside[tracker] if tracker in beside else run_dir / tracker)


def command(*arguments: str) -> None:
    """Runs ``runcast`` in a process of its own: the SDKs hook each other."""
    done = subprocess.run(
        [sys.executable, "-m", "runcast", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def imported(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run folder that was made from what each tracker stored."""
    found = {}
    for tracker in TOGETHER:
        parent = tmp_path_factory.mktemp(f"from-{tracker}")
        command("import", tracker, stored_at(origin, tracker), "--dir", str(parent))
        (found[tracker],) = (path.parent for path in parent.glob("*/journal.jsonl"))
    return found


@pytest.fixture(scope="module")
def verified(imported: dict[str, Path]) -> dict[str, dict[str, Verification]]:
    """What each tracker has of the run that came from each other one."""
    found = {}
    for source, run_dir in imported.items():
        others = [name for name in TOGETHER if name != source]
        command("replay", str(run_dir), "--to", ",".join(others), "--timeout", str(PATIENCE))
        found[source] = {result.name: result for result in verify(run_dir, others)}
    return found


def kinds_of(cls: type[Reporter]) -> set[str]:
    return {kind for kind, method in KINDS.items() if cls.supports(method)} | {"metrics"}


@pytest.mark.parametrize("source", TOGETHER)
def test_import_has_what_was_logged(source: str, origin: Path, imported: dict[str, Path]) -> None:
    """All that the tracker has a place for is in the run folder again, as it was logged at first."""
    first, again = runcast.read_run(origin), runcast.read_run(imported[source])
    result = compare(source, first, again, kinds_of(reporter_class(source)))
    assert result.differences == []
    about = ("run_id", "name", "project", "group")
    assert [getattr(again, name) for name in about] == [getattr(first, name) for name in about]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_run_moves(source: str, target: str, origin: Path, verified: dict[str, dict[str, Verification]]) -> None:
    """The other tracker has the run, record by record."""
    result = verified[source][target]
    assert result.error is None
    assert result.differences == []
    assert result.compared["metrics"].total == sum(map(len, runcast.read_run(origin).metrics.values()))
