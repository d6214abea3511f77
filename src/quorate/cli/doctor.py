"""`quorate doctor`: what keeps this machine from a coordinator, or its jobs from running well."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import click
import msgspec

from quorate.cli.common import CONTEXT_SETTINGS, Connection, connection_options, json_option
from quorate.cli.status import fetch_status, in_words
from quorate.clock import Clock, SystemClock
from quorate.core.settings import PROTOCOL_VERSION
from quorate.errors import RendezvousConnectionError, RendezvousError
from quorate.identity import (
    Endpoint,
    ResolvedAddress,
    advertised_address,
    is_loopback,
    release,
    resolve,
)
from quorate.printable import printable

__all__ = ["Finding", "clock_finding", "command", "examine", "files_finding"]

OK, WARN, FAIL = "ok", "warn", "FAIL"

CONNECT_TIMEOUT_S = 2.0

# Nothing is decided by wall clocks (R9), but logs of machines that differ by more are hard to read.
CLOCK_DIFFERENCE_S = 5.0

# An agent needs some dozens, a coordinator one for each agent and worker.
OPEN_FILES_MIN = 4096


class Finding(NamedTuple):
    """One thing that was looked at.

    Args:
        level: `ok`, `warn`, or `FAIL` if it keeps this machine from the coordinator.
        check: What was looked at.
        text: What was found, and what to do about it.
    """

    level: str
    check: str
    text: str


@click.command("doctor", context_settings=CONTEXT_SETTINGS)
@connection_options
@json_option
def command(connection: Connection, as_json: bool) -> None:
    """Look from this machine at everything that an agent needs of its coordinator.

    Exits with 1 if something is wrong that keeps agents of this machine from it.
    """
    findings = []
    for finding in examine(connection):
        findings.append(finding)
        if not as_json:
            click.echo(printable(f"{finding.level:5} {finding.check:14} {finding.text}"))
    if as_json:
        click.echo(msgspec.json.encode([finding._asdict() for finding in findings]))
    sys.exit(int(any(finding.level == FAIL for finding in findings)))


def examine(connection: Connection, clock: Clock | None = None) -> Iterator[Finding]:
    """Yield what there is to say, as it is found out.

    Args:
        connection: How to reach the coordinator.
        clock: The time of this machine.
    """
    findings = [finding for way in connection.endpoints for finding in _examine_way(way)]
    answered = any((finding.level, finding.check) == (OK, "port") for finding in findings)
    for finding in findings:
        # One endpoint of several is enough for agents, which try them in turn.
        is_harmless = answered and finding.level == FAIL
        yield finding._replace(level=WARN) if is_harmless else finding
    yield from _examine_coordinator(connection, clock or SystemClock())
    yield files_finding(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield Finding(OK, "release", f"quorate {release()}, protocol {PROTOCOL_VERSION}")


def clock_finding(own: datetime, coordinators: datetime) -> Finding:
    """Return what is to be said of two wall clocks."""
    difference_s = (own - coordinators).total_seconds()
    if abs(difference_s) <= CLOCK_DIFFERENCE_S:
        return Finding(OK, "clock", "agrees with the coordinator's")
    which = "ahead of" if difference_s > 0 else "behind"
    return Finding(
        WARN,
        "clock",
        f"{abs(difference_s):.0f} s {which} the coordinator's: no harm to the rendezvous, but logs "
        f"will not fit together. Set up time synchronisation",
    )


def files_finding(limit: int) -> Finding:
    """Return what is to be said of how many files a process may have open."""
    if limit == resource.RLIM_INFINITY or limit >= OPEN_FILES_MIN:
        return Finding(OK, "open files", f"a process may have {_number(limit)}")
    return Finding(
        WARN,
        "open files",
        f"a process may have {limit}: enough for an agent, too few for the coordinator of a large "
        f"job. Raise the hard limit (ulimit -Hn)",
    )


def _number(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else str(limit)


def _examine_way(endpoint: Endpoint) -> Iterator[Finding]:
    """Look at the name, the port, and what would be advertised."""
    try:
        addresses = resolve(endpoint)
    except RendezvousConnectionError as error:
        yield Finding(FAIL, "name", str(error))
        return
    listed = ", ".join(address.addr for address in addresses)
    yield Finding(OK, "name", f"{endpoint.host} is {listed}")
    tried = [(address, _try(address)) for address in addresses]
    for address, result in tried:
        where = Endpoint(address.addr, endpoint.port)
        if isinstance(result, OSError):
            yield Finding(FAIL, "port", f"{where}: {_told(result)}")
        else:
            yield Finding(OK, "port", f"{where} takes connections")
    local = next((result for _, result in tried if isinstance(result, str)), None)
    if local is not None:
        yield _advertised(endpoint, local)


def _try(address: ResolvedAddress) -> str | OSError:
    """Return the own address of a connection to another, or why there is none."""
    try:
        with socket.socket(address.family, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            probe.connect(address.sockaddr)
            return str(probe.getsockname()[0])
    except OSError as error:
        return error


def _told(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there. Start the coordinator, or correct the port"
    if isinstance(error, TimeoutError):
        return (
            f"no answer within {CONNECT_TIMEOUT_S:g} s. Check that the machine is up, and that no "
            f"firewall is in the way"
        )
    return f"{error.strerror or error}. Check the network between the machines"


def _advertised(endpoint: Endpoint, local: str) -> Finding:
    addr = advertised_address(local, endpoint.host)
    if not is_loopback(addr):
        return Finding(OK, "advertised", f"others are told to reach this machine at {addr}")
    if is_loopback(endpoint.host):
        what = f"{addr}, since the endpoint is one of this machine only: give others its name"
    else:
        what = f"{addr}, which others cannot reach: give --local-addr"
    return Finding(WARN, "advertised", f"others are told to reach this machine at {what}")


def _examine_coordinator(connection: Connection, clock: Clock) -> Iterator[Finding]:
    """Say hello as an operator does: protocol, token and TLS are those of agents."""
    try:
        status = fetch_status(connection)
    except RendezvousError as error:
        yield Finding(FAIL, "coordinator", str(error))
        return
    runs = len(status["runs"])
    who = f"{in_words(status['coordinator'])} answers, protocol {status['protocol']}, {runs} run(s)"
    yield Finding(OK, "coordinator", who)
    told = datetime.fromisoformat(status["time"])
    yield clock_finding(clock.now().astimezone(UTC), told)
