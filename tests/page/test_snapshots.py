"""One answer for all who ask at the same time."""

from __future__ import annotations

import asyncio

import pytest

from quorate.page.snapshots import FRESH_S, Snapshots
from quorate.testing import ManualClock


class Source:
    def __init__(self) -> None:
        self.asked = 0
        self.gate = asyncio.Event()

    async def make(self) -> bytes:
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        return str(number).encode()


def test_those_who_ask_at_once_share_an_answer_for_a_while() -> None:
    async def main() -> None:
        clock = ManualClock()
        snapshots, source = Snapshots(clock), Source()
        waiting = [asyncio.ensure_future(snapshots.get("a", source.make)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        source.gate.set()
        assert await asyncio.gather(*waiting[1:]) == [b"1", b"1"]
        assert await snapshots.get("a", source.make) == b"1"
        assert await snapshots.get("b", source.make) == b"2"
        clock.advance(FRESH_S)
        assert await snapshots.get("a", source.make) == b"3"

    asyncio.run(main())


def test_a_failure_is_everybodys() -> None:
    async def fail() -> bytes:
        raise TimeoutError

    async def main() -> None:
        snapshots = Snapshots(ManualClock())
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await snapshots.get("a", fail)

    asyncio.run(main())
