"""What the process asks its own engine, as an operator does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from quorate.coordinator.engine import Engine
from quorate.coordinator.inquiries import Inquiries
from quorate.testing import ManualClock
from quorate.wire.messages import Failed, History, Reply, Report, Request, Status

NUMBER = 7


def asked(make_request: Callable[[int], Request], flushes: bool = True) -> Reply:
    """Return the answer of an engine without runs."""

    async def main() -> Reply:
        engine = Engine({}, ManualClock(), lambda: "epoch")

        def flush() -> None:
            assert engine.take_batch() is None
            for send in engine.take_sends():
                for number in (*send.connections, NUMBER + 1):
                    inquiries.answer(number, send.message)

        def plan_flush() -> None:
            if flushes:
                asyncio.get_running_loop().call_soon(flush)

        inquiries = Inquiries(plan_flush)
        try:
            return await inquiries.ask(engine, NUMBER, "", make_request, 30.0 if flushes else 0.01)
        finally:
            assert not engine.has_work()
            # Whatever is said to it now comes too late.
            inquiries.answer(NUMBER, Report(1, b""))

    return asyncio.run(main())


def test_the_answer_is_returned_and_nobody_stays_connected() -> None:
    answer = asked(Status)
    assert isinstance(answer, Report)
    assert answer.id == 1


def test_a_request_that_cannot_be_met_is_answered_too() -> None:
    assert isinstance(asked(lambda id: History(id, "nothing")), Failed)


def test_without_an_answer_the_time_runs_out() -> None:
    with pytest.raises(TimeoutError):
        asked(Status, flushes=False)
