"""Parts of messages: beyond their limit those go who have said nothing more for longest."""

from __future__ import annotations

import pytest

from quorate.coordinator.entrance import unfinished as unfinished_module
from quorate.coordinator.entrance.unfinished import Unfinished
from quorate.wire.frames import GREETING_BYTES_MAX

PART = 2 * GREETING_BYTES_MAX


@pytest.fixture
def unfinished(monkeypatch: pytest.MonkeyPatch) -> Unfinished:
    monkeypatch.setattr(unfinished_module, "UNFINISHED_BYTES_TOTAL_MAX", 3 * PART)
    return Unfinished()


def test_r15_beyond_the_limit_who_has_rested_for_longest_goes(unfinished: Unfinished) -> None:
    for number in (1, 2, 3):
        assert unfinished.note(number, PART - 1) == []
    assert unfinished.note(1, PART) == []
    assert unfinished.note(4, PART) == [2]
    assert unfinished.note(5, 2 * PART) == [3, 1]


def test_r15_one_that_is_too_large_for_all_goes_itself(unfinished: Unfinished) -> None:
    assert unfinished.note(1, 4 * PART) == [1]
    assert unfinished.note(2, 3 * PART) == []


def test_what_was_finished_or_has_gone_does_not_count(unfinished: Unfinished) -> None:
    for number in range(100):
        assert unfinished.note(number, 2 * PART) == []
        assert unfinished.note(number, PART) == []
        if number % 2:
            unfinished.gone(number)
        else:
            assert unfinished.note(number, 0) == []


def test_nobody_goes_for_a_small_part(unfinished: Unfinished) -> None:
    for number in range(1, 100):
        assert unfinished.note(number, GREETING_BYTES_MAX) == []
    for number in (100, 101, 102):
        assert unfinished.note(number, PART) == []
    assert unfinished.note(103, PART) == [100]
