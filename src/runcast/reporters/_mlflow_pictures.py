"""The pictures that MLflow's pages show: of images a small one, of histograms a chart."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence


def preview(png: bytes) -> bytes:
    """The small picture that MLflow's charts show first."""
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    small = image.convert("L" if image.mode.startswith("I") else "RGBA")
    small.thumbnail((256, 256))
    out = io.BytesIO()
    small.save(out, format="WEBP")
    return out.getvalue()


def histogram_svg(counts: Sequence[float], edges: Sequence[float]) -> bytes:
    """A bar chart to look at, with its numbers inside to read."""
    numbers = json.dumps({"counts": list(counts), "edges": list(edges)})
    low, half = edges[0] / 2, (edges[-1] / 2 - edges[0] / 2) or 1.0  # halves: the whole may be beyond every float
    highest = max(counts, default=0.0) or 1.0
    x = [600 * ((edge / 2 - low) / half) for edge in edges]
    bars = "".join(
        f'<rect x="{left:.2f}" y="{200 - 200 * (count / highest):.2f}" width="{right - left:.2f}" '
        f'height="{200 * (count / highest):.2f}"/>'
        for count, (left, right) in zip(counts, itertools.pairwise(x), strict=True)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-20 -20 640 260" width="640" height="260">'
        f"<metadata>{numbers}</metadata>"
        f'<g fill="#4878d0" stroke="white" stroke-width="0.5">{bars}</g>'
        '<path d="M0 200H600" stroke="black"/><g font-family="sans-serif" font-size="14">'
        f'<text y="220">{edges[0]:.6g}</text><text x="600" y="220" text-anchor="end">{edges[-1]:.6g}</text>'
        f'<text y="-5">{max(counts, default=0.0):.6g}</text></g></svg>'
    ).encode()
