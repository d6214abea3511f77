"""What the commands share: errors as one line, options, logging."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quorate.cli.standard_error import let_nobody_wait
from quorate.clock import SECONDS_MAX
from quorate.credentials import Token, token_from
from quorate.errors import RendezvousError, RendezvousSettingsError
from quorate.events import JsonLinesSink, add_sink
from quorate.identity import Endpoint, parse_rendezvous_endpoints
from quorate.logs import FieldsFilter, FieldsFormatter
from quorate.printable import printable

if TYPE_CHECKING:
    from quorate.tls import TlsFiles

__all__ = [
    "CONTEXT_SETTINGS",
    "DEFAULT_PORT",
    "Connection",
    "Seconds",
    "connection_options",
    "endpoint_option",
    "events_option",
    "fail",
    "json_option",
    "send_events",
    "set_up_logging",
    "tls_options",
    "token_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PORT = 29400

# torchrun takes its flags with `-` or `_`; so do we.
CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
}


class Seconds(click.FloatRange):
    """A time in seconds, as options take it.

    Args:
        least: The least one.
        above: Whether it must be longer than that.
    """

    def __init__(self, least: float = 0.0, above: bool = False) -> None:
        super().__init__(min=least, max=SECONDS_MAX, min_open=above)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the time."""
        seconds: float = super().convert(value, param, ctx)
        # It is neither less nor more than any bound.
        if math.isnan(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


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


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that connects to a coordinator the options of TLS, as the argument `tls`."""

    @click.option("--tls", "use_tls", is_flag=True, help="Speak TLS; the options below imply it.")
    @click.option(
        "--tls-ca",
        "ca_file",
        default="",
        metavar="FILE",
        help="The authority that must have signed the coordinator's certificate. Default: one of "
        "the system's.",
    )
    @click.option(
        "--tls-cert",
        "cert_file",
        default="",
        metavar="FILE",
        help="The certificate to show, if the coordinator asks.",
    )
    @click.option(
        "--tls-key",
        "key_file",
        default="",
        metavar="FILE",
        help="Its private key. Default: in the certificate's file.",
    )
    @functools.wraps(command)
    def with_tls(
        *args: Any, use_tls: bool, ca_file: str, cert_file: str, key_file: str, **kwargs: Any
    ) -> Any:
        files = None
        if use_tls or ca_file or cert_file or key_file:
            from quorate.tls import TlsFiles

            files = TlsFiles(ca_file, cert_file, key_file)
        return command(*args, tls=files, **kwargs)

    return with_tls


@dataclass(frozen=True)
class Connection:
    """How an operator's command reaches a coordinator.

    Args:
        endpoints: Where coordinators are; tried in turn.
        timeout_s: How long to wait for an answer, in seconds.
        token: The coordinator's token, if it has one.
        tls: The files of TLS; `None` to speak plainly.
    """

    endpoints: list[Endpoint]
    timeout_s: float
    token: Token | None = None
    tls: TlsFiles | None = None


def connection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how to reach a coordinator.

    The command gets them as one argument, `connection`.
    """

    @endpoint_option(default=f"localhost:{DEFAULT_PORT}")
    @token_option("The file of the coordinator's token; to change something, of the operators'.")
    @tls_options
    @click.option(
        "--timeout",
        "timeout_s",
        default=5.0,
        show_default=True,
        type=Seconds(above=True),
        metavar="SECONDS",
        help="How long to wait for the coordinator.",
    )
    @functools.wraps(function)
    def with_connection(
        *,
        endpoint: str,
        token_file: str | None,
        tls: TlsFiles | None,
        timeout_s: float,
        **options: Any,
    ) -> Any:
        endpoints = parse_rendezvous_endpoints(endpoint, DEFAULT_PORT)
        connection = Connection(endpoints, timeout_s, token_from(token_file), tls)
        return function(connection=connection, **options)

    return with_connection


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`; the command gets it as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(level: str, log_format: str = LOG_FORMAT) -> None:
    """Send the log to standard error, for whose reader nobody waits from now on.

    Args:
        level: The least level that is shown.
        log_format: The form of its lines, as `logging.Formatter` takes it.
    """
    let_nobody_wait()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(FieldsFilter())
    handler.setFormatter(FieldsFormatter(log_format))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def events_option() -> Callable[[Command], Command]:
    """Return the option that sends events somewhere."""
    return click.option(
        "--events",
        metavar="FILE|-",
        help="Append what happens to FILE, each event as a line of JSON; - is the standard output.",
    )


def send_events(path: str | None) -> None:
    """Send what happens to a file, if one is named.

    Raises:
        RendezvousSettingsError: It cannot be written to.
    """
    if path is None:
        return
    try:
        add_sink(JsonLinesSink(path))
    except OSError as error:
        raise RendezvousSettingsError(
            f"--events {path} cannot be written to ({error.strerror}): name another file, or -."
        ) from error


def fail(error: RendezvousError) -> int:
    """Print an error as one line and return the exit code that it stands for."""
    click.echo(printable(f"quorate: {error}"), err=True)
    return error.exit_code
