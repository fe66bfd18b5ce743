"""The few-shot trainer: transformers' Trainer on pairs of texts, with a classification head fitted on top.

    train()
        contrastive phase   ClassBatches or ContrastivePairs → tokens of texts → embeddings → loss   (the body learns)
            evaluate()      head fitted on the training texts' embeddings of the moment; loss and metrics on the evaluation's
        head                fitted on the final (or best) body, before `on_train_end`
    evaluate(), predict()   the same head, until the body moves again

Everything else (checkpoints, resuming, early stopping, mixed precision, accelerate, callbacks) is the library's.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]  # it has no types
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, HubStrategy, PredictionOutput, TrainOutput

from runcast.fewshot.arguments import TrainingArguments
from runcast.fewshot.body import in_mode
from runcast.fewshot.card import training_of
from runcast.fewshot.checkpoint import find_checkpoint, reading
from runcast.fewshot.data import Examples, evaluation_examples, examples
from runcast.fewshot.embeddings import EmbeddingCache
from runcast.fewshot.loading import (
    ByLength,
    Drawn,
    PairCollator,
    ShareCollator,
    Shares,
    TextCollator,
    Tokens,
    length_groups,
    part_of,
)
from runcast.fewshot.losses import Loss, Pairs, loss_name
from runcast.fewshot.metrics import ClassificationMetrics, Metric, accuracy, is_number
from runcast.fewshot.model import FewShotClassifier
from runcast.fewshot.reporting import Callback, ReportingTrainer
from runcast.fewshot.sampling import ClassBatches, ContrastivePairs

logger = logging.getLogger("runcast")


class Trainer(ReportingTrainer):
    """Trains a `FewShotClassifier`: a `transformers.Trainer` whose callbacks receive the classifier as `model`.

    Datasets are a `datasets.Dataset`, a pandas DataFrame, a dict of lists or a list of dicts, with the columns ``text`` and
    ``label``. Training, evaluation and prediction report into one run; it ends with `finish_run`, at the end of a ``with``
    block, with the next training, or with the interpreter.

    Example:
        ```python
        trainer = Trainer(
            model=FewShotClassifier.from_pretrained("all-MiniLM-L6-v2"),
            args=TrainingArguments(eval_strategy="steps", eval_steps=10, load_best_model_at_end=True),
            train_dataset=train,
            eval_dataset=test,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=5)],
        )
        trainer.train()
        print(trainer.evaluate()["eval_accuracy"])
        ```

    Args:
        model: The classifier to train; either this or `model_init`.
        args: The options; by default `TrainingArguments()`.
        train_dataset: Labelled texts of at least two classes. Needed for training only.
        eval_dataset: Labelled texts, or several datasets by name.
        model_init: Makes the classifier, anew for each training; takes no argument, or the trial of a search.
        metric: Beside the accuracy: the name of one of `sklearn.metrics`, ``"f1"`` say, or of the package ``evaluate``, or a
            function ``(y_pred, y_test) -> float`` or ``-> dict``. What isn't a number (the F1 of each label, a confusion matrix)
            is reported as far as it can be, and can't be `metric_for_best_model`.
        metric_kwargs: More arguments for the metric, ``{"average": "weighted"}`` say.
        callbacks: Callbacks and reporters, classes or instances.
        column_mapping: From the datasets' column names to ``text`` and ``label``.
        optimizers: An optimizer and a scheduler to use instead of those of `args`.

    Raises:
        TypeError: `model`, `args` or a dataset is of the wrong kind, or the head doesn't have an option of `args.head_params`.
        ValueError: A dataset is unfit: a column is missing, a text empty, a label missing, there is a single class, or an
            evaluation label that training doesn't have; or the head can't be fitted with its options.
    """

    model: FewShotClassifier

    def __init__(
        self,
        model: FewShotClassifier | None = None,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        model_init: Callable[..., FewShotClassifier] | None = None,
        metric: Metric = "accuracy",
        metric_kwargs: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
        column_mapping: Mapping[str, str] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        args = args if args is not None else TrainingArguments()
        if not isinstance(args, TrainingArguments):
            raise TypeError(f"args are {_kind(args)}; expected runcast.fewshot.TrainingArguments")
        if model is None and model_init is None:
            raise TypeError("Trainer needs a model or a model_init")
        if callbacks is not None and (isinstance(callbacks, str) or not isinstance(callbacks, Sequence)):
            raise TypeError(f"callbacks is {_kind(callbacks)}; expected a list of callbacks and reporters")
        args.check_complete()
        if args.load_best_model_at_end and eval_dataset is None:
            raise ValueError("load_best_model_at_end needs an eval_dataset, which says what the best model is")
        self.column_mapping = column_mapping
        self.metrics = ClassificationMetrics(metric, metric_kwargs)
        self._loss = Loss(args.chosen_loss, args.margin)
        train = None if train_dataset is None else examples(train_dataset, "train_dataset", column_mapping)
        if train is not None and len(train.classes) < 2:
            raise ValueError(f"train_dataset has a single class, {train.classes[0]!r}; expected at least two")
        evaluation = evaluation_examples(eval_dataset, column_mapping)
        if isinstance(evaluation, dict) and args.metric_for_best_model == "accuracy":
            args = copy.copy(args)  # the user's own stay as they are
            args.metric_for_best_model = f"{next(iter(evaluation))}_accuracy"
        self.args = args
        self._labelled = train
        self._sampler: ClassBatches | ContrastivePairs | None = None
        self._evaluated: ByLength | None = None
        self._embeddings = EmbeddingCache()
        self._head_is_fresh = False
        self._head_report: dict[str, float] = {}
        if model is not None:
            self._bind_labels(model)

        super().__init__(
            data={} if train is None else {"train_examples": len(train), "labels": train.classes},
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=evaluation,
            model_init=model_init,
            compute_metrics=self._compute_metrics,
            callbacks=callbacks or [],
            optimizers=optimizers,
        )
        self.callback_handler.callbacks.insert(0, _Phases(self))
        for part in evaluation.values() if isinstance(evaluation, dict) else [evaluation]:
            if part is not None and self.model.labels is not None:
                self.model.class_indices(part.required_labels(), part.name)

    # -- training --------------------------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """Fine-tunes the body on pairs, then fits the head. An exception ends the run as failed, Ctrl-C as killed.

        Args:
            resume_from_checkpoint: A checkpoint's folder; True for the last complete one in `args.output_dir`. Training goes
                on as if it had never stopped: on one device with the same weights, bit by bit.
            trial: The trial of a hyper-parameter search.
            ignore_keys_for_eval: Without meaning here.
            kwargs: As in the base class.

        Raises:
            ValueError: There is no `train_dataset`; there is no checkpoint, or it is of other labels; or the options don't suit
                the data.
            OSError: A part of the checkpoint is missing, damaged, or of another model.
        """
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset: Trainer(..., train_dataset=...)")
        if resume_from_checkpoint:
            resume_from_checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir or ".")
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval, **kwargs)

    def call_model_init(self, trial: Any = None) -> FewShotClassifier:
        """A new classifier from `model_init`."""
        model: Any = super().call_model_init(trial)
        self._bind_labels(model)
        return cast("FewShotClassifier", model)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of pairs, or of some texts of some classes, drawn lazily; which ones depends on the seed and the epoch."""
        train, args = self._train_examples(), self.args
        labels = self.model.class_indices(train.required_labels(), train.name)
        self._loss = Loss(args.chosen_loss, args.margin)  # a search may have changed the arguments
        if labels.ndim > 1 and self._loss.single_label:
            raise ValueError(
                f"loss {loss_name(args.chosen_loss)!r} needs one label a text; with several, 'supervised_contrastive' does"
            )
        pairwise = args.sampling_strategy != "batch"
        if pairwise and not self._loss.of_pairs and labels.ndim == 1 and len(set(labels.tolist())) == len(labels):
            raise ValueError(
                f"loss {loss_name(args.chosen_loss)!r} needs two texts of a label in a step, and each label has a single text: use "
                "loss='cosine', or sampling_strategy='batch', which draws a text twice then"
            )
        return self._train_dataloader(labels, torch.as_tensor(labels), args.sampling_strategy)

    def _train_dataloader(self, labels: npt.NDArray[np.int64], told: Tensor, strategy: str) -> DataLoader[Any]:
        """The share of this process.

        Args:
            labels: Of each text, by which it is drawn; shape (n,), or rows of 0 and 1.
            told: What the loss gets for the label of each text.
            strategy: One of `SamplingStrategy`.
        """
        args, tokens = self.args, self._tokens(self._train_examples().texts)
        self._check_head(self.model)  # a search may have changed the options
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ValueError(
                "the body is frozen, so there is nothing to train: FewShotClassifier.fit_head(texts, labels) fits the head alone; "
                "model.body.requires_grad_(True) lets the body learn"
            )
        seed = args.seed if args.data_seed is None else args.data_seed
        sampler: ClassBatches | ContrastivePairs
        collator: TextCollator | PairCollator
        if strategy == "batch":
            sampler = ClassBatches(labels, args.classes_per_batch, args.examples_per_class, args.num_iterations, seed)
            collator, size, unit = TextCollator(tokens, told), sampler.batch_size, sampler.batch_size
        else:
            sampler = ContrastivePairs(labels, strategy, args.num_iterations, args.max_pairs, seed)
            collator, size, unit = PairCollator(tokens, told), self._train_batch_size, 1
        if self.accelerator.dispatch_batches:
            raise ValueError(
                "accelerator_config has dispatch_batches, which would deal out parts of pairs: leave it out"
            )
        self._sampler = sampler
        shares = Shares(sampler, size, args.world_size, unit, args.dataloader_drop_last)
        if not len(shares):
            raise ValueError(
                f"an epoch of {args.sampling_strategy!r} has {len(sampler)} pairs or texts, which make no step: use another "
                "sampling_strategy, or leave out dataloader_drop_last"
            )
        return self._dataloader(Drawn(self._train_examples(), sampler), ShareCollator(collator), batch_sampler=shares)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self._head_is_fresh = False  # the body is about to move
        loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The contrastive loss of a batch, from embeddings that are computed once."""
        features = dict(inputs)
        labels = features.pop("labels")
        pairs = Pairs(*(features.pop(key) for key in Pairs._fields)) if "target" in features else None
        weight = features.pop("weight", None)
        embeddings = self._forward(model, features)
        loss = self._loss(embeddings, labels, pairs)
        loss = loss if weight is None else loss * weight
        return (loss, {"embeddings": embeddings}) if return_outputs else loss

    def _forward(self, model: nn.Module, features: dict[str, Tensor]) -> Tensor:
        """The embeddings of a batch; on a CPU in parts of texts of about one length, since padding costs time there."""
        mask = features.get("attention_mask")
        if mask is None or mask.device.type != "cpu" or self.args.torch_compile or self.args.world_size > 1:
            return cast("Tensor", model(**features))
        groups = length_groups(mask.sum(dim=1).tolist())
        parts = torch.cat([model(**part_of(features, rows)) for rows in groups])
        return parts[torch.tensor([row for rows in groups for row in rows]).argsort()]

    # -- evaluation and prediction ---------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, Any]:
        """Loss and metrics on labelled texts, with a head that fits the body as it is now.

        Args:
            eval_dataset: By default that of the trainer; also the name of one, or several by name.
            ignore_keys: Without meaning here.
            metric_key_prefix: What the metrics' names begin with.

        Returns:
            ``eval_loss`` (contrastive, on at most `args.eval_max_pairs` pairs), ``eval_accuracy``, the chosen metric, and
            the time it took.

        Raises:
            ValueError: There is no dataset, or it is unfit.
            RuntimeError: The head isn't fitted, and there is no training data to fit it on.
        """
        if eval_dataset is None and self.eval_dataset is None:
            raise ValueError("evaluation needs a dataset: evaluate(dataset), or Trainer(..., eval_dataset=...)")
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = evaluation_examples(eval_dataset, self.column_mapping)
        self._agree_on_head()
        metrics: dict[str, Any] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._describe()
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predicted labels, with metrics if the true ones are there.

        Args:
            test_dataset: Texts (a list of strings), or a dataset with a column ``text`` and maybe ``label``.
            ignore_keys: Without meaning here.
            metric_key_prefix: What the metrics' names begin with.

        Returns:
            `predictions`: the labels, shape (n,); `label_ids`: the true ones or None; `metrics`.
        """
        data = examples(test_dataset, "test_dataset", self.column_mapping, need_labels=False)
        self._agree_on_head()
        output = super().predict(data, ignore_keys, metric_key_prefix)
        true = None if output.label_ids is None else self.model.names(output.label_ids)
        return PredictionOutput(self.model.names(self.model.head.predict(output.predictions)), true, output.metrics)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Batches of single texts with class indices."""
        data: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        return self.get_test_dataloader(cast("Any", self.eval_dataset)[data] if isinstance(data, str) else data)

    def get_test_dataloader(self, test_dataset: Dataset[Any]) -> DataLoader[Any]:
        """Batches of single texts, with class indices where there are labels."""
        assert isinstance(test_dataset, Examples), "made so by whoever takes a dataset from the user"
        labels = test_dataset.labels
        classes = None if labels is None else torch.as_tensor(self.model.class_indices(labels, test_dataset.name))
        known = self._embeddings.recall(self.model, test_dataset.texts)
        embeddings = None if known is None else torch.as_tensor(known)
        collator = TextCollator(self._tokens(test_dataset.texts), classes, embeddings)
        sampler = ByLength(test_dataset.texts)
        size = self.args.eval_batch_size
        return self._dataloader(Drawn(test_dataset, sampler), collator, sampler=sampler, batch_size=size)

    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Embeds all texts, unless they are embedded already; the results are in the order of the dataset."""
        data = cast("Any", dataloader).dataset
        self._evaluated = data.sampler
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        embeddings = data.sampler.restored(output.predictions)
        self._embeddings.keep(self.model, data.examples.texts, embeddings)
        labels = None if output.label_ids is None else data.sampler.restored(output.label_ids)
        return output._replace(predictions=embeddings, label_ids=labels)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Embeddings and class indices; loss and metrics come from all of them together, in `_compute_metrics`."""
        inputs = dict(self._prepare_inputs(inputs))
        labels = inputs.pop("labels", None)
        if "embeddings" in inputs:
            return None, inputs["embeddings"], labels
        with torch.no_grad(), self.compute_loss_context_manager():
            return None, model(**inputs).float(), labels

    def _compute_metrics(self, evaluated: EvalPrediction) -> dict[str, Any]:
        assert self._evaluated is not None, "evaluation_loop is what asks"
        embeddings, classes = map(self._evaluated.restored, (evaluated.predictions, evaluated.label_ids))
        predicted, true = self.model.head.predict(embeddings), classes
        if classes.ndim == 1:  # of several labels a text, metrics want the rows of 0 and 1
            predicted, true = self.model.names(predicted), self.model.names(classes)
        loss = self._contrastive_loss(torch.as_tensor(embeddings, dtype=torch.float32), torch.as_tensor(classes))
        return {"loss": loss, **self.metrics(predicted, true)}

    def _contrastive_loss(self, embeddings: Tensor, classes: Tensor) -> float:
        """The loss on the same pairs (or batches, if it looks at labels) at each evaluation."""
        most = max(2, self.args.eval_max_pairs)
        if self._loss.of_pairs:
            pairs = ContrastivePairs(classes.numpy(), max_pairs=most, seed=self.args.seed)
            unit = torch.nn.functional.normalize(embeddings)
            total = 0.0
            for left, right, target in pairs.chunks():
                similarity = (unit[left] * unit[right]).sum(dim=1)
                total += self._loss.of_similarity(similarity, torch.as_tensor(target)).sum().item()
            return total / len(pairs)
        sampler = ClassBatches(
            classes.numpy(), self.args.classes_per_batch, self.args.examples_per_class, seed=self.args.seed
        )
        size = sampler.batch_size
        batches = max(1, min(len(sampler) // size, most // (size * (size - 1) // 2)))
        rows = torch.tensor(list(itertools.islice(sampler, batches * size))).reshape(batches, size)
        return float(np.mean([self._loss(embeddings[some], classes[some]).item() for some in rows]))

    # -- the head --------------------------------------------------------------------------------------------------

    def _agree_on_head(self) -> None:
        """Fits the head; where there are several processes, all get that of the main one: none differs in a last digit."""
        self._fit_head()
        if self.args.world_size > 1:
            head = self.model.head
            (found,) = broadcast_object_list([(head.arrays(), head.link)])
            head.restore(*found)

    def _fit_head(self) -> None:
        """Fits the head on the training texts, unless it fits the body already. Waits for no other process."""
        if self._head_is_fresh:
            return
        if self.train_dataset is None:
            raise RuntimeError("the head isn't fitted, and without a train_dataset there is nothing to fit it on")
        start = time.time()
        train = self._train_examples()
        classes = self.model.class_indices(train.required_labels(), train.name)
        embeddings = self._embed(train.texts)
        head, params = self.model.head, self.model.head_options(self.args.chosen_head_params)
        head.fit(embeddings, classes, len(self.model.labels or []), self.args.seed, **params)
        self._head_is_fresh = True
        self._head_report = {
            "train_accuracy": accuracy(head.predict(embeddings), classes),
            "train_head_runtime": round(time.time() - start, 4),
        }

    def _finish_training(self) -> None:
        """Fits the head on the final body, and reports how well it does on what it was fitted on."""
        self._agree_on_head()
        self.log(dict(self._head_report))
        self._describe()

    def _embed(self, texts: Sequence[str]) -> Any:
        known = self._embeddings.recall(self.model, texts)
        if known is not None:
            return known
        size = self.args.eval_batch_size
        sampler = ByLength(texts)
        in_order = [texts[row] for row in sampler]
        with in_mode(self.model, training=False), self.compute_loss_context_manager():
            batches = [
                self.model.encode(in_order[start : start + 16 * size], batch_size=size)
                for start in tqdm(
                    range(0, len(texts), 16 * size),
                    desc="Embedding the training texts",
                    leave=False,
                    disable=self.args.disable_tqdm or len(texts) <= 16 * size,
                )
            ]
        embeddings = sampler.restored(np.concatenate(batches))
        self._embeddings.keep(self.model, texts, embeddings)
        return embeddings

    def _bind_labels(self, model: Any) -> None:
        """Gives a classifier without labels those of the training data; checks those of one that has some, and the head."""
        if not isinstance(model, FewShotClassifier):
            raise TypeError(
                f"model is {_kind(model)}; expected a FewShotClassifier. From a SentenceTransformer: "
                "FewShotClassifier(body); from a name or path: FewShotClassifier.from_pretrained(...)"
            )
        if self._labelled is not None:
            try:
                model.learn_labels(self._labelled)
                model.class_indices(self._labelled.required_labels(), self._labelled.name)
            except ValueError as error:
                raise ValueError(
                    f"{error}. For another task than the model is for, pass labels=[...] and head='logistic', a new head, to "
                    "FewShotClassifier.from_pretrained"
                ) from error
            self._check_head(model)
        self._head_is_fresh = model.head.is_fitted

    def _check_head(self, model: FewShotClassifier) -> None:
        """Fails on options that the head can't be fitted with."""
        params, several = model.head_options(self.args.chosen_head_params), model.label_form != "single"
        model.head.check(params, len(model.labels or ()), multi_label=several)

    def _hp_search_setup(self, trial: Any) -> None:
        # transformers casts what a trial says to the type of what was there: no JSON becomes a dict by that.
        before, self.args.head_params = self.args.head_params, None
        super()._hp_search_setup(trial)
        self.args.head_params = before if self.args.head_params is None else self.args.head_params

    # -- saving ----------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Writes a complete classifier: a checkpoint can be loaded and used as it is."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        if self.train_dataset is not None:
            self._fit_head()
            self._describe()
        self.model.save_pretrained(folder)
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.restore(resume_from_checkpoint)
        self._head_is_fresh = False

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint, "optimizer.pt or scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint, "the random states"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None, "transformers calls this only if there is one"
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def create_model_card(  # type: ignore[override]  # without what this card has no place for
        self,
        language: str | list[str] | None = None,
        license: str | None = None,  # noqa: A002 -- as in the base class
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset_tags: str | list[str] | None = None,
    ) -> None:
        """Writes the classifier's README to `args.output_dir`; what is given here stays in its later ones.

        Args:
            language: Of the texts, as a code of two or three letters.
            license: Of the model, ``apache-2.0`` say.
            tags: More tags.
            model_name: What people call the model.
            finetuned_from: The name of the body on the hub, where it isn't known.
            dataset_tags: The name of the training data on the hub.
        """
        if not self.is_world_process_zero():
            return
        given = {
            "language": language,
            "license": license,
            "tags": tags,
            "model_name": model_name,
            "base_model": finetuned_from,
            "datasets": dataset_tags,
        }
        metadata = {**self.model.card.metadata, **{key: value for key, value in given.items() if value is not None}}
        self.model.card = dataclasses.replace(self.model.card, metadata=metadata)
        self._describe()
        folder = Path(self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(self.model.model_card(), "utf-8")

    def push_to_hub(  # type: ignore[override]  # what comes first is as in SetFit; transformers itself passes names
        self,
        repo_id: str | None = None,
        *,
        commit_message: str | None = "End of training",
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Uploads the classifier, with its card and without checkpoints, and returns the URL of the commit.

        Args:
            repo_id: ``owner/name``; by default `args.hub_model_id`, else the name of `args.output_dir`.
            commit_message: What the commit says.
            token: By default `args.hub_token`, else the one that ``hf auth login`` stored.
            revision: The branch; by default `args.hub_revision`, else the main one.
            private: Whether a new repository is private; by default `args.hub_private_repo`.
            kwargs: For `create_model_card`.

        Returns:
            None on processes but the main one.

        Raises:
            OSError: The hub can't be reached, or refuses.
            RuntimeError: The head isn't fitted.
        """
        args = self.args
        self.callback_handler.on_push_begin(args, self.state, self.control)
        if not self.is_world_process_zero():
            return None
        self._fit_head()
        self.create_model_card(**kwargs)
        return self.model.push_to_hub(
            repo_id or args.hub_model_id or Path(args.output_dir or ".").absolute().name,
            token=token or args.hub_token,
            private=args.hub_private_repo if private is None else private,
            revision=revision or args.hub_revision,
            commit_message=commit_message or "End of training",
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """With `args.push_to_hub`, what each checkpoint has is uploaded, unless `args.hub_strategy` is ``end``.

        The base class would copy some files of the body only. A hub that is away doesn't end the training.
        """
        if self.args.hub_strategy == HubStrategy.END or not self.is_world_process_zero():
            return
        try:
            self.push_to_hub(commit_message=f"Training in progress, step {self.state.global_step}")
        except OSError as error:
            logger.warning("the checkpoint of step %d was not pushed: %s", self.state.global_step, error)

    def _describe(self) -> None:
        """Has the classifier's card say what was done to it."""
        if self.is_world_process_zero() and self.state.global_step > 0:
            self.model.card = dataclasses.replace(self.model.card, training=training_of(self, self._reporting()))

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _train_examples(self) -> Examples:
        assert isinstance(self.train_dataset, Examples), "checked by whoever needs training data"
        return self.train_dataset

    def _tokens(self, texts: Sequence[str]) -> Tokens:
        return Tokens(texts, self.model.tokenize, getattr(self.model.body, "tokenizer", None))

    def _dataloader(self, dataset: Any, collator: Any, **sampling: Any) -> DataLoader[Any]:
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            dataset,
            collate_fn=collator,
            **sampling,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type != "cpu",
            persistent_workers=workers > 0 and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=torch.Generator().manual_seed(self.args.seed),  # else each evaluation moves the global one
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared


class _Phases(TrainerCallback):
    """What the trainer does between its phases, before any other callback hears of them."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # accelerate tells a sampler of the epoch too, but not through each of its wrappers.
        if self.trainer._sampler is not None:
            self.trainer._sampler.set_epoch(int(state.epoch or 0))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        wanted = f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
        if self.trainer.is_in_train and wanted in metrics and not is_number(metrics[wanted]):
            raise ValueError(
                f"metric_for_best_model is {args.metric_for_best_model!r}, and that is {metrics[wanted]!r}; expected a number: name "
                "another metric, or leave it out for the accuracy"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._finish_training()


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"
