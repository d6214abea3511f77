"""What may be asked at once: who asks for too much waits, and others before it (R15)."""

from __future__ import annotations

import pytest

from quorate.coordinator.entrance import flow as flow_module
from quorate.coordinator.entrance.flow import (
    BEATS_AT_ONCE_MAX,
    BEATS_COUNTED_S,
    GREEDY_AT_ONCE_MAX,
    GREEDY_EVERY_S,
    REQUESTS_AT_ONCE_MAX,
    Flow,
)


class Asking:
    """Asks for all that it has left as soon as it may."""

    def __init__(self, number: int, flow: Flow, left: int = 0) -> None:
        self.number = number
        self.asked = self.asked_bytes = self.asked_turn = self.beats = 0
        self.beats_since_s = 0.0
        self.paused = False
        self.left = left
        self._flow = flow

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.ask()

    def ask(self, body_bytes: int = 1) -> None:
        while self.left and not self.paused:
            self.left -= 1
            self._flow.count(self, body_bytes)


def goes(flow: Flow, goers: int, left: int = 10 * REQUESTS_AT_ONCE_MAX) -> list[Asking]:
    """Return some who have asked for too much."""
    greedy = [Asking(number, flow, left) for number in range(goers)]
    for asking in greedy:
        asking.ask()
    return greedy


def went_on(greedy: list[Asking]) -> list[int]:
    """Return how often each of them went on after its first time, if it had ten in all."""
    return [9 - asking.left // REQUESTS_AT_ONCE_MAX for asking in greedy]


def test_r15_who_has_asked_often_enough_is_paused_and_nobody_else() -> None:
    flow = Flow()
    (greedy,) = goes(flow, 1)
    meek = Asking(2, flow, 1)
    meek.ask()
    assert greedy.left == 9 * REQUESTS_AT_ONCE_MAX
    assert (greedy.paused, meek.paused) == (True, False)
    assert flow.kept_waiting == 1


def test_r15_what_was_received_meanwhile_is_counted_anew() -> None:
    flow = Flow()
    (greedy,) = goes(flow, 1, 2 * REQUESTS_AT_ONCE_MAX + 1)
    for left, paused, again_s in ((1, True, 0.0), (0, False, None)):
        assert flow.resume(0.0) == again_s
        assert (greedy.left, greedy.paused) == (left, paused)


def test_who_asks_now_and_then_is_never_greedy() -> None:
    flow = Flow()
    asking = Asking(1, flow)
    for _ in range(3 * REQUESTS_AT_ONCE_MAX):
        asking.left = 1
        asking.ask()
        assert not asking.paused
        assert flow.resume(0.0) is None


def test_r15_the_greedy_go_on_a_few_at_a_time_by_turns() -> None:
    flow = Flow()
    greedy = goes(flow, GREEDY_AT_ONCE_MAX + 2)
    assert flow.resume(0.0) == 0.0
    assert went_on(greedy) == [1] * GREEDY_AT_ONCE_MAX + [0, 0]
    assert flow.resume(0.0) == 0.0
    assert went_on(greedy) == [2] * (GREEDY_AT_ONCE_MAX - 2) + [1] * 4


def test_r15_while_others_ask_one_at_a_time_goes_on_with_rests() -> None:
    flow = Flow()
    greedy = goes(flow, 2)
    other = Asking(9, flow)
    half_s = GREEDY_EVERY_S / 2
    for halves, expected, again_s in [
        (0, [1, 0], GREEDY_EVERY_S),
        (0, [1, 0], GREEDY_EVERY_S),
        (1, [1, 0], half_s),
        (2, [1, 1], GREEDY_EVERY_S),
        (2, [1, 1], GREEDY_EVERY_S),
        (3, [1, 1], half_s),
        (4, [2, 1], GREEDY_EVERY_S),
    ]:
        other.left = 1
        other.ask()
        assert flow.resume(halves * half_s) == pytest.approx(again_s)
        assert went_on(greedy) == expected
        assert not other.paused


def test_r15_a_rest_begins_when_what_the_greedy_asked_is_carried_out() -> None:
    flow = Flow()
    greedy = goes(flow, 2)
    other = Asking(9, flow)
    written_s = 5 * GREEDY_EVERY_S
    for now_s, expected in [
        (0.0, [1, 0]),
        (written_s, [1, 0]),
        (written_s + GREEDY_EVERY_S, [1, 1]),
        (3 * written_s, [1, 1]),
        (3 * written_s + GREEDY_EVERY_S, [2, 1]),
    ]:
        other.left = 1
        other.ask()
        assert flow.resume(now_s) == pytest.approx(GREEDY_EVERY_S)
        assert went_on(greedy) == expected


def test_r15_what_others_asked_during_a_rest_counts_when_it_is_over() -> None:
    flow = Flow()
    greedy = goes(flow, 2)
    other = Asking(9, flow, 1)
    assert flow.resume(0.0) == 0.0
    other.ask()
    assert flow.resume(0.0) == GREEDY_EVERY_S
    assert flow.resume(GREEDY_EVERY_S / 2) == pytest.approx(GREEDY_EVERY_S / 2)
    assert flow.resume(GREEDY_EVERY_S) == GREEDY_EVERY_S
    assert went_on(greedy) == [2, 1]
    assert flow.resume(GREEDY_EVERY_S) == 0.0, "nobody else has asked since"
    assert went_on(greedy) == [3, 2]


@pytest.mark.parametrize("limit", ["REQUEST_BYTES_AT_ONCE_MAX", "REQUEST_BYTES_AT_ONCE_TOTAL_MAX"])
def test_r15_bytes_count_too(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_module, limit, 100)
    flow = Flow()
    greedy = Asking(1, flow, 10)
    greedy.ask(60)
    assert (greedy.left, greedy.paused) == (8, True)


def test_r15_beyond_the_bytes_of_all_whoever_asks_for_more_waits_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_module, "REQUEST_BYTES_AT_ONCE_TOTAL_MAX", 100)
    flow = Flow()
    silent, first, *others = (Asking(number, flow, 1) for number in range(10))
    first.ask(99)
    assert not first.paused
    for other in others:
        other.ask(1)
    assert [other.paused for other in (silent, first, *others)] == [False, False] + [True] * 8
    assert flow.resume(0.0) is None
    assert flow.kept_waiting == 0
    first.left = 1
    first.ask(99)
    assert not first.paused


def test_r15_who_says_too_often_that_it_lives_has_to_wait() -> None:
    flow = Flow()
    beating = Asking(1, flow)
    allowed = BEATS_AT_ONCE_MAX + REQUESTS_AT_ONCE_MAX
    for _ in range(allowed - 1):
        flow.beat(beating, 3, 5.0)
    assert not beating.paused
    flow.beat(beating, 3, 5.0)
    assert beating.paused
    flow.resume(5.0)
    for _ in range(REQUESTS_AT_ONCE_MAX):
        assert not beating.paused
        flow.beat(beating, 3, 5.5)
    assert beating.paused


def test_who_says_now_and_then_that_it_lives_never_waits() -> None:
    flow = Flow()
    beating = Asking(1, flow)
    for second in range(3):
        for _ in range(BEATS_AT_ONCE_MAX):
            flow.beat(beating, 3, 5.0 + second * BEATS_COUNTED_S)
    assert (beating.paused, beating.asked) == (False, 0), "what is not stored keeps no pong back"


def test_who_has_gone_is_not_told_to_go_on() -> None:
    flow = Flow()
    (gone,) = goes(flow, 1)
    flow.gone(gone.number)
    assert flow.resume(0.0) is None
    assert gone.paused
