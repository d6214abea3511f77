"""The seat's life: waiting for a turn, doubt, its end (R17)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from quorate.coordinator import tenure as tenure_module
from quorate.coordinator import writer as writer_module
from quorate.coordinator.engine import Batch
from quorate.coordinator.hindrance import Hindrance
from quorate.coordinator.runs.tally import Tally
from quorate.coordinator.tenure import UNCERTAIN, Tenure
from quorate.coordinator.writer import Writer
from quorate.errors import RendezvousConnectionError, RendezvousDeposedError
from quorate.testing import ManualClock
from quorate.wire.messages import Waiting
from tests.coordinator.gated import GatedLedger, GatedSeat

DEPOSED = RendezvousDeposedError("another one has it")


class Unreadable(GatedLedger):
    """A ledger that cannot be loaded."""

    def load(self) -> dict[str, bytes]:
        raise RendezvousConnectionError("etcd did not answer")


class House:
    """A tenure, and what it lives on."""

    def __init__(self, ledger: GatedLedger | None = None, seat: GatedSeat | None = None) -> None:
        self.told: list[Waiting] = []
        self.ended: list[asyncio.Task[None]] = []
        self.clock = ManualClock()
        self.hindrance = Hindrance(self.told.append)
        self.writer = Writer(self.hindrance, Tally(), self.clock.monotonic, self.ended.append)
        self.tenure = Tenure(ledger, seat, self.writer, self.hindrance, self.clock.monotonic)

    async def probe(self) -> None:
        """Let it find out, and wait until it has."""
        self.ended.clear()
        self.tenure.find_out()
        while not self.ended:
            await asyncio.sleep(0)
        assert self.ended[0].exception() is None


def run(house: House, visit: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await visit(house)
        finally:
            await house.writer.close()

    asyncio.run(main())


async def is_over(house: House) -> bool:
    """Return whether the turn is over."""
    over = asyncio.ensure_future(house.tenure.over())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return over.done() or not over.cancel()


@pytest.mark.parametrize("ledger", [None, GatedLedger()])
def test_without_a_seat_it_decides_for_all_of_its_life(ledger: GatedLedger | None) -> None:
    async def visit(house: House) -> None:
        assert not house.tenure.has_turns
        assert house.tenure.ledger is ledger
        assert house.tenure.is_held()
        assert house.tenure.holder() == ""
        house.tenure.close()

    run(House(ledger), visit)


def test_r17_a_turn_begins_with_what_is_stored() -> None:
    seat, ledger = GatedSeat(), GatedLedger()
    ledger.kept["key"] = b"value"

    async def visit(house: House) -> None:
        assert house.tenure.has_turns
        assert house.tenure.ledger is None
        assert house.tenure.holder() == "holder:1"
        seat.ledgers.put(ledger)
        assert await house.tenure.begin() == {"key": b"value"}
        assert house.tenure.ledger is ledger
        assert not await is_over(house)

    run(House(seat=seat), visit)


def test_r17_who_cannot_read_what_is_stored_gives_the_seat_up_and_takes_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tenure_module, "COMMIT_RETRY_S", 0.0)
    seat, ledger = GatedSeat(), GatedLedger()

    async def visit(house: House) -> None:
        for each in (Unreadable(), ledger):
            seat.ledgers.put(each)
        await house.tenure.begin()
        assert house.tenure.ledger is ledger
        assert seat.takes == 2

    run(House(seat=seat), visit)


def test_a_seat_that_is_closed_ends_the_wait() -> None:
    seat = GatedSeat()

    async def visit(house: House) -> None:
        begun = asyncio.ensure_future(house.tenure.begin())
        await asyncio.sleep(0)
        house.tenure.close()
        with pytest.raises(RendezvousConnectionError):
            await begun

    run(House(seat=seat), visit)


def test_r17_a_turn_ends_for_its_own_ledger_only_and_may_come_again() -> None:
    seat, first, second = GatedSeat(), GatedLedger(), GatedLedger()

    async def visit(house: House) -> None:
        seat.ledgers.put(first)
        await house.tenure.begin()
        house.tenure.depose(first, DEPOSED)
        assert await is_over(house)
        seat.ledgers.put(second)
        await house.tenure.begin()
        house.tenure.depose(first, DEPOSED)
        assert not await is_over(house)
        house.tenure.depose(second, DEPOSED)
        assert await is_over(house)

    run(House(seat=seat), visit)


def test_r16_doubt_is_told_when_it_begins_and_is_over_with_the_turn_too() -> None:
    seat, ledger = GatedSeat(), GatedLedger()

    async def visit(house: House) -> None:
        seat.ledgers.put(ledger)
        await house.tenure.begin()
        for held in (True, False, False):
            house.tenure.tell_certainty(held)
        assert house.told == [UNCERTAIN]
        assert house.hindrance.waiting == UNCERTAIN
        house.tenure.tell_certainty(True)
        assert house.hindrance.waiting is None
        house.tenure.tell_certainty(False)
        assert house.told == [UNCERTAIN] * 2
        house.tenure.depose(ledger, DEPOSED)
        assert await is_over(house)
        assert house.hindrance.waiting is None
        house.tenure.tell_certainty(False)
        assert len(house.told) == 3

    run(House(seat=seat), visit)


def test_r16_a_write_that_goes_on_ends_no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "COMMIT_RETRY_S", 0.0)
    seat, ledger = GatedSeat(), GatedLedger()

    async def visit(house: House) -> None:
        seat.ledgers.put(ledger)
        await house.tenure.begin()
        house.tenure.tell_certainty(False)
        ledger.failures = [RendezvousConnectionError("etcd did not answer")]
        await house.writer.store(ledger, Batch(1, {"key": b"value"}, True, []))
        house.tenure.tell_certainty(False)
        assert house.hindrance.waiting == UNCERTAIN
        house.tenure.tell_certainty(True)
        assert house.hindrance.waiting is None

    run(House(seat=seat), visit)


def test_r17_who_is_in_doubt_finds_out_by_an_empty_write() -> None:
    seat, ledger = GatedSeat(), GatedLedger()

    async def visit(house: House) -> None:
        house.tenure.find_out()
        assert not house.writer.is_busy
        seat.ledgers.put(ledger)
        await house.tenure.begin()
        await house.probe()
        assert ledger.commits == [0]
        ledger.failures = [RendezvousConnectionError("etcd did not answer"), DEPOSED]
        await house.probe()
        assert not await is_over(house)
        await house.probe()
        assert await is_over(house)

    run(House(seat=seat), visit)


def test_while_something_is_written_nobody_has_to_find_out() -> None:
    ledger = GatedLedger()

    async def visit(house: House) -> None:
        ledger.gate.clear()
        house.tenure.find_out()
        house.tenure.find_out()
        ledger.gate.set()
        while not house.ended:
            await asyncio.sleep(0)

    run(House(ledger), visit)
    assert len(ledger.commits) == 1
