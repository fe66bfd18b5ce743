"""The few-shot trainer: transformers' Trainer on pairs of texts, with a classification head fitted on top.

    train()
        contrastive phase   ContrastivePairs → tokens of distinct texts → embeddings → loss on pairs   (the body learns)
            evaluate()      head fitted on the training texts' embeddings of the moment; loss and metrics on the evaluation's
        head                fitted on the final (or best) body, before `on_train_end`
    evaluate(), predict()   the same head, until the body moves again

Everything else (checkpoints, resuming, early stopping, mixed precision, accelerate, callbacks) is the library's.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeGuard, cast

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import EvalPrediction, PredictionOutput, TrainOutput

from runcast.fewshot.arguments import TrainingArguments
from runcast.fewshot.data import Examples, evaluation_examples, examples
from runcast.fewshot.loading import ClassifiedDataset, PairCollator, PairDataset, TextCollator
from runcast.fewshot.losses import pair_loss
from runcast.fewshot.metrics import ClassificationMetrics, Metric
from runcast.fewshot.model import FewShotClassifier
from runcast.fewshot.sampling import ContrastivePairs
from runcast.frameworks.transformers import ReportingCallback
from runcast.reporter import Reporter

if TYPE_CHECKING:
    from runcast.events import RunStatus

Callback = TrainerCallback | type[TrainerCallback] | Reporter | type[Reporter] | str


class Trainer(transformers.Trainer):
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
        metric: Beside the accuracy: the name of one of `sklearn.metrics`, ``"f1"`` say, or a function
            ``(y_pred, y_test) -> float`` or ``-> dict``.
        metric_kwargs: More arguments for the metric, ``{"average": "weighted"}`` say.
        callbacks: Callbacks and reporters, classes or instances.
        column_mapping: From the datasets' column names to ``text`` and ``label``.
        optimizers: An optimizer and a scheduler to use instead of those of `args`.

    Raises:
        TypeError: `model`, `args` or a dataset is of the wrong kind.
        ValueError: A dataset is unfit: a column is missing, a text empty, a label missing, there is a single class, or an
            evaluation label that training doesn't have.
    """

    model: FewShotClassifier
    args: TrainingArguments

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
        self.column_mapping = column_mapping
        self.metrics = ClassificationMetrics(metric, metric_kwargs)
        pair_loss(args.loss, args.margin)  # says now if there is no such loss
        train = None if train_dataset is None else examples(train_dataset, "train_dataset", column_mapping)
        if train is not None and len(train.classes) < 2:
            raise ValueError(f"train_dataset has a single class, {train.classes[0]!r}; expected at least two")
        evaluation = evaluation_examples(eval_dataset, column_mapping)
        self._train_classes = None if train is None else train.classes
        self._pairs: ContrastivePairs | None = None
        self._head_is_fresh = False
        self._head_report: dict[str, float] = {}
        if model is not None:
            self._bind_labels(model)
        if isinstance(evaluation, dict) and args.metric_for_best_model == "accuracy":
            args.metric_for_best_model = f"{next(iter(evaluation))}_accuracy"

        others: list[Any] = []
        reporters: list[Any] = []
        for callback in callbacks or []:
            (reporters if _is_reporter(callback) else others).append(callback)
        if not any(callback is ReportingCallback or isinstance(callback, ReportingCallback) for callback in others):
            reporting = _reporting_callback(args, train)
            others = others if reporting.is_silent else [reporting, *others]
        # transformers would add its own tracker callbacks for what it finds in report_to.
        report_to, args.report_to = args.report_to, []
        try:
            super().__init__(
                model=model,
                args=args,
                train_dataset=train,
                eval_dataset=evaluation,
                model_init=model_init,  # type: ignore[arg-type]  # any nn.Module will do
                compute_metrics=self._compute_metrics,
                callbacks=[_Phases(self), *others],
                optimizers=optimizers,
            )
        finally:
            args.report_to = report_to
        for reporter in reporters:
            self.add_callback(reporter)
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
            resume_from_checkpoint: A checkpoint's folder; True for the last one in `args.output_dir`.
            trial: The trial of a hyper-parameter search.
            ignore_keys_for_eval: Without meaning here.
            kwargs: As in the base class.

        Raises:
            ValueError: There is no `train_dataset`.
        """
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset: Trainer(..., train_dataset=...)")
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval, **kwargs)
        except BaseException as error:
            reporting = self._reporting()
            if reporting is not None and _is_pruned(error):
                if reporting.run is not None:
                    reporting.run.set_summary({"trial_status": "pruned"})
                reporting.finish()
            elif reporting is not None:
                reporting.fail(error)
            raise

    def call_model_init(self, trial: Any = None) -> FewShotClassifier:
        """A new classifier from `model_init`."""
        model: Any = super().call_model_init(trial)
        self._bind_labels(model)
        return cast("FewShotClassifier", model)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of pairs, drawn lazily; which ones depends on the seed and the epoch."""
        train = self._train_examples()
        self._pairs = ContrastivePairs(
            self.model.class_indices(train.required_labels(), train.name),
            self.args.sampling_strategy,
            self.args.num_iterations,
            self.args.max_pairs,
            self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )
        return self._dataloader(
            PairDataset(train, self._pairs),
            self._pairs,
            PairCollator(train, self.model.tokenize),
            self._train_batch_size,
        )

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
        """The contrastive loss of a batch; each distinct text is embedded once."""
        inputs = dict(inputs)
        left, right, target = (inputs.pop(key) for key in ("left", "right", "target"))
        embeddings = model(**inputs)
        loss = pair_loss(self.args.loss, self.args.margin)(embeddings[left], embeddings[right], target)
        return (loss, {"embeddings": embeddings}) if return_outputs else loss

    # -- evaluation and prediction ---------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
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
        self._fit_head()
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
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
        self._fit_head()
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
        classes = None if labels is None else self.model.class_indices(labels, test_dataset.name).tolist()
        data = ClassifiedDataset(test_dataset, classes)
        collator = TextCollator(self.model.tokenize)
        return self._dataloader(data, SequentialSampler(data), collator, self.args.eval_batch_size)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Embeddings and class indices; loss and metrics come from all of them together, in `_compute_metrics`."""
        inputs = dict(self._prepare_inputs(inputs))
        labels = inputs.pop("labels", None)
        with torch.no_grad():
            return None, model(**inputs), labels

    def _compute_metrics(self, evaluated: EvalPrediction) -> dict[str, float]:
        embeddings = np.asarray(evaluated.predictions)
        classes = np.asarray(evaluated.label_ids)
        predicted = self.model.names(self.model.head.predict(embeddings))
        return {"loss": self._pair_loss_of(embeddings, classes), **self.metrics(predicted, self.model.names(classes))}

    def _pair_loss_of(self, embeddings: Any, classes: Any) -> float:
        """The loss on the same pairs at each evaluation."""
        pairs = ContrastivePairs(classes, max_pairs=max(2, self.args.eval_max_pairs), seed=self.args.seed)
        loss = pair_loss(self.args.loss, self.args.margin)
        vectors = torch.as_tensor(embeddings, dtype=torch.float32)
        total = 0.0
        for left, right, target in pairs.chunks():
            part = loss(vectors[left], vectors[right], torch.as_tensor(target))
            total += part.item() * len(target)
        return total / len(pairs)

    # -- the head --------------------------------------------------------------------------------------------------

    def _fit_head(self) -> None:
        """Fits the head on the training texts, unless it fits the body already."""
        if self._head_is_fresh:
            return
        if self.train_dataset is None:
            raise RuntimeError("the head isn't fitted, and without a train_dataset there is nothing to fit it on")
        start = time.time()
        train = self._train_examples()
        classes = self.model.class_indices(train.required_labels(), train.name)
        embeddings = self._embed(train.texts)
        head, params = self.model.head, self.args.head_params
        assert not isinstance(params, str), "parsed by TrainingArguments"
        head.fit(embeddings, classes, len(self.model.labels or []), self.args.seed, **(params or {}))
        self._head_is_fresh = True
        self._head_report = {
            "train_accuracy": float(np.mean(head.predict(embeddings) == classes)),
            "train_head_runtime": round(time.time() - start, 4),
        }

    def _finish_training(self) -> None:
        """Fits the head on the final body, and reports how well it does on what it was fitted on."""
        self._fit_head()
        self.log(dict(self._head_report))

    def _embed(self, texts: Sequence[str]) -> Any:
        size = self.args.eval_batch_size
        with _eval_mode(self.model):
            batches = [
                self.model.encode(texts[start : start + 16 * size], batch_size=size)
                for start in tqdm(
                    range(0, len(texts), 16 * size),
                    desc="Embedding the training texts",
                    leave=False,
                    disable=self.args.disable_tqdm or len(texts) <= 16 * size,
                )
            ]
        return np.concatenate(batches)

    def _bind_labels(self, model: Any) -> None:
        """Gives a classifier without labels those of the training data; checks those of one that has some."""
        if not isinstance(model, FewShotClassifier):
            raise TypeError(
                f"model is {_kind(model)}; expected a FewShotClassifier. From a SentenceTransformer: "
                "FewShotClassifier(body); from a name or path: FewShotClassifier.from_pretrained(...)"
            )
        if self._train_classes is not None:
            if model.labels is None:
                model.labels = list(self._train_classes)
            model.class_indices(self._train_classes, "train_dataset")
        self._head_is_fresh = model.head.is_fitted

    # -- saving ----------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Writes a complete classifier: a checkpoint can be loaded and used as it is."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        if self.train_dataset is not None:
            self._fit_head()
        self.model.save_pretrained(folder)
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not (Path(resume_from_checkpoint) / "modules.json").is_file():
            raise ValueError(f"{resume_from_checkpoint} holds no checkpoint of a FewShotClassifier")
        saved = FewShotClassifier.from_pretrained(resume_from_checkpoint, device="cpu")
        self.model.load_state_dict(saved.state_dict())
        self.model.head, self.model.labels = saved.head, saved.labels or self.model.labels
        self._head_is_fresh = False

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None, "transformers calls this only if there is one"
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the classifier's README to `args.output_dir`."""
        if self.is_world_process_zero():
            (Path(self.args.output_dir or ".") / "README.md").write_text(self.model.model_card(), "utf-8")

    # -- hyper-parameters ------------------------------------------------------------------------------------------

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "maximize",
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Searches good options: one run a trial, all in one group. Needs `model_init`, and optuna or Ray Tune.

        Args:
            hp_space: From a trial to the options to try.
            compute_objective: From the metrics of an evaluation to what to optimise; by default ``eval_accuracy``.
            n_trials: How many to try.
            direction: ``maximize`` or ``minimize`` the objective.
            backend: ``"optuna"`` or ``"ray"``; by default the one that is installed.
            hp_name: From a trial to the name of its run; by default ``trial-<number>``.
            kwargs: For the backend, `pruner` say.
        """

        def name(trial: Any) -> str:
            return hp_name(trial) if hp_name else f"trial-{getattr(trial, 'number', uuid.uuid4().hex[:6])}"

        def objective(metrics: dict[str, float]) -> float:
            value = compute_objective(metrics) if compute_objective else metrics["eval_accuracy"]
            reporting = self._reporting()
            if reporting is not None and reporting.run is not None and reporting.run.status == "running":
                reporting.run.set_summary({"objective": value})
            return value

        reporting = self._reporting()
        group = None if reporting is None else reporting.group
        if reporting is not None:
            reporting.group = group or time.strftime("search-%Y%m%d-%H%M%S")
        try:
            return super().hyperparameter_search(hp_space, objective, n_trials, direction, backend, name, **kwargs)
        finally:
            if reporting is not None:
                reporting.group = group
            self.finish_run()

    # -- callbacks, reporters, the run -----------------------------------------------------------------------------

    def add_callback(self, callback: Callback) -> None:
        """Adds a callback, or a reporter.

        Args:
            callback: A `TrainerCallback` class or instance; a `Reporter` class or instance; or a reporter's name.

        Raises:
            ValueError: No reporter has that name.
        """
        if not _is_reporter(callback):
            super().add_callback(cast("TrainerCallback", callback))
            return
        reporting = self._reporting()
        if reporting is None:
            train = self.train_dataset if isinstance(self.train_dataset, Examples) else None
            reporting = _reporting_callback(self.args, train, report_to="none")
            super().add_callback(reporting)
        reporting.add_reporter(callback)

    def pop_callback(  # type: ignore[override]  # a reporter too, if one is asked for
        self, callback: Callback
    ) -> TrainerCallback | Reporter | None:
        """Removes a callback or a reporter, and returns it; None if it isn't there.

        Args:
            callback: As in `add_callback`.

        Raises:
            ValueError: No reporter has that name.
        """
        if not _is_reporter(callback):
            return super().pop_callback(cast("TrainerCallback", callback))
        reporting = self._reporting() or ReportingCallback("none")
        return reporting.pop_reporter(callback)

    def remove_callback(self, callback: Callback) -> None:
        """Removes a callback or a reporter.

        Args:
            callback: As in `add_callback`.

        Raises:
            ValueError: No reporter has that name; or a callback instance that isn't there.
        """
        if _is_reporter(callback):
            self.pop_callback(callback)
        else:
            super().remove_callback(cast("TrainerCallback", callback))

    def finish_run(self, status: RunStatus = "completed") -> None:
        """Ends the run that this trainer opened, and waits until every tracker has it; a second call does nothing."""
        reporting = self._reporting()
        if reporting is not None:
            reporting.finish(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        reporting = self._reporting()
        if reporting is not None:
            reporting.finish() if error is None else reporting.fail(error)

    def _reporting(self) -> ReportingCallback | None:
        found = (item for item in self.callback_handler.callbacks if isinstance(item, ReportingCallback))
        return next(found, None)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _train_examples(self) -> Examples:
        assert isinstance(self.train_dataset, Examples), "checked by whoever needs training data"
        return self.train_dataset

    def _dataloader(self, dataset: Any, sampler: Sampler[Any], collator: Any, batch_size: int) -> DataLoader[Any]:
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type != "cpu",
            persistent_workers=workers > 0 and self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=torch.Generator().manual_seed(self.args.seed),  # else each evaluation moves the global one
            drop_last=self.args.dataloader_drop_last and isinstance(sampler, ContrastivePairs),
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared


class _Phases(TrainerCallback):
    """What the trainer does between its phases, before any other callback hears of them."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # accelerate tells a sampler of the epoch too, but not through each of its wrappers.
        if self.trainer._pairs is not None:
            self.trainer._pairs.set_epoch(int(state.epoch or 0))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._finish_training()


def _reporting_callback(args: TrainingArguments, train: Examples | None, **overrides: Any) -> ReportingCallback:
    project = getattr(args, "project", None)
    data = {} if train is None else {"train_examples": len(train), "labels": train.classes}
    return ReportingCallback(
        **{
            "report_to": args.report_to,
            "probes": args.probes,
            "project": None if project == "huggingface" else project,  # transformers' default
            "config": {"data": data} if data else None,
            **overrides,
        }
    )


def _is_reporter(callback: Callback) -> TypeGuard[Reporter | type[Reporter] | str]:
    return isinstance(callback, Reporter | str) or (isinstance(callback, type) and issubclass(callback, Reporter))


def _is_pruned(error: BaseException) -> bool:
    return type(error).__name__ == "TrialPruned"  # optuna's; it needn't be installed


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Any:
    """Without dropout inside, and as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"
