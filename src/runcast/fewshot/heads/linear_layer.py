"""A linear layer of torch as a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runcast.fewshot.heads.base import Floats, Head, Strategy

if TYPE_CHECKING:
    from torch import Tensor


class TorchHead(Head):
    """A linear layer fitted with AdamW on all examples at once; it can be trained on together with the body.

    Options: `epochs` (300), `learning_rate` (0.01), `weight_decay` (0.01), `device` ("cpu").

    Raises:
        ValueError: The strategy is a chain, which has no gradient.
    """

    kind = "torch"

    def __init__(self, multi_target_strategy: Strategy | None = None) -> None:
        super().__init__(multi_target_strategy)
        if multi_target_strategy == "classifier-chain":
            raise ValueError("head 'torch' can't do 'classifier-chain'; head 'logistic' can")

    def check(self, params: Mapping[str, Any], n_classes: int, *, multi_label: bool) -> None:
        epochs = params.get("epochs", 1)
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"head 'torch' can't be fitted with {epochs!r} epochs; expected an integer of at least 1")
        super().check({**params, "epochs": 1}, n_classes, multi_label=multi_label)

    def _fit(self, vectors: Floats, targets: npt.NDArray[Any], seed: int, **params: Any) -> tuple[Floats, Floats]:
        from torch.nn.functional import cross_entropy

        return self._descend(cross_entropy, vectors, targets.astype(np.int64), int(targets.max()) + 1, seed, **params)

    def _fit_labels(self, vectors: Floats, rows: npt.NDArray[Any], seed: int, **params: Any) -> tuple[Floats, Floats]:
        from torch.nn.functional import binary_cross_entropy_with_logits as loss

        return self._descend(loss, vectors, rows.astype(np.float32), rows.shape[1], seed, **params)

    def _descend(
        self,
        loss_of: Callable[..., Tensor],
        vectors: Floats,
        targets: npt.NDArray[Any],
        size: int,
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
        start = torch.randn(size, vectors.shape[1], generator=generator) * vectors.shape[1] ** -0.5
        weight = start.to(device).requires_grad_()
        bias = torch.zeros(size, device=device, requires_grad=True)
        optimizer = torch.optim.AdamW([weight, bias], lr=learning_rate, weight_decay=weight_decay)
        with torch.enable_grad():
            for _ in range(epochs):
                optimizer.zero_grad()
                loss_of(inputs @ weight.T + bias, expected).backward()  # type: ignore[no-untyped-call]  # torch's
                optimizer.step()
        return weight.detach().cpu().double().numpy(), bias.detach().cpu().double().numpy()
