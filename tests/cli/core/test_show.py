"""`runcast show`."""

from __future__ import annotations

import math
import sys

import pytest

import runcast
from runcast.cli.curves import sparkline


@pytest.fixture
def run_dir(runs, tmp_path):
    """A run with something of everything that needs no other package."""
    (tmp_path / "weights.bin").write_bytes(b"0123456789")
    with runcast.start_run("shelf", delivery="inline", config={"lr": 0.1, "body": {"layers": 6, "path": None}}) as run:
        for step, loss in enumerate([4.0, math.nan, 2.0, 1.0, math.inf, 3.0]):
            run.log({"train/loss": loss}, step=step * 10)
        run.log({"never": math.nan}, step=50)
        run.log_text("note", "first")
        run.log_text("note", "[last]")
        run.log_table("table", ["a"], [[1], [2]])
        run.log_artifact(tmp_path / "weights.bin", kind="model")
        run.set_summary({"best": 0.93})
        run.add_tags("tiny")
    return run.dir


def test_structure_has_the_whole_run(cli, run_dir):
    """Config, summary, last values with range, media, artifacts and delivery are in the JSON."""
    result = cli("show", run_dir, "--json")
    run = result.json
    assert result.code == 0
    assert (run["id"], run["status"], run["tags"]) == (run_dir.name, "completed", ["tiny"])
    assert run["config"] == {"lr": 0.1, "body": {"layers": 6, "path": None}}
    assert run["summary"] == {"best": 0.93}
    assert run["metrics"]["train/loss"] == {
        "points": 6, "step": 50, "last": 3.0, "min": 1.0, "max": 4.0, "curve": "█x▃▁x▆",
    }  # fmt: skip
    assert run["metrics"]["never"] == {"points": 1, "step": 50, "last": "NaN", "min": None, "max": None, "curve": "x"}
    assert (run["texts"], run["tables"]) == ({"note": "[last]"}, {"table": 1})
    assert run["artifacts"] == {"weights.bin": {"kind": "model", "files": 1, "size": 10}}
    assert run["journal"] == {"events": 15, "damaged_lines": 0, "torn_bytes": 0}
    assert [(row["name"], row["state"]) for row in run["deliveries"]] == [("shelf", "complete")]


def test_terminal_shows_the_same(cli, run_dir):
    """Every part of the structure is on the terminal, text that looks like markup as it is."""
    out = cli("show", run_dir).out
    for part in ("body/layers", "best", "0.93", "train/loss", "█x▃▁x▆", "[last]", "weights.bin", "shelf", "15/15"):
        assert part in out
    assert "config (1 unset)" in out


def test_run_is_found_by_the_beginning_of_its_id(cli, run_dir):
    """A unique beginning is enough; an unknown run is an error."""
    assert cli("show", run_dir.name[:-2], "--json").json["id"] == run_dir.name
    unknown = cli("show", "2001")
    assert unknown.code == 2
    assert unknown.error.startswith("no run '2001'")


def test_damage_is_said(cli, run_dir):
    """A damaged line is counted and said; the rest is shown."""
    journal = run_dir / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"\x00garbage\n", *lines[3:], b"torn"]))
    run = cli("show", run_dir, "--json").json
    assert run["journal"] == {"events": 15, "damaged_lines": 1, "torn_bytes": 4}
    assert "1 damaged lines" in cli("show", run_dir).out


def test_missing_file_of_the_run_costs_that_file(cli, run_dir, caplog):
    """A table whose file is gone is left out, with a warning that names the file; the rest of the run is shown."""
    (table,) = (run_dir / "artifacts" / "tables").iterdir()
    table.unlink()
    shown = cli("show", run_dir, "--json").json
    assert shown["tables"] == {}
    assert shown["metrics"]
    (warning,) = caplog.messages
    assert table.name in warning


def test_curves_need_matplotlib(cli, run_dir, tmp_path, monkeypatch):
    """Without matplotlib `--png` gives the line that installs it, and no file."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "runcast.cli.figure", raising=False)
    result = cli("show", run_dir, "--png", tmp_path / "curves.png")
    assert result.code == 2
    assert 'pip install "runcast[train]"' in result.error
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([5.0], "▄"),
        ([2.0, 2.0, 2.0], "▄▄▄"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([math.nan, math.inf], "xx"),
        ([1.0, math.nan, 3.0], "▁x█"),
        ([-1.7e308, 1.7e308], "▁█"),
    ],
)
def test_sparkline_spans_lowest_to_highest(values, drawn):
    """The lowest finite value is the lowest block, the highest the full one."""
    assert sparkline(values) == drawn


def test_sparkline_has_a_limited_width():
    """Many values are averaged, a NaN among them hides no neighbour."""
    values = [float(value) for value in range(1000)]
    values[500] = math.nan
    drawn = sparkline(values, width=8)
    assert drawn == "▁▂▃▄▅▆▇█"
