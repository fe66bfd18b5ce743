"""The command line as a whole."""

from __future__ import annotations

import pytest

import runcast
from runcast.cli import main


def test_version_is_printed(cli):
    """`--version` prints name and version."""
    assert cli("--version") == (0, f"runcast {runcast.__version__}\n", "")


def test_help_names_every_command(cli):
    """`--help` lists the subcommands and succeeds."""
    result = cli("--help")
    assert result.code == 0
    for command in ("trackers", "train", "demo", "ls", "show", "sync", "replay", "verify"):
        assert f" {command} " in result.out


def test_nothing_to_do_shows_help(cli):
    """Without a command the help is shown, as for wrong usage."""
    result = cli()
    assert result.code == 2
    assert "Usage: runcast" in result.out + result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lss"], "Did you mean 'ls'"),
        (["show"], "RUN"),
        (["ls", "--jsn"], "--json"),
        (["sync", "--timeout", "soon"], "--timeout"),
        (["replay", "x"], "--to"),
    ],
)
def test_wrong_usage_is_one_line(cli, arguments, said):
    """What the parser refuses is said in one line on standard error, with exit code 2."""
    result = cli(*arguments)
    assert result.code == 2
    assert said in result.error
    assert result.out == ""


def test_bug_keeps_its_traceback(monkeypatch, runs):
    """An error that nobody raised on purpose is not swallowed."""
    monkeypatch.setattr("runcast.cli.ls.summaries", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["ls"])


def test_interruption_ends_with_130(cli, monkeypatch, runs):
    """Ctrl-C ends a command with the shell's exit code for it, without a traceback."""

    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("runcast.cli.ls.summaries", interrupted)
    assert cli("ls").code == 130


def test_help_is_light(python):
    """`runcast --help` imports neither torch nor numpy nor a tracker."""
    heavy = "{'torch', 'numpy', 'transformers', 'matplotlib', 'wandb', 'mlflow', 'tensorboard', 'comet_ml', 'clearml'}"
    result = python(f"import sys; from runcast.cli import main; main(['--help']); print({heavy} & set(sys.modules))")
    assert result.stdout.splitlines()[-1] == "set()", result.stderr


def test_module_runs_as_a_program(python):
    """`python -m runcast` is the command line, its exit code included."""
    result = python(
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-m', 'runcast', 'show', 'nothing']))"
    )
    assert result.returncode == 2
    assert result.stderr.startswith("runcast: no run 'nothing'")
