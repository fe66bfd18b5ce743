"""A classifier as one ONNX file."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from runcast.errors import missing_extra
from runcast.fewshot.body import in_mode

if TYPE_CHECKING:
    from runcast.fewshot.model import FewShotClassifier

_NEEDS = ("onnx", "onnxscript")


def export_onnx(model: FewShotClassifier, path: Path) -> None:
    """Writes body and head as one graph: from what the tokenizer gives to ``probabilities`` and ``embeddings``.

    Args:
        model: A classifier with a fitted head.
        path: The file to write.

    Raises:
        RuntimeError: The head isn't fitted.
        MissingDependencyError: A package is missing.
    """
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise missing_extra(f"{', '.join(missing)}, which ONNX files need,", "onnx")
    example = {key: value.to(model.device) for key, value in model.tokenize(["one text", "another one"]).items()}
    lengths = example.pop("prompt_length", None)
    names = list(example)
    whole = Whole(model, names, None if lengths is None else int(lengths[0])).to(model.device)
    axes = {name: {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")} for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_mode(model, training=False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own means
        torch.onnx.export(
            whole.eval(),
            tuple(example.values()),
            str(path),
            input_names=names,
            output_names=["probabilities", "embeddings"],
            dynamic_shapes={"features": tuple(axes.values())},
            dynamo=True,
            external_data=False,
            verbose=False,
        )


class Whole(nn.Module):
    """Body and head, with tensors in and out: the body's inputs in, ``probabilities`` and ``embeddings`` out.

    Args:
        model: A classifier with a fitted head.
        names: What the inputs are called, in order.
        prompt_length: How many tokens of each text are a prompt that pooling leaves out; None: it leaves out none.

    Raises:
        RuntimeError: The head isn't fitted.
    """

    chain: Tensor | None
    weight: Tensor
    bias: Tensor

    def __init__(self, model: FewShotClassifier, names: list[str], prompt_length: int | None = None) -> None:
        super().__init__()
        arrays = model.head.arrays()
        if not arrays:
            raise RuntimeError("the classification head isn't fitted: train the classifier before it is exported")
        self.model = model
        self._names = names
        self._fixed: dict[str, Any] = {} if prompt_length is None else {"prompt_length": prompt_length}
        self._link = model.head.link
        for name in ("weight", "bias", "chain"):
            array = arrays.get(name)
            self.register_buffer(name, None if array is None else torch.tensor(array, dtype=torch.float32))

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.model(**dict(zip(self._names, features, strict=True)), **self._fixed).float()
        scores = nn.functional.linear(embeddings, self.weight, self.bias)
        if self.chain is not None:
            decided = [scores[:, 0]]
            for label in range(1, len(self.bias)):
                told = (torch.stack(decided, dim=1) > 0).float() @ self.chain[label, :label]
                decided.append(scores[:, label] + told)
            scores = torch.stack(decided, dim=1)
        if self._link == "softmax":
            return torch.softmax(scores, dim=1), embeddings
        each = torch.sigmoid(scores)
        return (each if self._link == "sigmoid" else each / each.sum(dim=1, keepdim=True)), embeddings
