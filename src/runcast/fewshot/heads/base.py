"""What all heads have in common: the map from embeddings to probabilities, and how it is kept."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.intp]
Strategy: TypeAlias = Literal["one-vs-rest", "multi-output", "classifier-chain"]
Link: TypeAlias = Literal["softmax", "sigmoid", "normalized-sigmoid"]

HEADS: dict[str, type[Head]] = {}
"""Every kind of head: a subclass of `Head` with a `kind` is one from its definition on."""


class Head:
    """A linear classifier. Subclasses say how it is fitted.

    With one label a text the probabilities of the classes add up to one. With several, each label is decided by itself; or in
    a chain, where each decision is told to the labels after it.

    A head of one's own has a `kind` and a `_fit`, and can be made without arguments. Its module has to be imported before a
    classifier with it is loaded:

        ```python
        class RidgeHead(Head):
            kind = "ridge"

            def _fit(self, vectors, targets, seed, alpha=1.0):
                ridge = Ridge(alpha).fit(vectors, np.eye(targets.max() + 1)[targets])
                return ridge.coef_, ridge.intercept_
        ```

    Args:
        multi_target_strategy: For texts with several labels: ``"one-vs-rest"`` or ``"multi-output"``, which are the same
            here, or ``"classifier-chain"``. None: one label a text, or ``"one-vs-rest"`` if there turn out to be several.

    Attributes:
        kind: Its name in `HEADS`.
        weight: Shape (classes, dimensions); None until fitted. Likewise `bias`, shape (classes,).
        chain: What a label adds to the score of each label after it, shape (classes, classes); None without a chain.
        link: From scores to probabilities: ``softmax`` for one label a text, ``sigmoid`` for several; in heads that were
            fitted elsewhere also ``normalized-sigmoid``, one label a text by one-vs-rest.

    Raises:
        ValueError: There is no such strategy.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not (kind := vars(cls).get("kind")):
            return
        other = HEADS.setdefault(kind, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"head {kind!r} is {other.__module__}.{other.__qualname__} already; choose another kind")
        HEADS[kind] = cls  # defined again, in a notebook say

    def __init__(self, multi_target_strategy: Strategy | None = None) -> None:
        if multi_target_strategy not in (None, *get_args(Strategy)):
            expected = ", ".join(get_args(Strategy))
            raise ValueError(f"multi_target_strategy is {multi_target_strategy!r}; expected one of {expected}, or None")
        self.multi_target_strategy = multi_target_strategy
        self.weight: Floats | None = None
        self.bias: Floats | None = None
        self.chain: Floats | None = None
        self.link: Link = "softmax"

    @property
    def is_fitted(self) -> bool:
        """Whether it can predict."""
        return self.weight is not None

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels, or none: by what it was fitted on."""
        return self.link == "sigmoid"

    def does(self, strategy: Strategy | None) -> bool:
        """Whether a fitted head decides as that strategy says; None says nothing."""
        return strategy is None or not self.multi_label or (strategy == "classifier-chain") == (self.chain is not None)

    # -- fitting ---------------------------------------------------------------------------------------------------

    def fit(
        self, embeddings: npt.ArrayLike, classes: npt.ArrayLike, n_classes: int, seed: int = 0, **params: Any
    ) -> None:
        """Fits the head; a class without examples gets probability 0, a label that all texts have 1.

        Args:
            embeddings: Shape (n, dimensions).
            classes: Shape (n,), each in range(n_classes); or rows of 0 and 1, shape (n, n_classes), for several labels.
            n_classes: How many classes there are.
            seed: For heads that use chance.
            params: The options of this kind of head. Where each text has one label, the keys of a `class_weight` are classes.

        Raises:
            ValueError: Nothing to tell apart among the examples, an embedding that is not finite, a strategy for several
                labels where each text has one, or an option's value that can't be.
            TypeError: An option that this kind doesn't have.
        """
        vectors, targets = np.asarray(embeddings, dtype=np.float64), np.asarray(classes)
        if not np.isfinite(vectors).all():
            raise ValueError("embeddings hold NaN or infinity: training diverged; lower learning_rate")
        if targets.ndim == 1 and self.multi_target_strategy is not None:
            raise ValueError(
                f"multi_target_strategy is {self.multi_target_strategy!r}, but each text has one label: give lists of "
                "labels or rows of 0 and 1, or leave the strategy out"
            )
        try:
            if targets.ndim == 1:
                self._fit_one(vectors, targets, n_classes, seed, params)
            else:
                self._fit_several(vectors, targets, seed, params)
        except TypeError as error:
            of_value = isinstance(error, ValueError)  # scikit-learn's are both
            wrong, does = (ValueError, "can't be fitted with") if of_value else (TypeError, "doesn't take")
            raise wrong(f"head {self.kind!r} {does} head_params {params}: {error}") from error

    def check(self, params: Mapping[str, Any], n_classes: int, *, multi_label: bool) -> None:
        """Fails on options that it can't be fitted with, by fitting another one to a few random vectors.

        Args:
            params: Its options.
            n_classes: How many classes there are.
            multi_label: Whether a text may have several.

        Raises:
            ValueError: A value that an option can't have, or a strategy for several labels where each text has one.
            TypeError: An option that this kind doesn't have.
        """
        size = min(n_classes, 3)
        # The last row of several labels has none, so that also a single label varies.
        each = np.eye(size + 1, size, dtype=np.int64) if multi_label else np.arange(size)
        classes = np.concatenate([each] * 4)
        vectors = np.random.default_rng(0).normal(size=(len(classes), 4))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about random vectors
                copy.deepcopy(self).fit(vectors, classes, size, **params)
        except (ValueError, TypeError):
            raise
        except Exception as error:  # of torch, say, for a device that isn't there
            raise ValueError(f"head {self.kind!r} can't be fitted with head_params {dict(params)}: {error}") from error

    def _fit_one(
        self, vectors: Floats, targets: npt.NDArray[Any], n_classes: int, seed: int, params: Mapping[str, Any]
    ) -> None:
        present, positions = np.unique(targets, return_inverse=True)
        if len(present) < 2:
            raise ValueError(f"a head needs examples of at least two classes, found {len(present)}")
        if isinstance(weights := params.get("class_weight"), Mapping):
            at = {one: position for position, one in enumerate(present.tolist())}
            params = {**params, "class_weight": {at[one]: value for one, value in weights.items() if one in at}}
        found = self._fit(vectors, positions, seed, **params)
        weight, bias = np.zeros((n_classes, vectors.shape[1])), np.full(n_classes, -np.inf)
        weight[present], bias[present] = found
        self.weight, self.bias, self.chain, self.link = weight, bias, None, "softmax"

    def _fit_several(self, vectors: Floats, rows: npt.NDArray[Any], seed: int, params: Mapping[str, Any]) -> None:
        size = rows.shape[1]
        varies = rows.min(axis=0) != rows.max(axis=0)
        if not varies.any():
            raise ValueError("a head needs at least one label that some texts have and others don't")
        weight, chain = np.zeros((size, vectors.shape[1])), None
        bias = np.where(rows[0] > 0, np.inf, -np.inf)  # of the labels that all texts have, or none
        if self.multi_target_strategy == "classifier-chain":
            chain = np.zeros((size, size))
            for label in np.flatnonzero(varies):
                seen = np.hstack([vectors, rows[:, :label]])
                (_, found), (_, offset) = self._against_zero(*self._fit(seen, rows[:, label], seed, **params))
                weight[label], chain[label, :label] = np.split(found, [vectors.shape[1]])
                bias[label] = offset
        else:
            weight[varies], bias[varies] = self._fit_labels(vectors, rows[:, varies], seed, **params)
        self.weight, self.bias, self.chain, self.link = weight, bias, chain, "sigmoid"

    @staticmethod
    def _against_zero(weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Of two classes, as scores against those of the first; a sigmoid then does what the softmax did."""
        return weight - weight[0], bias - bias[0]

    def _fit(self, vectors: Floats, targets: npt.NDArray[Any], seed: int, **params: Any) -> tuple[Floats, Floats]:
        """Weight (k, dimensions) and bias (k,) for targets in range(k), k ≥ 2."""
        raise NotImplementedError

    def _fit_labels(self, vectors: Floats, rows: npt.NDArray[Any], seed: int, **params: Any) -> tuple[Floats, Floats]:
        """Weight (k, dimensions) and bias (k,) for k labels, each 0 for some texts and 1 for others."""
        fitted = [self._against_zero(*self._fit(vectors, column, seed, **params)) for column in rows.T]
        return np.stack([weight[1] for weight, _ in fitted]), np.array([bias[1] for _, bias in fitted])

    # -- prediction ------------------------------------------------------------------------------------------------

    def predict_proba(self, embeddings: npt.ArrayLike) -> Floats:
        """Probabilities, shape (n, classes), for embeddings of shape (n, dimensions).

        Raises:
            RuntimeError: The head isn't fitted.
        """
        if self.weight is None or self.bias is None:
            raise RuntimeError(
                "the classification head isn't fitted: call Trainer.train() or FewShotClassifier.fit_head()"
            )
        scores: Floats = np.asarray(embeddings, dtype=np.float64) @ self.weight.T + self.bias
        if self.chain is not None:
            for label in range(1, len(self.bias)):
                scores[:, label] += (scores[:, :label] > 0) @ self.chain[label, :label]
        if self.link == "softmax":
            return _normalized(np.exp(scores - scores.max(axis=1, keepdims=True)))
        with np.errstate(over="ignore"):  # exp(∞) is what makes it 0
            each: Floats = 1.0 / (1.0 + np.exp(-scores))
        return each if self.link == "sigmoid" else _normalized(each)

    def predict(self, embeddings: npt.ArrayLike) -> Ints:
        """The most probable class of each embedding, shape (n,); with several labels rows of 0 and 1, shape (n, classes)."""
        return self.decide(self.predict_proba(embeddings))

    def decide(self, probabilities: Floats) -> Ints:
        """What `predict` says, given the probabilities."""
        found: Ints = (probabilities >= 0.5).astype(np.intp) if self.multi_label else probabilities.argmax(axis=1)
        return found

    # -- keeping ---------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, Floats]:
        """What it has learnt, by name; empty until fitted."""
        found = {"weight": self.weight, "bias": self.bias, "chain": self.chain}
        return {name: value for name, value in found.items() if value is not None}

    def restore(self, arrays: Mapping[str, npt.ArrayLike], link: Link = "softmax") -> None:
        """Takes what `arrays` gave.

        Raises:
            ValueError: They don't fit together.
        """
        weight, bias = (np.asarray(arrays.get(name, ()), dtype=np.float64) for name in ("weight", "bias"))
        chain = np.asarray(arrays["chain"], dtype=np.float64) if "chain" in arrays else None
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or (chain is not None and chain.shape != bias.shape * 2):
            shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in arrays.items())
            raise ValueError(f"arrays {shapes or 'none'}; expected weight (classes, dimensions) and bias (classes,)")
        if link not in get_args(Link):
            raise ValueError(f"link is {link!r}; expected one of {', '.join(get_args(Link))}")
        self.weight, self.bias, self.chain, self.link = weight, bias, chain, link


def _normalized(values: Floats) -> Floats:
    shares: Floats = values / values.sum(axis=1, keepdims=True)
    return shares
