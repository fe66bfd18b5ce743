"""Options of `runcast.fewshot.TrainingArguments` on the command line, ``--learning-rate 2e-5`` or ``--learning_rate=2e-5``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from runcast.cli.output import UsageError, expected

if TYPE_CHECKING:
    from runcast.fewshot import TrainingArguments


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
        UsageError: An unknown option (with the nearest known one), or a value that it can't have.
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
    values = {name: value for name, value in vars(chosen).items() if name not in ours}
    try:
        with expected(ValueError, TypeError, ImportError):  # transformers' own checks
            return TrainingArguments(**values, **ours)
    except UsageError as error:
        if isinstance(error.__cause__, json.JSONDecodeError):
            raise UsageError(f"an option takes JSON, not {error.__cause__.doc!r}: {error.__cause__.msg}") from error
        raise


def _unknown(token: str, names: Sequence[str]) -> str:
    if not token.startswith("--"):
        return f"unexpected argument {token!r}"
    option = token.partition("=")[0]
    near = difflib.get_close_matches(option.replace("_", "-"), [name for name in names if "_" not in name], n=1)
    hint = f" Did you mean {near[0]}?" if near else " It takes all options of transformers.TrainingArguments."
    return f"no option {option}.{hint}"
