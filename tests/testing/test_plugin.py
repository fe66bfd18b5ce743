"""The kit's pytest plugin, and what the kit says of itself, as an author sees them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

KIT = """
import pytest
from runcast.testing import ReporterContract
from runcast.testing.memory import MemoryReporter

class Few(MemoryReporter):
    name = "few"
    log_image = MemoryReporter.__mro__[1].log_image
    log_table = MemoryReporter.__mro__[1].log_table

    def log_text(self, key, text, step, time):
        \"\"\"As a file.

        More of that.
        \"\"\"
        super().log_text(key, text, step, time)

    def set_summary(self, values):
        super().set_summary({key: str(value) for key, value in values.items()})

class TestFew(ReporterContract):
    def make_reporter(self, folder):
        return Few()
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs pytest on a file, in a process of its own where the plugin is loaded once."""

    def call(code: str, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(textwrap.dedent(code))
        known = (
            "import importlib.metadata as m; print(any(p.name == 'runcast' for p in m.entry_points(group='pytest11')))"
        )
        installed = subprocess.run([sys.executable, "-c", known], capture_output=True, text=True, check=True)
        plugin = [] if installed.stdout.strip() == "True" else ["-p", "runcast.testing.plugin"]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--strict-markers",
            *plugin,
            *options,
        ]
        return subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, text=True, check=False)

    return call


def test_capabilities_are_what_was_proven(run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """``--capabilities`` says yes, no or failed for each feature, how it goes there, and keeps what it says of others."""
    file = tmp_path / "capabilities.json"
    file.write_text(json.dumps({"other": {"metrics": {"result": "yes", "how": ""}}}))
    chosen = "texts or images or tables or results or all_points or exact or short_run or several"
    done = run(KIT, "--capabilities", str(file), "-k", chosen)
    assert done.returncode == 1, done.stdout
    found = json.loads(file.read_text())
    assert found["other"] == {"metrics": {"result": "yes", "how": ""}}
    assert found["few"] == {
        "metrics": {"result": "yes", "how": ""},
        "exact values": {"result": "yes", "how": ""},
        "texts": {"result": "yes", "how": "As a file."},
        "images": {"result": "no", "how": ""},
        "tables": {"result": "no", "how": ""},
        "summary": {"result": "failed", "how": ""},
    }


def test_what_is_not_supported_is_listed(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Skipped tests stand under the reporter's name, with the method that it doesn't override."""
    done = run(KIT, "-k", "images or tables")
    assert done.returncode == 0, done.stdout
    assert "few: not tested" in done.stdout
    assert "few doesn't override log_image (5 tests)" in done.stdout
    assert "few doesn't override log_table (4 tests)" in done.stdout


def test_standard_test_can_only_be_left_out_with_a_reason(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A test that is removed or replaced is a failure; one that is marked xfail, with a reason, isn't, and is listed."""
    without = """
    test_ten_thousand_points_all_arrive = None
    def test_all_points_arrive(self):
        pass
"""
    done = run(KIT + without, "-k", "left_out")
    assert (
        "removes or replaces standard tests: test_all_points_arrive, test_ten_thousand_points_all_arrive" in done.stdout
    )
    with_reason = """
    @pytest.mark.xfail(reason="results are texts")
    def test_results_keep_value_and_type(self, delivered):
        super().test_results_keep_value_and_type(delivered)
"""
    done = run(KIT + with_reason, "-k", "left_out or results_keep", "--capabilities", "found.json")
    assert done.returncode == 0, done.stdout
    assert "results are texts (1 test)" in done.stdout


def test_known_failure_is_no_capability(run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """A feature with a test that is known to fail isn't proven, whatever else passes; the reason says how far it goes."""
    with_reason = """
    @pytest.mark.xfail(reason="results are texts")
    def test_results_keep_value_and_type(self, delivered):
        super().test_results_keep_value_and_type(delivered)

    @pytest.mark.xfail(reason="results are texts")
    def test_no_result_is_added(self, delivered):
        super().test_no_result_is_added(delivered)
"""
    chosen = "results_keep or no_result or tags"
    done = run(KIT + with_reason, "-k", chosen, "--capabilities", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout
    found = json.loads((tmp_path / "found.json").read_text())["few"]
    assert found == {"tags": {"result": "yes", "how": ""}, "summary": {"result": "no", "how": "results are texts"}}


def test_reporter_without_a_reader_is_read_by_the_test(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """An author's `read` is asked in the process of the tests; without one, nothing is tested, and that is said."""
    code = (
        KIT
        + """
class Blind(MemoryReporter):
    name = "blind"
    read = MemoryReporter.__mro__[1].read
    idempotent = True

class TestBlind(ReporterContract):
    def make_reporter(self, folder):
        return Blind()

class TestSeen(TestBlind):
    def read(self, reporter, native):
        return MemoryReporter().read(native)
"""
    )
    done = run(code, "-k", "TestBlind and (texts or all_points)")
    assert "blind doesn't override read, and the test class doesn't say how to read back (7 tests)" in done.stdout
    done = run(code, "-k", "TestSeen and (texts or all_points or status or closing or at_once)")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_plugin_is_light_and_silent(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """In other people's test runs, it loads neither runcast nor anything else, and says nothing."""
    code = """
    import sys

    def test_other():
        loaded = [name for name in sys.modules if name.startswith("runcast.")]
        assert set(loaded) <= {"runcast.testing", "runcast.testing.plugin"}
        assert not {"torch", "numpy", "msgspec", "psutil", "rich"} & set(sys.modules)
    """
    done = run(code)
    assert done.returncode == 0, done.stdout
    assert "not tested" not in done.stdout


def test_skipped_module_of_another_is_none_of_its_business(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """A module that is skipped as a whole, as `pytest.importorskip` does, is pytest's to report."""
    done = run("import pytest\npytest.skip('not here', allow_module_level=True)\n", "-rs")
    assert "1 skipped" in done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_failures_explain_themselves(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A failure shows what was compared, as pytest's own rewritten asserts do, and a sentence on what is probably wrong."""
    broken = """
    def make_reporter(self, folder):
        class Cut(MemoryReporter):
            name = "cut"
            def log_text(self, key, text, step, time):
                super().log_text(key, text[:5], step, time)
        return Cut()
"""
    done = run(KIT + broken, "-k", "test_texts_are_whole")
    assert "a text is lost, moved or changed: does the tracker render it as Markdown or HTML?" in done.stdout
    assert "'first'" in done.stdout
