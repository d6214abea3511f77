"""When a coordinator decides, over which ledger, and whether that is certain (R17)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from quorate.coordinator.hindrance import Hindrance
from quorate.coordinator.ledgers.base import Ledger, Seat
from quorate.coordinator.writer import COMMIT_RETRY_S, Writer
from quorate.errors import RendezvousConnectionError, RendezvousDeposedError
from quorate.wire.messages import Waiting

__all__ = ["Tenure"]

logger = logging.getLogger("quorate.coordinator")

# What agents that wait are told while a shared ledger does not answer.
UNCERTAIN = Waiting("uncertain", "what the coordinators share their runs in does not answer", 0.0)


class Tenure:
    """The time in which one of several coordinators holds the seat.

    A coordinator without a seat has the same ledger, if any, for all of its life.

    Args:
        ledger: The ledger of a coordinator without a seat; `None` if it keeps nothing.
        seat: What several coordinators take turns in.
        writer: Where the ledger and the seat are used.
        hindrance: Is told when it is not certain who decides.
        now_s: Returns the monotonic time in seconds.

    Attributes:
        ledger: What to write to; `None` for nowhere, or before the first turn.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        seat: Seat | None,
        writer: Writer,
        hindrance: Hindrance,
        now_s: Callable[[], float],
    ) -> None:
        self.ledger = ledger
        self._seat = seat
        self._writer = writer
        self._hindrance = hindrance
        self._now_s = now_s
        self._uncertain_since_s: float | None = None
        self._deposed = asyncio.Event()

    @property
    def has_turns(self) -> bool:
        """Whether others may decide: then `begin` has to be awaited first."""
        return self._seat is not None

    def holder(self) -> str:
        """Return the endpoint of the coordinator that decides; empty if none is known."""
        return self._seat.holder() if self._seat is not None else ""

    async def begin(self) -> dict[str, bytes]:
        """Wait for a turn; return what is stored.

        Raises:
            RendezvousConnectionError: The seat was closed meanwhile.
        """
        assert self._seat is not None
        while True:
            ledger = await self._writer.do(self._seat.take)
            try:
                records = await self._writer.do(ledger.load)
            except RendezvousConnectionError as error:
                logger.warning("%s; this coordinator gives the seat up again", error)
                await asyncio.sleep(COMMIT_RETRY_S)
            else:
                self.ledger = ledger
                self._deposed.clear()
                return records

    async def over(self) -> None:
        """Wait until the turn is over; nothing of it is in the way any more."""
        await self._deposed.wait()
        self._uncertain_since_s = None
        self._hindrance.end(UNCERTAIN.kind)

    def depose(self, ledger: Ledger, error: RendezvousDeposedError) -> None:
        """End the turn; what is told of a ledger that was given up before is no news."""
        if ledger is self.ledger and not self._deposed.is_set():
            logger.warning("%s", error)
            self._deposed.set()

    def is_held(self) -> bool:
        """Return whether it is certain that nobody else decides: else nothing may be answered."""
        return self.ledger is None or self.ledger.is_held()

    def tell_certainty(self, held: bool) -> None:
        """Say, when it begins and ends, that nobody is answered (R16)."""
        since_s = self._uncertain_since_s
        if not held and since_s is None:
            self._uncertain_since_s = self._now_s()
            logger.warning("%s: nobody is answered until it does", UNCERTAIN.reason)
            self._hindrance.begin(UNCERTAIN)
        elif held and since_s is not None:
            self._uncertain_since_s = None
            self._hindrance.end(UNCERTAIN.kind)
            logger.info("it is certain again who decides, after %.1f s", self._now_s() - since_s)

    def find_out(self) -> None:
        """Where it is not certain that the seat is still ours: an empty write will tell."""
        if self.ledger is not None and not self._writer.is_busy:
            self._writer.begin(self._probe(self.ledger))

    def close(self) -> None:
        """Give the seat up, so that another coordinator need not wait."""
        if self._seat is not None:
            self._seat.close()

    async def _probe(self, ledger: Ledger) -> None:
        try:
            await self._writer.do(lambda: ledger.commit({}))
        except RendezvousDeposedError as error:
            self.depose(ledger, error)
        except RendezvousConnectionError as error:
            logger.warning("%s; agents wait until it is clear who decides", error)
