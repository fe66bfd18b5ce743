"""Reports any transformers-style trainer: transformers, sentence-transformers, SetFit, TRL.

    on_init_end … on_train_begin … (on_log | on_evaluate | on_save) … on_train_end … on_evaluate … on_predict
                  └ the run opens, or the user's is joined                          └ still the same run

The run stays open after training, so that later evaluations and predictions join it. It ends with `finish`, with the
next training, or with the interpreter.
"""

from __future__ import annotations

import logging
import os
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from runcast.errors import missing_extra
from runcast.probe import Probes, default_probes, probe_names, resolve_probes
from runcast.registry import ReportTo, default_report_to, is_registered, reporter_class, resolve_report_to, wishes
from runcast.reporter import Reporter
from runcast.run import Run, current_run, start_run

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ModuleNotFoundError as error:
    raise missing_extra("transformers", "train") from error

if TYPE_CHECKING:
    from runcast.events import RunStatus

logger = logging.getLogger("runcast")

LogModel: TypeAlias = Literal["none", "end", "checkpoint"]

# Runs that a callback opened, and so no user's: another callback must not join them.
_opened: weakref.WeakKeyDictionary[Run, ReportingCallback] = weakref.WeakKeyDictionary()


class ReportingCallback(TrainerCallback, ExportableState):
    """Reports a trainer to every tracker, through a run.

    A run that the user opened (`runcast.start_run`) is joined, and never ended; it keeps its own trackers. Otherwise the
    callback opens one when training begins, or at the first evaluation or prediction. Evaluations and predictions after
    training go to the same run, the next training starts a new one, and resuming from a checkpoint goes on with the run
    that wrote it.

    Example:
        ```python
        trainer = transformers.Trainer(..., callbacks=[ReportingCallback(report_to=["wandb", "mlflow"])])
        ```

    Args:
        report_to: ``"all"``, ``"none"``, names, a mapping of names to options, reporter classes or instances, or a list of
            these. By default ``$RUNCAST_REPORT_TO``, else ``"all"``.
        project: What trackers file the run under.
        name: What people call the run; by default the `run_name` of the training arguments.
        group: Runs that belong together share it.
        tags: Labels of the run.
        config: Settings besides the training arguments and the model's configuration.
        dir: Parent of run folders.
        log_model: Whether to log the model as an artifact: ``"none"``, at the ``"end"`` of training, or each
            ``"checkpoint"`` that the trainer saves.
        start_timeout: Seconds to wait, before training, for the trackers that were asked for by name.
        probes: What measures beside the training, as in `runcast.start_run`; a run that is joined keeps its own.

    Raises:
        ValueError: `report_to` names an unknown tracker, or `probes` an unknown probe.
        MissingDependencyError: A tracker or probe that was named isn't installed.
    """

    def __init__(
        self,
        report_to: ReportTo = "default",
        project: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Iterable[str] = (),
        config: Mapping[str, Any] | None = None,
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 -- as in start_run
        log_model: LogModel = "none",
        start_timeout: float = 60.0,
        probes: Probes | None = None,
    ) -> None:
        if log_model not in get_args(LogModel):
            raise ValueError(f"log_model is {log_model!r}; expected one of {', '.join(get_args(LogModel))}")
        self.report_to = default_report_to() if report_to == "default" else report_to
        self.reporters = resolve_report_to(self.report_to)
        self.project = project
        self.name = name
        self.group = group
        self.tags = tuple(tags)
        self.config = dict(config or {})
        self.dir = dir
        self.log_model = log_model
        self.start_timeout = start_timeout
        self.probes = resolve_probes(default_probes() if probes is None else probes)
        self.run: Run | None = None
        self.not_restored: list[str] = []
        self._came_with_all = False
        self._phase: Literal["before training", "training", "after training"] = "before training"

    # -- which trackers --------------------------------------------------------------------------------------------

    @property
    def is_silent(self) -> bool:
        """Whether it reports nothing at all, as with ``"none"``; ``"all"`` without any tracker still writes the run."""
        return wishes(self.report_to) in ([], ["none"])

    def add_reporter(self, reporter: Reporter | type[Reporter] | str) -> None:
        """Reports to one more tracker, instead of one of that name; in an open run from its first event on."""
        for added in resolve_report_to(reporter):
            for ours in [ours for ours in self.reporters if ours.name == added.name]:
                self._drop(ours)
            self._set_reporters([*self.reporters, added])
            if self.run is not None and self.run.dir is None:
                self.run = None  # it was silent until now
            elif self.run is not None and self._is_open:
                self.run.add_reporter(added)

    def pop_reporter(self, reporter: Reporter | type[Reporter] | str) -> Reporter | None:
        """Stops reporting to a tracker; what it has got stays there.

        Args:
            reporter: Its name or an alias, its class, or the instance.

        Returns:
            The reporter; None if it was none of ours.

        Raises:
            ValueError: No tracker has that name.
        """
        if isinstance(reporter, str) and not any(ours.name == reporter for ours in self.reporters):
            reporter = reporter_class(reporter).name  # an alias, or one that isn't here
        for ours in self.reporters:
            if _is(ours, reporter):
                self._drop(ours)
                return ours
        return None

    def _drop(self, ours: Reporter) -> None:
        self._set_reporters([reporter for reporter in self.reporters if reporter is not ours])
        if self._is_open and self.run is not None:
            self.run.remove_reporter(ours.name)

    def _set_reporters(self, reporters: list[Reporter]) -> None:
        # Those that came with "all" weren't asked for by name, also when another one is added or taken away.
        self._came_with_all = self._came_with_all or "all" in wishes(self.report_to)
        self.report_to = self.reporters = reporters

    # -- the run ---------------------------------------------------------------------------------------------------

    def finish(self, status: RunStatus = "completed") -> None:
        """Ends the run, if this callback opened it, and waits until the trackers have it. A second call does nothing."""
        if self.run is not None and self._owns_run:
            self.run.finish(status)

    def fail(self, error: BaseException) -> None:
        """Ends the run, if this callback opened it, as failed, or as killed after Ctrl-C, with the error as reason."""
        if self.run is not None and self._owns_run and self.run.status == "running":
            self.run.__exit__(type(error), error, error.__traceback__)

    @property
    def _owns_run(self) -> bool:
        return self.run is not None and _opened.get(self.run) is self

    @property
    def _is_open(self) -> bool:
        return self.run is not None and self.run.status == "running"

    def _open(self, args: Any, state: Any, model: Any, checkpoint: Path | None = None) -> Run:
        """The run to report to: the user's, the one of the checkpoint, the one before, or a new one."""
        if self.run is not None and self._is_open:
            return self.run
        config = _config(args, model, self.config)
        users, group = current_run(), self.group
        if users is not None and users in _opened:
            previous = _opened[users]
            if previous._phase != "training":
                previous.finish()  # another trainer's: its trackers needn't wait for the interpreter's end
            users = None
        if users is not None and not state.is_hyper_param_search:
            users.update_config(config)
            self.run = users
            return users
        if users is not None:
            group = users.name  # trials: one run each, under the user's
        again = checkpoint or (self.run.dir if self.run is not None and self._owns_run else None)
        self.run = start_run(
            report_to=self.report_to,
            project=self.project,
            name=state.trial_name or self.name or _run_name(args),
            group=group,
            tags=self.tags,
            config=config,
            dir=self.dir,
            resume=again,
            resume_step=state.global_step if checkpoint else None,
            probes=self.probes,
        )
        _opened[self.run] = self
        return self.run

    # -- what the trainer tells ------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        checkpoint = self._checkpointed(state) if state.global_step > 0 else None
        if self._owns_run and self._phase != "before training":
            # A training that is still "training" has been left by an exception.
            self.finish("completed" if self._phase == "after training" else "failed")
            self.run = None
        elif not self._is_open:
            self.run = None
        run = self._open(args, state, model, checkpoint)
        if self.not_restored:
            logger.warning(
                "restored from a checkpoint, which knows reporters by name only: nothing goes to %s. Register them "
                "(runcast.register_reporter), or leave out restore_callback_states_from_checkpoint",
                ", ".join(self.not_restored),
            )
        self._phase = "training"
        # A checkpoint without this callback's state would make transformers fail at its next save.
        state.stateful_callbacks[type(self).__name__] = self.state()
        if not self._came_with_all:
            run.wait_started(self.start_timeout)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            self._report(self._open(args, state, model), logs, state.global_step)

    def on_predict(
        self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and metrics:
            self._report(self._open(args, state, model), metrics, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.log_model != "checkpoint" or not state.is_world_process_zero or self.run is None:
            return
        folders = sorted(
            Path(args.output_dir).glob(f"**/checkpoint-{state.global_step}"), key=lambda p: p.stat().st_mtime
        )
        if folders:
            self.run.log_artifact(folders[-1], kind="checkpoint", step=state.global_step)
        else:
            logger.warning("checkpoint of step %d isn't below %s: not logged", state.global_step, args.output_dir)

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._phase = "after training"
        if self.log_model != "end" or self.run is None:
            return
        if not hasattr(model, "save_pretrained"):
            logger.warning("a %s has no save_pretrained: the model is not logged", type(model).__name__)
            return
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            if processing_class is not None:
                processing_class.save_pretrained(folder)
            self.run.log_artifact(folder, name="model", kind="model", step=state.global_step)

    @staticmethod
    def _report(run: Run, logs: Mapping[str, Any], step: int) -> None:
        values, summary = translate(logs)
        if values:
            run.log(values, step=step)
        if summary:
            run.set_summary(summary)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the callback: how to make it again, and which run it was."""
        names = [reporter.name for reporter in self.reporters if is_registered(type(reporter))]
        others = [reporter.name for reporter in self.reporters if reporter.name not in names]
        report_to = self.report_to if isinstance(self.report_to, str) else names
        run = self.run if self.run is not None and self.run.dir is not None else None
        return {
            "args": {
                "report_to": report_to,
                "project": self.project,
                "name": self.name,
                "group": self.group,
                "tags": list(self.tags),
                "dir": None if self.dir is None else os.fspath(self.dir),
                "log_model": self.log_model,
                "start_timeout": self.start_timeout,
                "probes": probe_names(self.probes),
            },
            "attributes": {
                "checkpointed_run": None if run is None else {"id": run.id, "dir": str(run.dir)},
                "not_restored": [*others, *self.not_restored],
            },
        }

    def _checkpointed(self, state: Any) -> Path | None:
        """The folder of the run that the checkpoint was written in; None if there is none any more."""
        saved = (state.stateful_callbacks or {}).get(type(self).__name__)
        if isinstance(saved, list):  # several callbacks of this class, or the checkpoint of a resumed training
            saved = saved[-1] if saved else None
        run = (saved or {}).get("attributes", {}).get("checkpointed_run")
        if not run:
            return None
        parent = Path(self.dir or os.environ.get("RUNCAST_DIR") or "runs")
        for folder in (Path(run["dir"]), parent / run["id"]):
            if (folder / "journal.jsonl").is_file():
                return folder
        logger.warning("the checkpoint's run %s has no folder any more (%s): a new run starts", run["id"], run["dir"])
        return None


def translate(logs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trainer's log as metrics by slash path, and one-off results.

    ``loss`` becomes ``train/loss``, ``eval_loss`` ``eval/loss``, ``test_f1`` ``test/f1``, likewise any other prefix that
    comes with its speed (``val_samples_per_second``); ``train_runtime``, ``total_flos`` and their like are one-off.
    """
    phases = {"eval", "test"}
    phases |= {key.removesuffix("_samples_per_second") for key in logs if key.endswith("_samples_per_second")}
    phases.discard("train")
    values: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for key, value in logs.items():
        phase = next((phase for phase in sorted(phases) if key.startswith(f"{phase}_") and key != f"{phase}_"), None)
        if phase is not None:
            values[f"{phase}/{key.removeprefix(f'{phase}_')}"] = value
        elif key.startswith("train_") or key == "total_flos":
            summary[key] = value
        elif key != "epoch":
            values[f"train/{key}"] = value
    if "epoch" in logs and any(key.startswith("train/") for key in values):
        values["train/epoch"] = logs["epoch"]  # an evaluation repeats that of the training step before it
    return values, summary


def _is(ours: Reporter, wanted: Reporter | type[Reporter] | str) -> bool:
    if isinstance(wanted, str):
        return ours.name == wanted
    return isinstance(ours, wanted) if isinstance(wanted, type) else ours is wanted


def _config(args: Any, model: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = dict(args.to_dict()) if hasattr(args, "to_dict") else {}
    settings: Any = getattr(model, "config", None)
    described = settings.to_dict() if hasattr(settings, "to_dict") else {}
    if hasattr(model, "parameters"):
        described["num_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if described:
        config["model"] = described
    return {**config, **more}


def _run_name(args: Any) -> str | None:
    name = getattr(args, "run_name", None)
    return None if name == getattr(args, "output_dir", None) else name  # transformers 4 repeats the folder there
