"""What contrastive training minimises: how far the similarity of two embeddings is from what their labels ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional

LossName: TypeAlias = Literal["cosine", "contrastive"]
PairLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From left embeddings (n, d), right embeddings (n, d) and targets (n,) in [0, 1] to a scalar."""


def pair_loss(name: str, margin: float) -> PairLoss:
    """The loss of that name.

    Args:
        name: ``cosine``, the squared difference of cosine similarity and target; or ``contrastive``, which pulls positive
            pairs together and pushes negative ones apart until their cosine distance is `margin`.
        margin: For ``contrastive``.

    Raises:
        ValueError: No loss has that name.
    """
    if name not in get_args(LossName):
        raise ValueError(f"loss is {name!r}; expected one of {', '.join(get_args(LossName))}")
    if name == "cosine":
        return cosine_loss
    return lambda left, right, target: contrastive_loss(left, right, target, margin)


def cosine_loss(left: Tensor, right: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of cosine similarity and target."""
    return functional.mse_loss(functional.cosine_similarity(left, right), target.to(left.dtype))


def contrastive_loss(left: Tensor, right: Tensor, target: Tensor, margin: float = 0.5) -> Tensor:
    """Mean of squared cosine distance for positive pairs, of squared shortfall from `margin` for negative ones."""
    distance = 1.0 - functional.cosine_similarity(left, right)
    shortfall = torch.clamp(margin - distance, min=0.0)
    return (0.5 * (target * distance.square() + (1.0 - target) * shortfall.square())).mean()
