"""What the pages must name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from quorate.cli.main import COMMANDS, commands

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "bench" / "README.md")


def options_of(name: str, command: click.Command) -> Iterator[tuple[str, list[str]]]:
    """Yield each option of a command, and of those below it, by all of its names."""
    if isinstance(command, click.Group):
        for below, each in command.commands.items():
            yield from options_of(f"{name} {below}", each)
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            yield name, option.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_named_on_some_page(name: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    unnamed = [
        f"{where}: {' '.join(names)}"
        for where, names in options_of(name, command)
        if not any(re.search(rf"(?<![\w-]){re.escape(each)}(?![\w-])", text) for each in names)
    ]
    assert unnamed == []
