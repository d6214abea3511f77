"""Agents of a coordinator, many in one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from quorate.api import RendezvousParameters
from quorate.bench.sessions import SessionCrowd
from quorate.bench.tasks import Begin, Moments, Reattach, Regroup, Usage, Work
from quorate.coordinated import create_handler
from quorate.errors import RendezvousSettingsError
from tests.served import ThreadedCoordinator

LIMIT_S = 10.0


@pytest.fixture
def coordinator() -> Iterator[ThreadedCoordinator]:
    coordinator = ThreadedCoordinator()
    yield coordinator
    coordinator.stop()


def with_crowd(
    coordinator: ThreadedCoordinator,
    steps: Callable[[SessionCrowd], Awaitable[None]],
    nodes: int = 4,
    min_nodes: int = 4,
) -> None:
    async def main() -> None:
        crowd = SessionCrowd()
        endpoint = str(coordinator.endpoint)
        await crowd.begin(Begin("run", [endpoint], nodes, min_nodes, 0, 4))
        try:
            await steps(crowd)
        finally:
            await crowd.close()

    asyncio.run(main())


def test_all_join_one_world(coordinator: ThreadedCoordinator) -> None:
    async def steps(crowd: SessionCrowd) -> None:
        places = await crowd.join(LIMIT_S)
        assert sorted(places.ranks) == [0, 1, 2, 3]
        assert len(places.worlds) == 1
        assert min(places.ended_s) >= places.began_s
        used = crowd.traffic()
        assert used.sent_bytes > 4 * 100
        assert used.received_bytes > 4 * 20

    with_crowd(coordinator, steps)


def test_connecting_and_joining_are_apart(coordinator: ThreadedCoordinator) -> None:
    async def steps(crowd: SessionCrowd) -> None:
        attached = await crowd.connect(LIMIT_S)
        assert len(attached.ended_s) == 4
        places = await crowd.join(LIMIT_S)
        assert max(attached.ended_s) <= places.began_s
        assert len(places.ranks) == 4

    with_crowd(coordinator, steps)


def test_not_to_be_in_time_is_a_result(coordinator: ThreadedCoordinator) -> None:
    async def steps(crowd: SessionCrowd) -> None:
        places = await crowd.join(0.1)
        assert places.ended_s == places.ranks == []

    with_crowd(coordinator, steps, nodes=5)


def test_whoever_is_told_of_a_loss_joins_again(coordinator: ThreadedCoordinator) -> None:
    async def steps(crowd: SessionCrowd) -> None:
        handler = create_handler(
            RendezvousParameters("quorate", str(coordinator.endpoint), "run", 4, 5, is_host=False)
        )
        joining = asyncio.create_task(asyncio.to_thread(handler.next_rendezvous))
        places = await crowd.join(LIMIT_S)
        fifth = await joining
        assert sorted([*places.ranks, fifth.rank]) == [0, 1, 2, 3, 4]
        regrouping = asyncio.create_task(crowd.other(Regroup(LIMIT_S)))
        await asyncio.to_thread(handler.leave)
        again = await regrouping
        assert isinstance(again, Moments)
        assert len(again.told_s) == len(again.ended_s) == 4
        for told_s, joined_s in zip(again.told_s, again.ended_s, strict=True):
            assert again.began_s <= told_s <= joined_s

    with_crowd(coordinator, steps, nodes=5)


def test_coming_back_to_a_coordinator_is_seen(coordinator: ThreadedCoordinator) -> None:
    async def steps(crowd: SessionCrowd) -> None:
        await crowd.join(LIMIT_S)
        coordinator.do(coordinator.server._connections.abort)
        back = await crowd.other(Reattach(LIMIT_S))
        assert isinstance(back, Moments)
        assert len(back.ended_s) == 4
        assert back.told_s == []

    with_crowd(coordinator, steps)


def test_the_store_is_used_step_by_step(coordinator: ThreadedCoordinator) -> None:
    async def steps(crowd: SessionCrowd) -> None:
        await crowd.join(LIMIT_S)
        for operation in ("set", "get", "wait", "add"):
            done = await crowd.other(Work(operation, 3, LIMIT_S))
            assert isinstance(done, Moments)
            assert len(done.durations_s) == 4 * 3
            assert all(0 < duration < LIMIT_S for duration in done.durations_s)

    with_crowd(coordinator, steps)


def test_a_refusal_is_an_error(coordinator: ThreadedCoordinator) -> None:
    async def steps(crowd: SessionCrowd) -> None:
        await crowd.connect(LIMIT_S)
        other = SessionCrowd()
        await other.begin(Begin("run", [str(coordinator.endpoint)], 9, 9, 4, 1))
        with pytest.raises(RendezvousSettingsError, match="differ"):
            await other.join(LIMIT_S)

    with_crowd(coordinator, steps)


def test_what_they_cannot_do_is_told(coordinator: ThreadedCoordinator) -> None:
    async def steps(crowd: SessionCrowd) -> None:
        await crowd.connect(LIMIT_S)
        with pytest.raises(RendezvousSettingsError, match="cannot Usage"):
            await crowd.other(Usage())

    with_crowd(coordinator, steps)
