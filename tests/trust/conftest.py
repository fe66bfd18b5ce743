"""A small tracker of another distribution, and somebody's files that are to stay theirs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runcast import registry

LEDGER = '''
"""A tracker that keeps what it gets in ``ledger/`` in the run folder, as some do, and says what it is told to say."""

import os, subprocess, sys

from runcast import NativeRun, Reporter


class LedgerReporter(Reporter):
    name = "ledger"

    def __init__(self, api_key=None, url=None, headers=None):
        self.secrets = [api_key, url, headers]

    def open(self, run, attach):
        self.folder = run.dir / "ledger"
        self.folder.mkdir(exist_ok=True)
        told = os.environ.get("LEDGER")
        words = f"wrong credentials: {self.secrets}"
        if told == "refuse":
            raise ValueError(words)
        if told == "print":
            print(words)
            print(words, file=sys.stderr, flush=True)
            os.write(2, words.encode())
            subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin.read())"], input=words.encode())
        return NativeRun(id=run.run_id, url="ledger")

    def put(self, content):
        number = len(list(self.folder.iterdir()))
        (self.folder / str(number)).write_bytes(content)

    def log_metrics(self, metrics, step, time):
        if os.environ.get("LEDGER") == "refuse events":
            raise ValueError(f"wrong credentials: {self.secrets}")
        self.put(repr(dict(metrics)).encode())

    def log_config(self, config):
        self.put(repr(config).encode())

    def log_text(self, key, text, step, time):
        self.put(f"{key} {text}".encode())

    def log_image(self, key, image, step, time):
        self.put(image.read_bytes())

    def log_table(self, key, columns, rows, step, time):
        self.put(repr((key, columns, rows)).encode())

    def log_artifact(self, artifact, step, time):
        for file in artifact.files:
            self.put(artifact.file_path(file).read_bytes())
        self.put(repr((artifact.name, artifact.metadata)).encode())

    def set_summary(self, values):
        self.put(repr(values).encode())

    def add_tags(self, tags):
        self.put(repr(tags).encode())

    def read(self, native):
        from runcast import RunRecord
        return RunRecord(run_id=native.id)
'''


@pytest.fixture(autouse=True)
def ledger(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A distribution with the tracker `ledger` is installed."""
    site = tmp_path_factory.mktemp("site")
    info = site / "ledger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ledger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[runcast.reporters]\nledger = ledger_reporter:LedgerReporter\n")
    (site / "ledger_reporter.py").write_text(LEDGER)
    monkeypatch.syspath_prepend(str(site))
    registry._entry_points.cache_clear()
    yield site
    registry._entry_points.cache_clear()


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c626001000000ffff03000006000557bfabd4"
    "0000000049454e44ae426082"
)
SECRET = b"TOP-SECRET-OF-THE-VICTIM"


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file, outside of every run folder; both must be afterwards what they were."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    before = _tree(folder)
    yield folder
    assert _tree(folder) == before, "the victim's folder is another now"


def _tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Everything below a folder, with its mode and content."""
    return {
        str(path.relative_to(folder)): (os.lstat(path).st_mode, path.read_bytes() if path.is_file() else None)
        for path in (folder, *folder.rglob("*"))
    }


def mode(path: Path) -> int:
    """Who may do what with a file."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def written_below(folder: Path) -> str:
    """The names and contents of all files."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    return "\n".join(
        f"{path}\n{path.read_bytes().decode(errors='replace') if path.is_file() else ''}" for path in paths
    )
