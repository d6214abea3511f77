from __future__ import annotations

from quorate.core.observer import Observer
from quorate.testing import ManualClock


def watch(observer: Observer, clock: ManualClock, seconds: int) -> None:
    """Let time pass under an observer that looks every second."""
    for _ in range(seconds):
        clock.advance(1)
        observer.tick()


def test_the_age_of_a_value_is_counted_from_its_first_sight() -> None:
    """R9"""
    clock = ManualClock()
    observer = Observer(clock)
    assert observer.age_s("deadline", "noon") == 0
    watch(observer, clock, 7)
    assert observer.age_s("deadline", "noon") == 7


def test_another_value_begins_at_zero() -> None:
    """R9"""
    clock = ManualClock()
    observer = Observer(clock)
    observer.age_s("deadline", "noon")
    watch(observer, clock, 7)
    assert observer.age_s("deadline", "one") == 0
    watch(observer, clock, 2)
    assert observer.age_s("deadline", "one") == 2
    assert observer.age_s("other", "one") == 0


def test_time_stands_still_between_two_ticks() -> None:
    """One decision sees one moment, however long it takes."""
    clock = ManualClock()
    observer = Observer(clock)
    before_s = observer.now_s
    observer.age_s("deadline", "noon")
    clock.advance(7)
    assert observer.age_s("deadline", "noon") == 0
    assert observer.now_s == before_s
    observer.tick()
    assert observer.now_s == before_s + 7


def test_silence_does_not_count_time_in_which_the_observer_was_away() -> None:
    """R9: frozen for 20 s, then awake: the others have been silent for one second at most."""
    clock = ManualClock()
    observer = Observer(clock, gap_max_s=1.0)
    observer.silence_s("beat", 1)
    watch(observer, clock, 3)
    clock.advance(20)
    observer.tick()
    assert observer.silence_s("beat", 1) == 4
    assert observer.age_s("beat", 1) == 23


def test_the_wall_clock_does_not_matter() -> None:
    """R9: a clock an hour off."""
    clock = ManualClock()
    observer = Observer(clock)
    observer.silence_s("beat", 1)
    before = observer.stamp()
    clock.wall_skew_s = -3600
    watch(observer, clock, 2)
    assert observer.stamp() < before
    assert observer.silence_s("beat", 1) == 2
    assert observer.age_s("beat", 1) == 2


def test_memory_is_bounded_by_what_is_kept() -> None:
    clock = ManualClock()
    observer = Observer(clock)
    observer.age_s("kept", 1)
    observer.age_s("gone", 1)
    watch(observer, clock, 5)
    observer.forget_all_but(["kept", "never seen"])
    assert observer.age_s("kept", 1) == 5
    assert observer.age_s("gone", 1) == 0
