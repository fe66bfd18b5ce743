"""Metrics of classification: the accuracy, and the one that the user chose."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sklearn.metrics

Metric: TypeAlias = "str | Callable[..., Any]"

# Scikit-learn's default for these, "binary", can't do more than two classes.
_AVERAGED = ("f1_score", "fbeta_score", "precision_score", "recall_score", "jaccard_score")


class ClassificationMetrics:
    """Computes metrics from predicted and true labels.

    Args:
        metric: The name of a function of `sklearn.metrics`, with or without ``_score``, such as ``"f1"``; or, where there is
            none of that name and the package ``evaluate`` is installed, what `evaluate.load` takes; or a function
            ``(y_pred, y_test) -> float`` or ``-> dict``.
        kwargs: More arguments for it; for F1 and its like the average is ``"macro"`` unless given.

    Raises:
        ValueError: Neither has such a metric.
        TypeError: `metric` is neither a name nor a function.
    """

    def __init__(self, metric: Metric, kwargs: Mapping[str, Any] | None = None) -> None:
        self.kwargs = dict(kwargs or {})
        self._is_own = not isinstance(metric, str)
        if isinstance(metric, str) and (name := _function_name(metric)):
            self.name = metric.removesuffix("_score")
            function = getattr(sklearn.metrics, name)
            if name in _AVERAGED:
                self.kwargs = {"average": "macro", "zero_division": 0, **self.kwargs}
            self._compute: Callable[..., Any] = lambda predicted, true, **more: function(true, predicted, **more)
        elif isinstance(metric, str):
            self.name = metric
            self._compute = _of_evaluate(metric)
        elif callable(metric):
            self.name = getattr(metric, "__name__", "metric")
            self.name = "metric" if self.name == "<lambda>" else self.name
            self._compute = metric
        else:
            raise TypeError(f"metric is a {type(metric).__name__}; expected a name of sklearn.metrics or a function")

    def __call__(self, predicted: npt.NDArray[Any], true: npt.NDArray[Any]) -> dict[str, Any]:
        """The metrics by name, the accuracy among them; as JSON values, since checkpoints keep them.

        They are numbers as a rule. An F1 of each label is a list, a confusion matrix one of lists.

        Args:
            predicted: Labels, shape (n,); or rows of 0 and 1, shape (n, classes), where a text may have several.
            true: Likewise.

        Raises:
            ValueError: Scikit-learn's metric can't do that kind of labels, or takes no such arguments.
        """
        try:
            result = self._compute(predicted, true, **self.kwargs)
        except (ValueError, TypeError) as error:
            if self._is_own:
                raise
            raise ValueError(f"metric {self.name!r} can't be computed: {error}") from error
        values = dict(result) if isinstance(result, Mapping) else {self.name: result}
        return {"accuracy": accuracy(predicted, true), **{str(name): as_json(value) for name, value in values.items()}}


def as_json(value: Any) -> Any:
    """A value as what JSON has: arrays and the like as lists, what it doesn't know as text."""
    if hasattr(value, "tolist"):  # numpy's, torch's, pandas's
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(one) for one in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def is_number(value: Any) -> bool:
    """Whether it can be compared with others, and shown as a figure."""
    return isinstance(value, int | float)


def accuracy(predicted: npt.ArrayLike, true: npt.ArrayLike) -> float:
    """The share of texts whose label, or all of whose labels, are right."""
    right = np.asarray(predicted) == np.asarray(true)
    return float(np.mean(right if right.ndim == 1 else right.all(axis=1)))


def _function_name(metric: str) -> str | None:
    """What scikit-learn calls the metric; None if it has none of that name."""
    for name in (f"{metric}_score", metric):
        if callable(getattr(sklearn.metrics, name, None)):
            return name
    return None


def _of_evaluate(metric: str) -> Callable[..., Any]:
    """A metric of the package ``evaluate``, which wants numbers for labels."""
    if importlib.util.find_spec("evaluate") is None:
        raise ValueError(f"sklearn.metrics has no metric {metric!r}.{_hint(metric)}")
    try:
        module = importlib.import_module("evaluate").load(metric)
    except Exception as error:  # of many kinds: no such file, no network
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"neither sklearn.metrics nor evaluate has a metric {metric!r} ({reason}).{_hint(metric)}"
        ) from error

    def compute(predicted: npt.NDArray[Any], true: npt.NDArray[Any], **more: Any) -> Any:
        if predicted.dtype.kind in "OSU":
            both = np.unique(np.concatenate([predicted, true]).astype(str), return_inverse=True)[1]
            predicted, true = np.split(both, 2)
        return module.compute(predictions=predicted.tolist(), references=true.tolist(), **more)

    return compute


def _hint(metric: str) -> str:
    scores = [name.removesuffix("_score") for name in dir(sklearn.metrics) if name.endswith("_score")]
    near = difflib.get_close_matches(metric, scores, n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else f" Known: {', '.join(scores)}."
