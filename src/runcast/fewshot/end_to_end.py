"""Training the body together with a torch head: the classification loss moves both, each at its own rate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from runcast.fewshot.body import in_mode
from runcast.fewshot.data import Examples
from runcast.fewshot.model import FewShotClassifier

_HALVED_EVERY = 5  # epochs


def train_end_to_end(
    model: FewShotClassifier,
    texts: Sequence[str],
    labels: Sequence[Any],
    *,
    epochs: int = 16,
    batch_size: int = 16,
    body_learning_rate: float = 1e-5,
    head_learning_rate: float = 1e-2,
    l2_weight: float = 0.01,
    seed: int = 0,
    precision: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    on_epoch: Callable[[int, float], None] | None = None,
    show_progress_bar: bool = False,
) -> float:
    """Trains body and head on the classification loss, with AdamW; learning rates are halved every five epochs.

    Args:
        model: With a torch head that is fitted: training starts from there.
        texts: The training texts.
        labels: As many labels, lists of labels, or rows of 0 and 1, as the head was fitted on.
        epochs: How often to go over the texts.
        batch_size: Texts a step.
        body_learning_rate: Of the body's parameters.
        head_learning_rate: Of the head's.
        l2_weight: The weight decay of both.
        seed: Decides about the order of the texts.
        precision: Makes the context of the forward pass, for mixed precision.
        on_epoch: Called after each epoch with the steps made so far and the mean loss.
        show_progress_bar: Whether to draw one.

    Returns:
        The mean loss of the last epoch.

    Raises:
        ValueError: The head is of another kind, or was fitted without some of the labels; the texts or labels are unfit; or
            the loss is no number any more.
        RuntimeError: The head isn't fitted.
    """
    if model.head.kind != "torch":
        raise ValueError(
            f"end-to-end training needs a head with a gradient, and this one is {model.head.kind!r}: "
            "FewShotClassifier.from_pretrained(..., head='torch')"
        )
    if min(epochs, batch_size) < 1:
        raise ValueError(f"epochs are {epochs} and batch_size is {batch_size}; expected at least 1")
    layer = _Layer(model)
    data = Examples(texts, labels, "the data")
    texts, classes = data.texts, model.class_indices(data.required_labels())
    if unseen := layer.unseen(classes):
        raise ValueError(
            f"the head was fitted without examples of {[(model.labels or [])[place] for place in unseen]}, or without any other: "
            "fit it on texts of all labels, with FewShotClassifier.fit_head(), before"
        )
    groups = [
        {"params": [item for item in model.parameters() if item.requires_grad], "lr": body_learning_rate},
        {"params": list(layer.parameters()), "lr": head_learning_rate},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=l2_weight)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, _HALVED_EVERY, 0.5)
    batches = -(-len(texts) // batch_size)
    mean = 0.0
    with (
        in_mode(model, training=True),
        torch.enable_grad(),
        tqdm(total=epochs * batches, desc="End to end", disable=not show_progress_bar) as bar,
    ):
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(texts))
            total = 0.0
            for rows in np.array_split(order, batches):
                optimizer.zero_grad()
                features = {
                    key: value.to(model.device) for key, value in model.tokenize([texts[i] for i in rows]).items()
                }
                with precision():
                    embeddings = model(**features)
                loss = layer.loss(embeddings.float(), classes[rows])
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
                total += loss.item() * len(rows)
                bar.update()
            schedule.step()
            mean = total / len(texts)
            if not np.isfinite(mean):
                raise ValueError(
                    f"the loss is {mean} in epoch {epoch + 1} of end-to-end training; lower learning rates"
                )
            if on_epoch is not None:
                on_epoch((epoch + 1) * batches, mean)
    layer.give_back()
    return mean


class _Layer(nn.Module):
    """The head as a layer of torch, without classes that have no examples: nothing could be learnt about them."""

    def __init__(self, model: FewShotClassifier) -> None:
        super().__init__()
        head = model.head
        if head.weight is None or head.bias is None:
            raise RuntimeError(
                "end-to-end training starts from a fitted head: call FewShotClassifier.fit_head() before"
            )
        self._head = head
        self._learnt = np.flatnonzero(np.isfinite(head.bias))
        self._certain = head.bias == np.inf
        self.weight, self.bias = (
            nn.Parameter(torch.tensor(array[self._learnt], dtype=torch.float32, device=model.device))
            for array in (head.weight, head.bias)
        )

    def unseen(self, classes: npt.NDArray[Any]) -> list[int]:
        """Which classes the head thinks impossible (or, of several labels a text, certain), and these texts know better."""
        rows = np.eye(len(self._certain), dtype=bool)[classes] if classes.ndim == 1 else classes.astype(bool)
        others = np.setdiff1d(np.flatnonzero((rows != self._certain).any(axis=0)), self._learnt)
        found: list[int] = others.tolist()
        return found

    def loss(self, embeddings: Tensor, classes: npt.NDArray[Any]) -> Tensor:
        scores = functional.linear(embeddings, self.weight, self.bias)
        if self._head.multi_label:
            wanted = torch.as_tensor(classes[:, self._learnt], dtype=torch.float32, device=scores.device)
            return functional.binary_cross_entropy_with_logits(scores, wanted)
        targets = torch.as_tensor(np.searchsorted(self._learnt, classes), device=scores.device)
        return functional.cross_entropy(scores, targets)

    def give_back(self) -> None:
        """What was learnt, to the head."""
        arrays = self._head.arrays()
        for name, learnt in (("weight", self.weight), ("bias", self.bias)):
            arrays[name] = arrays[name].copy()
            arrays[name][self._learnt] = learnt.detach().cpu().double().numpy()
        self._head.restore(arrays, self._head.link)
