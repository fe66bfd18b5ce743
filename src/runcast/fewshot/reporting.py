"""A transformers Trainer that reports into one run, and takes reporters where it takes callbacks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeGuard, cast

import transformers
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput

from runcast.fewshot.arguments import TrainingArguments
from runcast.frameworks.transformers import ReportingCallback
from runcast.reporter import Reporter

if TYPE_CHECKING:
    from runcast.events import RunStatus

Callback = TrainerCallback | type[TrainerCallback] | Reporter | type[Reporter] | str


class ReportingTrainer(transformers.Trainer):
    """Training, evaluation and prediction report into one run; the trials of a search into one each, of one group.

    Args:
        args: The options.
        data: What the run's config says of the data.
        callbacks: Callbacks and reporters, classes or instances. A `ReportingCallback` among them replaces that of `args`.
        kwargs: For `transformers.Trainer`.
    """

    args: TrainingArguments

    def __init__(
        self,
        *,
        args: TrainingArguments,
        data: Mapping[str, Any],
        callbacks: Sequence[Callback],
        **kwargs: Any,
    ) -> None:
        self._data = data
        for callback in callbacks:
            _check(callback)
        others: list[Any] = [callback for callback in callbacks if not _is_reporter(callback)]
        if not any(callback is ReportingCallback or isinstance(callback, ReportingCallback) for callback in others):
            reporting = _reporting_callback(args, data)
            others = others if reporting.is_silent else [reporting, *others]
        # transformers would add its own tracker callbacks for what it finds in report_to.
        report_to, args.report_to = args.report_to, []
        try:
            super().__init__(args=args, callbacks=others, **kwargs)
        finally:
            args.report_to = report_to
        for reporter in filter(_is_reporter, callbacks):
            self.add_callback(reporter)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in the base class; an exception ends the run as failed, Ctrl-C as killed, a pruned trial as completed."""
        try:
            return super().train(*args, **kwargs)
        except BaseException as error:
            reporting = self._reporting()
            if reporting is not None and _is_pruned(error):
                if reporting.run is not None:
                    reporting.run.set_summary({"trial_status": "pruned"})
                reporting.finish()
            elif reporting is not None:
                reporting.fail(error)
            raise

    def _load_callback_state(self) -> None:
        """Restores the callbacks' states; the reporting's stays as it is, with its reporters, and finds its run by itself."""
        callbacks = self.callback_handler.callbacks
        states = cast("dict[str, Any]", self.state.stateful_callbacks)  # what it is after loading
        ours = {type(callback).__name__ for callback in callbacks if isinstance(callback, ReportingCallback)}
        kept = {name: states.pop(name) for name in ours & states.keys()}
        super()._load_callback_state()
        states.update(kept)
        for callback in self.callback_handler.callbacks:
            # Of a callback that the checkpoint didn't know, transformers would miss the state at the next save.
            if isinstance(callback, ExportableState) and type(callback).__name__ not in ours:
                states.setdefault(type(callback).__name__, callback.state())

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
            hp_space: From a trial to the options to try. What isn't one of `args` is for `model_init`, which may ask the trial
                itself.
            compute_objective: From the metrics of an evaluation to what to optimise; by default the accuracy, on the first
                evaluation dataset.
            n_trials: How many to try.
            direction: ``maximize`` or ``minimize`` the objective.
            backend: ``"optuna"`` or ``"ray"``; by default the one that is installed.
            hp_name: From a trial to the name of its run; by default ``trial-<number>``.
            kwargs: For the backend, `pruner` say; a ``study_name`` and ``storage`` to go on with a search.

        Returns:
            The best trial: its `run_id` (the number), `objective`, and `hyperparameters`. `args` are as before;
            ``dataclasses.replace(trainer.args, **best.hyperparameters)`` are those to train with.

        Raises:
            RuntimeError: There is no `model_init`, or the backend isn't installed.
        """

        def name(trial: Any) -> str:
            return hp_name(trial) if hp_name else f"trial-{getattr(trial, 'number', uuid.uuid4().hex[:6])}"

        def objective(metrics: dict[str, float]) -> Any:
            value = compute_objective(metrics) if compute_objective else _accuracy(metrics)
            reporting = self._reporting()
            if reporting is not None and reporting.run is not None and reporting.run.status == "running":
                reporting.run.set_summary({"objective": value})
            return value

        reporting, trials = self._reporting(), _Trials(self)
        group = None if reporting is None else reporting.group
        if reporting is not None:
            reporting.group = group or time.strftime("search-%Y%m%d-%H%M%S")
        before = dict(vars(self.args))
        self.add_callback(trials)
        try:
            return super().hyperparameter_search(hp_space, objective, n_trials, direction, backend, name, **kwargs)
        finally:
            self.remove_callback(trials)
            vars(self.args).update(before)  # the last trial's are not what anybody chose
            if reporting is not None:
                reporting.group = group
            self.finish_run()

    # -- callbacks, reporters, the run -----------------------------------------------------------------------------

    def add_callback(self, callback: Callback) -> None:
        """Adds a callback, or a reporter.

        Args:
            callback: A `TrainerCallback` class or instance; a `Reporter` class or instance; or a reporter's name.

        Raises:
            TypeError: It is neither.
            ValueError: No reporter has that name.
        """
        _check(callback)
        if not _is_reporter(callback):
            super().add_callback(cast("TrainerCallback", callback))
            return
        reporting = self._reporting()
        if reporting is None:
            reporting = _reporting_callback(self.args, self._data, report_to="none")
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


class _Trials(TrainerCallback):
    """Notes a trial's parameters in its run, also those that are none of the training arguments."""

    def __init__(self, trainer: ReportingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        reporting = self.trainer._reporting()
        if reporting is not None and reporting.run is not None and state.trial_params:
            reporting.run.update_config({"trial": dict(state.trial_params)})


def _reporting_callback(args: TrainingArguments, data: Mapping[str, Any], **overrides: Any) -> ReportingCallback:
    return ReportingCallback(
        **{
            "report_to": args.report_to,
            "probes": args.probes,
            "project": None if args.project == "huggingface" else args.project,  # transformers' default
            "config": {"data": data} if data else None,
            **overrides,
        }
    )


def _check(callback: Any) -> None:
    is_callback = isinstance(callback, TrainerCallback)
    if not (
        is_callback or _is_reporter(callback) or (isinstance(callback, type) and issubclass(callback, TrainerCallback))
    ):
        raise TypeError(
            f"{callback!r} is no callback: expected a TrainerCallback or a Reporter, a class or an instance, or a reporter's name"
        )


def _is_reporter(callback: Callback) -> TypeGuard[Reporter | type[Reporter] | str]:
    return isinstance(callback, Reporter | str) or (isinstance(callback, type) and issubclass(callback, Reporter))


def _accuracy(metrics: Mapping[str, float]) -> float:
    """The accuracy on the evaluation data, or on the first of several datasets."""
    return next(value for name, value in metrics.items() if name.startswith("eval_") and name.endswith("_accuracy"))


def _is_pruned(error: BaseException) -> bool:
    return type(error).__name__ == "TrialPruned"  # optuna's; it needn't be installed
