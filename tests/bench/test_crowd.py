"""Counting until all are done."""

from __future__ import annotations

import asyncio

import pytest

from quorate.bench.crowd import Countdown


def test_it_is_over_once_everybody_is_done() -> None:
    async def count() -> None:
        countdown = Countdown()
        countdown.start("joined", 2)
        countdown.note("joined")
        countdown.note("attached")
        waiting = asyncio.create_task(countdown.wait(10.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        countdown.note("joined")
        await waiting

    asyncio.run(count())


@pytest.mark.parametrize("count", [0, 1])
def test_it_is_over_when_the_time_is_or_nothing_is_awaited(count: int) -> None:
    async def wait() -> None:
        countdown = Countdown()
        countdown.start("joined", count)
        await countdown.wait(0.0 if count else 10.0)

    asyncio.run(wait())


def test_the_first_failure_ends_every_wait() -> None:
    async def fail() -> None:
        countdown = Countdown()
        countdown.start("joined", 2)
        countdown.fail(OSError("first"))
        countdown.fail(OSError("second"))
        for _ in range(2):
            with pytest.raises(OSError, match="first"):
                await countdown.wait(10.0)
            countdown.start("joined", 2)

    asyncio.run(fail())
