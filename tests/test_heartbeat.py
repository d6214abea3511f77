from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from quorate.heartbeat import PeriodicTimer

SOON = timedelta(milliseconds=1)
NEVER = timedelta(hours=1)


def alive(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


def test_it_calls_again_and_again_until_it_is_cancelled() -> None:
    calls: list[tuple[int, str]] = []
    third = threading.Event()

    def function(number: int, text: str) -> None:
        calls.append((number, text))
        if len(calls) == 3:
            third.set()

    timer = PeriodicTimer(SOON, function, 1, "a", name="timer_a")
    timer.start()
    assert timer.name == "timer_a"
    assert alive("timer_a")
    assert third.wait(5)
    timer.cancel()
    assert not alive("timer_a")
    assert set(calls) == {(1, "a")}
    made = len(calls)
    timer.cancel()
    assert len(calls) == made


def test_it_does_not_call_before_the_interval_has_passed() -> None:
    calls: list[int] = []
    timer = PeriodicTimer(NEVER, calls.append, 1)
    timer.start()
    timer.cancel()
    assert calls == []


def test_it_ends_with_its_owner(until: Callable[..., Any]) -> None:
    class Owner:
        def __init__(self) -> None:
            self.timer = PeriodicTimer(NEVER, print, name="timer_of_owner")
            self.timer.start()

    owner = Owner()
    assert alive("timer_of_owner")
    del owner
    gc.collect()
    until(lambda: not alive("timer_of_owner"), what="the end of the thread")


def test_it_may_be_collected_on_its_own_thread(until: Callable[..., Any]) -> None:
    """The thread itself may drop the last reference to the owner, and must not wait for itself."""
    called, dropped = threading.Event(), threading.Event()

    class Owner:
        def __init__(self) -> None:
            self.timer = PeriodicTimer(SOON, work, weakref.ref(self), name="timer_self")

    def work(reference: weakref.ref[Owner]) -> None:
        owner = reference()
        called.set()
        dropped.wait(5)
        del owner

    owner = Owner()
    owner.timer.start()
    assert called.wait(5)
    del owner
    dropped.set()
    until(lambda: not alive("timer_self"), what="the end of the thread")


def test_it_starts_once() -> None:
    timer = PeriodicTimer(NEVER, print)
    timer.start()
    with pytest.raises(RuntimeError, match="started before"):
        timer.start()
    timer.cancel()


def test_one_that_was_never_started_can_be_cancelled() -> None:
    timer = PeriodicTimer(NEVER, print, name="never")
    timer.cancel()
    assert not alive("never")
