"""Agents whose calls block, each in a thread of its own: the direct way, and other systems."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

import msgspec

from quorate.api import RendezvousParameters
from quorate.bench.tasks import Begin, Moments, Places, Report, Task, Traffic
from quorate.bench.usage import connections, traffic
from quorate.errors import RendezvousSettingsError
from quorate.identity import parse_rendezvous_endpoint
from quorate.registry import get_rendezvous_handler

__all__ = ["PEERS", "Membership", "Peer", "ThreadCrowd"]

# What a node advertises. Without it each looks its own machine's name up, and the name service is
# not the subject.
HOST = "127.0.0.1"

# What a store or a lighthouse may take to be reached by one of many at once.
CONNECT_TIMEOUT_S = 60.0


class Membership(NamedTuple):
    """What an agent was given: its rank, and a name of the world that all members share."""

    rank: int
    world: str


class Peer(Protocol):
    """One agent."""

    def connect(self) -> None:
        """Connect to whatever it meets the others at."""
        ...

    def join(self) -> Membership:
        """Meet the others."""
        ...

    def rehearse(self) -> None:
        """Do once, alone and in another run, what can be done so: what is needed is imported."""
        ...


class HandlerPeer:
    """A node with a rendezvous handler, of quorate or of torch.

    Args:
        create: Returns the handler, connected.
    """

    def __init__(self, create: Callable[[], Any]) -> None:
        self._create = create
        self._handler: Any = None

    def connect(self) -> None:
        """See `Peer`."""
        self._handler = self._create()

    def join(self) -> Membership:
        """See `Peer`."""
        info = self._handler.next_rendezvous()
        return Membership(info.rank, f"{info.world_size} nodes")

    def rehearse(self) -> None:
        """See `Peer`."""
        self.connect()
        self.join()
        self._handler.shutdown()


class LighthousePeer:
    """A replica that asks TorchFT's lighthouse for a quorum, through its public client."""

    def __init__(self, endpoint: str, number: int, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._replica = f"node{number:06d}"
        self._timeout = timedelta(seconds=timeout_s)
        self._client: Any = None

    def connect(self) -> None:
        """See `Peer`."""
        from torchft.coordination import LighthouseClient

        self._client = LighthouseClient(
            f"http://{self._endpoint}", timedelta(seconds=CONNECT_TIMEOUT_S)
        )

    def join(self) -> Membership:
        """See `Peer`."""
        quorum = self._client.quorum(self._replica, self._timeout)
        replicas = sorted(member.replica_id for member in quorum.participants)
        return Membership(replicas.index(self._replica), f"{quorum.quorum_id}, {len(replicas)}")

    def rehearse(self) -> None:
        """See `Peer`; the lighthouse has no other runs."""
        self.connect()


def _direct(task: Begin, backend: str, timeout_s: float) -> Peer:
    settings: dict[str, Any] = {"join_timeout": timeout_s} | (
        {"is_host": False} if backend == "c10d" else {}
    )
    parameters = RendezvousParameters(
        backend, task.endpoints[0], task.run_id, task.min_nodes, task.nodes, HOST, **settings
    )
    return HandlerPeer(lambda: get_rendezvous_handler(parameters))


def _torch(task: Begin, timeout_s: float) -> Peer:
    from quorate.bench.torch_peer import torch_handler

    return HandlerPeer(lambda: torch_handler(task.endpoints[0], task.run_id, task.nodes, timeout_s))


# Given the run, an agent's number, and its limit in seconds.
PEERS: dict[str, Callable[[Begin, int, float], Peer]] = {
    "file": lambda task, number, timeout_s: _direct(task, "file", timeout_s),
    "c10d": lambda task, number, timeout_s: _direct(task, "c10d", timeout_s),
    "torch-c10d": lambda task, number, timeout_s: _torch(task, timeout_s),
    "lighthouse": lambda task, number, timeout_s: LighthousePeer(
        task.endpoints[0], number, timeout_s
    ),
}


class ThreadCrowd:
    """Agents in threads; see `Crowd`. What they have begun ends with the process.

    Args:
        create: Returns an agent, see `PEERS`.
        limit_s: How long an agent may try to join.
    """

    def __init__(self, create: Callable[[Begin, int, float], Peer], limit_s: float) -> None:
        self._create = create
        self._limit_s = limit_s
        self._peers: list[Peer] = []
        self._connected = False
        self._threads: ThreadPoolExecutor | None = None
        self._port: int | None = None
        self._rehearsed: frozenset[str] = frozenset()

    async def begin(self, task: Begin) -> None:
        """See `Crowd`."""
        numbers = range(task.first, task.first + task.count)
        self._peers = [self._create(task, number, self._limit_s) for number in numbers]
        self._threads = ThreadPoolExecutor(task.count, "agent")
        # The threads are there before anything is measured.
        everybody = threading.Barrier(task.count)
        await self._for_all(lambda peer: everybody.wait(), CONNECT_TIMEOUT_S)
        alone = msgspec.structs.replace(
            task, run_id=f"{task.run_id}-{task.first}", nodes=1, min_nodes=1
        )
        rehearsal = self._create(alone, task.first, self._limit_s)
        await asyncio.get_running_loop().run_in_executor(self._threads, rehearsal.rehearse)
        self._port = _port(task.endpoints[0])
        self._rehearsed = frozenset(self._connections())

    async def connect(self, timeout_s: float) -> Moments:
        """See `Crowd`."""

        def connect(peer: Peer) -> float:
            peer.connect()
            return time.monotonic()

        began_s = time.monotonic()
        self._connected = True
        return Moments(began_s, await self._for_all(connect, timeout_s))

    async def join(self, timeout_s: float) -> Places:
        """See `Crowd`."""
        connected = self._connected

        def join(peer: Peer) -> tuple[float, Membership]:
            if not connected:
                peer.connect()
            membership = peer.join()
            return time.monotonic(), membership

        began_s = time.monotonic()
        placed = await self._for_all(join, timeout_s)
        memberships = [membership for _, membership in placed]
        return Places(
            began_s,
            [joined_s for joined_s, _ in placed],
            [membership.rank for membership in memberships],
            sorted({membership.world for membership in memberships}),
        )

    async def other(self, task: Task) -> Report:
        """See `Crowd`: nothing else."""
        raise RendezvousSettingsError(f"These agents cannot {type(task).__name__}.")

    def traffic(self) -> Traffic:
        """See `Crowd`: what all connections to the server have carried, but for the rehearsal's."""
        return traffic(
            descriptor
            for name, descriptor in self._connections().items()
            if name not in self._rehearsed
        )

    async def close(self) -> None:
        """See `Crowd`: they end with the process."""

    def _connections(self) -> dict[str, int]:
        return {} if self._port is None else connections(self._port)

    async def _for_all(self, step: Callable[[Peer], Any], timeout_s: float) -> list[Any]:
        """Return the results of those who are done in time; an error counts as not done."""
        assert self._threads is not None
        loop = asyncio.get_running_loop()
        steps = [loop.run_in_executor(self._threads, step, peer) for peer in self._peers]
        done, _ = await asyncio.wait(steps, timeout=timeout_s)
        return [step.result() for step in done if step.exception() is None]


def _port(endpoint: str) -> int | None:
    """Return the port of a server, `None` if the agents meet in a file."""
    return None if "/" in endpoint else parse_rendezvous_endpoint(endpoint, 0).port
