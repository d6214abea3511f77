from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from quorate.launch.exit_barrier import Ending, await_others
from quorate.stores.memory import MemoryStore


class HandClock:
    """A clock on which time passes only by sleeping; `then` happens meanwhile."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.then: Callable[[], Any] = list

    def monotonic(self) -> float:
        return self.time_s

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        self.then()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def finish(
    store: MemoryStore, clock: HandClock, nodes: int = 2, closed: bool = False, change: bool = False
) -> Ending:
    return await_others(store, nodes, lambda: closed, lambda: change, clock, timeout_s=300)


def test_the_last_one_does_not_wait_and_tells_the_first(clock: HandClock) -> None:
    store = MemoryStore()
    others: list[Ending] = []

    def the_other_finishes() -> None:
        if clock.time_s > 20 and not others:
            others.append(finish(store, HandClock()))

    clock.then = the_other_finishes
    assert finish(store, clock) is Ending.EVERYONE
    assert others == [Ending.EVERYONE]
    assert 20 < clock.time_s < 22


def test_a_node_alone_does_not_wait(clock: HandClock) -> None:
    assert finish(MemoryStore(), clock, nodes=1) is Ending.EVERYONE
    assert clock.time_s == 0


def test_a_closed_run_ends_the_wait(clock: HandClock) -> None:
    assert finish(MemoryStore(), clock, closed=True) is Ending.CLOSED


def test_a_change_ends_the_wait(clock: HandClock) -> None:
    assert finish(MemoryStore(), clock, change=True) is Ending.CHANGE


def test_that_everyone_has_finished_goes_before_a_change(clock: HandClock) -> None:
    store = MemoryStore()
    store.set("quorate/all_finished", b"1")
    assert finish(store, clock, nodes=3, change=True) is Ending.EVERYONE


def test_the_wait_is_bounded(clock: HandClock) -> None:
    assert finish(MemoryStore(), clock) is Ending.TIMEOUT
    assert clock.time_s == pytest.approx(300)
