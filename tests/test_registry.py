"""Which reporters there are, and what `report_to` means."""

from __future__ import annotations

import pytest

import runcast
from runcast import registry
from runcast.errors import MissingDependencyError, UnknownTrackerError
from runcast.reporter import Reporter, Requirement
from runcast.reporters.console import ConsoleReporter


class Plain(Reporter):
    name = "plain"

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def log_metrics(self, metrics, step, time):
        pass


class Absent(Plain):
    name = "absent"
    requires = Requirement("no-such-distribution", "no_such_module", "1.0", "2.0")


class Old(Plain):
    name = "old"
    requires = Requirement("msgspec", "msgspec", "999", "999", extra="old")


class New(Plain):
    name = "new"
    requires = Requirement("msgspec", "msgspec", "0.1", "0.2")


class OfAnotherPython(Plain):
    name = "of-another-python"
    requires = Requirement("no-such-distribution", "no_such_module", "1.0", "2.0", "another", python_below="3.11")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_registered", {})


def names(report_to):
    return [reporter.name for reporter in runcast.resolve_report_to(report_to)]


@pytest.mark.parametrize("nothing", ["none", None, [], "", ["none"]])
def test_none_is_nothing(nothing):
    """`"none"`, None and an empty list are no reporters."""
    assert names(nothing) == []


@pytest.mark.parametrize(
    "one",
    [
        "console",
        " console ",
        ["console"],
        {"console": None},
        {"console": {}},
        ConsoleReporter,
        ConsoleReporter(),
        ["console", "console", ConsoleReporter],
    ],
)
def test_one_reporter_by_any_way_of_asking(one):
    """A name, a list, a mapping, a class and an instance all mean the reporter, once."""
    assert names(one) == ["console"]


def test_ways_of_asking_mix():
    """Names, options, classes and instances stand side by side, in order."""
    registry.register_reporter(Plain)
    assert names(["console", {"plain": {"size": 2}}]) == ["console", "plain"]
    assert names("console, plain") == ["console", "plain"]
    instance = Plain(size=3)
    assert runcast.resolve_report_to(["console", instance])[1] is instance


def test_options_reach_the_reporter():
    """A mapping's options are the constructor's; wrong ones are named."""
    registry.register_reporter(Plain)
    (reporter,) = runcast.resolve_report_to({"plain": {"size": 5}})
    assert reporter.size == 5
    assert reporter.options == {"size": 5}
    with pytest.raises(TypeError, match="'plain' doesn't take these options.*colour"):
        runcast.resolve_report_to({"plain": {"colour": "red"}})


def test_options_win_over_a_bare_name():
    """Beside the bare name, in either order, the more explicit wish counts."""
    registry.register_reporter(Plain)
    for report_to in (["plain", {"plain": {"size": 5}}], [{"plain": {"size": 5}}, "plain"]):
        (reporter,) = runcast.resolve_report_to(report_to)
        assert reporter.size == 5


def test_all_takes_what_is_ready_and_leaves_out_the_rest():
    """`"all"` has registered reporters that can run, not missing ones, not the console, and each once."""
    registry.register_reporter(Plain)
    registry.register_reporter(Absent)
    found = names("all")
    assert "plain" in found
    assert "absent" not in found
    assert "console" not in found
    assert sorted(names(["all", "plain", "console"])) == sorted([*found, "console"])


def test_unknown_name_is_a_value_error_with_the_nearest():
    """A misspelt tracker is answered with the known names and the one that was meant."""
    with pytest.raises(ValueError, match="no tracker is called 'consle'. Did you mean 'console'") as caught:
        names("consle")
    assert isinstance(caught.value, UnknownTrackerError)
    assert "tensorboard" in str(caught.value)


def test_missing_tracker_is_an_error_with_the_pip_line():
    """A known tracker that isn't installed, or is too old, says how to install it."""
    registry.register_reporter(Absent)
    registry.register_reporter(Old)
    with pytest.raises(MissingDependencyError, match=r'pip install "no-such-distribution>=1.0"'):
        names("absent")
    with pytest.raises(ImportError, match=r'older than 999: pip install "runcast\[old\]"'):
        names("old")


def test_tracker_that_has_no_release_for_this_python_says_so():
    """A pip line that would install nothing is of no help."""
    registry.register_reporter(OfAnotherPython)
    with pytest.raises(MissingDependencyError, match=r"it needs a Python before 3\.11, and this is 3\.\d+$"):
        names("of-another-python")


