from __future__ import annotations

from datetime import UTC, datetime, timedelta

from quorate.core.node import NodeDesc
from quorate.core.observer import Observer
from quorate.testing import ManualClock

NODE = NodeDesc("a", 1, 0)
A, B = NODE, NodeDesc("b", 1, 0)
BEATS = {NODE: datetime(2020, 1, 1, tzinfo=UTC)}


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
    observer.silent(BEATS, 5)
    watch(observer, clock, 3)
    clock.advance(20)
    observer.tick()
    assert observer.beat_age_s(NODE, BEATS[NODE]) == 23
    assert observer.silent(BEATS, 5) == []
    watch(observer, clock, 1)
    assert observer.silent(BEATS, 5) == [NODE]


def test_a_node_that_beats_is_not_silent() -> None:
    clock = ManualClock()
    observer = Observer(clock)
    observer.silent(BEATS, 5)
    watch(observer, clock, 4)
    beats = {NODE: BEATS[NODE] + timedelta(microseconds=1)}
    assert observer.silent(beats, 5) == []
    assert observer.beat_age_s(NODE, beats[NODE]) == 0
    watch(observer, clock, 4)
    assert observer.silent(beats, 5) == []


def test_a_node_that_was_gone_meanwhile_is_seen_for_the_first_time() -> None:
    clock = ManualClock()
    observer = Observer(clock)
    observer.silent(BEATS, 5)
    watch(observer, clock, 4)
    observer.silent({}, 5)
    watch(observer, clock, 4)
    assert observer.silent(BEATS, 5) == []


def test_the_wall_clock_does_not_matter() -> None:
    """R9: a clock an hour off."""
    clock = ManualClock()
    observer = Observer(clock)
    observer.silent(BEATS, 2)
    before = observer.stamp()
    clock.wall_skew_s = -3600
    watch(observer, clock, 2)
    assert observer.stamp() < before
    assert observer.silent(BEATS, 2) == [NODE]
    assert observer.silent(BEATS, 3) == []


def test_memory_is_bounded_by_what_is_kept() -> None:
    clock = ManualClock()
    observer = Observer(clock)
    observer.age_s("kept", 1)
    observer.age_s("gone", 1)
    watch(observer, clock, 5)
    observer.forget_all_but(["kept", "never seen"])
    assert observer.age_s("kept", 1) == 5
    assert observer.age_s("gone", 1) == 0


def test_time_in_which_nobody_could_write_is_taken_back() -> None:
    """R9: what was watched up to the last write that was seen counts all the same."""
    clock = ManualClock()
    observer = Observer(clock)
    observer.silent(BEATS, 100)
    watch(observer, clock, 3)
    observer.confirm()
    watch(observer, clock, 20)
    observer.retract()
    assert observer.silent(BEATS, 3) == [NODE]
    assert observer.silent(BEATS, 4) == []
    watch(observer, clock, 2)
    assert observer.silent(BEATS, 5) == [NODE]


def test_each_in_a_line_has_an_age_of_its_own() -> None:
    clock = ManualClock()
    observer = Observer(clock)
    line: dict[NodeDesc, datetime] = {}

    def age_after(seconds: float, came: NodeDesc | None = None, *gone: NodeDesc) -> float:
        clock.advance(seconds)
        observer.tick()
        for who in gone:
            del line[who]
        if came is not None:
            line[came] = clock.now()
        return observer.line_age_s(line)

    assert age_after(0) == 0
    assert age_after(1, A) == 0
    assert age_after(1, B) == 1
    assert age_after(1) == 2
    assert age_after(1, None, A) == 2
    assert age_after(1, A) == 3, "who comes again is the last"
    assert age_after(1, None, B) == 1
    assert age_after(1, None, A) == 0
    assert age_after(1, B) == 0


def test_a_line_is_remembered_only_as_far_as_it_is_there() -> None:
    observer = Observer(ManualClock())
    for number in range(100):
        observer.line_age_s({NodeDesc("n", number, 0): observer.stamp()})
    assert len(observer._line) <= 2
