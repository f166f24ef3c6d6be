"""Every subcommand's --help ends in an example, and the example can be parsed."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.main import get_command

from medsam_adapter.cli.main import app


def commands(command=None, path=()):
    command = command or get_command(app)
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [found for name, each in command.commands.items() for found in commands(each, (*path, name))]


@pytest.mark.parametrize("path, command", commands(), ids=lambda value: "-".join(value) if type(value) is tuple else "")
def test_help_has_an_example_that_parses(path, command):
    examples = re.findall(r"Example: (msa .+)", command.help or "")
    assert examples, f"msa {' '.join(path)} --help has no example"
    for example in examples:
        words = shlex.split(example)[1:]
        assert tuple(words[: len(path)]) == path
        command.make_context(path[-1], words[len(path) :])