@pytest.mark.parametrize("report_to", [["none", "console"], "none,console", ["all", "none"]])
def test_none_beside_others_is_an_error(report_to):
    """Nothing and something at once is a contradiction."""
    with pytest.raises(ValueError, match='"none" beside'):
        names(report_to)


@pytest.mark.parametrize("nonsense", [7, 1.5, object(), [7]])
def test_nonsense_is_a_type_error(nonsense):
    """What is neither name nor reporter is refused with what was expected."""
    with pytest.raises(TypeError, match="expected"):
        names(nonsense)


def test_aliases_fold():
    """The names that transformers uses mean the same reporter."""
    assert registry.reporter_class("comet_ml") is registry.reporter_class("comet")


def test_availability_says_why():
    """Detection has a status, a reason and a version for each reporter."""
    for cls in (Plain, Absent, Old, New):
        registry.register_reporter(cls)
    found = {availability.name: availability for availability in runcast.available_reporters()}
    assert found["plain"].status == "ready"
    assert found["absent"].status == "missing"
    assert found["old"].status == "unsupported"
    assert found["new"].status == "ready"
    assert "newer than the newest tested" in found["new"].reason
    assert found["console"].status == "on request"
    assert {"tensorboard", "wandb", "mlflow", "comet", "clearml"} <= set(found)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "needs a class attribute `name`"),
        ({"name": "all", "log_metrics": lambda *_: None}, "can't be named 'all'"),
        ({"name": "a/b", "log_metrics": lambda *_: None}, "without slash or comma"),
        ({"name": "x"}, "needs a method `log_metrics"),
        ({"name": "x", "log_metric": lambda *_: None}, "did you mean `log_metrics`"),
        ({"name": "x", "log_metrics": lambda *_: None, "log_images": lambda *_: None}, "did you mean `log_image`"),
    ],
)
def test_incomplete_reporter_is_refused_when_it_registers(body, complaint):
    """Registration names what is missing or misspelt."""
    with pytest.raises(TypeError, match=complaint):
        registry.register_reporter(type("Custom", (Reporter,), body))


def test_taken_name_is_refused():
    """A second class of a known name is an error, the same class again is none."""
    registry.register_reporter(Plain)
    registry.register_reporter(Plain)
    with pytest.raises(ValueError, match="'plain' is taken"):
        registry.register_reporter(type("Other", (Plain,), {}))
    with pytest.raises(ValueError, match="'console' is taken"):
        registry.register_reporter(type("Other", (Plain,), {"name": "console"}))


@pytest.fixture
def other_distribution(tmp_path):
    """A distribution with a ten-line reporter, and one whose module is broken."""
    site = tmp_path / "site"
    info = site / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[runcast.reporters]\nother = other:Other\nbroken = other_broken:Gone\n")
    (site / "other_broken.py").write_text("raise RuntimeError('does not even import')\n")
    (site / "other.py").write_text(
        "import json, runcast\n"
        "class Other(runcast.Reporter):\n"
        "    name = 'other'\n"
        "    def open(self, run, attach):\n"
        "        self.path = run.dir / 'other.jsonl'\n"
        "        return runcast.NativeRun(id=run.run_id, url=str(self.path))\n"
        "    def log_metrics(self, metrics, step, time):\n"
        "        with self.path.open('a') as file:\n"
        "            print(json.dumps([step, dict(metrics)]), file=file)\n"
    )
    return site


def test_entry_point_of_another_distribution_is_found(python, other_distribution):
    """A reporter from another distribution works by name, in a process of its own; a broken one says why."""
    code = (
        "import runcast\n"
        "found = {a.name: a for a in runcast.available_reporters()}\n"
        "assert found['broken'].status == 'broken' and 'does not even import' in found['broken'].reason\n"
        "with runcast.start_run('other') as run:\n"
        "    for step in range(3): run.log({'loss': step / 2}, step=step)\n"
        "(row,) = run.deliveries(); assert row.done, row\n"
        "print(open(row.where).read())\n"
    )
    result = python(code, PYTHONPATH=str(other_distribution))
    assert result.stdout.split() == '[0, {"loss": 0.0}] [1, {"loss": 0.5}] [2, {"loss": 1.0}]'.split(), result.stderr
