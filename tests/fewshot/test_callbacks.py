"""EmbeddingPlotCallback draws both datasets on one map, at every evaluation."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from runcast.fewshot import EmbeddingPlotCallback, Trainer
from runcast.fewshot.callbacks import embedding_figure, two_dimensions
from runcast.fewshot.data import Examples


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 8))


def texts_of(figure):
    """Every text of a figure: title, panel titles, legend."""
    titles = [figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]
    return titles, [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_figure_at_every_evaluation_in_the_run(model, make_args, train_data, eval_data, recorder, only_run):
    """Each evaluation saves a picture in the run folder and logs it to the run."""
    plot = EmbeddingPlotCallback()
    args = make_args(report_to=recorder, eval_strategy="steps", eval_steps=2)
    with Trainer(model, args, train_data, eval_data, callbacks=[plot]) as trainer:
        trainer.train()
        trainer.evaluate(eval_data, metric_key_prefix="test")
        folder = trainer._reporting().run.dir
    assert [path.relative_to(folder).as_posix() for path in plot.paths] == [
        "embeddings/step_2.png",
        "embeddings/step_4.png",
        "embeddings/test_step_4.png",
    ]
    run = only_run()
    assert [image.step for image in run.images["eval/embeddings"]] == [2, 4]
    assert run.images["eval/embeddings"][0].image.read() == plot.paths[0].read_bytes()
    assert [image.step for image in run.images["test/embeddings"]] == [4]


def test_without_a_run_figures_go_to_the_output_folder(model, make_args, train_data, eval_data, tmp_path):
    """Reporting nothing, the pictures are in args.output_dir; an evaluation before training shows that side alone."""
    plot = EmbeddingPlotCallback()
    trainer = Trainer(model, make_args(), train_data, eval_data, callbacks=[plot])
    trainer.evaluate()
    assert plot.paths == [tmp_path / "output" / "embeddings" / "step_0.png"]


def test_the_training_is_not_touched(model, make_args, train_data, eval_data):
    """Drawing moves neither torch's nor numpy's random numbers, and needs no pyplot."""
    plot = EmbeddingPlotCallback()
    trainer = Trainer(model, make_args(), train_data, eval_data, callbacks=[plot])
    sys.modules.pop("matplotlib.pyplot", None)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    trainer.evaluate()
    assert plot.paths[0].stat().st_size > 5000
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert "matplotlib.pyplot" not in sys.modules


def test_a_figure_names_sides_step_and_labels(points):
    """Both panels share axes; the title has the step, the legend every label."""
    figure = embedding_figure(
        {"training": (points[:6, :2], ["a", "b"] * 3), "evaluation": (points[6:, :2], ["b", "c"] * 3)}, "step 3 of 9"
    )
    titles, legend = texts_of(figure)
    assert titles == ["step 3 of 9", "training (6 texts)", "evaluation (6 texts)"]
    assert legend == ["a", "b", "c"]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


NAMES = [["billing", "urgent"], ["delivery"], [], ["urgent", "billing"]]
ROWS = [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize("labels", [NAMES, ROWS, [[1, 0], [0, 1], [1, 0], [1, 1]]])
def test_several_labels_a_text_are_drawn_too(model, make_args, train_data, labels):
    """A training with lists of names, or rows of 0 and 1, draws a figure at each evaluation and comes to its end."""
    data = {"text": train_data["text"][:12], "label": labels * 3}
    plot = EmbeddingPlotCallback(max_points=6)
    Trainer(model, make_args(eval_strategy="steps", eval_steps=2), data, data, callbacks=[plot]).train()
    assert [path.name for path in plot.paths] == ["step_2.png", "step_4.png"]


@pytest.mark.parametrize(("labels", "known"), [(NAMES, None), (ROWS, ["billing", "delivery", "urgent"])])
def test_a_legend_has_the_names_of_several_labels(points, monkeypatch, labels, known):
    """Rows are told by the names of their labels, in whichever order these come."""
    figures = []
    monkeypatch.setattr(EmbeddingPlotCallback, "_keep", lambda self, figure, *args: figures.append(figure))
    data = Examples(["a", "b", "c", "d"], labels)
    body = SimpleNamespace(labels=known, encode=lambda texts: points[: len(texts)])
    state = SimpleNamespace(is_world_process_zero=True, global_step=1, max_steps=2)
    EmbeddingPlotCallback(data, data).on_evaluate(None, state, None, model=body)
    assert texts_of(figures[0])[1] == ["billing, urgent", "delivery", "no label"]
    assert [len(drawn.get_offsets()) for drawn in figures[0].axes[0].collections] == [2, 1, 1]


def test_many_labels_have_distinct_looks_and_a_legend_that_fits(points):
    """Thirty labels differ by colour or marker, and the legend stays inside the figure."""
    labels = [f"a_rather_long_label_number_{i}" for i in range(30)]
    figure = embedding_figure({"training": (np.random.default_rng(1).normal(size=(30, 2)), labels)}, "x")
    figure.canvas.draw()
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert box.x0 >= 0 and box.x1 <= whole.x1 and box.y0 >= 0
    looks = {(handle.get_marker(), handle.get_color()) for handle in legend.legend_handles}
    assert len(looks) == 30


def test_a_map_is_the_same_for_the_same_seed(points):
    """t-SNE is deterministic, and adapts to few points."""
    assert np.array_equal(two_dimensions(points), two_dimensions(points))
    assert two_dimensions(points[:3]).shape == (3, 2)


def test_too_few_texts_draw_nothing(model, make_args, caplog):
    """With two texts there is no map, and a warning says so."""
    tiny = {"text": ["my invoice", "the parcel"], "label": ["billing", "delivery"]}
    plot = EmbeddingPlotCallback()
    Trainer(model, make_args(), tiny, tiny, callbacks=[plot]).evaluate()
    assert plot.paths == []
    assert "2 texts are too few" in caplog.text


def test_large_sets_are_thinned_with_every_label_in_it():
    """At most max_points are drawn, and rare labels among them."""
    data = Examples([f"text {i}" for i in range(500)], ["common"] * 497 + ["rare"] * 3)
    chosen = EmbeddingPlotCallback(max_points=20)._choose(data)
    assert len(chosen) == 20
    assert chosen.labels.count("rare") == 3
