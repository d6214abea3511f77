"""`quorate close`, `drain`, `evict`, `hold`, `release`, `scale`: what an operator does to a run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import click
import msgspec

from quorate.cli.common import CONTEXT_SETTINGS, Connection, connection_options, json_option
from quorate.cli.inquiry import inquire
from quorate.cli.status import fetch_status
from quorate.errors import RendezvousSettingsError
from quorate.printable import printable
from quorate.wire.messages import (
    Close,
    Done,
    Drain,
    Evict,
    Flag,
    Hold,
    OperatorRequest,
    Release,
    Scale,
)

__all__ = ["close", "drain", "evict", "hold", "parse_duration", "release", "scale"]

# Three years: what is longer is a mistake of units.
DURATION_MAX_S = 1e8

UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _command(function: Callable[..., Any]) -> click.Command:
    """Make a command of a function, with the run it is about and how to reach the coordinator."""
    with_run = click.argument("run_id", metavar="RUN")(function)
    options = connection_options(json_option(with_run))
    return click.command(function.__name__, context_settings=CONTEXT_SETTINGS)(options)


def _reason(what: str, required: bool = False) -> Callable[[Callable[..., Any]], Any]:
    # To click an empty default is a default too: the option would never be missed.
    presence: dict[str, Any] = {"required": True} if required else {"default": ""}
    return click.option("--reason", metavar="TEXT", help=what, **presence)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `10m`, `2h`, `1d` or `90`.

    Raises:
        RendezvousSettingsError: It is none.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text.strip())
    seconds = float(match[1]) * UNITS_S[match[2]] if match is not None else math.inf
    if seconds > DURATION_MAX_S:
        raise RendezvousSettingsError(
            f"'{text}' is not a duration, or longer than three years: write a number and its unit, "
            f"as in 90s, 10m or 2h."
        )
    return seconds


@_command
@_reason("Why: everyone who is turned away is told.", required=True)
def close(connection: Connection, as_json: bool, run_id: str, reason: str) -> None:
    """Close RUN: nobody can join it any more. Workers that run are let finish."""
    (run,) = fetch_status(connection, run_id)["runs"]
    if run["state"] == "closed":
        text = f"the run was closed already: {run['closed_reason']}"
        _tell(Done(0, False, "", text), "close", run_id, as_json)
        return
    inquire(connection, lambda id: Close(id, reason), Flag, run_id)
    _tell(Done(0, True, "", f"the run is closed: {reason}"), "close", run_id, as_json)


@_command
@click.argument("node", metavar="NODE")
@_reason("Why: the others are told.")
def drain(connection: Connection, as_json: bool, run_id: str, node: str, reason: str) -> None:
    """Let NODE leave RUN at the next regroup; its agent then stops its workers and exits with 0.

    While its world stands nothing happens, and this alone brings no regroup about; in each that
    comes, all workers are stopped and started again. A node that only waits leaves at once.

    NODE is a rank, an address, a node id, or a description as `quorate status` prints it.
    """
    _act(connection, "drain", run_id, as_json, lambda id: Drain(id, node, reason))


@_command
@click.argument("node", metavar="NODE")
@click.option(
    "--for",
    "duration",
    metavar="TIME",
    help="How long it is kept out, as in 90s, 10m, 2h. Default: for the rest of the run. 0s lets "
    "one in again that is kept out.",
)
@_reason("Why: the node and the others are told.")
def evict(
    connection: Connection,
    as_json: bool,
    run_id: str,
    node: str,
    duration: str | None,
    reason: str,
) -> None:
    """Turn NODE out of RUN now, and keep it out; its agent exits with 80, the others regroup.

    All workers of the others are stopped and started again. It is kept out by its node id, or by
    its address if it has none.

    NODE is a rank, an address, a node id, or a description as `quorate status` prints it.
    """
    for_s = None if duration is None else parse_duration(duration)
    _act(connection, "evict", run_id, as_json, lambda id: Evict(id, node, for_s, reason))


@_command
@_reason("Why: nodes that wait are told.")
def hold(connection: Connection, as_json: bool, run_id: str, reason: str) -> None:
    """Keep rounds of RUN from completing until it is released. A world that stands goes on.

    Should that lose a node meanwhile, the others stop their workers and wait.
    """
    _act(connection, "hold", run_id, as_json, lambda id: Hold(id, reason))


@_command
def release(connection: Connection, as_json: bool, run_id: str) -> None:
    """Let rounds of RUN complete again.

    If nodes wait to be let in, all workers are stopped and started again.
    """
    _act(connection, "release", run_id, as_json, Release)


@_command
@click.argument("nodes", metavar="N|max")
def scale(connection: Connection, as_json: bool, run_id: str, nodes: str) -> None:
    """Say how many nodes a round of RUN should have: N, or as many as its settings allow.

    A smaller world lets the last ranks wait as spares; a larger one takes spares in. If the world
    changes, all workers are stopped and started again.
    """
    _act(connection, "scale", run_id, as_json, lambda id: Scale(id, _parse_size(nodes)))


def _parse_size(text: str) -> int | None:
    if text == "max":
        return None
    if not re.fullmatch("[0-9]{1,10}", text):
        raise RendezvousSettingsError(f"'{text}' is not a number of nodes: write one, or max.")
    return int(text)


def _act(
    connection: Connection,
    command: str,
    run_id: str,
    as_json: bool,
    make_request: Callable[[int], OperatorRequest],
) -> None:
    _tell(inquire(connection, make_request, Done, run_id), command, run_id, as_json)


def _tell(done: Done, command: str, run_id: str, as_json: bool) -> None:
    if as_json:
        told = {
            "run_id": run_id,
            "command": command,
            "changed": done.changed,
            "node": done.node or None,
            "text": done.text,
        }
        click.echo(msgspec.json.encode(told))
    else:
        click.echo(printable(f"{run_id}: {done.text}"))
