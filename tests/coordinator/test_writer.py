"""Writing batches: tried again until they are stored, told when they cannot be (R14, R16)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from quorate.coordinator import writer as writer_module
from quorate.coordinator.engine import Batch
from quorate.coordinator.hindrance import Hindrance
from quorate.coordinator.runs.tally import Tally
from quorate.coordinator.writer import Writer
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousLimitError,
)
from quorate.testing import ManualClock
from quorate.wire.messages import Waiting
from tests.coordinator.gated import GatedLedger

BATCH = Batch(1, {"key": b"value"}, True, [])
FULL = RendezvousConnectionError("No space left on device.")
UNCERTAIN = Waiting("uncertain", "no answer", 0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "COMMIT_RETRY_S", 0.0)


class Desk:
    """A writer, and what it tells."""

    def __init__(self) -> None:
        self.told: list[Waiting] = []
        self.ended: list[asyncio.Task[None]] = []
        self.hindrance = Hindrance(self.told.append)
        self.tally = Tally()
        self.ledger = GatedLedger()
        self.writer = Writer(self.hindrance, self.tally, ManualClock().monotonic, self.ended.append)

    def store(self) -> Coroutine[Any, Any, None]:
        return self.writer.store(self.ledger, BATCH)


def run(visit: Callable[[Desk], Awaitable[None]]) -> Desk:
    """Let a test use a desk in a loop; return the desk."""

    async def main() -> Desk:
        desk = Desk()
        try:
            await visit(desk)
        finally:
            assert await desk.writer.close()
        return desk

    return asyncio.run(main())


def test_what_is_stored_is_counted_and_nothing_is_told() -> None:
    desk = run(Desk.store)
    assert desk.ledger.kept == {"key": b"value"}
    assert sum(desk.tally.commit.counts) == 1
    assert not desk.told


@pytest.mark.parametrize(("failures", "told"), [(1, 0), (2, 1), (4, 1)])
def test_r16_that_nothing_can_be_stored_is_told_once_if_it_lasts(failures: int, told: int) -> None:
    async def visit(desk: Desk) -> None:
        desk.ledger.failures = [FULL] * failures
        await desk.store()

    desk = run(visit)
    assert desk.ledger.kept == {"key": b"value"}
    stalled = Waiting("stalled", "nothing can be stored: No space left on device", 0.0)
    assert desk.told == [stalled] * told
    assert desk.hindrance.waiting is None


def test_r16_what_is_in_the_way_already_is_not_told_otherwise_and_stays() -> None:
    async def visit(desk: Desk) -> None:
        desk.hindrance.begin(UNCERTAIN)
        desk.ledger.failures = [FULL] * 3
        await desk.store()

    desk = run(visit)
    assert desk.told == [UNCERTAIN]
    assert desk.hindrance.waiting == UNCERTAIN


def test_r16_a_write_that_does_not_return_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "COMMIT_PATIENCE_S", 0.0)

    async def visit(desk: Desk) -> None:
        desk.ledger.gate.clear()
        desk.writer.begin(desk.store())
        while not desk.told:
            await asyncio.sleep(0)
        assert desk.hindrance.reason == "nothing can be stored: what is written to does not answer"
        assert not desk.ended
        desk.ledger.gate.set()
        while not desk.ended:
            await asyncio.sleep(0)

    with caplog.at_level("INFO"):
        desk = run(visit)
    assert desk.ledger.kept == {"key": b"value"}
    assert len(desk.told) == 1
    assert desk.hindrance.waiting is None
    assert "see whether the disk" in caplog.text
    assert "writing goes on after a stall" in caplog.text


def test_a_write_that_does_not_return_keeps_nobody_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "END_TIMEOUT_S", 0.01)

    async def visit(desk: Desk) -> None:
        begun, hangs = threading.Event(), threading.Event()

        def hang() -> None:
            begun.set()
            hangs.wait()

        work = asyncio.ensure_future(desk.writer.do(hang))
        await asyncio.to_thread(begun.wait)
        work.cancel()
        assert not await desk.writer.close()
        assert "this coordinator ends without it" in caplog.text
        assert desk.writer._thread.daemon
        hangs.set()
        await asyncio.to_thread(desk.writer._thread.join)

    run(visit)


@pytest.mark.parametrize(
    "error", [RendezvousDeposedError("another one"), RendezvousLimitError("large"), ValueError("?")]
)
def test_what_cannot_be_mended_is_not_tried_again(error: Exception) -> None:
    async def visit(desk: Desk) -> None:
        desk.ledger.failures = [error]
        with pytest.raises(type(error)):
            await desk.store()

    desk = run(visit)
    assert not desk.ledger.commits
    assert not desk.told


def test_it_is_busy_until_its_work_is_over_and_says_so() -> None:
    async def visit(desk: Desk) -> None:
        assert not desk.writer.is_busy
        desk.ledger.gate.clear()
        desk.writer.begin(desk.store())
        await asyncio.sleep(0)
        assert desk.writer.is_busy
        desk.ledger.gate.set()
        await desk.writer.do(int)
        while not desk.ended:
            await asyncio.sleep(0)
        assert not desk.writer.is_busy
        assert desk.ended[0].exception() is None

    assert run(visit).ledger.commits


def test_work_that_is_cancelled_ends_and_what_the_thread_does_meanwhile_is_done() -> None:
    async def visit(desk: Desk) -> None:
        desk.ledger.gate.clear()
        desk.writer.begin(desk.store())
        await asyncio.sleep(0)
        desk.writer.cancel()
        while not desk.ended:
            await asyncio.sleep(0)
        assert desk.ended[0].cancelled()
        desk.ledger.gate.set()

    desk = run(visit)
    assert not desk.writer.is_busy
    assert sum(desk.tally.commit.counts) == 0


def test_everything_is_done_in_one_thread() -> None:
    threads: list[threading.Thread] = []

    async def visit(desk: Desk) -> None:
        for _ in range(5):
            threads.append(await desk.writer.do(threading.current_thread))

    run(visit)
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
