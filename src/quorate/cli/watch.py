"""`quorate watch`: what `quorate status` shows, live."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

import click
import msgspec

from quorate.cli.common import (
    CONTEXT_SETTINGS,
    Connection,
    Seconds,
    connection_options,
    json_option,
)
from quorate.cli.inquiry import operator_client
from quorate.cli.status import describe, read_status, require_known
from quorate.coordinator.agent.answers import answered
from quorate.coordinator.agent.client import Client
from quorate.errors import RendezvousConnectionError, RendezvousTimeoutError
from quorate.printable import printable
from quorate.wire.messages import Report, Status

__all__ = ["Screen", "command", "signature"]

# What changes all the time, and is no news.
VOLATILE = {"time", "connections", "heard_s_ago", "waiting_since_s", "left_s"}

# Control sequences of ECMA-48 and of xterm.
BEGIN = "\x1b[?1049h\x1b[?25l"
END = "\x1b[?25h\x1b[?1049l"
HOME, END_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command("watch", context_settings=CONTEXT_SETTINGS)
@connection_options
@json_option
@click.option(
    "--interval",
    "interval_s",
    default=1.0,
    show_default=True,
    type=Seconds(0.1),
    metavar="SECONDS",
    help="How often to look.",
)
@click.argument("run_id", default="")
def command(connection: Connection, as_json: bool, interval_s: float, run_id: str) -> None:
    """Show the runs of a coordinator, or the one named RUN_ID, until Ctrl-C ends it.

    On a terminal the picture is redrawn; elsewhere, and as JSON, whatever has changed is printed.
    """
    client = operator_client(connection)
    client.start()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(client, connection, as_json, interval_s, run_id)
    finally:
        client.close()


def _watch(
    client: Client, connection: Connection, as_json: bool, interval_s: float, run_id: str
) -> None:
    status = require_known(_fetch(client, connection, run_id), run_id, connection)
    looks = _looks(client, connection, status, interval_s, run_id)
    if as_json or not sys.stdout.isatty():
        printer = _Printer(as_json)
        for status, complaint in looks:
            printer.draw(status, complaint)
    with Screen(sys.stdout) as screen:
        for status, complaint in looks:
            screen.draw([*describe(status), *complaint])


def _looks(
    client: Client,
    connection: Connection,
    status: dict[str, Any],
    interval_s: float,
    run_id: str,
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield what is seen, again and again, and why it may be old."""
    pause = threading.Event()
    complaint: list[str] = []
    while True:
        yield status, complaint
        pause.wait(interval_s)
        try:
            status, complaint = _fetch(client, connection, run_id), []
        except (RendezvousConnectionError, RendezvousTimeoutError) as error:
            complaint = ["", printable(f"this is old: {error}")]


def _fetch(client: Client, connection: Connection, run_id: str) -> dict[str, Any]:
    answer = client.call(lambda id: Status(id, run_id), connection.timeout_s)
    return read_status(answered(answer, Report))


class _Printer:
    """Prints what has changed since it printed last."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._last: object = None

    def draw(self, status: dict[str, Any], complaint: list[str]) -> None:
        said = (signature(status), complaint)
        if said == self._last:
            return
        self._last = said
        if self._as_json:
            click.echo(msgspec.json.encode(status))
        else:
            click.echo("\n".join([status["time"], *describe(status), *complaint, ""]))


def signature(status: Any) -> Any:
    """Return a status without what changes all the time."""
    if isinstance(status, dict):
        return {key: signature(value) for key, value in status.items() if key not in VOLATILE}
    if isinstance(status, list):
        return [signature(value) for value in status]
    return status


class Screen:
    """A terminal that is drawn over and over, without flicker; as it was before at the end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __enter__(self) -> Screen:
        self._write(BEGIN)
        return self

    def __exit__(self, *_: object) -> None:
        self._write(END)

    def draw(self, lines: list[str]) -> None:
        """Show lines; what does not fit is cut off, and said to be."""
        width, height = shutil.get_terminal_size()
        if len(lines) > height:
            lines = [*lines[: height - 1], f"... and {len(lines) - height + 1} more lines"]
        shown = (f"{line[:width]}{END_OF_LINE}" for line in lines)
        self._write(HOME + "\r\n".join(shown) + REST_OF_SCREEN)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
