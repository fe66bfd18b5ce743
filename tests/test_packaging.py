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
TRACKERS = sorted(
    {registry.reporter_class(name).name for name in PROJECT["entry-points"]["runcast.reporters"]} - {"console"}
)


def test_version_exists_once():
    """The package and its metadata tell the same version."""
    assert runcast.__version__ == PROJECT["version"] == metadata.version("runcast")


def test_five_trackers_are_declared():
    """Entry points are complete."""
    assert TRACKERS == ["clearml", "comet", "mlflow", "tensorboard", "wandb"]


@pytest.mark.parametrize("name", TRACKERS)
def test_extra_is_what_the_reporter_requires(name):
    """Distribution and oldest version stand in the extra as in `Requirement`, and the extra is the one it names."""
    need = registry.reporter_class(name).requires
    line = Line(PROJECT["optional-dependencies"][need.extra][0])
    assert (line.name, str(line.specifier)) == (need.distribution, f">={need.oldest}")


@pytest.mark.parametrize("name", TRACKERS)
def test_newest_tested_version_is_the_one_that_ci_runs(name):
    """The constraints file pins what `Requirement` calls the newest tested."""
    need = registry.reporter_class(name).requires
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {key.lower().replace("_", "-"): version for key, version in pins.items()}
    assert pinned[need.distribution.lower().replace("_", "-")] == need.newest


@pytest.mark.parametrize("extra", ["demo", "all"])
def test_collecting_extras_have_every_tracker(extra):
    """`demo` and `all` miss no tracker and bring the trainer."""
    (line,) = [Line(text) for text in PROJECT["optional-dependencies"][extra] if text.startswith("runcast")]
    assert line.extras == {"train", *(registry.reporter_class(name).requires.extra for name in TRACKERS)}


def test_package_says_that_it_is_typed_and_brings_the_demo():
    """The installed package has the marker of PEP 561, and the demo's sentences."""
    package = Path(runcast.__file__).parent
    assert (package / "py.typed").is_file()
    assert (package / "cli" / "demo_data" / "train.csv").is_file()


def test_no_module_outside_reporters_names_a_tracker():
    """Support for a tracker is one file, and deleting it is all that it takes to be without."""
    allowed = {"cli/demo.py"}  # the demo exists to show these five
    words = [registry.reporter_class(name).requires.module for name in TRACKERS]
    package = Path(runcast.__file__).parent
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package).as_posix()
        if relative.startswith("reporters/") or relative in allowed:
            continue
        source = path.read_text()
        for word in words:
            assert f"import {word}" not in source, (relative, word)
            assert f"from {word}" not in source, (relative, word)
