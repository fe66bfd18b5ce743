"""Options of `runcast.fewshot.TrainingArguments` on the command line, ``--learning-rate 2e-5`` or ``--learning_rate=2e-5``."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from runcast.cli.output import UsageError, expected

if TYPE_CHECKING:
    from runcast.fewshot import TrainingArguments

_WITHOUT_EFFECT = {
    "train always trains and evaluates; predictions are made by runcast predict": "do_train do_eval do_predict",
    "--sampling-strategy says what is drawn": "length_column_name",
    "a tracker's settings are its environment variables": "trackio_space_id trackio_bucket_id trackio_static_space_id",
    "it is for other models and datasets than a few-shot classifier's": (
        "eval_use_gather_object label_names liger_kernel_config prediction_loss_only remove_unused_columns use_cache "
        "use_liger_kernel"
    ),
    "the trainer does without it": "dataloader_in_order dataloader_multiprocessing_context hub_always_push",
}
"""Options of transformers' trainer that would do nothing, by what to say of them; others the arguments refuse themselves."""


def split(tokens: Sequence[str]) -> tuple[str, list[str]]:
    """The training file, and everything else.

    Args:
        tokens: What the command's own options left over: the file, and options with their values. The file comes first,
            or, since an option takes what follows it as its value, behind an option and its value.

    Raises:
        UsageError: There is no file among them.
    """
    takes_value = False
    for position, token in enumerate(tokens):
        is_option = token.startswith("--")
        if not is_option and not takes_value:
            return token, [*tokens[:position], *tokens[position + 1 :]]
        takes_value = is_option and "=" not in token
    raise UsageError("no training file: runcast train TRAIN --eval EVAL [--OPTION VALUE ...]")


def training_arguments(tokens: Sequence[str], defaults: Mapping[str, Any], **ours: Any) -> TrainingArguments:
    """The training arguments.

    Args:
        tokens: Options and their values, as typed.
        defaults: Values of options that are not among `tokens`, where they differ from the class's own.
        ours: Values of options that the command itself has.

    Raises:
        UsageError: An unknown option (with the nearest known one), one that would do nothing, or a value that it can't have.
        MissingDependencyError: The trainer is not installed.
    """
    from runcast.cli.training import import_fewshot

    import_fewshot()
    from transformers import HfArgumentParser

    from runcast.fewshot import TrainingArguments

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(message.removeprefix("argument "))

    parser = Parser(TrainingArguments, allow_abbrev=False, add_help=False)  # type: ignore[arg-type]  # typed too narrowly
    names = [name for action in parser._actions for name in action.option_strings]
    parser.set_defaults(**defaults)
    chosen, unknown = parser.parse_known_args(list(tokens))
    if unknown:
        raise UsageError(_unknown(unknown[0], names))
    _check_effect(tokens, chosen)
    values = {name: value for name, value in vars(chosen).items() if name not in ours}
    try:
        with expected(ValueError, TypeError, ImportError):  # transformers' own checks
            return TrainingArguments(**values, **ours)
    except UsageError as error:
        if isinstance(error.__cause__, json.JSONDecodeError):
            raise UsageError(f"an option takes JSON, not {error.__cause__.doc!r}: {error.__cause__.msg}") from error
        raise


def _check_effect(tokens: Sequence[str], chosen: argparse.Namespace) -> None:
    """Fails on options that would be taken and do nothing."""
    for option in (token.partition("=")[0] for token in tokens if token.startswith("--")):
        name = option.removeprefix("--").replace("-", "_").removeprefix("no_")
        why = next((why for why, names in _WITHOUT_EFFECT.items() if name in names.split()), None)
        if name.startswith("hub_") and not chosen.push_to_hub:
            why = why or "it needs --push-to-hub True"
        if name in ("per_device_train_batch_size", "max_pairs") and chosen.sampling_strategy == "batch":
            why = "it is for pairs; --sampling-strategy batch has --classes-per-batch and --examples-per-class"
        if name in ("classes_per_batch", "examples_per_class") and chosen.sampling_strategy != "batch":
            why = "it is for --sampling-strategy batch; a step of pairs has --per-device-train-batch-size"
        if why is not None:
            raise UsageError(f"{option} would do nothing: {why}")


def _unknown(token: str, names: Sequence[str]) -> str:
    if not token.startswith("--"):
        return f"unexpected argument {token!r}"
    option = token.partition("=")[0]
    near = difflib.get_close_matches(option.replace("_", "-"), [name for name in names if "_" not in name], n=1)
    hint = f" Did you mean {near[0]}?" if near else " It takes all options of transformers.TrainingArguments."
    return f"no option {option}.{hint}"
