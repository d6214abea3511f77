"""Agents whose calls block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from quorate.bench.tasks import Begin, Traffic, Usage
from quorate.bench.threads import PEERS, Membership, Peer, ThreadCrowd
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError

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
        Begin("run", ["somewhere"], 3, 3, 4, 3),
    )
    assert ScriptedPeer.rehearsed == ["run-4"]


def test_one_that_fails_is_not_among_those_that_were_in_time() -> None:
    barrier = threading.Barrier(1)

    async def steps(crowd: ThreadCrowd) -> None:
        assert (await crowd.join(LIMIT_S)).ranks == [12]

    with_crowd(
        lambda task, number, _: ScriptedPeer(task, number, barrier),
        steps,
        Begin("run", ["somewhere"], 2, 2, 12, 2),
    )


def test_nodes_meet_in_a_file(tmp_path: Path) -> None:
    async def steps(crowd: ThreadCrowd) -> None:
        places = await crowd.join(LIMIT_S)
        assert sorted(places.ranks) == [0, 1, 2]
        assert places.worlds == ["3 nodes"]

    with_crowd(PEERS["file"], steps, Begin("run", [str(tmp_path / "state")], 3, 3, 0, 3))
