"""The options of a few-shot training: all of transformers' own, and a few more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, get_args

import torch
import transformers

from runcast.fewshot.losses import LOSS_NAMES, loss_name
from runcast.fewshot.sampling import SamplingStrategy
from runcast.probe import asked_names, default_probes
from runcast.registry import default_report_to
from runcast.reporter import Reporter

if TYPE_CHECKING:
    from runcast.fewshot.losses import LabelLoss
    from runcast.probe import Probes
    from runcast.registry import ReportTo

    Loss = str | LabelLoss | type[Any]
else:  # what `transformers.HfArgumentParser` can read from a command line
    ReportTo = None | str | list[str]
    Probes = str | list[str]
    Loss = str

# Options of transformers' that have no meaning here, what they are when nobody sets them, and why.
_MEANINGLESS: dict[str, tuple[Any, str]] = {
    "include_for_metrics": ([], "metrics get predicted and true labels, and nothing else"),
    "eval_do_concat_batches": (True, "metrics are computed of all texts together"),
    "batch_eval_metrics": (False, "metrics are computed of all texts together"),
    "label_smoothing_factor": (0.0, "losses compare texts, and predict no label"),
    "train_sampling_strategy": ("random", "sampling_strategy says what a step trains on"),
}


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """`transformers.TrainingArguments` with defaults for few examples, and the options of contrastive training.

    Options of the base class work, but for those that have no meaning here and are refused. Other defaults than there:
    `output_dir`, batch sizes, `num_train_epochs`, `learning_rate`, `logging_steps`, `logging_first_step`, `save_strategy`,
    `report_to`, and `restore_callback_states_from_checkpoint`: a resumed training stops early when it would have without a
    stop. If `load_best_model_at_end` is set and `save_strategy` isn't, the best model is saved (and only that); if
    `eval_strategy` isn't set either, evaluation is as often as saving, or else every `eval_steps`, which are `logging_steps`
    unless set. If evaluation is on, `metric_for_best_model` is the accuracy unless set, so that early stopping works.

    Args:
        report_to: Where to report: ``"all"``, ``"none"``, names, a mapping of names to options, reporter classes or
            instances, or a list of these. By default ``$RUNCAST_REPORT_TO``, else ``"all"``.
        probes: What measures beside the training, as in `runcast.start_run`. By default ``$RUNCAST_PROBES``, else none.
        sampling_strategy: ``batch`` draws some texts of some classes and trains on all pairs among them. The others draw
            pairs: ``oversampling`` repeats the rarer kind of pair (same label, different label), ``undersampling`` leaves out
            pairs of the more frequent kind, ``unique`` takes each pair once.
        classes_per_batch: For ``batch``: how many classes a step sees.
        examples_per_class: For ``batch``: how many texts of each; more where there are fewer classes than that (see
            `runcast.fewshot.sampling.ClassBatches`).
        num_iterations: For ``batch``: how often an epoch draws each text, on average; by default twice, but at least 40
            batches. Otherwise, if set: this many pairs of each kind a text and epoch, whatever the strategy.
        max_pairs: If positive, at most this many distinct pairs an epoch are drawn from. Not for ``batch``.
        eval_max_pairs: How many pairs of evaluation texts `eval_loss` is computed on, at most.
        loss: ``cosine``, ``contrastive``, ``supervised_contrastive``, ``triplet_all``, ``triplet_hard``,
            ``triplet_semi_hard``, ``triplet_hard_soft_margin``; or a function from embeddings, shape (n, d), and labels to a
            scalar. Labels are class indices (n,), or rows of 0 and 1 (n, classes) if a text may have several. By default
            ``supervised_contrastive`` for ``batch``, ``cosine`` for pairs.
        margin: A cosine distance. Of ``contrastive`` (0.5 unless set): how far apart texts of different labels have to be;
            of triplets (0.25): how much further than those of one label.
        head_params: Options for fitting the head, ``{"C": 1.0}`` say; on a command line as JSON. The keys of a
            ``class_weight`` are labels; where a text may have several, 0 and 1.
    """

    output_dir: str | None = field(default="fewshot_output", metadata={"help": "Where checkpoints and the model go."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Pairs a device and training step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Texts a device and evaluation step."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "How often to go over the pairs."})
    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate of the body."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps, or that share of all."})
    logging_first_step: bool = field(default=True, metadata={"help": "Whether to log the first step."})
    save_strategy: str = field(default="no", metadata={"help": "When to save: no, steps, epoch or best."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Whether callbacks go on where they were when training resumes."}
    )
    report_to: ReportTo = field(  # type: ignore[assignment]  # more forms than the base class has, on purpose
        default_factory=default_report_to, metadata={"help": 'Where to report: "all", "none", or names.'}
    )
    probes: Probes = field(default_factory=default_probes, metadata={"help": "What measures beside the training."})

    sampling_strategy: str = field(
        default="batch", metadata={"help": "What to draw: batch, or pairs: oversampling, undersampling, unique."}
    )
    classes_per_batch: int = field(default=16, metadata={"help": "For batch: so many classes a step."})
    examples_per_class: int = field(default=2, metadata={"help": "For batch: so many texts of each class."})
    num_iterations: int | None = field(
        default=None, metadata={"help": "So many draws of a text (or pairs of it, of each kind) an epoch."}
    )
    max_pairs: int = field(default=-1, metadata={"help": "At most so many distinct pairs an epoch; -1 for no limit."})
    eval_max_pairs: int = field(default=5000, metadata={"help": "At most so many pairs for eval_loss."})
    loss: Loss | None = field(default=None, metadata={"help": f"What to minimise: {', '.join(LOSS_NAMES)}."})
    margin: float | None = field(default=None, metadata={"help": "Margin of the contrastive and triplet losses."})
    head_params: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Options for fitting the head, as JSON: {"C": 1.0}.'}
    )

    def __post_init__(self) -> None:
        if self.sampling_strategy not in get_args(SamplingStrategy):
            strategies = ", ".join(get_args(SamplingStrategy))
            raise ValueError(f"sampling_strategy is {self.sampling_strategy!r}; expected one of {strategies}")
        if self.load_best_model_at_end and self.save_strategy == "no":
            self.save_strategy = "best"
            self.save_total_limit = self.save_total_limit or 1
        if self.load_best_model_at_end and self.eval_strategy == "no":
            self.eval_strategy = "epoch" if self.save_strategy == "epoch" else "steps"
            if self.save_strategy == "steps" and self.eval_steps is None:
                self.eval_steps = self.save_steps
        if self.metric_for_best_model is None and (self.eval_strategy != "no" or self.load_best_model_at_end):
            self.metric_for_best_model = "accuracy"
        if self.head_params is not None:
            self.head_params = self.chosen_head_params
        # What report_to means is for runcast to say: transformers must see none of it.
        report_to, self.report_to = self.report_to, "none"
        super().__post_init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self.report_to = report_to
        for name, (default, reason) in _MEANINGLESS.items():
            if getattr(self, name, default) != default:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, which has no meaning here: {reason}; leave it out"
                )

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        found: torch.device = super().device
        # Among several processes it is "cpu:0", where torch can't load an optimizer to (mended in transformers 5.18).
        return torch.device("cpu") if found.type == "cpu" else found

    @property
    def chosen_loss(self) -> Loss:
        """`loss`, or the one that suits the strategy."""
        if self.loss is not None:
            return self.loss
        return "supervised_contrastive" if self.sampling_strategy == "batch" else "cosine"

    @property
    def chosen_head_params(self) -> dict[str, Any]:
        """`head_params` as a dict; a search may have made them JSON.

        Raises:
            ValueError: They are text, and no JSON.
            TypeError: They are no dict.
        """
        params = json.loads(self.head_params) if isinstance(self.head_params, str) else self.head_params
        if params is not None and not isinstance(params, Mapping):
            raise TypeError(f'head_params are {params!r}; expected options by name, {{"C": 1.0}} say')
        return dict(params or {})

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values; reporters and probes by name, since reporters' own options may be secret."""
        options: dict[str, Any] = super().to_dict()  # type: ignore[no-untyped-call]  # as above
        return {**options, **self._names()}

    def __getstate__(self) -> dict[str, Any]:
        # A reporter may hold a secret, or, like a probe or a loss, something that can't be pickled; checkpoints get its name.
        names = {**self._names(), "loss": None if self.loss is None else loss_name(self.loss)}
        lost = {key: name for key, name in names.items() if not _has_only_names(getattr(self, key))}
        return {**self.__dict__, **names, "_stand_ins": {**vars(self).get("_stand_ins", {}), **lost}}

    def check_complete(self) -> None:
        """Fails on options of which a pickle kept the name alone.

        Raises:
            ValueError: Such an option was not set since.
        """
        for key, name in vars(self).get("_stand_ins", {}).items():
            if getattr(self, key) == name:
                raise ValueError(
                    f"{key} is {name!r}, which is all that a pickle, or training_args.bin, keeps of what it was: set args.{key} again"
                )

    def _names(self) -> dict[str, Any]:
        return {
            "report_to": reporter_names(self.report_to),
            "probes": asked_names(self.probes),
            "loss": loss_name(self.chosen_loss),
        }

    # Not through __getstate__: a copy keeps its reporters.

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return dataclasses.replace(self)


def _has_only_names(option: Any) -> bool:
    """Whether names make what an option was."""
    if isinstance(option, list | tuple):
        return all(map(_has_only_names, option))
    if isinstance(option, Mapping):
        return not any(option.values())
    return option is None or isinstance(option, str | type)


def reporter_names(report_to: ReportTo) -> Any:
    """`report_to` with names in place of reporter classes, instances and options."""
    if report_to is None or isinstance(report_to, str):
        return report_to
    if isinstance(report_to, Reporter) or (isinstance(report_to, type) and issubclass(report_to, Reporter)):
        return report_to.name
    names = [reporter_names(item) for item in report_to]
    return [name for item in names for name in (item if isinstance(item, list) else [item])]
