"""Bounds what those who speak HTTP may take: connections, and time without a whole request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from quorate.clock import Clock

__all__ = ["CONNECTIONS_MAX", "IDLE_MAX_S", "Visitors"]

# The coordinator's agents need its file descriptors more.
CONNECTIONS_MAX = 256

# A browser keeps a connection for its next request; a peer that does not finish one is dropped.
IDLE_MAX_S = 15.0

CHECK_S = 1.0


class Visitors:
    """The connections of a page.

    Args:
        clock: Measures how long they are idle.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._busy: set[object] = set()
        self._idle_since_s: dict[object, float] = {}

    @contextmanager
    def busy(self, connection: object) -> Iterator[None]:
        """Let a connection be while its request is answered."""
        self._busy.add(connection)
        self._idle_since_s.pop(connection, None)
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
        self._idle_since_s = {
            connection: self._idle_since_s.get(connection, now_s) for connection in idle
        }
        surplus = idle[max(CONNECTIONS_MAX - len(self._busy), 0) :]
        late = [c for c in idle if now_s - self._idle_since_s[c] >= IDLE_MAX_S]
        for connection in {*surplus, *late}:
            connection.force_close()

    def end_all(self, server: web.Server) -> None:
        """End all connections: those of viewers would last for ever."""
        for connection in server.connections:
            connection.force_close()
