"""Batches: pairs of texts for training, single texts for evaluation, both tokenized once per distinct text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from runcast.fewshot.data import Examples
from runcast.fewshot.sampling import ContrastivePairs, Pair

Tokenize = Callable[[Sequence[str]], dict[str, Tensor]]
"""Texts → tensors whose first dimension is the text."""


class PairDataset(Dataset[Pair]):
    """What a data loader needs around `ContrastivePairs`: the sampler already yields the pairs themselves."""

    def __init__(self, examples: Examples, pairs: ContrastivePairs) -> None:
        self.examples = examples
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, pair: Pair) -> Pair:
        return pair


class PairCollator:
    """Pairs → the tokens of their distinct texts, and where in them `left` and `right` are; `target` as in `Pair`."""

    def __init__(self, examples: Examples, tokenize: Tokenize) -> None:
        self.examples = examples
        self.tokenize = tokenize

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        sides = torch.tensor([(pair.left, pair.right) for pair in pairs])
        rows, positions = torch.unique(sides, return_inverse=True)
        return {
            **self.tokenize([self.examples.texts[row] for row in rows.tolist()]),
            "left": positions[:, 0],
            "right": positions[:, 1],
            "target": torch.tensor([pair.target for pair in pairs], dtype=torch.float32),
        }


class ClassifiedDataset(Dataset[tuple[str, int | None]]):
    """Texts with their class index; with None where there are no labels."""

    def __init__(self, examples: Examples, classes: Sequence[int] | None) -> None:
        self.examples = examples
        self.classes = classes

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> tuple[str, int | None]:
        return self.examples.texts[row], None if self.classes is None else self.classes[row]


class TextCollator:
    """Texts → their tokens, and the class indices as `labels` where there are any."""

    def __init__(self, tokenize: Tokenize) -> None:
        self.tokenize = tokenize

    def __call__(self, items: Sequence[tuple[str, int | None]]) -> dict[str, Tensor]:
        batch = self.tokenize([text for text, _ in items])
        classes = [index for _, index in items if index is not None]
        return {**batch, "labels": torch.tensor(classes)} if classes else batch
