"""`quorate status`: what a coordinator knows."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from quorate.cli.common import CONTEXT_SETTINGS, Connection, connection_options, json_option
from quorate.cli.inquiry import inquire
from quorate.core.node import natural_text
from quorate.errors import RendezvousError
from quorate.printable import printable
from quorate.wire.messages import Report, Status

__all__ = ["command", "describe", "fetch_status", "in_words", "read_status", "require_known"]


@click.command("status", context_settings=CONTEXT_SETTINGS)
@connection_options
@json_option
@click.argument("run_id", default="")
def command(connection: Connection, as_json: bool, run_id: str) -> None:
    """Show the runs of a coordinator, or the one named RUN_ID: rounds, nodes, what is waited for.

    Exits with 73 if the coordinator cannot be reached, with 70 if it has no such run.
    """
    status = fetch_status(connection, run_id)
    if as_json:
        click.echo(msgspec.json.encode(status))
    else:
        click.echo("\n".join(describe(status)))


def fetch_status(connection: Connection, run_id: str = "") -> dict[str, Any]:
    """Return what a coordinator tells of its runs.

    Args:
        connection: How to reach it.
        run_id: The run; empty for all.

    Raises:
        RendezvousConnectionError: It could not be reached in time.
        RendezvousError: It has no such run.
    """
    report = inquire(connection, lambda id: Status(id, run_id), Report)
    return require_known(read_status(report), run_id, connection)


def read_status(report: Report) -> dict[str, Any]:
    """Return the status in a report, the nodes sorted: a coordinator has no time for that."""
    status: dict[str, Any] = msgspec.json.decode(report.text())
    for run in status["runs"]:
        run["nodes"].sort(key=lambda node: natural_text(node["node"]))
    return status


def require_known(status: dict[str, Any], run_id: str, connection: Connection) -> dict[str, Any]:
    """Return a status in which the run is that was asked for.

    Raises:
        RendezvousError: It is not.
    """
    if run_id and not status["runs"]:
        where = ", ".join(map(str, connection.endpoints))
        raise RendezvousError(
            f"There is no run '{run_id}' at the coordinator at {where}: check the run id, or start "
            f"the run."
        )
    return status


def describe(status: dict[str, Any]) -> list[str]:
    """Return the status for people, in lines."""
    agents = sum(node["connected"] for run in status["runs"] for node in run["nodes"])
    lines = [f"coordinator {in_words(status['coordinator'])}, {agents} agent(s) connected"]
    for run in status["runs"]:
        lines += ["", *_describe_run(run)]
    if not status["runs"]:
        lines.append("no runs")
    return [printable(line) for line in lines]


def in_words(coordinator: str) -> str:
    """Return the name of a coordinator, `HOST:PID`, so that nobody takes it for an endpoint."""
    host, _, process = coordinator.rpartition(":")
    return f"{host} (process {process})"


def _describe_run(run: dict[str, Any]) -> list[str]:
    wanted = run["desired_nodes"]
    wish = "" if wanted is None else f" ({wanted} are wanted)"
    unit = f" in units of {run['node_unit']}" if (run["node_unit"] or 1) > 1 else ""
    lines = [
        f"run {run['run_id']}: round {run['round']} {run['state']}, "
        f"{run['min_nodes']} to {run['max_nodes']} nodes{unit}{wish}, epoch {run['epoch']}"
    ]
    if run["closed_reason"]:
        lines.append(f"  closed: {run['closed_reason']}")
    if run["held"] is not None:
        lines.append(f"  held: {run['held']}")
    if run["waiting_for"]:
        since_s = run["waiting_since_s"]
        since = "" if since_s is None else f", since {since_s:.0f} s"
        lines.append(f"  {run['waiting_for']}{since}")
    lines += [_describe_node(node) for node in run["nodes"]]
    lines += [f"  {node:32} {reason}" for node, reason in run["departed"].items()]
    return lines + [_describe_ban(given) for given in run["bans"]]


def _describe_node(node: dict[str, Any]) -> str:
    rank = "" if node["rank"] is None else f" rank {node['rank']}"
    details = [f"heard {node['heard_s_ago']} s ago"]
    if not node["connected"]:
        details.append("not connected")
    if node["waiting_since_s"] is not None:
        details.append(f"waits since {node['waiting_since_s']:.0f} s")
    if node["node_id"]:
        details.append(f"id {node['node_id']}")
    details += [f"{name}={value}" for name, value in node["labels"].items()]
    if node["draining"] is not None:
        details.append(node["draining"])
    return f"  {node['node']:32} {node['state']}{rank}, {', '.join(details)}"


def _describe_ban(given: dict[str, Any]) -> str:
    left_s = given["left_s"]
    left = "for good" if left_s is None else f"for another {left_s:.0f} s"
    return f"  {given['who']:32} is kept out {left}: {given['reason']}"
