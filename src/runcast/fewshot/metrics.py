"""Metrics of classification: the accuracy, and the one that the user chose."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sklearn.metrics

Metric: TypeAlias = "str | Callable[..., float | Mapping[str, float]]"

# Scikit-learn's default for these, "binary", can't do more than two classes.
_AVERAGED = ("f1_score", "fbeta_score", "precision_score", "recall_score", "jaccard_score")


class ClassificationMetrics:
    """Computes metrics from predicted and true labels.

    Args:
        metric: The name of a function of `sklearn.metrics`, with or without ``_score``, such as ``"f1"``; or a function
            ``(y_pred, y_test) -> float`` or ``-> dict``.
        kwargs: More arguments for it; for F1 and its like the average is ``"macro"`` unless given.

    Raises:
        ValueError: Scikit-learn has no such metric.
        TypeError: `metric` is neither a name nor a function.
    """

    def __init__(self, metric: Metric, kwargs: Mapping[str, Any] | None = None) -> None:
        self.kwargs = dict(kwargs or {})
        if isinstance(metric, str):
            name = _function_name(metric)
            self.name = metric.removesuffix("_score")
            function = getattr(sklearn.metrics, name)
            if name in _AVERAGED:
                self.kwargs = {"average": "macro", "zero_division": 0, **self.kwargs}
            self._compute: Callable[..., Any] = lambda predicted, true, **more: function(true, predicted, **more)
        elif callable(metric):
            self.name = getattr(metric, "__name__", "metric")
            self.name = "metric" if self.name == "<lambda>" else self.name
            self._compute = metric
        else:
            raise TypeError(f"metric is a {type(metric).__name__}; expected a name of sklearn.metrics or a function")

    def __call__(self, predicted: npt.NDArray[Any], true: npt.NDArray[Any]) -> dict[str, float]:
        """The metrics by name, the accuracy among them."""
        result = self._compute(predicted, true, **self.kwargs)
        values = dict(result) if isinstance(result, Mapping) else {self.name: result}
        return {"accuracy": float(np.mean(predicted == true)), **values}


def _function_name(metric: str) -> str:
    for name in (f"{metric}_score", metric):
        if callable(getattr(sklearn.metrics, name, None)):
            return name
    scores = [name.removesuffix("_score") for name in dir(sklearn.metrics) if name.endswith("_score")]
    near = difflib.get_close_matches(metric, scores, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else f" Known: {', '.join(scores)}."
    raise ValueError(f"sklearn.metrics has no metric {metric!r}.{hint}")
