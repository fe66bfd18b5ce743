"""What pyproject.toml says agrees with the code."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement as Line

import runcast
from runcast import registry

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSIONS = tomllib.loads((ROOT / "src" / "runcast" / "reporters" / "versions.toml").read_text())
TRACKERS = sorted(
    {registry.reporter_class(name).name for name in PROJECT["entry-points"]["runcast.reporters"]} - {"console"}
)


def test_version_exists_once():
    """The package and its metadata tell the same version."""
    assert runcast.__version__ == PROJECT["version"] == metadata.version("runcast")


def test_every_row_of_the_table_has_a_reporter():
    """Entry points are complete: what the table of versions has can be reported to."""
    needed = {name: registry.reporter_class(name).requires for name in TRACKERS}
    assert set(VERSIONS) == {need.extra for need in needed.values() if need is not None}
    assert {"clearml", "comet", "mlflow", "tensorboard", "wandb"} <= set(TRACKERS)


@pytest.mark.parametrize("name", VERSIONS)
def test_extra_is_what_the_reporter_requires(name):
    """The built metadata asks for the distribution and oldest version of the table, and so does the reporter."""
    row = VERSIONS[name]
    lines = [Line(text) for text in metadata.requires("runcast")]
    (line,) = [
        line
        for line in lines
        if line.name.replace("_", "-") == row["distribution"].replace("_", "-") and brought_by(line, name)
    ]
    assert str(line.specifier) == f">={row['oldest']}"
    needs = [registry.reporter_class(tracker).requires for tracker in TRACKERS]
    (need,) = {need for need in needs if need is not None and need.extra == name}
    assert (need.distribution, need.oldest, need.newest) == (row["distribution"], row["oldest"], row["newest"])
    assert need.python_below == row.get("python_below")
    newest = brought_by(line, name, python="3.99")
    assert newest == (need.python_below is None)


@pytest.mark.parametrize("name", VERSIONS)
def test_newest_tested_version_is_the_one_that_ci_runs(name):
    """The constraints file pins what the table calls the newest tested."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {key.lower().replace("_", "-"): version for key, version in pins.items()}
    assert pinned[VERSIONS[name]["distribution"].lower().replace("_", "-")] == VERSIONS[name]["newest"]


def test_extra_all_has_every_tracker_that_gets_on_with_the_others():
    """`all` misses no tracker, but those that can't be installed beside the others, and brings the trainer."""
    wanted = {line.name for line in map(Line, metadata.requires("runcast")) if brought_by(line, "all")}
    for name in (name for name, row in VERSIONS.items() if not row.get("alone")):
        assert {line.name for line in map(Line, metadata.requires("runcast")) if brought_by(line, name)} <= wanted
    assert {line.name for line in map(Line, metadata.requires("runcast")) if brought_by(line, "train")} <= wanted


def brought_by(line, extra, python="3.11"):
    return line.marker is not None and line.marker.evaluate({"extra": extra, "python_version": python})


def test_package_says_that_it_is_typed_and_brings_the_demo():
    """The installed package has the marker of PEP 561, and the demo's sentences."""
    package = Path(runcast.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "cli" / "demo_data" / "train.csv").is_file()


def test_no_module_outside_reporters_names_a_tracker():
    """Support for a tracker is one file, and deleting it is all that it takes to be without."""
    allowed = {"cli/demo.py"}  # the demo exists to show these five
    words = [row["module"] for row in VERSIONS.values()]
    package = Path(runcast.__file__).parent
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package).as_posix()
        if relative.startswith("reporters/") or relative in allowed:
            continue
        source = path.read_text()
        for word in words:
            assert f"import {word}" not in source, (relative, word)
            assert f"from {word}" not in source, (relative, word)
