"""What is asked in a session and not answered yet, as those see it who wait, in their threads."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable
from typing import TypeVar

from quorate.coordinator.agent.attachment import Outcome
from quorate.errors import RendezvousError, RendezvousProtocolError
from quorate.wire.messages import Answer

__all__ = ["Answers", "Kind", "answered", "await_answer"]

Kind = TypeVar("Kind")


class Answers:
    """The futures of one session, by request id."""

    def __init__(self) -> None:
        self._futures: dict[int, concurrent.futures.Future[Answer]] = {}

    def expect(self, request_id: int, future: concurrent.futures.Future[Answer]) -> None:
        """Keep a future until its request has an outcome, or is forgotten."""
        self._futures[request_id] = future

    def forget(self, request_id: int) -> None:
        """Forget a request that nobody waits for any more."""
        self._futures.pop(request_id, None)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Hand outcomes to those who wait for them."""
        for outcome in outcomes:
            if outcome.answer is None:
                self.fail(outcome.request_id, outcome.error)
            elif (future := self._futures.pop(outcome.request_id, None)) is not None:
                # The caller may give up at any moment, in its own thread.
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    future.set_result(outcome.answer)

    def fail(self, request_id: int, error: Exception | None) -> None:
        """Hand an error to whoever waits for an answer."""
        if (future := self._futures.pop(request_id, None)) is not None:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_exception(error)


def await_answer(
    future: concurrent.futures.Future[Answer],
    timeout_s: float,
    no_answer: Callable[[float], RendezvousError],
) -> Answer:
    """Wait for an answer; after that time nothing is asked any more.

    Args:
        future: What the session has returned.
        timeout_s: How long to wait, in seconds.
        no_answer: Returns the error if there was no answer in that time.

    Raises:
        RendezvousError: What was answered, or that nothing was.
    """
    try:
        return future.result(timeout_s)
    except TimeoutError:
        if future.cancel():
            raise no_answer(timeout_s) from None
        return future.result()


def answered(answer: Answer, kind: type[Kind]) -> Kind:
    """Return an answer that must be of one kind.

    Raises:
        RendezvousProtocolError: It is of another.
    """
    if not isinstance(answer, kind):
        raise RendezvousProtocolError(
            f"The coordinator answered with {type(answer).__name__} where {kind.__name__} was due: "
            f"run the same release of quorate everywhere."
        )
    return answer
