"""What contrastive training minimises, computed from embeddings that were made once a step.

A loss of pairs looks at the similarity of two embeddings and at what it should be; a loss of labels at all embeddings of a
batch and their labels. Pairs are those that were drawn; without any, all pairs of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional

try:
    from sentence_transformers.sentence_transformer import losses as library
except ModuleNotFoundError:  # before sentence-transformers 6
    from sentence_transformers import losses as library  # type: ignore[attr-defined, no-redef]  # of another version

PairLossName: TypeAlias = Literal["cosine", "contrastive"]
LabelLossName: TypeAlias = Literal[
    "supervised_contrastive", "triplet_all", "triplet_hard", "triplet_semi_hard", "triplet_hard_soft_margin"
]
LabelLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From embeddings (n, d) and labels to a scalar. Labels are class indices (n,), or rows of 0 and 1 (n, classes)."""

_TRIPLETS: dict[str, type[Any]] = {
    "triplet_all": library.BatchAllTripletLoss,
    "triplet_hard": library.BatchHardTripletLoss,
    "triplet_semi_hard": library.BatchSemiHardTripletLoss,
    "triplet_hard_soft_margin": library.BatchHardSoftMarginTripletLoss,
}
_CLASSES = {
    library.CosineSimilarityLoss: "cosine",
    library.ContrastiveLoss: "contrastive",
    **{cls: name for name, cls in _TRIPLETS.items()},
}


class Pairs(NamedTuple):
    """Pairs of embeddings: which is left, which is right, and what their similarity should be, 1.0 or 0.0; shape (n,)."""

    left: Tensor
    right: Tensor
    target: Tensor


class Loss:
    """A loss that knows whether it looks at pairs or at labels.

    Args:
        loss: A name; or a function from embeddings (n, d) and labels to a scalar (see `LabelLoss`); or the class of
            sentence-transformers' that does what one of the names does.
        margin: Of ``contrastive`` and of triplets, a cosine distance; by default 0.5 and 0.25.

    Attributes:
        of_pairs: Whether it looks at pairs.

    Raises:
        ValueError: No loss has that name.
        TypeError: Neither a name nor a function.
    """

    def __init__(self, loss: str | LabelLoss | type[Any], margin: float | None = None) -> None:
        name = loss_name(loss)
        self.of_pairs = name in get_args(PairLossName)
        self.single_label = name in _TRIPLETS
        self._margin = 0.5 if margin is None else margin
        self._of_labels: LabelLoss | None = None
        if self.of_pairs:
            self._of_similarity = cosine_loss if name == "cosine" else self._contrastive
        elif name in _TRIPLETS:
            self._of_labels = triplet_loss(name, 0.25 if margin is None else margin)
        elif name == "supervised_contrastive":
            self._of_labels = supervised_contrastive_loss
        elif callable(loss) and not isinstance(loss, type):
            self._of_labels = loss
        else:
            raise ValueError(f"loss is {name!r}; expected a function, or one of {', '.join(LOSS_NAMES)}")

    def __call__(self, embeddings: Tensor, labels: Tensor, pairs: Pairs | None = None) -> Tensor:
        """The loss of a batch: of these pairs, or of all its pairs, with the same weight for either kind.

        Args:
            embeddings: Shape (n, d).
            labels: Class indices (n,), or rows of 0 and 1 (n, classes).
            pairs: By default all pairs of different rows.
        """
        embeddings = embeddings.float()  # 16 bits are too few for what follows
        if self._of_labels is not None:
            return self._of_labels(embeddings, labels)
        unit = functional.normalize(embeddings)
        if pairs is not None:
            return self.of_similarity((unit[pairs.left] * unit[pairs.right]).sum(dim=1), pairs.target).mean()
        left, right = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
        target = shared(labels)[left, right].float()
        each = self.of_similarity((unit @ unit.T)[left, right], target)
        return each @ _equal_weights(target)

    def of_similarity(self, similarity: Tensor, target: Tensor) -> Tensor:
        """What each pair adds to the loss, shape (n,)."""
        return self._of_similarity(similarity, target)

    def _contrastive(self, similarity: Tensor, target: Tensor) -> Tensor:
        return contrastive_loss(similarity, target, self._margin)


LOSS_NAMES: tuple[str, ...] = (*get_args(PairLossName), *get_args(LabelLossName))


def loss_name(loss: Any) -> str:
    """What a loss is called, in a configuration say.

    Raises:
        TypeError: Neither a name nor a function.
    """
    if isinstance(loss, str):
        return loss
    if not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}; expected a name, or a function of embeddings and labels")
    return _CLASSES.get(loss) or str(getattr(loss, "__name__", type(loss).__name__))


def cosine_loss(similarity: Tensor, target: Tensor) -> Tensor:
    """The squared difference of cosine similarity and target."""
    return (similarity - target).square()


def contrastive_loss(similarity: Tensor, target: Tensor, margin: float = 0.5) -> Tensor:
    """The squared cosine distance of positive pairs, the squared shortfall from `margin` of negative ones; half of it."""
    distance = 1.0 - similarity
    shortfall = torch.clamp(margin - distance, min=0.0)
    return 0.5 * (target * distance.square() + (1.0 - target) * shortfall.square())


def supervised_contrastive_loss(embeddings: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """How unlikely it is to find a text's partners among all others by similarity; texts without partner don't count.

    As in "Supervised Contrastive Learning" (Khosla et al., 2020), the form that averages outside the logarithm.
    """
    unit = functional.normalize(embeddings)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(itself, float("-inf"))
    partners = shared(labels) & ~itself
    log_probability = torch.log_softmax(logits, dim=1).masked_fill(~partners, 0.0)
    counts = partners.sum(dim=1)
    return -(log_probability.sum(dim=1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def triplet_loss(name: str, margin: float) -> LabelLoss:
    """One of sentence-transformers' triplet losses, on cosine distances."""
    options: dict[str, Any] = {} if name == "triplet_hard_soft_margin" else {"margin": margin}
    distance = library.BatchHardTripletLossDistanceFunction.cosine_distance
    loss = _TRIPLETS[name](torch.nn.Identity(), distance_metric=distance, **options)

    def of_embeddings(embeddings: Tensor, labels: Tensor) -> Tensor:
        # It would have its model embed the texts; they are embedded already.
        value: Tensor = loss([{"sentence_embedding": embeddings}], labels)
        return value

    return of_embeddings


def shared(labels: Tensor) -> Tensor:
    """Which texts have a label in common, shape (n, n)."""
    if labels.dim() == 1:
        return labels[:, None] == labels[None, :]
    return (labels.float() @ labels.float().T) > 0


def _equal_weights(target: Tensor) -> Tensor:
    """Weights that sum to 1, half for either kind of pair; all for one kind if there is no other."""
    positives = target.sum()
    negatives = len(target) - positives
    kinds = (positives > 0).float() + (negatives > 0).float()
    return torch.where(target > 0, 1.0 / positives.clamp(min=1), 1.0 / negatives.clamp(min=1)) / kinds.clamp(min=1)
