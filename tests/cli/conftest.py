"""A small tracker of another distribution, which the command line finds by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runcast
from runcast import registry

SHELF = '''
"""A tracker that keeps a run as lines of JSON beside the run folders; files there take it down."""

import json
from pathlib import Path

from runcast import NativeRun, Point, Reporter, RunRecord
from runcast.record import merge


class ShelfReporter(Reporter):
    name = "shelf"

    def __init__(self, suffix="jsonl", api_key=None):
        self.suffix = suffix

    def open(self, run, attach):
        if (run.dir.parent / "shelf-is-gone").exists():
            raise ValueError("the shelf is gone")
        if (run.dir.parent / "shelf-is-down").exists():
            raise ConnectionError("the shelf is down")
        self.path = run.dir / f"shelf.{self.suffix}"
        return NativeRun(id=run.run_id, url=str(self.path))

    def put(self, *values):
        with self.path.open("a") as file:
            print(json.dumps(values), file=file)

    def log_metrics(self, metrics, step, time):
        if (self.path.parent.parent / "shelf-refuses").exists():
            raise ValueError("the shelf refuses")
        self.put("metrics", dict(metrics), step, time)

    def log_config(self, config):
        self.put("config", dict(config))

    def close(self, status):
        self.put("status", status)

    def read(self, native):
        record = RunRecord(run_id=native.id)
        for line in Path(native.url).read_text().splitlines():
            kind, value, *rest = json.loads(line)
            if kind == "metrics":
                for key, number in value.items():
                    record.metrics.setdefault(key, []).append(Point(rest[0], number, rest[1]))
            elif kind == "config":
                record.config = merge(record.config, value)
            else:
                record.status = value
        return record
'''


@pytest.fixture(autouse=True)
def shelf(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A distribution with the tracker `shelf` is installed."""
    site = tmp_path_factory.mktemp("site")
    info = site / "shelf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[runcast.reporters]\nshelf = shelf_reporter:ShelfReporter\n")
    (site / "shelf_reporter.py").write_text(SHELF)
    monkeypatch.syspath_prepend(str(site))
    registry._entry_points.cache_clear()
    yield
    registry._entry_points.cache_clear()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The parent of run folders."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def make_run(runs: Path) -> Callable[..., Path]:
    """Writes a finished run with ten steps; returns its folder."""

    def make(report_to: Any = "shelf", steps: int = 10, **options: Any) -> Path:
        run = runcast.start_run(report_to, delivery="inline", config={"lr": 0.1}, finish_timeout=0.0, **options)
        for step in range(steps):
            run.log({"train/loss": 1.0 / (step + 1), "eval/accuracy": step / 10}, step=step)
        run.finish()
        assert run.dir is not None
        return run.dir

    return make
