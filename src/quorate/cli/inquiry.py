"""One question of an operator to a coordinator, and its answer."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar

from quorate.cli.common import Connection
from quorate.coordinator.agent.answers import answered
from quorate.coordinator.agent.client import Client
from quorate.core.settings import PROTOCOL_VERSION
from quorate.identity import Endpoint
from quorate.tls import client_contexts
from quorate.wire.messages import ROLE_OPERATOR, Hello, Request

__all__ = ["inquire", "operator_client"]

Kind = TypeVar("Kind")

INTERVAL_S = 5.0


def operator_client(connection: Connection, run_id: str = "") -> Client:
    """Return a session of an operator, not yet started.

    Args:
        connection: How to reach the coordinator.
        run_id: The run to act on; empty for one who only looks.
    """
    session = secrets.token_hex(8)

    def hello(endpoint: Endpoint, local_addr: str) -> Hello:
        del endpoint, local_addr
        return Hello(PROTOCOL_VERSION, ROLE_OPERATOR, run_id, session)

    tls = client_contexts(connection.tls)
    return Client(connection.endpoints, hello, INTERVAL_S, token=connection.token, tls=tls)


def inquire(
    connection: Connection,
    make_request: Callable[[int], Request],
    kind: type[Kind],
    run_id: str = "",
) -> Kind:
    """Ask a coordinator something, and return its answer.

    Args:
        connection: How to reach it.
        make_request: Returns the request, given its id.
        kind: What the answer must be.
        run_id: The run to act on; empty for one who only looks.

    Raises:
        RendezvousAuthenticationError: It wants a token, or another one.
        RendezvousConnectionError: It could not be reached in time.
        RendezvousTimeoutError: It could, and did not answer in time.
        RendezvousError: What it answered.
    """
    client = operator_client(connection, run_id)
    client.start()
    try:
        return answered(client.call(make_request, connection.timeout_s), kind)
    finally:
        client.close()
