"""Logistic regression as a head."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runcast.fewshot.heads.base import Floats, Head


class LogisticHead(Head):
    """Scikit-learn's logistic regression; its options are those of `sklearn.linear_model.LogisticRegression`.

    Other defaults than there: `max_iter`, and a `C` of 10: embeddings of length 1 and few examples need less regularisation
    (`benchmarks/fewshot_accuracy.py`).
    """

    kind = "logistic"

    def _fit(self, vectors: Floats, targets: npt.NDArray[Any], seed: int, **params: Any) -> tuple[Floats, Floats]:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):  # so few numbers: threads would mostly wait for each other
            model = LogisticRegression(**{"C": 10.0, "max_iter": 1000, "random_state": seed, **params})
            model.fit(vectors, targets)
        if len(model.coef_) > 1:
            return model.coef_, model.intercept_
        # Two classes: scikit-learn keeps the score of the second; against a score of 0, softmax is the sigmoid.
        return np.vstack([np.zeros_like(model.coef_), model.coef_]), np.concatenate([[0.0], model.intercept_])
