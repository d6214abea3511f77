"""The bare barrier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from quorate.bench.floor import FloorCrowd, serve_floor
from quorate.bench.tasks import Begin, Traffic, Usage
from quorate.errors import RendezvousSettingsError

LIMIT_S = 10.0


def with_crowd(steps: Callable[[FloorCrowd], Awaitable[None]], nodes: int = 5) -> None:
    async def main() -> None:
        server, port = await serve_floor("127.0.0.1")
        async with server:
            crowd = FloorCrowd()
            await crowd.begin(Begin("run", [f"127.0.0.1:{port}"], nodes, nodes, 0, 5))
            try:
                await steps(crowd)
            finally:
                await crowd.close()

    asyncio.run(main())


def test_all_are_answered_once_the_last_has_come() -> None:
    async def steps(crowd: FloorCrowd) -> None:
        places = await crowd.join(LIMIT_S)
        assert sorted(places.ranks) == [0, 1, 2, 3, 4]
        assert len(places.ended_s) == 5
        assert min(places.ended_s) >= places.began_s
        assert crowd.traffic() == Traffic(500, 500)

    with_crowd(steps)


def test_open_connections_meet_too() -> None:
    async def steps(crowd: FloorCrowd) -> None:
        assert len((await crowd.connect(LIMIT_S)).ended_s) == 5
        assert crowd.traffic() == Traffic(0, 0)
        assert sorted((await crowd.join(LIMIT_S)).ranks) == [0, 1, 2, 3, 4]

    with_crowd(steps)


def test_nobody_is_answered_while_one_is_missing() -> None:
    async def steps(crowd: FloorCrowd) -> None:
        assert (await crowd.join(0.1)).ended_s == []

    with_crowd(steps, nodes=6)


def test_it_can_do_nothing_else() -> None:
    async def steps(crowd: FloorCrowd) -> None:
        with pytest.raises(RendezvousSettingsError, match="cannot Usage"):
            await crowd.other(Usage())

    with_crowd(steps)


def test_a_server_that_is_not_there_is_an_error() -> None:
    async def main() -> None:
        crowd = FloorCrowd()
        await crowd.begin(Begin("run", ["127.0.0.1:1"], 1, 1, 0, 1))
        with pytest.raises(OSError, match=r"refused|Connect"):
            await crowd.join(LIMIT_S)

    asyncio.run(main())
