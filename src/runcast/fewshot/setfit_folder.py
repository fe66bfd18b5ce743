"""Heads of SetFit's: a pickle of scikit-learn's or SetFit's own classes, turned into one of ours that predicts the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from runcast.fewshot.heads import Floats, Head, Link, Strategy, make_head
from runcast.fewshot.inert_pickle import Thing, read
from runcast.fewshot.labels import Label

CONFIG_FILE = "config_setfit.json"
HEAD_FILE = "model_head.pkl"
_MODULES_FILE = "modules.json"
# Files that each kind of module has when SetFit saves it; sentence-transformers makes do without some, but the model is another.
_MODULE_FILES = {
    "Transformer": ("config.json", "sentence_bert_config.json", "tokenizer_config.json"),
    "Pooling": ("config.json",),
    "Dense": ("config.json",),
}


class _Unsupported(Exception):
    pass


class SetFitHead(NamedTuple):
    """A head, and what its classes are called if it says so."""

    head: Head
    labels: list[Label] | None


class Config(msgspec.Struct):
    """What ``config_setfit.json`` holds, as far as it matters here."""

    labels: list[str | int | float | bool] | None = None
    normalize_embeddings: bool = False


class _Module(msgspec.Struct):
    path: str
    type: str


def read_config(path: Path | None) -> Config:
    """What SetFit's configuration says; defaults if there is none.

    Raises:
        OSError: It is damaged.
    """
    if path is None:
        return Config()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OSError(f"{path} is damaged: {error}") from error


def check_files(directory: Path) -> None:
    """The body's files must be there: without some of them another one would load, and nobody would notice.

    Raises:
        OSError: One isn't.
    """
    path = directory / _MODULES_FILE
    try:
        modules = msgspec.json.decode(path.read_bytes(), type=list[_Module]) if path.is_file() else []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OSError(f"{path} is damaged: {error}") from error
    needed = [_MODULES_FILE]
    for module in modules:
        kind = module.type.rpartition(".")[2]
        needed += [str(Path(module.path, name)) for name in _MODULE_FILES.get(kind, ())]
    missing = [name for name in needed if not (directory / name).is_file()]
    if missing:
        raise OSError(f"{directory} is damaged: {', '.join(missing)} is missing; copy the model again")


def check_consent(path: Path) -> None:
    """Fails: nobody agreed to load this pickle.

    Raises:
        OSError: The file is damaged.
        ValueError: Always, else; it says what loading the file in earnest would import and call.
    """
    _, names = read(path)
    raise ValueError(
        f"{path} is a pickle, and a pickle can run any code. Loaded in earnest this one would import and call: "
        f"{', '.join(names) or 'nothing'}. If you trust who made it, pass trust_pickle=True; with head='logistic' it is not "
        "read, and you fit a new head"
    )


def read_head(path: Path, labels: Sequence[Label] | None) -> SetFitHead:
    """The head in SetFit's ``model_head.pkl``, without running anything of it.

    Args:
        path: The file.
        labels: What SetFit's configuration calls the classes; None if it doesn't.

    Raises:
        OSError: The file is damaged.
        ValueError: It holds a head that isn't linear, or that isn't fitted.
    """
    found, _ = read(path)
    kind = getattr(found, "origin", type(found).__name__).rpartition(".")[2]
    if kind not in _KINDS:
        raise ValueError(
            f"{path} holds a {kind}, not one of {', '.join(_KINDS)}; pass head='logistic', and fit a new head"
        )
    try:
        return _KINDS[kind](found, labels)
    except _Unsupported as error:
        raise ValueError(f"{path}: {error}; pass head='logistic', and fit a new head") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds a {kind} that isn't fitted, or of a version that isn't known: {error}"
        ) from error


def _logistic(found: Thing, labels: Sequence[Label] | None) -> SetFitHead:
    classes = np.asarray(found.get("classes_"))
    weight, bias = _scores(found)
    several = len(weight) > 1
    link: Link = "softmax"
    if several and (found.get("multi_class") == "ovr" or found.get("solver") == "liblinear"):
        link = "normalized-sigmoid"
    if not several:
        # One score for two classes; once, scikit-learn had an option that made it count for both.
        against = -1.0 if found.get("multi_class") == "multinomial" else 0.0
        weight, bias = np.vstack([against * weight, weight]), np.concatenate([against * bias, bias])
    return _single(weight, bias, classes, labels, link, "logistic")


def _single(
    weight: Floats, bias: Floats, classes: Any, labels: Sequence[Label] | None, link: Link, kind: str
) -> SetFitHead:
    head = make_head(kind)
    if not labels or classes.dtype.kind not in "biuf":
        head.restore({"weight": weight, "bias": bias}, link)
        return SetFitHead(head, classes.tolist())
    # Numbers are positions among the labels; the head may never have seen some of these.
    classes = classes.astype(np.intp)
    whole, offset = np.zeros((len(labels), weight.shape[1])), np.full(len(labels), -np.inf)
    whole[classes], offset[classes] = weight, bias
    head.restore({"weight": whole, "bias": offset}, link)
    return SetFitHead(head, list(labels))


def _one_vs_rest(found: Thing, labels: Sequence[Label] | None) -> SetFitHead:
    weight, bias = _each(found)
    if str(found.get("label_binarizer_").get("y_type_")).startswith("multilabel"):
        return _several(weight, bias, None, labels, "one-vs-rest")
    if len(weight) == 1:  # two classes: the score of the second, against none of the first
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    return _single(weight, bias, np.asarray(found.get("classes_")), labels, "normalized-sigmoid", "logistic")


def _multi_output(found: Thing, labels: Sequence[Label] | None) -> SetFitHead:
    return _several(*_each(found), None, labels, "multi-output")


def _chain(found: Thing, labels: Sequence[Label] | None) -> SetFitHead:
    estimators, order = found.get("estimators_"), np.asarray(found.get("order_"))
    if not np.array_equal(order, np.arange(len(estimators))) or found.get("chain_method_", "predict") != "predict":
        raise _Unsupported("its chain has an order or a method of its own")
    size = len(estimators)
    scores = [_scores(estimator) for estimator in estimators]
    dimensions = scores[0][0].shape[1]
    weight = np.stack([row[0, :dimensions] for row, _ in scores])
    chain = np.stack([np.pad(row[0, dimensions:], (0, size - place)) for place, (row, _) in enumerate(scores)])
    return _several(weight, np.array([offset[0] for _, offset in scores]), chain, labels, "classifier-chain")


def _differentiable(found: Thing, labels: Sequence[Label] | None) -> SetFitHead:
    layer = found.get("_modules")["linear"].get("_parameters")
    scale = found.get("temperature") + found.get("eps")
    weight = np.asarray(layer["weight"], dtype=np.float64) / scale
    bias = np.zeros(len(weight)) if layer.get("bias") is None else np.asarray(layer["bias"], np.float64) / scale
    if found.get("multitarget"):
        return _several(weight, bias, None, labels, "one-vs-rest", "torch")
    return _single(weight, bias, np.arange(len(weight)), labels, "softmax", "torch")


def _several(
    weight: Floats,
    bias: Floats,
    chain: Floats | None,
    labels: Sequence[Label] | None,
    strategy: Strategy,
    kind: str = "logistic",
) -> SetFitHead:
    head = make_head(kind, strategy)
    head.restore({"weight": weight, "bias": bias, **({} if chain is None else {"chain": chain})}, "sigmoid")
    return SetFitHead(head, list(labels or range(len(weight))))


def _each(found: Thing) -> tuple[Floats, Floats]:
    """One score an estimator; a constant one has an infinite offset."""
    estimators = found.get("estimators_")
    scores = [
        None if estimator.origin.endswith("._ConstantPredictor") else _scores(estimator) for estimator in estimators
    ]
    dimensions = next(weight.shape[1] for weight, _ in filter(None, scores))
    weight, bias = np.zeros((len(scores), dimensions)), np.zeros(len(scores))
    for place, (estimator, score) in enumerate(zip(estimators, scores, strict=True)):
        if score is None:
            bias[place] = np.inf if np.ravel(estimator.get("y_"))[0] else -np.inf
        else:
            weight[place], bias[place] = score[0][0], score[1][0]
    return weight, bias


def _scores(found: Thing) -> tuple[Floats, Floats]:
    if not found.origin.endswith(".LogisticRegression"):
        raise _Unsupported(f"a {found.origin.rpartition('.')[2]} is in it, not a LogisticRegression")
    weight = np.asarray(found.get("coef_"), dtype=np.float64)
    bias = np.broadcast_to(np.asarray(found.get("intercept_"), dtype=np.float64), len(weight))
    return weight, bias.copy()


_KINDS: dict[str, Callable[[Any, Sequence[Label] | None], SetFitHead]] = {
    "LogisticRegression": _logistic,
    "OneVsRestClassifier": _one_vs_rest,
    "MultiOutputClassifier": _multi_output,
    "ClassifierChain": _chain,
    "SetFitHead": _differentiable,
}
