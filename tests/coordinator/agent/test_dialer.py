"""Dialing: which addresses are tried, what is told of those that do not answer, how it ends."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorate.coordinator.agent import dialer
from quorate.coordinator.agent.dialer import DialedConnection, Dialer, told
from quorate.errors import RendezvousConnectionError
from quorate.identity import Endpoint
from quorate.tls import client_context, server_context
from quorate.wire.tls import TlsPipe
from tests.certificates import Authority
from tests.coordinator.wire import Wire
from tests.served import LOOPBACK


class Notes:
    """A `dialer.Caller` that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def received(self, connection: DialedConnection, data: bytes) -> None:
        self.told.append(("received", data))

    def lost(self, connection: DialedConnection, why: str) -> None:
        self.told.append(("lost", why))

    def distrusted(self, connection: DialedConnection, error: RendezvousConnectionError) -> None:
        self.told.append(("distrusted", str(error)))


async def dial(host: str, port: int) -> DialedConnection:
    return await Dialer(Notes(), None).dial(Endpoint(host, port))


def with_connection(visit: Callable[[DialedConnection, Notes, Wire], None]) -> None:
    """Let a test drive a connection by hand."""

    async def main() -> None:
        notes, wire = Notes(), Wire()
        connection = DialedConnection(notes, None)
        connection.connection_made(wire)
        visit(connection, notes, wire)

    asyncio.run(main())


def test_what_is_received_is_handed_on_and_what_is_said_is_sent() -> None:
    def visit(connection: DialedConnection, notes: Notes, wire: Wire) -> None:
        connection.write(b"hello")
        connection.data_received(b"welcome")
        connection.close()
        assert wire.sent == b"hello"
        assert notes.told == [("received", b"welcome")]
        assert (wire.closing, wire.aborted) == (True, False)

    with_connection(visit)


def test_r8_to_give_it_up_is_no_end_in_order() -> None:
    def visit(connection: DialedConnection, notes: Notes, wire: Wire) -> None:
        connection.reset()
        assert wire.aborted

    with_connection(visit)


def test_r8_the_peer_of_what_is_given_up_sees_a_reset() -> None:
    """An end in order would be counted as that of a process."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        async def main() -> None:
            connection = await dial(LOOPBACK, listener.getsockname()[1])
            connection.reset()
            await connection.lost

        asyncio.run(main())
        peer, _ = listener.accept()
        with peer, pytest.raises(ConnectionResetError):
            peer.recv(1)


@pytest.mark.parametrize(
    ("error", "why"),
    [(None, "the coordinator ended the connection"), (ConnectionResetError(), "was reset")],
)
def test_its_end_is_told_with_the_reason(error: Exception | None, why: str) -> None:
    def visit(connection: DialedConnection, notes: Notes, wire: Wire) -> None:
        connection.connection_lost(error)
        ((kind, reason),) = notes.told
        assert kind == "lost"
        assert why in reason
        assert connection.lost.done()
        connection.write(b"too late")
        connection.reset()
        connection.close()
        assert (wire.sent, wire.closing) == (b"", False)

    with_connection(visit)


def test_the_end_of_tls_is_that_of_the_connection(tmp_path: Path) -> None:
    node = Authority(tmp_path / "certificates").issue("node")
    server = TlsPipe(server_context(node), server_side=True)

    async def main() -> None:
        notes, wire = Notes(), Wire()
        pipe = TlsPipe(client_context(node), False, LOOPBACK)
        connection = DialedConnection(notes, pipe)
        connection.connection_made(wire)
        for _ in range(2):
            said, wire.sent = wire.sent, b""
            server.feed(said)
            connection.data_received(server.take_output())
        assert connection.ready.done()
        server.send(b"last")
        server.close()
        assert not wire.closing
        connection.data_received(server.take_output() + b"garbage")
        assert notes.told == [("received", b"last")]
        assert (wire.closing, wire.aborted) == (True, False)

    asyncio.run(main())


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]

        def found(*_: object, **__: object) -> list[tuple[Any, ...]]:
            # Nobody listens at the first one.
            return [(0, 0, 0, "", (address, port)) for address in ("127.0.0.2", LOOPBACK)]

        monkeypatch.setattr(socket, "getaddrinfo", found)

        async def main() -> None:
            connection = await dial("both", port)
            assert connection.transport is not None
            assert connection.transport.get_extra_info("peername") == (LOOPBACK, port)
            connection.close()
            await connection.lost

        asyncio.run(main())


def test_the_failure_of_the_last_address_is_told(free_port: Callable[[], int]) -> None:
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(dial(LOOPBACK, free_port()))


def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(OSError, match="nothing has no address"):
        asyncio.run(dial("nothing", 1))


def test_a_name_service_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "RESOLVE_TIMEOUT_S", 0.05)
    may_end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: may_end.wait())
    with pytest.raises(OSError, match="the name service") as caught:
        asyncio.run(dial("c1", 1))
    may_end.set()
    assert told(caught.value) == "the name service did not resolve c1 within 0.05 s"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(), "nobody listens there (connection refused)"),
        (ConnectionResetError(), "the connection was reset"),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "its host name cannot be resolved (Name or service not known)",
        ),
        (TimeoutError(), "no answer within 1 s"),
        (TimeoutError(errno.ETIMEDOUT, "[Errno 110] ('10.0.0.1', 1)"), "connection timed out"),
        (OSError(errno.EHOSTUNREACH, "[Errno 113] ('10.0.0.1', 1)"), "no route to host"),
        (OSError("no end of the TLS handshake"), "no end of the TLS handshake"),
    ],
)
def test_why_there_is_no_connection_is_told_in_words(error: Exception, text: str) -> None:
    assert told(error) == text
