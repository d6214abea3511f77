"""The command `quorate`: its subcommands, and what it exits with.

Exit codes: 0 success; 2 wrong usage; a worker's own code, or 128 plus the number of the signal
that ended it; otherwise the code of the error, see `quorate.errors`.
"""

from __future__ import annotations

import importlib
import sys

import click

from quorate.cli.common import CONTEXT_SETTINGS, fail
from quorate.errors import RendezvousError

__all__ = ["main"]

# Each command lies in the module of its name, which is imported when it is called: `quorate
# status` must not pay for what `quorate bench` needs.
COMMANDS = {
    "run": "Run a program as one node of an elastic job.",
    "serve": "Run a coordinator.",
    "status": "Show the runs of a coordinator.",
    "bench": "Measure.",
    "demo": "Watch a job lose a node and gain one, on this machine.",
}


class _Commands(click.Group):
    """Finds a command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, `None` if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"quorate.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings=CONTEXT_SETTINGS)
@click.version_option(package_name="quorate")
def commands() -> None:
    """Elastic rendezvous: agents of a job find each other, agree on ranks, and regroup."""


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        commands.main(prog_name="quorate")
    except RendezvousError as error:
        sys.exit(fail(error))
