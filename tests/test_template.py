"""The template of a reporter, as an author uses it: copied, renamed, installed, tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def logbook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution that the commands of the page make."""
    folder = tmp_path_factory.mktemp("author")
    ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache")
    shutil.copytree(ROOT / "integrations" / "template", folder / "integrations" / "template", ignore=ignored)
    page = (ROOT / "integrations" / "README.md").read_text()
    (commands,) = re.findall(r"```console\n(   cp -r .*?)```", page, re.DOTALL)
    commands = commands.replace("pip install -e .", "true")  # that is the next fixture
    done = subprocess.run(["bash", "-euc", commands], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "runcast-logbook"


@pytest.fixture(scope="module")
def environment(logbook: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The distribution, built and installed where Python finds it."""
    site = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(site), str(logbook)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(site)}


def test_copy_is_known_by_its_name(logbook: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Nothing of the template's own name is left, and runcast lists the reporter and reports to it."""
    assert not [path for path in logbook.rglob("*") if path.is_file() and "example" in path.read_text().lower()]
    code = "import runcast\nwith runcast.start_run('logbook') as run: run.log({'loss': 1.0})\nprint(run.deliveries()[0].done)"
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.stdout == "True\n", done.stderr
    listed = subprocess.run([sys.executable, "-m", "runcast", "trackers"], **options)
    assert re.search(r"logbook\W+ready", listed.stdout)


def test_copy_passes_the_kit(logbook: Path, environment: dict[str, str]) -> None:
    """The reporter of the template passes every test of the conformance kit that its methods ask for."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=logbook,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 30
