"""Makes connections to coordinators, each ready for the first word, in bounded time."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import weakref
from typing import Any, Protocol, cast

from quorate.coordinator.agent.blocking import outcome_of
from quorate.errors import RendezvousConnectionError
from quorate.identity import Endpoint, is_numeric
from quorate.tls import TlsContexts
from quorate.wire.tls import TlsPipe

__all__ = ["Caller", "DialedConnection", "Dialer", "told"]

CONNECT_TIMEOUT_S = 1.0
RESOLVE_TIMEOUT_S = 10.0

# A coordinator that thousands dial at once takes some 0.5 ms of its time for each, 1.1 ms with
# certificates of both sides: who gives up before its turn goes to the end of the queue. One that is
# frozen must be given up in time to come to another one within a window of 15 s (R8).
HANDSHAKE_TIMEOUT_S = 10.0

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_connections: weakref.WeakSet[DialedConnection] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """After a fork: leave the parent's connections to the parent.

    A child that held them open would keep the coordinator from noticing the parent's end (R8). The
    numbers of the files stay taken, for objects that close them later.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for connection in list(_connections):
        if connection.transport is not None:
            raw: socket.socket | None = connection.transport.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                os.dup2(nothing, raw.fileno(), inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_let_go_in_child)


class Caller(Protocol):
    """Whom a connection is for."""

    def received(self, connection: DialedConnection, data: bytes) -> None:
        """Take what was received."""
        ...

    def lost(self, connection: DialedConnection, why: str) -> None:
        """Note the end of a connection."""
        ...

    def distrusted(self, connection: DialedConnection, error: RendezvousConnectionError) -> None:
        """Note that a connection cannot be trusted, after it was taken into use."""
        ...


class DialedConnection(asyncio.Protocol):
    """One connection, on the side that has dialed.

    Args:
        caller: Whom it is for.
        pipe: The connection's TLS; `None` if it has none.

    Attributes:
        transport: The socket; `None` before it is there, and after its end.
        ready: Set once the TLS handshake is over; never without TLS.
        lost: Set at the connection's end.
    """

    def __init__(self, caller: Caller, pipe: TlsPipe | None) -> None:
        self._caller = caller
        self._pipe = pipe
        self.transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        # Whoever waited may have been cancelled: asyncio would complain of an error nobody took.
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the TLS handshake, if there is to be one."""
        # uvloop's transports have the interface of asyncio's, but not its class.
        self.transport = cast(asyncio.Transport, transport)
        _connections.add(self)
        if self._pipe is not None:
            self._put(self._pipe.take_output())

    def data_received(self, data: bytes) -> None:
        """Hand on what was received."""
        if self._pipe is not None:
            try:
                data = self._pipe.feed(data)
            except RendezvousConnectionError as error:
                self._distrust(error)
                return
            if self._pipe.established and not self.ready.done():
                self.ready.set_result(None)
            self._put(self._pipe.take_output())
        if data:
            self._caller.received(self, data)
        if self._pipe is not None and self._pipe.finished:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self.transport = None
        why = told(exc) if exc else "the coordinator ended the connection"
        if self._pipe is not None and not self.ready.done():
            self.ready.set_exception(OSError(f"{why} during the TLS handshake"))
        if not self.lost.done():
            self.lost.set_result(None)
        self._caller.lost(self, why)

    def write(self, data: bytes) -> None:
        """Send bytes, once the connection is ready."""
        if self._pipe is not None:
            self._pipe.send(data)
            data = self._pipe.take_output()
        self._put(data)

    def close(self) -> None:
        """End the connection in order."""
        if self._pipe is not None:
            self._pipe.close()
            self._put(self._pipe.take_output())
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """Give the connection up without looking like a process that ends (R8)."""
        if self.transport is not None:
            raw: socket.socket | None = self.transport.get_extra_info("socket")
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    def _put(self, data: bytes) -> None:
        if self.transport is not None and data:
            self.transport.write(data)

    def _distrust(self, error: RendezvousConnectionError) -> None:
        """Give up what cannot be trusted, or does not trust us."""
        if self.ready.done():
            self._caller.distrusted(self, error)
            self.reset()
            return
        self.ready.set_exception(error)
        if self._pipe is not None:
            # The other side is told why: it is no use to it to wait.
            self._put(self._pipe.take_output())
        if self.transport is not None:
            self.transport.close()


class Dialer:
    """Makes the connections of one session.

    Args:
        caller: Whom they are for.
        tls: What they are secured with, by the host name of each endpoint; `None` for plain ones.
    """

    def __init__(self, caller: Caller, tls: TlsContexts | None) -> None:
        self._caller = caller
        self._tls = tls

    async def dial(self, endpoint: Endpoint) -> DialedConnection:
        """Return a connection to an endpoint, at the first of its addresses that answers.

        Raises:
            RendezvousConnectionError: It cannot be trusted, or does not trust this side.
            OSError, UnicodeError: There is none; `told` says why.
        """
        failure: Exception = OSError(f"{endpoint.host} has no address")
        for address in await self._resolve(endpoint):
            try:
                return await self._connected(address, endpoint)
            except OSError as error:
                failure = error
        raise failure

    async def _resolve(self, endpoint: Endpoint) -> list[str]:
        """Return the addresses of an endpoint as numbers."""
        if is_numeric(endpoint.host):
            return [endpoint.host]

        def look_up() -> list[tuple[Any, ...]]:
            return socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)

        try:
            found = await outcome_of(("addresses", endpoint), look_up, RESOLVE_TIMEOUT_S)
        except TimeoutError:
            raise OSError(
                f"the name service did not resolve {endpoint.host} within {RESOLVE_TIMEOUT_S:g} s"
            ) from None
        return [_numeric(sockaddr) for _, _, _, _, sockaddr in found]

    def _new_pipe(self, endpoint: Endpoint) -> TlsPipe | None:
        if self._tls is None:
            return None
        return TlsPipe(self._tls.current(), server_side=False, server_hostname=endpoint.host)

    async def _shake_hands(self, connection: DialedConnection) -> None:
        """Wait for the end of a TLS handshake, in bounded time."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                await connection.ready
        except TimeoutError:
            connection.reset()
            raise OSError(f"no end of the TLS handshake within {HANDSHAKE_TIMEOUT_S:g} s") from None
        except asyncio.CancelledError:
            connection.reset()
            raise

    async def _connected(self, address: str, endpoint: Endpoint) -> DialedConnection:
        """Connect, in bounded time.

        The bound ends here, before the first word: were a connection given up for lateness after
        its hello, its orderly end would look like that of a process (R8).
        """
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: DialedConnection(self._caller, self._new_pipe(endpoint)),
                address,
                endpoint.port,
            )
        if self._tls is not None:
            await self._shake_hands(connection)
        if connection.transport is None:
            raise ConnectionResetError
        return connection


def _numeric(sockaddr: tuple[Any, ...]) -> str:
    """Return the address in a socket address, with the scope of an IPv6 one (RFC 4007)."""
    scope = sockaddr[3] if len(sockaddr) > 3 else 0
    return f"{sockaddr[0]}%{scope}" if scope else sockaddr[0]


def told(error: Exception) -> str:
    """Return why there is no connection, for people."""
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (connection refused)"
    if isinstance(error, ConnectionResetError):
        return "the connection was reset"
    if isinstance(error, socket.gaierror | UnicodeError):
        reason = getattr(error, "strerror", None) or error
        return f"its host name cannot be resolved ({reason})"
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, OSError) and error.errno is not None:
        # asyncio's texts repeat the address; the system's name of the error says enough.
        return os.strerror(error.errno).lower()
    return str(error)
