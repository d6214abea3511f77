"""The one thread that a coordinator uses its ledger in, and what is done there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from quorate.coordinator.engine import Batch
from quorate.coordinator.hindrance import Hindrance
from quorate.coordinator.ledgers.base import Ledger
from quorate.coordinator.runs.tally import Tally
from quorate.errors import RendezvousConnectionError, RendezvousDeposedError
from quorate.wire.messages import Waiting

__all__ = ["COMMIT_RETRY_S", "Writer"]

logger = logging.getLogger("quorate.coordinator")

COMMIT_RETRY_S = 1.0

Result = TypeVar("Result")


class Writer:
    """Writes batches to a ledger, one at a time.

    Args:
        hindrance: Is told when nothing can be stored.
        tally: Where is counted how long it takes.
        now_s: Returns the monotonic time in seconds.
        ended: Gets the task of each piece of work when it is over, whatever became of it.
    """

    def __init__(
        self,
        hindrance: Hindrance,
        tally: Tally,
        now_s: Callable[[], float],
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._hindrance = hindrance
        self._tally = tally
        self._now_s = now_s
        self._ended = ended
        self._thread = ThreadPoolExecutor(1, "quorate-writer")
        self._work: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last piece of work is still going on."""
        return self._work is not None and not self._work.done()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a piece of work, which may use `do` and `store`."""
        self._work = asyncio.get_running_loop().create_task(work)
        self._work.add_done_callback(self._ended)

    async def do(self, action: Callable[[], Result]) -> Result:
        """Do something in the thread, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)

    async def store(self, ledger: Ledger, batch: Batch) -> None:
        """Write a batch, however often it takes; until then nobody may be answered (R14).

        Raises:
            RendezvousDeposedError: Another coordinator has taken over; nothing was stored.
            Exception: What cannot be mended by trying again.
        """
        begun_s = self._now_s()
        stalled_since_s: float | None = None
        while True:
            try:
                await self.do(lambda: ledger.commit(batch.changes, batch.durable))
                break
            except RendezvousDeposedError:
                raise
            except RendezvousConnectionError as error:
                why = str(error).rstrip(".")
                logger.error("%s; agents wait until it can be stored, trying again", why)
                if stalled_since_s is None:
                    stalled_since_s = self._now_s()
                elif self._hindrance.waiting is None:
                    self._hindrance.begin(Waiting("stalled", f"nothing can be stored: {why}", 0.0))
                await asyncio.sleep(COMMIT_RETRY_S)
        self._tally.commit.observe(self._now_s() - begun_s)
        if stalled_since_s is not None:
            self._hindrance.end()
            stall_s = self._now_s() - stalled_since_s
            logger.info("writing goes on after a stall of %.1f s", stall_s)

    def cancel(self) -> None:
        """Give up the work that is going on; what the thread does meanwhile it ends."""
        if self._work is not None:
            self._work.cancel()

    def close(self) -> None:
        """Wait for the end of the thread."""
        self._thread.shutdown(wait=True)
