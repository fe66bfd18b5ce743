"""``runcast show``: one run: its config, results, curves, and how far each tracker is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from runcast.cli import output
from runcast.cli.curves import sparkline
from runcast.cli.ls import status_text, when
from runcast.delivery import Delivery
from runcast.display import delivery_table, harmless, line
from runcast.record import Point, RunRecord


class MetricSummary(msgspec.Struct):
    """A metric in one line; `min` and `max` of the finite values, None if there is none; `curve` is its sparkline."""

    points: int
    step: int
    last: float
    min: float | None
    max: float | None
    curve: str


class ArtifactSummary(msgspec.Struct):
    """An artifact: how many files, how many bytes in all."""

    kind: str
    files: int
    size: int


class RunDetails(msgspec.Struct):
    """What ``runcast show`` says of a run.

    Attributes:
        started: Unix seconds; likewise `finished`.
        config: Nested.
        texts: Text name → the last text; the other kinds: name → how many there are.
        journal: Its events, lines that are none, and bytes behind the last complete line.
    """

    id: str
    name: str
    project: str
    group: str | None
    dir: str
    status: str
    started: float | None
    finished: float | None
    tags: tuple[str, ...]
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: dict[str, MetricSummary]
    texts: dict[str, str]
    images: dict[str, int]
    tables: dict[str, int]
    histograms: dict[str, int]
    artifacts: dict[str, ArtifactSummary]
    journal: dict[str, int]
    deliveries: list[Delivery]


def show(
    run: output.RunArgument,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curves into this PNG file.")] = None,
    as_json: output.AsJson = False,
) -> int:
    """Show a run: config, last values and curves, media, and how far each tracker is."""
    from runcast.folder import find_run, read_run

    run_dir = find_run(run)
    with output.expected(OSError, ValueError):  # a folder that lacks a file, or leads out of itself
        record = read_run(run_dir)
    if png is not None:
        _draw(record, png)
    found = _details(run_dir, record)
    output.show(found, as_json, *_views(harmless(found)))
    return 0


def _draw(record: RunRecord, png: Path) -> None:
    from runcast.errors import missing_extra

    try:
        from runcast.cli.figure import curves_figure
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        raise missing_extra("matplotlib, which draws the curves,", "train") from error
    if not record.metrics:
        raise output.UsageError(f"run {record.run_id} has no metrics: there is nothing to draw")
    with output.expected(OSError):
        curves_figure(record).savefig(png, format="png")


def _details(run_dir: Path, record: RunRecord) -> RunDetails:
    from runcast.journal import FILE_NAME, Damage, Journal
    from runcast.sync import how_far

    journal = Journal(run_dir / FILE_NAME)
    damage: list[Damage] = []
    events = sum(1 for _ in journal.read(on_damage=damage.append))
    return RunDetails(
        id=record.run_id,
        name=record.name,
        project=record.project,
        group=record.group,
        dir=str(run_dir),
        status=record.status,
        started=record.started,
        finished=record.finished,
        tags=record.tags,
        config=record.config,
        summary=record.summary,
        metrics={name: _metric(points) for name, points in sorted(record.metrics.items())},
        texts={key: points[-1].text for key, points in record.texts.items()},
        images=_counts(record.images),
        tables=_counts(record.tables),
        histograms=_counts(record.histograms),
        artifacts={
            name: ArtifactSummary(found.kind, len(found.files), sum(file.size for file in found.files.values()))
            for name, found in record.artifacts.items()
        },
        journal={"events": events, "damaged_lines": len(damage), "torn_bytes": journal.torn_bytes()},
        deliveries=how_far(run_dir),
    )


def _counts(series: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    return {key: len(points) for key, points in series.items()}


def _metric(points: Sequence[Point]) -> MetricSummary:
    import math

    in_order = sorted(points, key=lambda point: point.step)
    values = [point.value for point in in_order]
    finite = [value for value in values if math.isfinite(value)]
    return MetricSummary(
        points=len(values),
        step=in_order[-1].step,
        last=values[-1],
        min=min(finite, default=None),
        max=max(finite, default=None),
        curve=sparkline(values),
    )


# -- the views of it ---------------------------------------------------------------------------------------------------


def _views(run: RunDetails) -> list[RenderableType]:
    views: list[RenderableType] = [_header(run)]
    if run.config:
        views.append(_config(run.config))
    if run.summary:
        views.append(_pairs("summary", run.summary))
    views += _media(run)
    if run.metrics:
        views.append(_metrics(run.metrics))
    if run.deliveries:
        views.append(delivery_table("delivery", run.deliveries))
    else:
        views.append("reported to no tracker")
    return views


def _header(run: RunDetails) -> str:
    lines = [f"[bold]{escape(line(run.name))}[/bold] · {escape(line(run.project))} · {status_text(run.status)}"]
    took = "" if run.started is None or run.finished is None else f", took {_duration(run.finished - run.started)}"
    lines.append(f"{escape(line(run.id))} · started {when(run.started)}{took}")
    lines.append(f"[dim]{escape(line(run.dir))}[/dim]")
    if run.group:
        lines.append(f"group {escape(line(run.group))}")
    if run.tags:
        lines.append(f"tags {escape(line(', '.join(run.tags)))}")
    if run.journal["damaged_lines"]:
        lines.append(f"[red]{run.journal['damaged_lines']} damaged lines in the journal were skipped[/red]")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else f"{seconds / 86400:.1f} days"


def _config(config: Mapping[str, Any]) -> Table:
    from runcast.flatten import flatten

    flat = flatten(config)
    chosen = {key: value for key, value in flat.items() if value is not None}
    unset = len(flat) - len(chosen)
    return _pairs(f"config ({unset} unset)" if unset else "config", chosen)


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    table = output.table("name", "value", title=title)
    for key, value in values.items():
        table.add_row(escape(key), Text(output.number(value) if isinstance(value, float) else str(value)))
    return table


def _media(run: RunDetails) -> list[RenderableType]:
    table = output.table("kind", "name", "content", title="texts, media, artifacts")
    for key, text in run.texts.items():
        table.add_row("text", escape(key), Text(text if len(text) <= 200 else f"{text[:200]}…"))
    for kind, found in (("image", run.images), ("table", run.tables), ("histogram", run.histograms)):
        for key, count in found.items():
            table.add_row(kind, escape(key), str(count))
    for name, artifact in run.artifacts.items():
        content = (
            f"{artifact.files} files, {artifact.size:,} bytes" if artifact.files > 1 else f"{artifact.size:,} bytes"
        )
        table.add_row(f"artifact ({escape(artifact.kind)})", escape(name), content)
    return [table] if table.rows else []


def _metrics(metrics: Mapping[str, MetricSummary]) -> Table:
    numbers = ("last", "min", "max", "step")
    table = output.table("metric", *numbers, "curve", title="metrics", right=numbers, whole=("curve",))
    for name, metric in metrics.items():
        low, high = (("" if value is None else output.number(value)) for value in (metric.min, metric.max))
        table.add_row(escape(name), output.number(metric.last), low, high, str(metric.step), metric.curve)
    return table
