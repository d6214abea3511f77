"""`quorate history`: the rounds of a run, and its last events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
import msgspec

from quorate.cli.common import CONTEXT_SETTINGS, Connection, connection_options, json_option
from quorate.cli.inquiry import inquire
from quorate.printable import printable
from quorate.wire.messages import History, Report

__all__ = ["command", "describe"]

NAMED_MAX = 5


@click.command("history", context_settings=CONTEXT_SETTINGS)
@connection_options
@json_option
@click.option("--events", is_flag=True, help="Show the last events too.")
@click.argument("run_id", metavar="RUN")
def command(connection: Connection, as_json: bool, events: bool, run_id: str) -> None:
    """Show the rounds of RUN: when each was, who came, who was lost, why it was complete and ended.

    The last 256 rounds are kept as long as the run, fewer if they are larger than 8 MiB; the last
    512 events, since the coordinator was started.
    """
    data = inquire(connection, lambda id: History(id, run_id), Report).text()
    if as_json:
        click.echo(data)
        return
    history = msgspec.json.decode(data)
    click.echo("\n".join(describe(history, events)))


def describe(history: dict[str, Any], events: bool = False) -> list[str]:
    """Return a history for people, in lines.

    Args:
        history: As the coordinator tells it.
        events: Whether to show the events too.
    """
    lines = [line for entry in history["rounds"] for line in _describe_round(entry)]
    if events:
        lines += ["", *(_describe_event(event) for event in history["events"])]
    lines = lines or [f"run {history['run_id']}: no round yet"]
    return [printable(line) for line in lines]


def _describe_round(entry: dict[str, Any]) -> list[str]:
    lines = [f"round {entry['round']}, begun {_moment(entry['began_at'])}"]
    if entry["completed_at"] is not None:
        lines.append(
            f"  complete {_moment(entry['completed_at'])} with {entry['world_size']} node(s): "
            f"{entry['completed_because']}"
        )
    if entry["joined"]:
        lines.append(f"  joined: {_names(entry['joined'])}")
    if entry["departed"]:
        gone = [f"{node} ({reason})" for node, reason in entry["departed"].items()]
        lines.append(f"  gone: {_names(gone)}")
    if entry["ended_at"] is not None:
        stood = "" if entry["duration_s"] is None else f" after {entry['duration_s']:.0f} s"
        lines.append(f"  ended {_moment(entry['ended_at'])}{stood}: {entry['ended_because']}")
    return lines


def _describe_event(event: dict[str, Any]) -> str:
    whom = f" {event['node']}" if event["node"] and event["node"] not in event["text"] else ""
    moment = _moment(event["at"])
    return f"{moment} round {event['round']} {event['kind']}{whom}: {event['text']}"


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - NAMED_MAX} more" if len(listed) > NAMED_MAX else ""
    return ", ".join(listed[:NAMED_MAX]) + more


def _moment(text: str) -> str:
    return text.replace("T", " ")[:19]
