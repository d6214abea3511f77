"""`quorate bench`: measures a coordinator under a load of many agents.

The load generator holds all sessions in one process and uses the agents' real client; the
coordinators are processes of their own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import resource
import secrets
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from quorate.cli.common import CONTEXT_SETTINGS, token_option
from quorate.cli.coordinators import BACKENDS, Coordinators, running
from quorate.coordinator.client import Client
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.credentials import Token, token_from
from quorate.errors import RendezvousConnectionError
from quorate.identity import Endpoint
from quorate.wire.messages import ROLE_AGENT, Answer, Hello, Join, Joined

__all__ = ["command", "join_once"]

JOIN_TIMEOUT_S = 300.0

# Real agents have a process each. So many in one may dial at once without being late themselves.
DIALING_MAX = 256

# Sockets of the load generator, and some for everything else.
SPARE_DESCRIPTORS = 256


@click.group("bench", context_settings=CONTEXT_SETTINGS)
def command() -> None:
    """Measure a coordinator of this machine.

    Figures depend on the machine and on what else it does: compare figures of one run only.
    """


@command.command("join")
@click.option("--nodes", default=1000, show_default=True, type=click.IntRange(min=1, max=20_000))
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(min=1, max=100))
@click.option(
    "--backend",
    default="quorate",
    show_default=True,
    metavar="NAME|URL",
    help=f"Where runs are kept: {BACKENDS}. With etcd there are two coordinators.",
)
@click.option("--backend-conf", default="", metavar="KEY=VALUE,...", help="How to reach etcd.")
@token_option("The file of a secret that coordinators and agents use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def join(
    nodes: int,
    repeat: int,
    backend: str,
    backend_conf: str,
    token_file: str | None,
    as_json: bool,
) -> None:
    """Time a cold join: from the first connection to the last agent's answer."""
    _require_descriptors(nodes)
    token = token_from(token_file)
    with running(backend, backend_conf, token) as coordinators, _load_loop() as loop:
        # The coordinator, just started, answers: that it has to start is not what is measured.
        join_once(coordinators, 1, loop)
        samples: list[Sample] = []
        for number in range(repeat):
            samples.append(join_once(coordinators, nodes, loop))
            if not as_json:
                click.echo(f"  {number + 1} of {repeat}: {_told(samples[-1])}", err=True)
    figures = _figures(nodes, backend, samples)
    click.echo(json.dumps(figures) if as_json else _row(figures))


class Sample(NamedTuple):
    """One measurement: how long it took, and how many writes of the backend, if they are counted.

    With several coordinators, the writes are everybody's to that etcd in the time.
    """

    seconds: float
    writes: int | None


def join_once(coordinators: Coordinators, nodes: int, loop: asyncio.AbstractEventLoop) -> Sample:
    """Let agents join a new run, and return what it took.

    Args:
        coordinators: The coordinators; each agent begins with another one of them.
        nodes: How many agents; the round is complete with the last of them.
        loop: The running loop that the sessions live in.

    Raises:
        RendezvousError: An agent was refused.
    """
    settings = RendezvousSettings(f"bench-{secrets.token_hex(4)}", nodes, nodes)
    endpoints, revision, token = coordinators
    dialing = asyncio.Semaphore(DIALING_MAX)
    clients = [
        _client(_rotated(endpoints, number), settings, number, loop, dialing, token)
        for number in range(nodes)
    ]
    before = revision() if revision is not None else 0
    began_s = time.monotonic()
    answers: list[concurrent.futures.Future[Answer]] = []
    for client in clients:
        client.start()
        answers.append(client.submit(lambda id: Join(id, None, JOIN_TIMEOUT_S, NodeProfile())))
    places = [answer.result(JOIN_TIMEOUT_S) for answer in answers]
    took_s = time.monotonic() - began_s
    writes = revision() - before if revision is not None else None
    _check(places, nodes)
    for client in clients:
        client.close(timeout_s=0)
    return Sample(took_s, writes)


def _rotated(endpoints: list[Endpoint], number: int) -> list[Endpoint]:
    first = number % len(endpoints)
    return endpoints[first:] + endpoints[:first]


def _check(places: list[Answer], nodes: int) -> None:
    """Refuse a figure of a round that was none."""
    ranks = sorted(place.place.rank for place in places if isinstance(place, Joined))
    digests = {place.place.digest for place in places if isinstance(place, Joined)}
    if ranks != list(range(nodes)) or len(digests) != 1:
        raise RendezvousConnectionError(
            "The agents did not all get their place in one world: this is a bug, please report it."
        )


def _client(
    endpoints: list[Endpoint],
    settings: RendezvousSettings,
    number: int,
    loop: asyncio.AbstractEventLoop,
    dialing: asyncio.Semaphore,
    token: Token | None,
) -> Client:
    session = secrets.token_hex(8)
    node = NodeDesc(f"node{number}", os.getpid(), number, session)

    def hello(endpoint: Endpoint, local_addr: str) -> Hello:
        del endpoint, local_addr
        return Hello(
            PROTOCOL_VERSION,
            ROLE_AGENT,
            settings.run_id,
            session,
            node,
            NodeProfile(),
            settings.agreed,
        )

    interval_s = settings.keep_alive_interval.total_seconds()
    return Client(endpoints, hello, interval_s, loop=loop, dialing=dialing, token=token)


@contextlib.contextmanager
def _load_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = _new_loop()
    thread = threading.Thread(target=loop.run_forever, name="quorate-bench")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _require_descriptors(nodes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < nodes + SPARE_DESCRIPTORS:
        raise RendezvousConnectionError(
            f"{nodes} agents need {nodes + SPARE_DESCRIPTORS} open files, and this process may "
            f"have {hard}: raise the limit (ulimit -Hn), or ask for fewer nodes."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _figures(nodes: int, backend: str, samples: list[Sample]) -> dict[str, Any]:
    seconds = [sample.seconds for sample in samples]
    figures: dict[str, Any] = {
        "bench": "join",
        "nodes": nodes,
        "backend": backend.partition("://")[0],
        "seconds": [round(value, 4) for value in seconds],
        "median_s": round(statistics.median(seconds), 4),
        "min_s": round(min(seconds), 4),
        "max_s": round(max(seconds), 4),
    }
    writes = [sample.writes for sample in samples if sample.writes is not None]
    if writes:
        figures |= {"writes": writes, "median_writes": round(statistics.median(writes))}
    return figures


def _told(sample: Sample) -> str:
    writes = f", {sample.writes} writes to etcd" if sample.writes is not None else ""
    return f"{sample.seconds:.3f} s{writes}"


def _row(figures: dict[str, Any]) -> str:
    writes = figures.get("median_writes")
    return (
        f"cold join of {figures['nodes']} agents ({figures['backend']}): median "
        f"{figures['median_s']:.3f} s, min {figures['min_s']:.3f} s, max {figures['max_s']:.3f} s"
        + (f"; median {writes} writes to etcd" if writes is not None else "")
    )
