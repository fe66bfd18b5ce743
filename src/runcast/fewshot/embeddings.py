"""Embeddings that are known already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from runcast.fewshot.model import FewShotClassifier


class EmbeddingCache:
    """Embeddings of texts, for as long as the model that made them stays as it is."""

    def __init__(self) -> None:
        self._of: dict[str, npt.NDArray[Any]] = {}
        self._made_by: tuple[Any, ...] = ()

    def keep(self, model: FewShotClassifier, texts: Sequence[str], embeddings: npt.NDArray[Any]) -> None:
        """Keeps these, beside others of the same state of the model."""
        self._forget_if_moved(model)
        self._of.update(zip(texts, embeddings, strict=True))

    def recall(self, model: FewShotClassifier, texts: Sequence[str]) -> npt.NDArray[Any] | None:
        """The embeddings of all these texts; None if one isn't known."""
        self._forget_if_moved(model)
        if not all(text in self._of for text in texts):
            return None
        return np.stack([self._of[text] for text in texts])

    def _forget_if_moved(self, model: FewShotClassifier) -> None:
        state = fingerprint(model)
        if state != self._made_by:
            self._of.clear()
            self._made_by = state


@torch.no_grad()
def fingerprint(model: FewShotClassifier) -> tuple[Any, ...]:
    """What changes with the parameters, whoever changes them, and with the settings that embeddings depend on."""
    parameters, body = list(model.parameters()), model.body
    settings = body.max_seq_length, body.truncate_dim, body.default_prompt_name
    # The version counts changes in place, however small; the norm sees those that are not counted.
    norms = [torch.linalg.vector_norm(parameter.detach().float()).cpu() for parameter in parameters]
    return (
        *settings,
        *(parameter._version for parameter in parameters),
        *(torch.stack(norms).tolist() if norms else ()),
    )
