"""What callers wait for: outcomes, their own patience, answers of the wrong kind."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from quorate.coordinator.agent.answers import Answers, answered, await_answer
from quorate.coordinator.agent.attachment import Outcome
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousProtocolError,
    RendezvousTimeoutError,
)
from quorate.wire.messages import Answer, Flag, Number

ANSWER = Flag(1, True)
LOST = RendezvousConnectionError("gone")


def expected(answers: Answers, request_id: int = 1) -> Future[Answer]:
    future: Future[Answer] = Future()
    answers.expect(request_id, future)
    return future


def too_late(timeout_s: float) -> RendezvousError:
    return RendezvousTimeoutError(f"nothing for {timeout_s:g} s")


def test_each_gets_its_own_outcome() -> None:
    answers = Answers()
    first, second, third = (expected(answers, number) for number in (1, 2, 3))
    answers.settle([Outcome(2, None, LOST), Outcome(1, ANSWER, None)])
    assert first.result(0) is ANSWER
    assert second.exception(0) is LOST
    assert not third.done()


def test_an_outcome_counts_once() -> None:
    answers = Answers()
    future = expected(answers)
    answers.settle([Outcome(1, ANSWER, None), Outcome(1, None, LOST)])
    answers.fail(1, LOST)
    assert future.result(0) is ANSWER


@pytest.mark.parametrize("outcome", [Outcome(1, ANSWER, None), Outcome(1, None, LOST)])
def test_who_has_given_up_or_is_forgotten_gets_nothing(outcome: Outcome) -> None:
    answers = Answers()
    cancelled = expected(answers)
    cancelled.cancel()
    answers.settle([outcome])
    forgotten = expected(answers)
    answers.forget(1)
    answers.settle([outcome])
    assert cancelled.cancelled()
    assert not forgotten.done()


def test_an_answer_or_an_error_is_handed_on() -> None:
    future: Future[Answer] = Future()
    future.set_result(ANSWER)
    assert await_answer(future, 0.0, too_late) is ANSWER
    future = Future()
    future.set_exception(LOST)
    with pytest.raises(RendezvousConnectionError, match="gone"):
        await_answer(future, 0.0, too_late)


def test_without_one_the_request_is_given_up() -> None:
    future: Future[Answer] = Future()
    with pytest.raises(RendezvousTimeoutError, match=r"nothing for 0\.01 s"):
        await_answer(future, 0.01, too_late)
    assert future.cancelled()


def test_an_answer_that_comes_at_the_last_moment_counts() -> None:
    class Late(Future[Answer]):
        """Is answered between the end of the wait and the attempt to cancel it."""

        def cancel(self) -> bool:
            self.set_result(ANSWER)
            return super().cancel()

    assert await_answer(Late(), 0.0, too_late) is ANSWER


def test_an_answer_of_another_kind_is_a_matter_of_releases() -> None:
    assert answered(ANSWER, Flag) is ANSWER
    with pytest.raises(RendezvousProtocolError, match="Flag where Number was due: run the same"):
        answered(ANSWER, Number)
