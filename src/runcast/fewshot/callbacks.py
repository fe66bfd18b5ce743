"""A callback that draws what the body has learnt."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from transformers import TrainerCallback

from runcast.fewshot.data import Examples, Label, examples
from runcast.fewshot.labels import label_form
from runcast.run import current_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger("runcast")

_MARKERS = "osD^vP<X"
_MOST_IN_LEGEND = 80


class EmbeddingPlotCallback(TrainerCallback):
    """Draws training and evaluation embeddings side by side at every evaluation, coloured by label, or by all labels of a text.

    Both are on one map (t-SNE of both together), so that one sees whether evaluation texts fall among training texts of
    their label. The figure is saved in the run folder (in `args.output_dir` without a run) and logged to every tracker.

    Args:
        train_dataset: What to draw on the left; by default what the trainer trains on.
        eval_dataset: What to draw on the right; by default what was evaluated.
        max_points: How many texts to draw a side, at most; a fixed choice with all labels in it.
        perplexity: Of t-SNE; smaller for few texts.
        seed: Of t-SNE and of the choice.
        column_mapping: From the datasets' column names to ``text`` and ``label``.

    Attributes:
        paths: The figures saved so far.
    """

    def __init__(
        self,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        max_points: int = 300,
        perplexity: float = 30.0,
        seed: int = 0,
        column_mapping: Mapping[str, str] | None = None,
    ) -> None:
        if max_points < 1:
            raise ValueError(f"max_points is {max_points}; expected at least 1")
        self.train_dataset = None if train_dataset is None else examples(train_dataset, "train_dataset", column_mapping)
        self.eval_dataset = None if eval_dataset is None else examples(eval_dataset, "eval_dataset", column_mapping)
        self.max_points = max_points
        self.perplexity = perplexity
        self.seed = seed
        self.paths: list[Path] = []

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        metrics: Mapping[str, Any] | None = None,
        train_dataloader: Any = None,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        sides = {
            "training": self.train_dataset or _examples_of(train_dataloader),
            "evaluation": self.eval_dataset or _examples_of(eval_dataloader),
        }
        drawn = {name: self._choose(data) for name, data in sides.items() if data is not None}
        texts = [text for data in drawn.values() for text in data.texts]
        if len(texts) < 3:
            logger.warning("%d texts are too few for a map of embeddings: none is drawn", len(texts))
            return
        points = two_dimensions(model.encode(texts), self.perplexity, self.seed)
        splits = np.split(points, np.cumsum([len(data) for data in drawn.values()])[:-1])
        panels = {
            name: (part, _in_words(data.required_labels(), model.labels))
            for (name, data), part in zip(drawn.items(), splits, strict=True)
        }
        title = f"step {state.global_step} of {state.max_steps}" if state.max_steps else "before training"
        self._keep(embedding_figure(panels, f"Text embeddings, {title}"), args, state.global_step, _phase(metrics))

    def _choose(self, data: Examples) -> Examples:
        """At most `max_points` of the texts, the labels in turn."""
        labels = data.required_labels()
        if len(data) <= self.max_points:
            return data
        shuffled = np.random.default_rng(self.seed).permutation(len(data)).tolist()
        by_label: dict[Label, list[int]] = {}
        for row in shuffled:
            by_label.setdefault(labels[row], []).append(row)
        in_turn = [row for rows in itertools.zip_longest(*by_label.values()) for row in rows if row is not None]
        rows = sorted(in_turn[: self.max_points])
        return Examples([data.texts[row] for row in rows], [labels[row] for row in rows], data.name)

    def _keep(self, figure: Figure, args: Any, step: int, phase: str) -> None:
        run = current_run()
        folder = Path(args.output_dir) if run is None or run.dir is None else run.dir
        path = folder / "embeddings" / f"{'' if phase == 'eval' else f'{phase}_'}step_{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        if path not in self.paths:
            self.paths.append(path)
        if run is not None:
            run.log_image(f"{phase}/embeddings", path, step=step)


def two_dimensions(embeddings: npt.ArrayLike, perplexity: float = 30.0, seed: int = 0) -> npt.NDArray[np.float64]:
    """A map of embeddings, shape (n, 2), by t-SNE on cosine distances; the same for the same seed.

    Args:
        embeddings: Shape (n, dimensions), n ≥ 3.
        perplexity: About how many neighbours a text has; at most a third of the others.
        seed: Of t-SNE's own random state; the global ones stay as they are.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    vectors = np.asarray(embeddings, dtype=np.float64)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    perplexity = min(perplexity, (len(vectors) - 1) / 3)
    tsne = TSNE(n_components=2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    with threadpool_limits(1):  # its threads wait for each other in loops: many times slower on a busy machine
        points: npt.NDArray[np.float64] = tsne.fit_transform(vectors)
    return points


def embedding_figure(panels: Mapping[str, tuple[npt.NDArray[np.float64], Sequence[Label]]], title: str) -> Figure:
    """Scatter plots side by side, on the same axes and with the same colours.

    Args:
        panels: By title: points, shape (n, 2), and n labels.
        title: Above all of them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = sorted({label for _, given in panels.values() for label in given}, key=str)
    styles = dict(zip(labels, _styles(len(labels)), strict=True))
    width = 5.2 * len(panels)
    columns = _legend_columns(labels, width)
    figure = Figure(figsize=(width, 5.5 + 0.2 * -(-len(labels) // columns) if columns else 5.5), dpi=120)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, (points, given)) in zip(axes, panels.items(), strict=True):
        _scatter(axis, points, given, styles)
        axis.set_title(f"{name} ({len(points)} texts)", fontsize=11, color="#444444")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    if columns:
        _legend(figure, styles, columns)
    return figure


def _in_words(labels: Sequence[Any], known: Sequence[Label] | None) -> list[Label]:
    """Labels as a legend has them; several of a text become one, ``billing, urgent``."""
    form = label_form(labels)
    if form == "single":
        return list(labels)
    if form == "rows":
        names = known if known is not None and len(known) == len(labels[0]) else range(len(labels[0]))
        labels = [tuple(itertools.compress(names, row)) for row in labels]
    return [", ".join(sorted(map(str, names))) or "no label" for names in labels]


def _scatter(
    axis: Axes, points: npt.NDArray[np.float64], labels: Sequence[Label], styles: Mapping[Label, tuple[Any, str]]
) -> None:
    for label, (colour, marker) in styles.items():
        chosen = points[[given == label for given in labels]]
        if len(chosen):
            axis.scatter(
                chosen[:, 0],
                chosen[:, 1],
                s=34,
                color=[colour],
                marker=marker,
                alpha=0.85,
                edgecolors="white",
                linewidths=0.5,
            )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.margins(0.06)
    axis.set_facecolor("#fafafa")
    for spine in axis.spines.values():
        spine.set_color("#cccccc")


def _styles(count: int) -> list[tuple[Any, str]]:
    """A colour and a marker a label: ten colours, then the next marker."""
    from matplotlib import colormaps

    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]  # a ListedColormap has them
    return [(colours[i % 10], _MARKERS[i // 10 % len(_MARKERS)]) for i in range(count)]


def _legend_columns(labels: Sequence[Label], width: float) -> int:
    """How many labels fit side by side into `width` inches; 0 for more labels than one can tell apart."""
    if len(labels) > _MOST_IN_LEGEND:
        return 0
    longest = max(len(_short(str(label))) for label in labels)
    return max(1, min(len(labels), int(width / (0.4 + 0.072 * longest))))


def _legend(figure: Figure, styles: Mapping[Label, tuple[Any, str]], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=7, label=_short(str(label)))
        for label, (colour, marker) in styles.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        handletextpad=0.1,
        columnspacing=1.2,
    )


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _phase(metrics: Mapping[str, Any] | None) -> str:
    """``eval``, ``test``: what the names of an evaluation's metrics begin with."""
    speeds = [key.removesuffix("_samples_per_second") for key in metrics or {} if key.endswith("_samples_per_second")]
    return speeds[0] if speeds else "eval"


def _examples_of(dataloader: Any) -> Examples | None:
    found = getattr(getattr(dataloader, "dataset", None), "examples", None)
    return found if isinstance(found, Examples) and found.labels is not None else None
