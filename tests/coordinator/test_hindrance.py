"""Why nobody is answered: told once to those who are there, kept for those who come (R16)."""

from __future__ import annotations

from quorate.coordinator.hindrance import Hindrance
from quorate.wire.messages import Waiting

FIRST, SECOND = Waiting("stalled", "no space", 0.0), Waiting("uncertain", "no answer", 0.0)


def test_r16_it_is_told_when_it_begins_and_kept_until_it_ends() -> None:
    told: list[Waiting] = []
    hindrance = Hindrance(told.append)
    assert (hindrance.waiting, hindrance.reason) == (None, "")
    hindrance.end("stalled")
    for times in (1, 2):
        hindrance.begin(FIRST)
        assert (hindrance.waiting, hindrance.reason) == (FIRST, "no space")
        hindrance.end("stalled")
        assert (hindrance.waiting, hindrance.reason) == (None, "")
        assert told == [FIRST] * times


def test_r16_where_one_reason_ends_the_other_is_told() -> None:
    told: list[Waiting] = []
    hindrance = Hindrance(told.append)
    hindrance.begin(FIRST)
    hindrance.begin(SECOND)
    assert (hindrance.waiting, told) == (FIRST, [FIRST])
    hindrance.end("stalled")
    assert (hindrance.waiting, told) == (SECOND, [FIRST, SECOND])
    hindrance.begin(FIRST)
    hindrance.end("stalled")
    assert (hindrance.waiting, told) == (SECOND, [FIRST, SECOND])
    hindrance.end("uncertain")
    assert hindrance.waiting is None


def test_r16_other_words_for_the_same_are_kept_for_those_who_come() -> None:
    told: list[Waiting] = []
    hindrance = Hindrance(told.append)
    hindrance.begin(FIRST)
    later = Waiting("stalled", "no file", 0.0)
    hindrance.begin(later)
    assert (hindrance.waiting, told) == (later, [FIRST])
