"""A small real training, for showing that nothing a tracker does changes it: a softmax regression by gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

STEPS = 40


def train(log: Callable[[dict[str, float], int], Any], after_step: Callable[[int, bytes], Any] | None = None) -> bytes:
    """Trains on data of a fixed seed, batches drawn by numpy's global generator.

    Args:
        log: Called each step with loss and accuracy, and the step.
        after_step: Called after each step with the step and the weights so far.

    Returns:
        The weights: shape (3 classes, 8 features), float64, as bytes.
    """
    import numpy as np

    data = np.random.default_rng(7)
    labels = data.integers(0, 3, 240)
    inputs = data.normal(size=(240, 8)) + 0.8 * labels[:, None]
    np.random.seed(7)  # noqa: NPY002 -- the global generator, which a careless SDK would draw from
    weights = np.zeros((3, 8))
    for step in range(1, STEPS + 1):
        chosen = np.random.permutation(240)[:32]  # noqa: NPY002 -- as above
        x, y = inputs[chosen], labels[chosen]
        scores = x @ weights.T
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        loss = float(-np.log(probabilities[np.arange(32), y]).mean())
        probabilities[np.arange(32), y] -= 1.0
        weights -= 0.1 * probabilities.T @ x / 32
        log({"train/loss": loss, "train/accuracy": float((scores.argmax(axis=1) == y).mean())}, step)
        if after_step is not None:
            after_step(step, weights.tobytes())
    return weights.tobytes()
