"""The page of the command line, docs/cli.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from runcast.cli import app

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
COMMANDS = get_command(app).commands


def options_of(command: str) -> set[str]:
    """Every way to write every option of a command."""
    return {name for parameter in COMMANDS[command].params for name in parameter.opts if name.startswith("--")}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_page_has_every_command_with_its_options(command):
    """Each command is shown, and each of its options is named on the page, one of its spellings."""
    assert f"$ runcast {command}" in PAGE
    for parameter in COMMANDS[command].params:
        spellings = [name for name in parameter.opts if name.startswith("--") and name != "--help"]
        assert not spellings or any(name in PAGE for name in spellings), spellings


def test_examples_use_real_options():
    """What an example of the page types exists; `train` also takes the options of the training arguments."""
    examples = re.findall(r"^\$ runcast (\w+)((?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    assert len(examples) > 10
    for command, rest in examples:
        unknown = set(re.findall(r"--[\w-]+", rest)) - options_of(command)
        assert unknown <= ({"--eval-steps", "--learning-rate"} if command == "train" else set()), (command, unknown)
