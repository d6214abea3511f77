"""What a coordinator's own process asks its engine, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quorate.coordinator.engine import Engine
from quorate.core.settings import PROTOCOL_VERSION
from quorate.wire.messages import ROLE_OPERATOR, Hello, Reply, Request, Welcome

__all__ = ["Inquiries"]


class Inquiries:
    """Asks as an operator does who is connected, and waits for the answers.

    Args:
        plan_flush: Sees to it that what the engine says is sent.
    """

    def __init__(self, plan_flush: Callable[[], None]) -> None:
        self._plan_flush = plan_flush
        self._answers: dict[int, asyncio.Future[Reply]] = {}

    async def ask(
        self,
        engine: Engine,
        number: int,
        run_id: str,
        make_request: Callable[[int], Request],
        timeout_s: float,
    ) -> Reply:
        """Ask, and return the answer.

        Args:
            engine: Who is asked.
            number: A number that no connection has.
            run_id: The run of the operator's hello; empty for none.
            make_request: Gets the request's id.
            timeout_s: How long to wait for the answer, in seconds.

        Raises:
            TimeoutError: There was no answer in time: the ledger does not answer.
        """
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        engine.opened(number)
        engine.receive(number, Hello(PROTOCOL_VERSION, ROLE_OPERATOR, run_id, f"page{number}"))
        engine.receive(number, make_request(1))
        self._plan_flush()
        try:
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            del self._answers[number]
            engine.closed(number, finished=True)

    def answer(self, number: int, message: Reply | None) -> None:
        """Take what the engine says to a number, whether anybody asks under it or not."""
        answer = self._answers.get(number)
        if answer is None or answer.done() or message is None or isinstance(message, Welcome):
            return
        answer.set_result(message)
