"""Batches: pairs of texts or single texts for training and evaluation, each distinct text tokenized once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from runcast.fewshot.data import Examples
from runcast.fewshot.sampling import Pair

Tokenize = Callable[[Sequence[str]], dict[str, Tensor]]
"""Texts → tensors whose first dimension is the text."""

# What one more pass through the body costs on a CPU, in tokens: mostly the gradient of the whole vocabulary.
_PASS = 100


class Drawn(Dataset[Any]):
    """What a data loader needs around a sampler that yields the items themselves."""

    def __init__(self, examples: Examples, sampler: Sampler[Any]) -> None:
        self.examples = examples
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # ours have a length

    def __getitem__(self, item: Any) -> Any:
        return item

    def __getitems__(self, items: Any) -> Any:  # a whole batch, as data loaders ask for it
        return items


class Share(NamedTuple):
    """What one process trains on in one step.

    Attributes:
        items: At least one.
        weight: What the mean loss of these items has to be multiplied with, so that the mean over all processes is the mean
            over all items of the step: 1, but for the last step of an epoch.
    """

    items: list[Any]
    weight: float


class Shares(Sampler[Share]):
    """An epoch in steps, and each step in a share for each process, in the order of their ranks.

    Each item is in one share. The last step of an epoch may have fewer items; they are dealt out as evenly as can be, and a
    process that gets none repeats the first ones with weight 0, since all processes have to take part in every step. As
    there are as many shares in each step, accelerate, which gives every so many-th one to a process, repeats none.

    Args:
        sampler: Draws the items.
        size: How many items make a share.
        processes: How many processes there are.
        unit: How many items stay together: `size`, if a share is a batch that was composed.
        drop_last: Whether to leave out a last step that has fewer items.
    """

    def __init__(
        self, sampler: Sampler[Any], size: int, processes: int = 1, unit: int = 1, drop_last: bool = False
    ) -> None:
        self.sampler = sampler  # where accelerate looks for whom to tell the epoch
        self.drop_last = drop_last
        self._size = size
        self._processes = processes
        self._unit = unit

    def __len__(self) -> int:
        items: int = len(self.sampler)  # type: ignore[arg-type]  # ours have a length
        step = self._size * self._processes
        return (items // step if self.drop_last else -(-items // step)) * self._processes

    def __iter__(self) -> Iterator[Share]:
        items = iter(self.sampler)
        full = self._size * self._processes
        while step := list(islice(items, full)):
            if len(step) < full and self.drop_last:
                return
            units = len(step) // self._unit
            for rank in range(self._processes):
                start, end = (units * turn // self._processes * self._unit for turn in (rank, rank + 1))
                weight = (end - start) * self._processes / len(step)
                yield Share(step[start:end] or step[: self._unit], weight)


class ShareCollator:
    """Shares → what another collator makes of their items, and their weight where it isn't 1."""

    def __init__(self, collator: Callable[[Sequence[Any]], dict[str, Tensor]]) -> None:
        self.collator = collator

    def __call__(self, share: Share) -> dict[str, Tensor]:
        batch = self.collator(share.items)
        return batch if share.weight == 1.0 else {**batch, "weight": torch.tensor(share.weight)}


