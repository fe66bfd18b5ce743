"""A run as one piece of HTML: self-contained, and of bounded size however long the run is.

Whatever comes from the run is text: it is escaped, and nothing in the page is fetched from anywhere.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Any

from runcast.flatten import to_text

POINTS = 500
"""Points of a curve that are kept at least, of those that there are; at most twice as many."""
CURVES = 200
NAMES = 2000
ROWS = 100
LONGEST = 20_000
"""Characters of a text or setting that are shown."""

_WIDTH, _HEIGHT = 360, 120
_STYLE = """<style>
.runcast { font-family: sans-serif; font-size: 14px; }
.runcast table { border-collapse: collapse; margin: 4px 0 16px; }
.runcast td, .runcast th { border: 1px solid #ddd; padding: 2px 8px; text-align: left; vertical-align: top; }
.runcast td { white-space: pre-wrap; overflow-wrap: anywhere; }
.runcast pre { background: #f6f6f6; padding: 8px; white-space: pre-wrap; overflow-wrap: anywhere; }
.runcast figure { display: inline-block; margin: 0 16px 16px 0; vertical-align: top; }
.runcast img { max-width: 100%; }
.runcast svg { background: #fafafa; } .runcast svg text { font-size: 10px; fill: #666; }
</style>"""


@dataclass
class Curve:
    """One metric: exact numbers of all its points, and enough of them to draw."""

    count: int = 0
    step: int = 0
    last: float = math.nan
    low: float = math.inf
    high: float = -math.inf
    points: list[tuple[int, float]] | None = None
    stride: int = 1

    def add(self, step: int, value: float) -> None:
        """One more point."""
        if self.points is not None and self.count % self.stride == 0:
            self.points.append((step, value))
            if len(self.points) > 2 * POINTS:
                del self.points[1::2]
                self.stride *= 2
        self.count += 1
        self.step, self.last = step, value
        self.low, self.high = min(self.low, value), max(self.high, value)  # a NaN changes neither

    def drawn(self) -> str:
        """The curve as SVG, over the steps; what is not finite is a gap."""
        if self.points is None:
            return ""
        points = sorted([*self.points, (self.step, self.last)], key=lambda point: point[0])
        finite = [value for _, value in points if math.isfinite(value)]
        if not finite:
            return ""
        low, high, first, final = min(finite), max(finite), points[0][0], points[-1][0]
        lines: list[list[str]] = [[]]
        for step, value in points:
            if math.isfinite(value):
                x = _share(step, first, final) * (_WIDTH - 10) + 5
                y = (1 - _share(value, low, high)) * (_HEIGHT - 30) + 14
                lines[-1].append(f"{x:.1f},{y:.1f}")
            else:
                lines.append([])
        body = "".join(f'<polyline points="{" ".join(line)}"/>' for line in lines if line)
        return (
            f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" fill="none" stroke="#7652a2" '
            f'stroke-width="1.5" stroke-linecap="round">{body}'
            f'<g stroke="none"><text x="5" y="10">{high:.6g}</text><text x="5" y="{_HEIGHT - 4}">{low:.6g}</text>'
            f'<text x="{_WIDTH - 5}" y="{_HEIGHT - 4}" text-anchor="end">step {first} to {final}</text></g></svg>'
        )


def _share(value: float, low: float, high: float) -> float:
    """Where `value` is between the two, from 0 to 1, also where their difference is no float."""
    if low == high:
        return 0.5
    if high - low == math.inf:
        value, low, high = value / 2, low / 2, high / 2
    return (value - low) / (high - low)


class Shelf:
    """The newest pieces of a kind, as many as have room.

    Args:
        room: In characters.
    """

    def __init__(self, room: int) -> None:
        self._room, self._used, self._dropped = room, 0, 0
        self._pieces: deque[str] = deque()

    def put(self, piece: str) -> None:
        """One more, and the oldest go if need be."""
        self._pieces.append(piece)
        self._used += len(piece)
        while self._used > self._room:
            self._used -= len(self._pieces.popleft())
            self._dropped += 1

    def __iter__(self) -> Iterator[str]:
        yield from self._pieces
        if self._dropped:
            yield f"<p>{self._dropped} more had no room here.</p>"


@dataclass
class Page:
    """What is known of a run so far."""

    title: str
    facts: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    unnamed: set[str] = field(default_factory=set)
    texts: Shelf = field(default_factory=lambda: Shelf(1 << 20))
    tables: Shelf = field(default_factory=lambda: Shelf(2 << 20))
    images: Shelf = field(default_factory=lambda: Shelf(16 << 20))
    histograms: Shelf = field(default_factory=lambda: Shelf(1 << 20))

    def add_metric(self, name: str, step: int, value: float) -> None:
        """One point; of ever more names, the later ones are only counted."""
        curve = self.curves.get(name)
        if curve is None:
            if len(self.curves) >= NAMES:
                self.unnamed.add(name)
                return
            curve = self.curves[name] = Curve(points=[] if len(self.curves) < CURVES else None)
        curve.add(step, value)

    def add_text(self, key: str, text: str, step: int) -> None:
        """A text at a step."""
        self.texts.put(f"{_caption(key, step)}<pre>{_shown(text)}</pre>")

    def add_image(self, key: str, png: bytes, step: int) -> None:
        """A PNG at a step."""
        data = base64.b64encode(png).decode()
        self.images.put(f'<figure>{_caption(key, step)}<img src="data:image/png;base64,{data}" alt=""></figure>')

    def add_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A table at a step: its first rows."""
        more = f"<p>{len(rows) - ROWS} more rows.</p>" if len(rows) > ROWS else ""
        self.tables.put(_caption(key, step) + _table(columns, rows[:ROWS]) + more)

    def add_histogram(self, key: str, counts: Sequence[float], edges: Sequence[float], step: int) -> None:
        """A distribution at a step."""
        most = max(counts, default=0.0) or 1.0
        wide = _WIDTH / max(len(counts), 1)
        bars = "".join(
            f'<rect x="{i * wide:.1f}" y="{_HEIGHT - 15 - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'
            for i, count in enumerate(counts)
            for tall in [count / most * (_HEIGHT - 20)]
        )
        self.histograms.put(
            f"<figure>{_caption(key, step)}"
            f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" fill="#7652a2">{bars}'
            f'<text x="2" y="{_HEIGHT - 3}">{edges[0]:.6g}</text>'
            f'<text x="{_WIDTH - 2}" y="{_HEIGHT - 3}" text-anchor="end">{edges[-1]:.6g}</text></svg></figure>'
        )

    def html(self) -> str:
        """The page."""
        parts = [
            _STYLE,
            f"<h1>{escape(self.title)}</h1>",
            _table((), self.facts.items()),
            *_section("Summary", [_table((), self.summary.items())] if self.summary else []),
            *_section("Metrics", self._metrics()),
            *_section("Config", [_table((), self.config.items())] if self.config else []),
            *_section("Images", self.images),
            *_section("Tables", self.tables),
            *_section("Histograms", self.histograms),
            *_section("Texts", self.texts),
        ]
        return f'<div class="runcast">{"".join(parts)}</div>'

    def _metrics(self) -> Iterator[str]:
        if not self.curves:
            return
        names = sorted(self.curves)
        for name in names:
            if drawing := self.curves[name].drawn():
                yield f"<figure><figcaption>{_shown(name)}</figcaption>{drawing}</figure>"
        rows = [(name, c.last, c.step, c.low, c.high, c.count) for name in names for c in [self.curves[name]]]
        yield _table(("metric", "last", "step", "lowest", "highest", "points"), rows)
        if self.unnamed:
            yield f"<p>{len(self.unnamed)} more names had no room here.</p>"


def moment(time: float) -> str:
    """Unix seconds as people read them."""
    return datetime.fromtimestamp(time, UTC).isoformat(" ", "seconds")


def _section(title: str, pieces: Iterable[str]) -> Iterator[str]:
    inside = "".join(pieces)
    if inside:
        yield f"<h2>{title}</h2>{inside}"


def _caption(key: str, step: int) -> str:
    return f"<h3>{_shown(key)}, step {step}</h3>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_shown(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_shown(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _shown(value: Any) -> str:
    """A plain value as text of the page."""
    text = value if isinstance(value, str) else repr(value) if isinstance(value, float) else to_text(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text)} characters)"
    return escape(text)
