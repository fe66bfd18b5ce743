"""Several runs in one process: at once, in threads, and one after the other without an end, as in a notebook."""

from __future__ import annotations

import threading
from pathlib import Path

import runcast
from runcast.delivery import deliveries
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.lines import LinesReporter, lines_of
from runcast.verify import verify


def points_of(run_dir: Path) -> list[tuple[int, float]]:
    """What the tracker's file has of the metric ``loss``."""
    (path,) = run_dir.glob("lines/*.jsonl")
    return [(line["step"], line["values"]["loss"]) for line in lines_of(path) if line["kind"] == "metrics"]


def test_runs_in_threads_stay_apart(tmp_path):
    """Four threads with a run each: every run has its own points, and is complete."""
    found: dict[int, runcast.Run] = {}

    def work(number: int) -> None:
        with runcast.start_run(LinesReporter(), dir=tmp_path / "runs", finish_timeout=PATIENCE) as run:
            found[number] = run
            for step in range(100):
                run.log({"loss": number * 1000.0 + step}, step=step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, run in found.items():
        assert points_of(run.dir) == [(step, number * 1000.0 + step) for step in range(100)]
        (result,) = verify(run.dir)
        assert result.matches, result


def test_one_run_may_be_logged_to_from_many_threads(tmp_path):
    """No line of the journal is torn or mixed, and every point arrives once."""
    with runcast.start_run(LinesReporter(), dir=tmp_path / "runs", finish_timeout=PATIENCE) as run:
        threads = [
            threading.Thread(
                target=lambda base=base: [run.log({"loss": float(base + i)}, step=base + i) for i in range(500)]
            )
            for base in range(0, 4000, 500)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(points_of(run.dir)) == [(step, float(step)) for step in range(4000)]
    (row,) = deliveries(run.dir)
    assert row.done


def test_runs_that_nobody_finishes_end_with_the_interpreter(python, tmp_path):
    """A cell that starts a run, executed three times: three runs, each complete when the process ends."""
    code = (
        "import runcast, runcast.testing.lines\n"
        "def cell(number):\n"
        "    run = runcast.start_run('lines', delivery='process')\n"
        "    assert runcast.current_run() is run\n"
        "    for step in range(5): run.log({'loss': float(number)}, step=step)\n"
        "    print(run.dir)\n"
        "for number in range(3): cell(number)\n"
    )
    result = python(code)
    folders = [Path(line) for line in result.stdout.splitlines()]
    assert len(set(folders)) == 3, result.stderr
    for number, folder in enumerate(folders):
        wait_until_through(folder, "lines")
        assert points_of(folder) == [(step, float(number)) for step in range(5)]
        assert runcast.read_run(folder).status == "completed"


def test_nested_runs_are_current_in_turn(tmp_path):
    """The innermost open run is the current one, and each gets only its own points."""
    reporters = LinesReporter(), LinesReporter()
    with runcast.start_run(reporters[0], dir=tmp_path / "runs", finish_timeout=PATIENCE) as outer:
        outer.log({"loss": 0.0}, step=0)
        with runcast.start_run(reporters[1], dir=tmp_path / "runs", finish_timeout=PATIENCE) as inner:
            assert runcast.current_run() is inner
            inner.log({"loss": 1.0}, step=0)
        assert runcast.current_run() is outer
        outer.log({"loss": 2.0}, step=1)
    assert points_of(outer.dir) == [(0, 0.0), (1, 2.0)]
    assert points_of(inner.dir) == [(0, 1.0)]
