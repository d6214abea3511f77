"""Bounds what those who speak HTTP may take: connections, and time in which they do nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from quorate.clock import Clock

__all__ = ["CONNECTIONS_MAX", "IDLE_MAX_S", "Visitors"]

# The coordinator's agents need its file descriptors more.
CONNECTIONS_MAX = 256

# A browser keeps a connection for its next request; a peer that neither finishes one nor reads on
# in its answer is dropped.
IDLE_MAX_S = 15.0

CHECK_S = 1.0


@dataclass(frozen=True)
class _Rest:
    """Since when a connection has been idle, in seconds, with how many bytes still to be sent."""

    since_s: float
    unsent_bytes: int


class Visitors:
    """The connections of a page.

    Args:
        clock: Measures how long they are idle.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._busy: set[object] = set()
        self._rests: dict[object, _Rest] = {}

    @contextmanager
    def busy(self, connection: object) -> Iterator[None]:
        """Let a connection be while its request is answered."""
        self._busy.add(connection)
        self._rests.pop(connection, None)
        try:
            yield
        finally:
            self._busy.discard(connection)

    async def watch(self, server: web.Server) -> None:
        """End idle connections, and those above the limit, until cancelled."""
        while True:
            self.end_idle(server.connections)
            await asyncio.sleep(CHECK_S)

    def end_idle(self, connections: list[web.RequestHandler]) -> None:
        """End the connections that have been idle for too long, and the newest above the limit."""
        now_s = self._clock.monotonic()
        idle = [connection for connection in connections if connection not in self._busy]
        self._rests = {connection: self._rest(connection, now_s) for connection in idle}
        surplus = idle[max(CONNECTIONS_MAX - len(self._busy), 0) :]
        late = [c for c in idle if now_s - self._rests[c].since_s >= IDLE_MAX_S]
        for connection in {*surplus, *late}:
            _end(connection)

    def end_all(self, server: web.Server) -> None:
        """End all connections: those of viewers would last for ever."""
        for connection in server.connections:
            connection.force_close()

    def _rest(self, connection: web.RequestHandler, now_s: float) -> _Rest:
        """Return the rest of a connection; who reads on, however slowly, begins a new one."""
        transport = connection.transport
        unsent_bytes = transport.get_write_buffer_size() if transport is not None else 0
        former = self._rests.get(connection)
        if former is None or former.unsent_bytes != unsent_bytes:
            return _Rest(now_s, unsent_bytes)
        return former


def _end(connection: web.RequestHandler) -> None:
    """End a connection, also one whose peer does not read: a close would wait for that."""
    transport = connection.transport
    connection.force_close()
    if transport is not None:
        transport.abort()
