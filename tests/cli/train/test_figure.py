"""`runcast show --png`."""

from __future__ import annotations

import math

import runcast


def test_curves_become_a_png(cli, tmp_path):
    """A panel for each quantity, NaN included; the file is an image of some size."""
    from PIL import Image

    with runcast.start_run("shelf", delivery="inline") as run:
        for step in range(50):
            run.log({"train/loss": 1 / (step + 1), "eval/loss": math.nan if step == 9 else 0.5, "lr": 0.1}, step=step)
    result = cli("show", run.dir, "--png", tmp_path / "curves.png", "--json")
    assert result.code == 0
    assert result.json["id"] == run.id
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height > 200
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_panels_put_phases_of_a_quantity_together():
    """`train/loss` and `eval/loss` share a panel; times and speeds come last."""
    from runcast.cli.figure import curves_figure
    from runcast.record import Point, RunRecord

    names = ("eval/runtime", "train/loss", "eval/loss", "lr")
    figure = curves_figure(RunRecord(metrics={name: [Point(0, 1.0, 0.0), Point(1, math.inf, 1.0)] for name in names}))
    panels = {
        axis.get_title(loc="left"): [text.get_text() for text in axis.get_legend().get_texts()]
        for axis in figure.axes
        if axis.get_visible() and axis.get_legend()
    }
    assert panels == {"loss": ["eval", "train"], "runtime": ["eval"]}


def test_names_are_drawn_as_they_are(tmp_path):
    """A name that looks like a formula, or is none that can be drawn, is a label all the same."""
    from runcast.cli.figure import curves_figure
    from runcast.record import Point, RunRecord

    names = ("$\\frac{/a", "b$c$", "\x1b[2J/d", "e" * 3000, "\n\n/f", "$$/g", "%s{}", "\ud800")
    record = RunRecord(name="$\\frac{", project="$x", metrics={name: [Point(0, 1.0, 0.0)] for name in names})
    curves_figure(record).savefig(tmp_path / "curves.png", format="png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_what_cannot_be_drawn_or_written_is_one_line(cli, tmp_path):
    """A run without metrics, and a file that can't be written."""
    with runcast.start_run("shelf", delivery="inline") as run:
        pass
    assert "nothing to draw" in cli("show", run.dir, "--png", tmp_path / "c.png").error
    with runcast.start_run("shelf", delivery="inline") as run:
        run.log({"loss": 1.0}, step=0)
    result = cli("show", run.dir, "--png", tmp_path / "missing" / "c.png")
    assert result.code == 2
    assert "No such file" in result.error
