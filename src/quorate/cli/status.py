"""`quorate status`: what a coordinator knows."""

from __future__ import annotations

import secrets
from typing import Any

import click
import msgspec

from quorate.cli.common import CONTEXT_SETTINGS, endpoint_option, tls_options, token_option
from quorate.cli.serve import DEFAULT_PORT
from quorate.coordinator.client import Client, answered
from quorate.core.settings import PROTOCOL_VERSION
from quorate.credentials import Token, token_from
from quorate.errors import RendezvousError
from quorate.identity import Endpoint, parse_rendezvous_endpoints
from quorate.tls import TlsFiles, client_contexts
from quorate.wire.messages import ROLE_OPERATOR, Hello, Report, Status

__all__ = ["command", "fetch_status"]

INTERVAL_S = 5.0


@click.command("status", context_settings=CONTEXT_SETTINGS)
@endpoint_option(default=f"localhost:{DEFAULT_PORT}")
@token_option("The file of the coordinator's token.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for the coordinator.",
)
@tls_options
@click.argument("run_id", default="")
def command(
    endpoint: str,
    token_file: str | None,
    as_json: bool,
    timeout_s: float,
    run_id: str,
    tls: TlsFiles | None,
) -> None:
    """Show the runs of a coordinator, or the one named RUN_ID: rounds, nodes, what is waited for.

    Exits with 73 if the coordinator cannot be reached.
    """
    endpoints = parse_rendezvous_endpoints(endpoint, DEFAULT_PORT)
    data = fetch_status(endpoints, run_id, timeout_s, token_from(token_file), tls)
    if as_json:
        click.echo(data)
    else:
        click.echo("\n".join(describe(msgspec.json.decode(data))))


def fetch_status(
    endpoints: list[Endpoint],
    run_id: str,
    timeout_s: float,
    token: Token | None = None,
    tls: TlsFiles | None = None,
) -> bytes:
    """Return what a coordinator tells of its runs, as JSON.

    Args:
        endpoints: Where it is.
        run_id: The run; empty for all.
        timeout_s: How long to wait for it, in seconds.
        token: Its token, if it has one.
        tls: The files of TLS; `None` for a plain connection.

    Raises:
        RendezvousAuthenticationError: It wants a token, or another one.
        RendezvousSettingsError: A file of TLS cannot be used.
        RendezvousConnectionError: It could not be reached in time.
        RendezvousError: It has no such run.
    """
    client = Client(endpoints, _hello, INTERVAL_S, token=token, tls=client_contexts(tls))
    client.start()
    try:
        answer = client.call(lambda id: Status(id, run_id), timeout_s)
        data = answered(answer, Report).json
    finally:
        client.close()
    if run_id and not msgspec.json.decode(data)["runs"]:
        raise RendezvousError(
            f"There is no run '{run_id}' at the coordinator at {client.endpoint}: check the run "
            f"id, or start the run."
        )
    return data


def describe(status: dict[str, Any]) -> list[str]:
    """Return the status for people, in lines."""
    agents = sum(node["connected"] for run in status["runs"] for node in run["nodes"])
    lines = [f"coordinator {status['coordinator']}, {agents} agent(s) connected"]
    for run in status["runs"]:
        lines += ["", *_describe_run(run)]
    if not status["runs"]:
        lines.append("no runs")
    return lines


def _describe_run(run: dict[str, Any]) -> list[str]:
    lines = [
        f"run {run['run_id']}: round {run['round']} {run['state']}, "
        f"{run['min_nodes']} to {run['max_nodes']} nodes, epoch {run['epoch']}"
    ]
    if run["closed_reason"]:
        lines.append(f"  closed: {run['closed_reason']}")
    if run["waiting_for"]:
        lines.append(f"  {run['waiting_for']}")
    for node in run["nodes"]:
        rank = "" if node["rank"] is None else f" rank {node['rank']}"
        connected = "" if node["connected"] else ", not connected"
        lines.append(
            f"  {node['node']:32} {node['state']}{rank}, heard {node['heard_s_ago']} s ago"
            f"{connected}"
        )
    lines += [f"  {node:32} {reason}" for node, reason in run["departed"].items()]
    return lines


def _hello(endpoint: Endpoint, local_addr: str) -> Hello:
    del endpoint, local_addr
    return Hello(PROTOCOL_VERSION, ROLE_OPERATOR, "", secrets.token_hex(8))
