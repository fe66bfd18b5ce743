"""Classification heads: from embeddings to class probabilities.

Every head is a linear map and a softmax, however it was fitted; so it is saved as two arrays, without pickle.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Head:
    """A linear classifier over `classes` classes. Subclasses say how it is fitted.

    Attributes:
        kind: Its name in `HEADS`.
        weight: Shape (classes, dimensions); None until fitted. Likewise `bias`, shape (classes,).
    """

    kind = ""

    def __init__(self) -> None:
        self.weight: Floats | None = None
        self.bias: Floats | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return self.weight is not None

    def fit(
        self, embeddings: npt.ArrayLike, classes: npt.ArrayLike, n_classes: int, seed: int = 0, **params: Any
    ) -> None:
        """Fits the head; a class without examples gets probability 0.

        Args:
            embeddings: Shape (n, dimensions).
            classes: Shape (n,), each in range(n_classes).
            n_classes: How many classes there are.
            seed: For heads that use chance.
            params: The options of this kind of head.

        Raises:
            ValueError: Fewer than two classes among the examples, or an embedding that is not finite.
            TypeError: An option that this kind doesn't have.
        """
        vectors = np.asarray(embeddings, dtype=np.float64)
        present, targets = np.unique(np.asarray(classes), return_inverse=True)
        if len(present) < 2:
            raise ValueError(f"a head needs examples of at least two classes, found {len(present)}")
        if not np.isfinite(vectors).all():
            raise ValueError("embeddings hold NaN or infinity: training diverged; lower learning_rate")
        try:
            weight, bias = self._fit(vectors, targets, seed, **params)
        except TypeError as error:
            raise TypeError(f"head {self.kind!r} doesn't take head_params {params}: {error}") from error
        self.weight = np.zeros((n_classes, vectors.shape[1]))
        self.bias = np.full(n_classes, -np.inf)
        self.weight[present], self.bias[present] = weight, bias

    def predict_proba(self, embeddings: npt.ArrayLike) -> Floats:
        """Probabilities, shape (n, classes), for embeddings of shape (n, dimensions).

        Raises:
            RuntimeError: The head isn't fitted.
        """
        if self.weight is None or self.bias is None:
            raise RuntimeError(
                "the classification head isn't fitted: call Trainer.train() or FewShotClassifier.fit_head()"
            )
        scores = np.asarray(embeddings, dtype=np.float64) @ self.weight.T + self.bias
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]  # numpy's stubs say Any

    def predict(self, embeddings: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """The most probable class of each embedding, shape (n,)."""
        classes: npt.NDArray[np.intp] = self.predict_proba(embeddings).argmax(axis=1)
        return classes

    def _fit(self, vectors: Floats, targets: npt.NDArray[np.intp], seed: int) -> tuple[Floats, Floats]:
        """Weight (k, dimensions) and bias (k,) for targets in range(k), k ≥ 2."""
        raise NotImplementedError


class LogisticHead(Head):
    """Scikit-learn's logistic regression; its options are those of `sklearn.linear_model.LogisticRegression`."""

    kind = "logistic"

    def _fit(self, vectors: Floats, targets: npt.NDArray[np.intp], seed: int, **params: Any) -> tuple[Floats, Floats]:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):  # so few numbers: threads would mostly wait for each other
            model = LogisticRegression(**{"max_iter": 1000, "random_state": seed, **params}).fit(vectors, targets)
        if len(model.coef_) > 1:
            return model.coef_, model.intercept_
        # Two classes: scikit-learn keeps the score of the second; against a score of 0, softmax is the sigmoid.
        return np.vstack([np.zeros_like(model.coef_), model.coef_]), np.concatenate([[0.0], model.intercept_])


class TorchHead(Head):
    """A linear layer fitted with AdamW on all examples at once.

    Options: `epochs` (300), `learning_rate` (0.01), `weight_decay` (0.01), `device` ("cpu").
    """

    kind = "torch"

    def _fit(
        self,
        vectors: Floats,
        targets: npt.NDArray[np.intp],
        seed: int,
        epochs: int = 300,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        device: str = "cpu",
    ) -> tuple[Floats, Floats]:
        import torch

        inputs = torch.as_tensor(vectors, dtype=torch.float32, device=device)
        expected = torch.as_tensor(targets, device=device)
        generator = torch.Generator().manual_seed(seed)  # its own: the training's random state stays as it is
        start = torch.randn(int(targets.max()) + 1, vectors.shape[1], generator=generator) * vectors.shape[1] ** -0.5
        weight = start.to(device).requires_grad_()
        bias = torch.zeros(len(start), device=device, requires_grad=True)
        optimizer = torch.optim.AdamW([weight, bias], lr=learning_rate, weight_decay=weight_decay)
        with torch.enable_grad():
            for _ in range(epochs):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, expected)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
        return weight.detach().cpu().double().numpy(), bias.detach().cpu().double().numpy()


HEADS: dict[str, Callable[[], Head]] = {cls.kind: cls for cls in (LogisticHead, TorchHead)}


def make_head(kind: str) -> Head:
    """An unfitted head of that kind.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in HEADS:
        near = difflib.get_close_matches(kind, HEADS, n=1)
        raise ValueError(f"head is {kind!r}; expected one of {', '.join(HEADS)}" + (f" ({near[0]}?)" if near else ""))
    return HEADS[kind]()
