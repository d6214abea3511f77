"""What users of a store may be told, by histories that are written by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorate.errors import RendezvousStateError, StoreTimeoutError
from quorate.testing.sim.stores import Stores
from quorate.testing.sim.trace import Violation
from quorate.wire.messages import (
    AddNumber,
    Answer,
    CheckKeys,
    CompareSet,
    CountKeys,
    DeleteKey,
    Flag,
    GetValue,
    Number,
    SetValue,
    StoreRequest,
    Value,
    WaitKeys,
)

SPACE = ("epoch", 0)


class History:
    """What several users ask, each at most one thing at a time, and what they are answered."""

    def __init__(self) -> None:
        self.stores = Stores()
        self._ids = iter(range(1, 100))
        self._now_s = 0.0

    def ask(
        self, make: Callable[[int], StoreRequest], at_s: float | None = None
    ) -> Callable[..., None]:
        """Ask something; return what answers it."""
        request = make(next(self._ids))
        self.stores.asked("user", request, self._moment(at_s))

        def answer(said: object, at_s: float | None = None) -> None:
            self.stores.answered("user", request, _answer(request.id, said), self._moment(at_s))

        return answer

    def done(self, make: Callable[[int], StoreRequest], said: object) -> None:
        """Ask something and be answered before anything else is asked."""
        self.ask(make)(said)

    def _moment(self, at_s: float | None) -> float:
        self._now_s = self._now_s + 0.01 if at_s is None else at_s
        return self._now_s


def _answer(id: int, said: object) -> Answer | RendezvousStateError | StoreTimeoutError:
    if isinstance(said, RendezvousStateError | StoreTimeoutError):
        return said
    if isinstance(said, bytes):
        return Value(id, said)
    if isinstance(said, bool):
        return Flag(id, said)
    assert isinstance(said, int)
    return Number(id, said)


def set_(value: bytes, key: str = "key") -> Callable[[int], StoreRequest]:
    return lambda id: SetValue(id, SPACE, key, value)


def swap(expected: bytes, desired: bytes) -> Callable[[int], StoreRequest]:
    return lambda id: CompareSet(id, SPACE, "key", expected, desired)


def delete(id: int) -> StoreRequest:
    return DeleteKey(id, SPACE, "key")


def get(id: int) -> StoreRequest:
    return GetValue(id, SPACE, "key", 1.0)


def wait(*keys: str) -> Callable[[int], StoreRequest]:
    return lambda id: WaitKeys(id, SPACE, keys, 1.0)


def check(*keys: str) -> Callable[[int], StoreRequest]:
    return lambda id: CheckKeys(id, SPACE, keys)


def add(id: int) -> StoreRequest:
    return AddNumber(id, SPACE, "counter", 1)


def count(id: int) -> StoreRequest:
    return CountKeys(id, SPACE)


@pytest.fixture
def history() -> History:
    return History()


def refuses(history: History) -> None:
    with pytest.raises(Violation, match="R14"):
        history.stores.judge()


def test_what_a_store_answers_one_after_the_other_holds(history: History) -> None:
    history.done(check("key"), False)
    history.done(delete, False)
    history.done(swap(b"x", b"never"), b"x")  # An absent key stays so, as torch's stores do it.
    history.done(swap(b"", b"1"), b"1")
    history.done(swap(b"", b"never"), b"1")
    history.done(swap(b"1", b"2"), b"2")
    history.done(get, b"2")
    history.done(delete, True)
    history.done(set_(b"3"), True)
    history.done(wait("key"), True)
    history.stores.judge()


def test_answers_may_be_in_another_order_than_questions(history: History) -> None:
    first, second = history.ask(swap(b"", b"1")), history.ask(swap(b"", b"2"))
    first(b"2")
    second(b"2")
    history.stores.judge()


def test_two_comparisons_cannot_replace_the_same_value(history: History) -> None:
    first, second = history.ask(swap(b"", b"1")), history.ask(swap(b"", b"2"))
    first(b"1")
    second(b"2")
    refuses(history)


def test_a_deletion_between_them_lets_both_replace_it(history: History) -> None:
    first, second = history.ask(swap(b"", b"1")), history.ask(swap(b"", b"2"))
    third = history.ask(delete)
    first(b"1")
    second(b"2")
    third(True)
    history.stores.judge()


def test_a_comparison_that_was_made_twice_was_told_of_another_value(history: History) -> None:
    # It was made, the next one followed, and when it was asked again it was compared again.
    again = history.ask(swap(b"", b"1"))
    history.done(get, b"1")
    history.done(swap(b"1", b"2"), b"2")
    again(b"2")
    refuses(history)


def test_a_deletion_that_was_made_twice_is_seen(history: History) -> None:
    history.done(set_(b"1"), True)
    again = history.ask(delete)
    history.done(check("key"), False)
    history.done(set_(b"2"), True)
    again(True)
    history.done(check("key"), False)
    refuses(history)


def test_what_was_told_is_seen_by_all_who_ask_later(history: History) -> None:
    history.done(set_(b"1"), True)
    history.done(set_(b"2"), True)
    history.done(get, b"1")
    refuses(history)


@pytest.mark.parametrize("answer", [None, RendezvousStateError("the store was removed")])
def test_what_was_not_answered_may_have_been_done_or_not(
    history: History, answer: RendezvousStateError | None
) -> None:
    tell = history.ask(set_(b"1"))
    if answer is not None:
        tell(answer)
    history.done(check("key"), False)
    history.done(get, b"1")
    history.ask(delete)
    history.ask(swap(b"1", b"2"))
    history.stores.judge()


def test_what_would_change_nothing_now_may_be_done_later(history: History) -> None:
    history.ask(delete)
    history.done(swap(b"", b"1"), b"1")
    history.done(get, b"1")
    history.done(swap(b"", b"2"), b"2")
    history.stores.judge()


def test_what_nobody_set_is_not_there(history: History) -> None:
    history.done(set_(b"1"), True)
    history.done(get, b"2")
    refuses(history)


def test_a_wait_is_over_once_the_key_is_there(history: History) -> None:
    waiting = history.ask(wait("key"), at_s=0.0)
    history.done(set_(b"1"), True)
    waiting(StoreTimeoutError("not there"), at_s=1.0)
    refuses(history)


def test_a_key_that_may_have_come_too_late_ends_no_wait(history: History) -> None:
    waiting = history.ask(get, at_s=0.0)
    setting = history.ask(set_(b"1"), at_s=0.5)
    waiting(StoreTimeoutError("not there"), at_s=1.0)
    setting(True, at_s=1.1)
    history.stores.judge()


def test_a_wait_takes_the_time_that_it_was_given(history: History) -> None:
    waiting = history.ask(wait("key"), at_s=0.0)
    with pytest.raises(Violation, match="wait long enough"):
        waiting(StoreTimeoutError("not there"), at_s=0.9)


def test_a_wait_for_two_keys_needs_both(history: History) -> None:
    history.done(set_(b"1"), True)
    history.done(check("key", "other"), False)
    history.stores.judge()
    history.done(wait("key", "other"), True)
    refuses(history)


def test_a_wait_for_two_keys_may_miss_either(history: History) -> None:
    history.done(set_(b"1"), True)
    history.ask(wait("key", "other"), at_s=1.0)(StoreTimeoutError("not there"), at_s=2.0)
    history.stores.judge()


@pytest.mark.parametrize(("total", "why"), [(1, "two additions"), (3, "3 of 2"), (0, "where 1")])
def test_each_addition_gives_another_sum(history: History, total: int, why: str) -> None:
    history.done(add, 1)
    with pytest.raises(Violation, match=why):
        history.done(add, total)


def test_sums_do_not_go_back(history: History) -> None:
    history.ask(add)
    history.done(add, 2)
    with pytest.raises(Violation, match="where 2 was told before"):
        history.done(add, 1)


def test_a_lost_addition_may_have_been_made(history: History) -> None:
    history.ask(add)
    history.done(add, 2)
    history.done(add, 3)


@pytest.mark.parametrize(("keys", "holds"), [(1, False), (2, True), (3, True), (4, False)])
def test_as_many_keys_are_counted_as_there_can_be(history: History, keys: int, holds: bool) -> None:
    history.done(set_(b"1", "kept"), True)
    history.done(add, 1)
    history.done(set_(b"2"), True)
    history.ask(delete)
    if holds:
        history.done(count, keys)
    else:
        with pytest.raises(Violation, match="keys"):
            history.done(count, keys)


def test_an_answer_is_of_the_kind_that_was_asked_for(history: History) -> None:
    with pytest.raises(Violation, match="is answered"):
        history.done(set_(b"1"), 3)


def test_many_changes_at_once_are_judged_quickly(history: History) -> None:
    answers = [history.ask(set_(b"%d" % number)) for number in range(12)]
    for answer in answers:
        answer(True)
    history.done(get, b"7")
    history.stores.judge()
