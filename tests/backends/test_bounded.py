"""Calls with a deadline: results and errors pass through, a stuck one blocks nobody."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from quorate.backends.bounded import BoundedCaller
from quorate.errors import RendezvousConnectionError


@pytest.fixture
def caller() -> Iterator[BoundedCaller]:
    with closing(BoundedCaller("The store")) as caller:
        yield caller


def test_the_result_is_returned(caller: BoundedCaller) -> None:
    assert caller.call(lambda: "result", 10.0) == "result"


@pytest.mark.parametrize("error", [KeyError("k"), TimeoutError("its own")])
def test_an_error_is_raised_as_it_is(caller: BoundedCaller, error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        caller.call(fail, 10.0)
    assert caught.value is error


def test_calls_are_made_on_one_other_thread(caller: BoundedCaller) -> None:
    threads = {caller.call(threading.get_ident, 10.0) for _ in range(3)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_stuck_call_is_given_up_and_blocks_the_next_until_it_returns(
    caller: BoundedCaller, until: Callable[..., Any]
) -> None:
    release = threading.Event()
    with pytest.raises(RendezvousConnectionError, match=r"The store did not answer within 0\.02 s"):
        caller.call(release.wait, 0.02)
    with pytest.raises(RendezvousConnectionError, match="an earlier call"):
        caller.call(lambda: "not made", 10.0)
    release.set()

    def answers() -> bool:
        try:
            return caller.call(lambda: True, 10.0)
        except RendezvousConnectionError:
            return False

    assert until(answers)


def test_a_call_behind_a_stuck_one_is_never_made(
    caller: BoundedCaller, until: Callable[..., Any]
) -> None:
    release, made = threading.Event(), threading.Event()
    stuck = threading.Thread(target=lambda: caller.call(release.wait, 10.0))
    stuck.start()
    until(caller._calls.empty)
    with pytest.raises(RendezvousConnectionError, match="did not answer"):
        caller.call(made.set, 0.02)
    release.set()
    stuck.join(10.0)
    assert caller.call(lambda: "next", 10.0) == "next"
    assert not made.is_set()


def test_the_thread_ends_with_the_caller(until: Callable[..., Any]) -> None:
    before = set(threading.enumerate())
    caller = BoundedCaller("The store")
    caller.call(lambda: None, 10.0)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    del caller
    gc.collect()
    until(lambda: not thread.is_alive())


def test_a_closed_caller_says_so(caller: BoundedCaller) -> None:
    caller.close()
    with pytest.raises(RendezvousConnectionError, match="The store was closed here"):
        caller.call(lambda: None, 10.0)
