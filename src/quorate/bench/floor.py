"""The bare barrier: what a join would cost if nothing had to be decided.

Each of N clients sends 100 bytes; the server answers each with 100 bytes once the last has sent.
Plain `asyncio.Protocol`s on both sides, with nothing in them that a barrier could do without.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import defaultdict
from typing import cast

from quorate.bench.crowd import DIALING_MAX, Countdown
from quorate.bench.tasks import Begin, Moments, Places, Report, Task, Traffic
from quorate.bench.usage import traffic
from quorate.errors import RendezvousSettingsError
from quorate.identity import Endpoint, parse_rendezvous_endpoint

__all__ = ["FloorCrowd", "serve_floor"]

# A run's name, and how many clients it has, or the client's rank; padded to 100 bytes.
WORD = struct.Struct("!16sI80x")

# As many connections may wait to be accepted as the coordinator allows.
BACKLOG = 4096


class _Server(asyncio.Protocol):
    def __init__(self, waiting: dict[bytes, list[asyncio.Transport]]) -> None:
        self._waiting = waiting
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= WORD.size:
            run, nodes = WORD.unpack_from(self._buffer)
            self._buffer = self._buffer[WORD.size :]
            assert self._transport is not None
            waiting = self._waiting[run]
            waiting.append(self._transport)
            if len(waiting) == nodes:
                del self._waiting[run]
                for rank, transport in enumerate(waiting):
                    transport.write(WORD.pack(run, rank))


async def serve_floor(host: str) -> tuple[asyncio.Server, int]:
    """Serve the barrier on a free port.

    Args:
        host: The address to listen on.

    Returns:
        The server, which serves in the running loop, and its port.
    """
    waiting: dict[bytes, list[asyncio.Transport]] = defaultdict(list)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Server(waiting), host, 0, backlog=BACKLOG)
    port: int = server.sockets[0].getsockname()[1]
    return server, port


class _Client(asyncio.Protocol):
    def __init__(self, counted: Countdown) -> None:
        self._counted = counted
        self._buffer = b""
        self.transport: asyncio.Transport | None = None
        self.connected_s: float | None = None
        self.rank: int | None = None
        self.joined_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.connected_s = time.monotonic()
        self._counted.note("attached")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= WORD.size:
            _, self.rank = WORD.unpack_from(self._buffer)
            self._buffer = self._buffer[WORD.size :]
            self.joined_s = time.monotonic()
            self._counted.note("joined")


class FloorCrowd:
    """Clients of the bare barrier; see `Crowd`."""

    def __init__(self) -> None:
        self._clients: list[_Client] = []
        self._counted = Countdown()
        self._endpoint = Endpoint("", 0)
        self._word = b""
        self._dialing: list[asyncio.Task[None]] = []

    async def begin(self, task: Begin) -> None:
        """See `Crowd`."""
        self._endpoint = parse_rendezvous_endpoint(task.endpoints[0], 0)
        self._word = WORD.pack(task.run_id.encode()[-16:], task.nodes)
        self._clients = [_Client(self._counted) for _ in range(task.count)]

    async def connect(self, timeout_s: float) -> Moments:
        """See `Crowd`."""
        began_s = time.monotonic()
        self._counted.start("attached", len(self._clients))
        self._dial(b"")
        await self._counted.wait(timeout_s)
        return Moments(began_s, [c.connected_s for c in self._clients if c.connected_s is not None])

    async def join(self, timeout_s: float) -> Places:
        """See `Crowd`."""
        began_s = time.monotonic()
        self._counted.start("joined", len(self._clients))
        if self._dialing:
            for client in self._clients:
                assert client.transport is not None
                client.transport.write(self._word)
        else:
            self._dial(self._word)
        await self._counted.wait(timeout_s)
        return Places(
            began_s,
            [client.joined_s for client in self._clients if client.joined_s is not None],
            [client.rank for client in self._clients if client.rank is not None],
            ["the barrier"],
        )

    async def other(self, task: Task) -> Report:
        """See `Crowd`: nothing else."""
        raise RendezvousSettingsError(f"The bare barrier cannot {type(task).__name__}.")

    def traffic(self) -> Traffic:
        """See `Crowd`."""
        transports = [client.transport for client in self._clients if client.transport is not None]
        return traffic([t.get_extra_info("socket").fileno() for t in transports])

    async def close(self) -> None:
        """See `Crowd`."""
        await asyncio.gather(*self._dialing)
        for client in self._clients:
            if client.transport is not None:
                client.transport.close()
        self._clients, self._dialing = [], []

    def _dial(self, word: bytes) -> None:
        """Connect all, so many at once that the server's backlog holds them."""
        left = iter(self._clients)
        loop = asyncio.get_running_loop()

        async def dial() -> None:
            for client in left:
                await loop.create_connection(
                    lambda client=client: client,  # type: ignore[misc]
                    self._endpoint.host,
                    self._endpoint.port,
                )
                if word:
                    assert client.transport is not None
                    client.transport.write(word)

        tasks = min(DIALING_MAX, len(self._clients))
        self._dialing = [loop.create_task(dial()) for _ in range(tasks)]
        for task in self._dialing:
            task.add_done_callback(self._dialed)

    def _dialed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._counted.fail(error)
