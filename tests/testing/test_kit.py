"""The conformance kit, tried on reporters that are known to be healthy, and on some that are known not to be."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import pytest

from runcast.testing.contract.guard import standard_tests

HERE = Path(__file__).parent


def _load(name: str):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


faulty = _load("faulty")


class Outcome(NamedTuple):
    """What became of a test: passed, failed, error or skipped; and the words."""

    state: str
    words: str


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One in which the reporters that are to be registered have an entry point."""
    site = tmp_path_factory.mktemp("site")
    metadata = site / "faulty-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    registered = [faulty.Healthy, *(cls for cls in faulty.ALL if cls.registered)]
    lines = [f"{cls.name} = faulty:{cls.__name__}" for cls in registered]
    (metadata / "entry_points.txt").write_text("\n".join(["[runcast.reporters]", *lines]) + "\n")
    path = os.pathsep.join([str(HERE), str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


Outcomes = dict[tuple[str, str], Outcome]


def _start(environment: dict[str, str], folder: Path, tests: list[str]) -> subprocess.Popen[str]:
    """Runs tests of the kit in a process of its own."""
    folder.mkdir()
    chosen = folder / "tests"
    chosen.write_text("\n".join(f"{HERE / 'kit.py'}::{test}" for test in tests))
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--rootdir={HERE}", "-c", os.devnull]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={folder / 'results.xml'}", f"@{chosen}"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _outcomes(results: Path) -> Outcomes:
    """(class, test) → outcome."""
    found = {}
    for case in ElementTree.parse(results).iter("testcase"):
        state, words = "passed", ""
        for kind, name in (("failure", "failed"), ("error", "error"), ("skipped", "skipped")):
            if (node := case.find(kind)) is not None:
                state, words = name, f"{node.attrib.get('message', '')}\n{node.text or ''}"
        found[case.attrib["classname"].rpartition(".")[2], case.attrib["name"]] = Outcome(state, words)
    return found


@pytest.fixture(scope="module")
def outcomes(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """All tests on the healthy reporters; on each faulty one the tests that have to catch it."""
    folder = tmp_path_factory.mktemp("kit")
    caught = [f"Test{cls.__name__}::{test}" for cls in faulty.ALL for test in cls.caught_by]
    processes = {
        name: _start(environment, folder / name, tests)
        for name, tests in {"healthy": ["TestMemory", "TestHealthy"], "caught": caught}.items()
    }
    found: Outcomes = {}
    for name, process in processes.items():
        output, _ = process.communicate()
        assert process.returncode in (0, 1), output
        found |= _outcomes(folder / name / "results.xml")
    return found


def test_healthy_reporter_passes_everything(outcomes: Outcomes) -> None:
    """With a courier process of its own, no test fails, and none is skipped."""
    found = {test: outcome for (cls, test), outcome in outcomes.items() if cls == "TestHealthy"}
    assert {test: outcome for test, outcome in found.items() if outcome.state != "passed"} == {}
    assert {test.partition("[")[0] for test in found} == set(standard_tests())
    assert len(found) >= 50


def test_reporter_in_memory_passes_everything(outcomes: Outcomes) -> None:
    """In a thread of training, the tests are skipped that kill a process, or make the reporter anew in another."""
    found = {test: outcome for (cls, test), outcome in outcomes.items() if cls == "TestMemory"}
    skipped = sorted(test for test, outcome in found.items() if outcome.state == "skipped")
    assert skipped == [
        "test_killed_courier_goes_on",
        "test_killed_process_leaves_all_points_and_the_status_crashed",
        "test_runcast_verify_agrees",
        "test_what_was_flushed_survives_a_sigkill",
    ]
    assert {test: o for test, o in found.items() if o.state not in ("passed", "skipped")} == {}


@pytest.mark.parametrize("cls", faulty.ALL, ids=lambda cls: cls.__name__)
def test_fault_is_caught(cls: type, outcomes: Outcomes) -> None:
    """The tests that have to catch a fault fail with a message, and pass on the healthy reporter."""
    assert cls.caught_by
    for test in cls.caught_by:
        outcome = outcomes[f"Test{cls.__name__}", test]
        assert outcome.state == "failed", f"{test}: {outcome}"
        assert outcome.words.startswith("AssertionError: ") or "Failed: " in outcome.words, outcome.words[:500]
        assert len(outcome.words.split("\n")[0]) > 30, "the message doesn't say what is wrong"
        assert outcomes["TestHealthy", test].state == "passed"


def test_every_test_catches_something(outcomes: Outcomes) -> None:
    """But for those about the kit itself, each test of the kit is tripped by a faulty reporter."""
    tests = {test for cls, test in outcomes if cls == "TestHealthy"}
    tripping = {test for cls in faulty.ALL for test in cls.caught_by}
    assert tests - tripping == {
        "test_no_standard_test_is_left_out",  # tripped in test_plugin.py
        "test_run_has_something_of_everything",  # the kit's own
    }
    assert tripping <= tests


def test_faults_are_many_and_documented() -> None:
    """There are at least 25, each with a sentence."""
    assert len(faulty.ALL) >= 25
    assert all(re.fullmatch(r"[^\n]+\.", cls.__doc__) for cls in faulty.ALL)