class ByLength(Sampler[int]):
    """All rows, those of long texts first, so that a batch has texts of about one length, and memory runs out at once."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.order: npt.NDArray[np.intp] = np.argsort([-len(text) for text in texts], kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        yield from self.order.tolist()

    def restored(self, values: Any) -> Any:
        """Values in the order in which rows were drawn, in the order of the rows."""
        return np.asarray(values)[np.argsort(self.order)]


class Tokens:
    """Rows → the tokens of their texts, padded to the longest of them; each text is tokenized when it first occurs.

    Args:
        texts: The texts.
        tokenize: Makes tokens of texts.
        tokenizer: What knows how to pad; None for a body without one, whose tokens aren't kept.
    """

    def __init__(self, texts: Sequence[str], tokenize: Tokenize, tokenizer: Any = None) -> None:
        self._texts = texts
        self._tokenize = tokenize
        self._padding = {"input_ids": getattr(tokenizer, "pad_token_id", None)}
        self._left = getattr(tokenizer, "padding_side", "right") == "left"
        self._keeps = self._padding["input_ids"] is not None
        self._kept: dict[int, dict[str, Tensor]] = {}

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        missing = [row for row in dict.fromkeys(rows) if row not in self._kept]
        if self._keeps and missing:
            self._keep(missing, self._tokenize([self._texts[row] for row in missing]))
        if not self._keeps:
            return self._tokenize([self._texts[row] for row in rows])
        return self._padded([self._kept[row] for row in rows])

    def _keep(self, rows: Sequence[int], features: dict[str, Tensor]) -> None:
        mask = features.get("attention_mask")
        if mask is None or any(value.shape not in (mask.shape, mask.shape[:1]) for value in features.values()):
            self._keeps = False  # not tokens alone, images say
            return
        for row, real in enumerate(mask.bool()):
            self._kept[rows[row]] = {
                key: value[row][real] if value.dim() > 1 else value[row] for key, value in features.items()
            }

    def _padded(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        length = max(len(item["attention_mask"]) for item in items)
        batch = {}
        for key, value in items[0].items():
            if not value.dim():  # one a text, such as the length of its prompt
                batch[key] = torch.stack([item[key] for item in items])
                continue
            batch[key] = value.new_full((len(items), length), self._padding.get(key) or 0)
            for row, item in enumerate(items):
                place = slice(length - len(item[key]), None) if self._left else slice(len(item[key]))
                batch[key][row, place] = item[key]
        return batch


class PairCollator:
    """Pairs → the tokens of their distinct texts, where in them `left` and `right` are, `target` as in `Pair`, and labels."""

    def __init__(self, tokens: Tokens, labels: Tensor) -> None:
        self.tokens = tokens
        self.labels = labels

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        sides = torch.tensor([(pair.left, pair.right) for pair in pairs])
        rows, positions = torch.unique(sides, return_inverse=True)
        return {
            **self.tokens(rows.tolist()),
            "left": positions[:, 0],
            "right": positions[:, 1],
            "target": torch.tensor([pair.target for pair in pairs], dtype=torch.float32),
            "labels": self.labels[rows],
        }


class TextCollator:
    """Rows → the tokens of their texts, or their embeddings where these are known; and the labels if there are any."""

    def __init__(self, tokens: Tokens, labels: Tensor | None, embeddings: Tensor | None = None) -> None:
        self.tokens = tokens
        self.labels = labels
        self.embeddings = embeddings

    def __call__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        batch = self.tokens(rows) if self.embeddings is None else {"embeddings": self.embeddings[rows]}
        return batch if self.labels is None else {**batch, "labels": self.labels[rows]}


def length_groups(lengths: Sequence[int]) -> list[list[int]]:
    """Splits a batch by the texts' lengths so that passing its parts one after the other costs least.

    A part costs its size times its longest text, and each one more pass. Long texts are rare, so that one batch of all is
    mostly padding.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    least = [0.0]  # of the first k texts
    starts = [0]  # where the last part of these begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        costs = [least[start] + _PASS + (end - start) * longest for start in range(end)]
        starts.append(min(range(end), key=costs.__getitem__))
        least.append(costs[starts[-1]])
    groups = []
    end = len(order)
    while end:
        groups.append(order[starts[end] : end])
        end = starts[end]
    return groups[::-1]


def part_of(features: dict[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Some rows of a batch, without the columns that are padding in all of them."""
    mask = features["attention_mask"]
    columns = mask[rows].any(dim=0)
    return {
        key: value[rows][:, columns] if value.shape[:2] == mask.shape else value[rows]
        for key, value in features.items()
    }
