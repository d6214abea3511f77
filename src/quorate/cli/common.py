"""What the commands share: errors as one line, options, logging."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from quorate.errors import RendezvousError

__all__ = ["CONTEXT_SETTINGS", "endpoint_option", "fail", "set_up_logging", "token_option"]

Command = TypeVar("Command", bound=Callable[..., Any])

# torchrun takes its flags with `-` or `_`; so do we.
CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
}


def endpoint_option(default: str | None) -> Callable[[Command], Command]:
    """Return the option that names a coordinator.

    Args:
        default: What counts if it is not given; `None` to require it.
    """
    # To click, a default of None is a default too: the option would never be missed.
    presence: dict[str, Any] = {"required": True}
    if default is not None:
        presence = {"default": default, "show_default": True}
    return click.option("--endpoint", metavar="HOST[:PORT]", help="The coordinator.", **presence)


def token_option(meaning: str) -> Callable[[Command], Command]:
    """Return the option that names the file of a token, for `credentials.token_from`.

    Args:
        meaning: What the token is for, in a sentence.
    """
    return click.option(
        "--token-file",
        metavar="FILE",
        help=f"{meaning} Default: $QUORATE_TOKEN_FILE, or the secret itself in $QUORATE_TOKEN.",
    )


LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(level: str, log_format: str = LOG_FORMAT) -> None:
    """Send the log to standard error.

    Args:
        level: The least level that is shown.
        log_format: The form of its lines, as `logging.Formatter` takes it.
    """
    logging.basicConfig(level=level.upper(), format=log_format, stream=sys.stderr)


def fail(error: RendezvousError) -> int:
    """Print an error as one line and return the exit code that it stands for."""
    click.echo(f"quorate: {error}", err=True)
    return error.exit_code
