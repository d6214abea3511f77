"""Agents whose calls block."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quorate.bench.tasks import Begin, Traffic, Usage
from quorate.bench.threads import PEERS, Membership, Peer, ThreadCrowd
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.identity import parse_rendezvous_endpoint

LIMIT_S = 10.0


class ScriptedPeer:
    """Meets the others at a barrier, or fails."""

    rehearsed: list[str] = []  # noqa: RUF012

    def __init__(self, task: Begin, number: int, barrier: threading.Barrier) -> None:
        self.task = task
        self.number = number
        self.barrier = barrier
        self.connections = 0

    def connect(self) -> None:
        self.connections += 1

    def join(self) -> Membership:
        assert self.connections == 1
        if self.number == 13:
            raise RendezvousConnectionError("no luck")
        self.barrier.wait(LIMIT_S)
        return Membership(self.number, "world")

    def rehearse(self) -> None:
        self.rehearsed.append(self.task.run_id)


def with_crowd(
    create: Callable[[Begin, int, float], Peer],
    steps: Callable[[ThreadCrowd], Awaitable[None]],
    task: Begin,
) -> None:
    async def main() -> None:
        crowd = ThreadCrowd(create, LIMIT_S)
        await crowd.begin(task)
        await steps(crowd)
        assert crowd._threads is not None
        crowd._threads.shutdown()

    asyncio.run(main())


@pytest.mark.parametrize("connected", [False, True])
def test_all_join_at_the_same_time(connected: bool) -> None:
    barrier = threading.Barrier(3)

    async def steps(crowd: ThreadCrowd) -> None:
        if connected:
            assert len((await crowd.connect(LIMIT_S)).ended_s) == 3
        places = await crowd.join(LIMIT_S)
        assert sorted(places.ranks) == [4, 5, 6]
        assert places.worlds == ["world"]
        assert min(places.ended_s) >= places.began_s
        assert crowd.traffic() == Traffic(0, 0)
        with pytest.raises(RendezvousSettingsError, match="cannot Usage"):
            await crowd.other(Usage())

    ScriptedPeer.rehearsed.clear()
    with_crowd(
        lambda task, number, _: ScriptedPeer(task, number, barrier),
        steps,
        Begin("run", ["somewhere:1"], 3, 3, 4, 3),
    )
    assert ScriptedPeer.rehearsed == ["run-4"]


class ConnectedPeer(ScriptedPeer):
    """Sends and gets a few bytes when it joins, and many in the rehearsal."""

    def connect(self) -> None:
        super().connect()
        address = parse_rendezvous_endpoint(self.task.endpoints[0], 0)
        self.connection = socket.create_connection((address.host, address.port))

    def join(self) -> Membership:
        self.exchange(10)
        return super().join()

    def rehearse(self) -> None:
        self.connect()
        self.exchange(1000)
        super().rehearse()

    def exchange(self, size: int) -> None:
        self.connection.sendall(bytes(size))
        assert len(self.connection.recv(size, socket.MSG_WAITALL)) == size


@contextmanager
def echo_server() -> Iterator[str]:
    """A server that sends back what it gets, until its clients are gone; its endpoint."""

    def serve() -> None:
        for _ in range(3):
            connection, _ = server.accept()
            threading.Thread(target=echo, args=(connection,)).start()

    def echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(LIMIT_S)


def test_the_bytes_of_connections_that_others_made_are_counted() -> None:
    """But for those of the rehearsal."""
    barrier = threading.Barrier(2)
    peers: list[ConnectedPeer] = []

    def create(task: Begin, number: int, limit_s: float) -> Peer:
        peers.append(ConnectedPeer(task, number, barrier))
        return peers[-1]

    async def steps(crowd: ThreadCrowd) -> None:
        await crowd.join(LIMIT_S)
        assert crowd.traffic() == Traffic(20, 20)

    with echo_server() as endpoint:
        with_crowd(create, steps, Begin("run", [endpoint], 2, 2, 0, 2))
        for peer in peers:
            peer.connection.close()


def test_one_that_fails_is_not_among_those_that_were_in_time() -> None:
    barrier = threading.Barrier(1)

    async def steps(crowd: ThreadCrowd) -> None:
        assert (await crowd.join(LIMIT_S)).ranks == [12]

    with_crowd(
        lambda task, number, _: ScriptedPeer(task, number, barrier),
        steps,
        Begin("run", ["somewhere:1"], 2, 2, 12, 2),
    )


def test_nodes_meet_in_a_file(tmp_path: Path) -> None:
    async def steps(crowd: ThreadCrowd) -> None:
        places = await crowd.join(LIMIT_S)
        assert sorted(places.ranks) == [0, 1, 2]
        assert places.worlds == ["3 nodes"]

    with_crowd(PEERS["file"], steps, Begin("run", [str(tmp_path / "state")], 3, 3, 0, 3))
