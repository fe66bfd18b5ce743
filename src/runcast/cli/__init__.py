"""The command line: one module a subcommand.

Each handler collects a plain structure, prints it (`output.show`: as JSON or as a table), and returns the exit code:
0 well, 1 "not (all) delivered" or "does not match", 2 wrong usage or an expected error, said in one line. Anything else
is a bug and keeps its traceback. What is heavy is imported inside the handlers, so that ``--help`` is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from runcast import __version__
from runcast.cli import demo, import_, ls, predict, replay, show, sync, trackers, train, verify
from runcast.errors import RuncastError

app = typer.Typer(
    name="runcast",
    help="Send a training run to every experiment tracker, and prove that it is there.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"runcast {__version__}")
        raise typer.Exit


@app.callback()
def _runcast(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Send a training run to every experiment tracker, and prove that it is there."""


app.command("trackers")(trackers.trackers)
app.command("train", context_settings={"ignore_unknown_options": True})(train.train)
app.command("predict")(predict.predict)
app.command("demo")(demo.demo)
app.command("ls")(ls.ls)
app.command("show")(show.show)
app.command("sync")(sync.sync)
app.command("replay")(replay.replay)
app.command("import")(import_.import_)
app.command("verify")(verify.verify)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: What follows ``runcast``; default: the process's own.

    Returns:
        The exit code.
    """
    try:
        code = app(args, prog_name="runcast", standalone_mode=False)
    except typer.Abort:
        return _stop("interrupted", 130)
    except RuncastError as error:
        return _stop(_words(error), 2)
    except Exception as error:
        if not hasattr(
            error, "format_message"
        ):  # what the parser raises; its class has moved between versions of typer
            raise
        message = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
            return 2
        return _stop(message, 2)
    return int(code or 0)


def _words(error: RuncastError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error)


def _stop(message: str, code: int) -> int:
    from runcast.display import visible

    print(f"runcast: {visible(' '.join(message.split()))}", file=sys.stderr)
    return code
