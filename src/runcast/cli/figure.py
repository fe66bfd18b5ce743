"""The curves of a run as a figure: a panel for each quantity, its training and evaluation curves together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from runcast.display import line
from runcast.record import Point, RunRecord

_COLOURS = ("#3b6fb6", "#e07b39", "#4a9b6e", "#b5495b", "#7a68ae", "#8c6d4f", "#3d9da8", "#c2a13a")
_TECHNICAL = ("runtime", "per_second", "epoch")
_MARKED = 30
"""Curves with at most so many points show each."""
_LONGEST = 60
"""Characters of a label."""


def curves_figure(record: RunRecord) -> Figure:
    """Draws all metrics of a run against the step.

    Args:
        record: The run; it has at least one metric.

    Returns:
        A figure that is not tied to any window.
    """
    panels = _panels(record.metrics)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 0.8 + 3.0 * rows), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    phases = dict.fromkeys(phase for curves in panels.values() for phase in curves)
    colours = dict(zip(phases, itertools.cycle(_COLOURS), strict=False))
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        _panel(axis, title, curves, colours)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    title = " · ".join(map(_words, (record.project, record.name, record.status)))
    figure.suptitle(title, fontsize=13, fontweight="bold")
    return figure


def _panels(metrics: dict[str, list[Point]]) -> dict[str, dict[str, list[Point]]]:
    """Quantity → curve → points: ``train/loss`` and ``eval/loss`` share a panel; times and speeds come last."""
    panels: dict[str, dict[str, list[Point]]] = {}
    for name in sorted(metrics, key=lambda name: (name.endswith(_TECHNICAL), name.rpartition("/")[2], name)):
        phase, _, quantity = name.rpartition("/")
        panels.setdefault(quantity, {})[phase] = sorted(metrics[name], key=lambda point: point.step)
    return panels


def _words(text: str) -> str:
    """A name as a label: what would be a formula or a control stays text, and what is endless is cut."""
    shown = line(text)
    return (shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…").replace("$", r"\$")


def _panel(axis: Axes, title: str, curves: dict[str, list[Point]], colours: dict[str, str]) -> None:
    for phase, points in curves.items():
        _curve(axis, points, phase, colours[phase])
    axis.set_title(_words(title), fontsize=11, loc="left", color="#333333")
    axis.set_xlabel("step", fontsize=9, color="#666666")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(labelsize=8, colors="#666666", length=3)
    axis.grid(visible=True, color="#e8e8e8", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0.04, y=0.12)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#bbbbbb")
    if any(curves):
        axis.legend(fontsize=8, frameon=False)


def _curve(axis: Axes, points: Sequence[Point], name: str, colour: str) -> None:
    steps = [point.step for point in points]
    values = [point.value if math.isfinite(point.value) else math.nan for point in points]
    marker = "o" if len(points) <= _MARKED else None
    axis.plot(steps, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=_words(name))
    for point in points:
        if not math.isfinite(point.value):
            axis.axvline(point.step, color=colour, linewidth=1, linestyle=":", alpha=0.7)
