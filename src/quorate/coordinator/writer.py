"""The one thread that a coordinator uses its ledger in, and what is done there."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from quorate.backends.bounded import Call, serve
from quorate.coordinator.engine import Batch
from quorate.coordinator.hindrance import Hindrance
from quorate.coordinator.ledgers.base import Ledger
from quorate.coordinator.runs.tally import Tally
from quorate.errors import RendezvousConnectionError, RendezvousDeposedError
from quorate.wire.messages import Waiting

__all__ = ["COMMIT_RETRY_S", "Writer"]

logger = logging.getLogger("quorate.coordinator")

COMMIT_RETRY_S = 1.0

# A write takes milliseconds. One that takes so long, on a disk or a network file system that hangs,
# is told: it may never return.
COMMIT_PATIENCE_S = 2.0

# A disk that hangs keeps no coordinator from ending: who stops it kills it otherwise, after 10 s
# or 30.
END_TIMEOUT_S = 5.0

# The kind of what agents that wait are told.
STALLED = "stalled"

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
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        # It ends with the process, where a call in it does not return.
        self._thread = threading.Thread(
            target=serve, args=(self._calls,), name="quorate-writer", daemon=True
        )
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
        return await self._begun(action)

    async def store(self, ledger: Ledger, batch: Batch) -> None:
        """Write a batch, however often it takes; until then nobody may be answered (R14).

        Raises:
            RendezvousDeposedError: Another coordinator has taken over; nothing was stored.
            Exception: What cannot be mended by trying again.
        """
        begun_s = self._now_s()
        try:
            has_stalled = await self._store(ledger, batch)
        finally:
            self._hindrance.end(STALLED)
        took_s = self._now_s() - begun_s
        self._tally.commit.observe(took_s)
        if has_stalled:
            logger.info("writing goes on after a stall of %.1f s", took_s)

    def cancel(self) -> None:
        """Give up the work that is going on; what the thread does meanwhile it ends."""
        if self._work is not None:
            self._work.cancel()

    async def close(self) -> bool:
        """Wait, in bounded time, for the end of the thread; return whether it has ended.

        If it has not, what is used in it must be left alone.
        """
        if not self._thread.is_alive():
            return True
        last = self._begun(lambda: self._calls.put(None))
        await asyncio.wait({last}, timeout=END_TIMEOUT_S)
        if not last.done():
            logger.error(
                "writing has not returned for %g s: this coordinator ends without it. Agents are "
                "told nothing that is not stored, and ask the next one again",
                END_TIMEOUT_S,
            )
            return False
        self._thread.join()
        return True

    async def _store(self, ledger: Ledger, batch: Batch) -> bool:
        """Write a batch; return whether that took more than one try, or long."""
        failures = 0
        while True:
            try:
                in_time = await self._commit(ledger, batch)
                return failures > 0 or not in_time
            except RendezvousDeposedError:
                raise
            except RendezvousConnectionError as error:
                why = str(error).rstrip(".")
                logger.error("%s; agents wait until it can be stored, trying again", why)
                failures += 1
                if failures > 1:
                    self._tell(why)
                await asyncio.sleep(COMMIT_RETRY_S)

    async def _commit(self, ledger: Ledger, batch: Batch) -> bool:
        """Try to write a batch; return whether it was quick. If it takes long, that is told."""
        commit = self._begun(lambda: ledger.commit(batch.changes, batch.durable))
        try:
            quick, _ = await asyncio.wait({commit}, timeout=COMMIT_PATIENCE_S)
            if not quick:
                logger.error(
                    "writing has not returned for %g s: see whether the disk or the service that "
                    "is written to is alive; agents wait until it can be stored",
                    COMMIT_PATIENCE_S,
                )
                self._tell("what is written to does not answer")
            await commit
        finally:
            commit.cancel()
        return bool(quick)

    def _begun(self, action: Callable[[], Result]) -> asyncio.Future[Result]:
        """Let the thread do something next; return what will be its result."""
        if self._thread.ident is None:
            self._thread.start()
        future: Future[Result] = Future()
        self._calls.put((action, future))
        return asyncio.wrap_future(future)

    def _tell(self, why: str) -> None:
        self._hindrance.begin(Waiting(STALLED, f"nothing can be stored: {why}", 0.0))
