"""Machines whose clocks are wrong, and processes that freeze, wake and die."""

from __future__ import annotations

import pytest

from quorate.testing.sim.process import DRIFT_MAX, SKEW_MAX_S, START, Asleep, Machine, Process
from quorate.testing.sim.schedule import Schedule


class Looping(Process):
    """A process that counts the turns of its loop."""

    turns = 0

    def turn_over(self) -> None:
        self.turns += 1


@pytest.fixture
def schedule() -> Schedule:
    return Schedule(1)


def test_a_machines_clocks_are_wrong_but_steady(schedule: Schedule) -> None:
    machine = Machine(schedule, "a")
    before_s, wall = machine.monotonic(), machine.now()
    assert 0 < abs((wall - START).total_seconds()) <= SKEW_MAX_S
    schedule.run_until(100)
    assert machine.monotonic() - before_s == pytest.approx(100, rel=DRIFT_MAX)
    assert machine.monotonic() - before_s != 100
    with pytest.raises(Asleep):
        machine.sleep(1)


def test_what_reaches_a_frozen_process_waits(schedule: Schedule) -> None:
    process, seen = Process(schedule, Machine(schedule, "a")), []
    process.freeze(5)
    process.later(1, seen.append, "timer")
    process.handle(seen.append, "word")
    schedule.run_until(4.9)
    assert seen == []
    schedule.run_until(5.1)
    assert sorted(seen) == ["timer", "word"]


def test_loops_differ_in_what_they_look_at_first(schedule: Schedule) -> None:
    orders = set()
    for _ in range(20):
        process, seen = Process(schedule, Machine(schedule, "a")), []
        process.freeze(2)
        process.handle(seen.append, "word")
        process.later(1, seen.append, "timer")
        schedule.run_until(schedule.now_s + 3)
        orders.add(tuple(seen))
    assert orders == {("word", "timer"), ("timer", "word")}


def test_a_dead_process_does_nothing(schedule: Schedule) -> None:
    process, seen = Process(schedule, Machine(schedule, "a")), []
    process.later(1, seen.append, "timer")
    process.die()
    process.handle(seen.append, "word")
    schedule.run_until(2)
    assert seen == []


def test_a_crash_ends_a_turn_or_follows_it(schedule: Schedule) -> None:
    endings = set()
    for _ in range(20):
        process, seen = Looping(schedule, Machine(schedule, "a")), []
        process.crash = (2, process.die)
        for word in ("one", "two", "three"):
            process.handle(seen.append, word)
        assert seen == ["one", "two"]
        endings.add(process.turns)
    assert endings == {1, 2}, "what the last turn wanted to write is written, or not"
