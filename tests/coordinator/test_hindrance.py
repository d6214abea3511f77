"""Why nobody is answered: told once to those who are there, kept for those who come (R16)."""

from __future__ import annotations

from quorate.coordinator.hindrance import Hindrance
from quorate.wire.messages import Waiting

FIRST, SECOND = Waiting("stalled", "no space", 0.0), Waiting("uncertain", "no answer", 0.0)


def test_r16_it_is_told_when_it_begins_and_kept_until_it_ends() -> None:
    told: list[Waiting] = []
    hindrance = Hindrance(told.append)
    assert (hindrance.waiting, hindrance.reason) == (None, "")
    hindrance.begin(FIRST)
    assert (hindrance.waiting, hindrance.reason) == (FIRST, "no space")
    hindrance.begin(SECOND)
    assert hindrance.reason == "no answer"
    hindrance.end()
    assert (hindrance.waiting, hindrance.reason) == (None, "")
    assert told == [FIRST, SECOND]
