"""The command `quorate`: its subcommands, and what it exits with.

Errors end a command with one line, and with the exit code of their type: see `EXIT_CODES`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from quorate import errors
from quorate.cli.common import CONTEXT_SETTINGS, fail
from quorate.errors import RendezvousError

__all__ = ["main"]

# Each command lies in the module of its name, or in `operate`, which is imported when it is called:
# `quorate status` must not pay for what `quorate bench` needs.
COMMANDS = {
    "run": "Run a program as one node of an elastic job.",
    "serve": "Run a coordinator.",
    "status": "Show the runs of a coordinator.",
    "watch": "Show them live.",
    "history": "Show the rounds of a run.",
    "close": "Close a run.",
    "drain": "Let a node leave at the next regroup.",
    "evict": "Turn a node out, and keep it out.",
    "hold": "Keep rounds from completing.",
    "release": "Let rounds complete again.",
    "scale": "Say how many nodes a round should have.",
    "doctor": "Say what keeps this machine from a coordinator.",
    "bench": "Measure a coordinator.",
    "demo": "Watch a job lose a node and gain one, on this machine.",
}

OPERATE = frozenset({"close", "drain", "evict", "hold", "release", "scale"})

# What `quorate --help` says of exit codes beside those of the errors themselves.
EXIT_CODES = (
    ("0", "success; a node that was not needed, or drained; back too late: the job has succeeded"),
    ("1", "doctor: something is wrong"),
    ("2", "wrong usage"),
    ("126, 127", "run: the program cannot be started, or is not there"),
    ("128 + n", "run: ended by signal n, the agent or the worker that failed first"),
    ("others", "run: the code of the worker that failed first on this node"),
)


class _Commands(click.Group):
    """Finds a command in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, `None` if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command
        if cmd_name in OPERATE:
            command = getattr(importlib.import_module("quorate.cli.operate"), cmd_name)
        else:
            command = importlib.import_module(f"quorate.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List what the commands exit with."""
        with formatter.section("Exit codes"):
            formatter.write_dl([*EXIT_CODES[:3], *_error_codes(), *EXIT_CODES[3:]])


def _error_codes() -> list[tuple[str, str]]:
    """Return the exit code of each kind of error, with the first line of its description."""
    kinds = [getattr(errors, name) for name in errors.__all__ if name.startswith("Rendezvous")]
    codes = {kind.exit_code: _first_sentence(kind.__doc__) for kind in reversed(kinds)}
    codes[RendezvousError.exit_code] = "another error"
    return [(str(code), meaning) for code, meaning in sorted(codes.items()) if code]


def _first_sentence(text: str | None) -> str:
    line = (text or "").strip().splitlines()[0].rstrip(".")
    return line[:1].lower() + line[1:]


@click.group(cls=_Commands, context_settings=CONTEXT_SETTINGS)
@click.version_option(package_name="quorate")
def commands() -> None:
    """Elastic rendezvous: agents of a job find each other, agree on ranks, and regroup."""


def _open_standard_streams() -> None:
    """Let what was closed of the standard streams lead nowhere, as some supervisors leave them.

    Else the first socket gets the number of one, and whatever is printed, or is lost to a child.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            # The lowest number that is free is taken: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _restore_signals() -> None:
    """Undo what some supervisors do to their children, ours included: block signals, ignore ends.

    Where SIGCHLD is ignored, the system keeps no exit codes.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main() -> None:
    """Run the command line of this process and exit."""
    _open_standard_streams()
    _restore_signals()
    try:
        commands.main(prog_name="quorate")
    except RendezvousError as error:
        sys.exit(fail(error))
