"""Connections that take without giving are ended."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from aiohttp import web

from quorate.page.visitors import CONNECTIONS_MAX, IDLE_MAX_S, Visitors
from quorate.testing import ManualClock


class Connection:
    transport = None

    def __init__(self) -> None:
        self.ended = False

    def force_close(self) -> None:
        self.ended = True


def test_idle_connections_are_ended_and_busy_ones_are_not() -> None:
    clock = ManualClock()
    visitors = Visitors(clock)
    idle, busy = Connection(), Connection()
    connections: list[Any] = [idle, busy]
    with visitors.busy(busy):
        visitors.end_idle(connections)
        clock.advance(IDLE_MAX_S - 1)
        visitors.end_idle(connections)
        assert not idle.ended
        clock.advance(1)
        visitors.end_idle(connections)
        assert idle.ended
        assert not busy.ended
    visitors.end_idle(connections)
    assert not busy.ended, "it becomes idle now"


def test_more_connections_than_the_limit_are_ended_at_once() -> None:
    visitors = Visitors(ManualClock())
    connections: list[Any] = [Connection() for _ in range(CONNECTIONS_MAX + 3)]
    with visitors.busy(connections[-1]):
        visitors.end_idle(connections)
    assert sum(connection.ended for connection in connections) == 3
    assert not connections[-1].ended


# More than the sockets of both sides take.
ANSWER_BYTES = 16 * 1024 * 1024


class Readers:
    """Peers that ask for a large answer, of a server whose visitors are bounded."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.visitors = Visitors(self.clock)
        self.server = web.Server(self._answer)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        with self.visitors.busy(request.protocol):
            return web.Response(body=bytes(ANSWER_BYTES))

    async def come(self, peers: int) -> list[socket.socket]:
        """Let peers ask, and return them when each answer has begun."""
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(self.server, "127.0.0.1", 0)
        sockets = []
        for _ in range(peers):
            peer = socket.socket()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            peer.setblocking(False)
            await loop.sock_connect(peer, listening.sockets[0].getsockname())
            await loop.sock_sendall(peer, b"GET / HTTP/1.1\r\nHost: page\r\n\r\n")
            assert await loop.sock_recv(peer, 1)
            sockets.append(peer)
        listening.close()
        return sockets

    def pass_by(self, time_s: float) -> None:
        self.visitors.end_idle(self.server.connections)
        self.clock.advance(time_s)
        self.visitors.end_idle(self.server.connections)


def test_who_does_not_read_an_answer_is_ended_and_who_reads_slowly_is_not() -> None:
    async def main() -> None:
        readers = Readers()
        slow, deaf = await readers.come(2)
        loop = asyncio.get_running_loop()
        for _ in range(3):
            readers.pass_by(IDLE_MAX_S / 2)
            assert len(readers.server.connections) >= 1
            taken = 0
            while taken < ANSWER_BYTES // 8:
                data = await loop.sock_recv(slow, 1 << 20)
                assert data
                taken += len(data)
                # What is there comes at once: the server must get its turns.
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while len(readers.server.connections) > 1:
                await asyncio.sleep(0)
        (left,) = readers.server.connections
        assert left.transport.get_extra_info("peername") == slow.getsockname()
        readers.pass_by(IDLE_MAX_S)
        async with asyncio.timeout(10):
            while readers.server.connections:
                await asyncio.sleep(0)
        slow.close()
        deaf.close()

    asyncio.run(main())
