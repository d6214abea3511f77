"""Refusals in the log: a line a second, and none is uncounted."""

from __future__ import annotations

from quorate.coordinator.entrance.refusals import REFUSALS_EVERY_S, RefusalLog


def test_refusals_are_a_line_a_second_and_none_is_uncounted() -> None:
    log = RefusalLog()
    assert log.note(0.0)
    assert [log.note(0.1), log.note(0.2)] == [False, False]
    assert log.take_untold(0.5) == 0
    assert log.take_untold(REFUSALS_EVERY_S) == 2
    assert not log.note(REFUSALS_EVERY_S * 1.5)
    assert log.take_untold(REFUSALS_EVERY_S * 2) == 1
    assert log.take_untold(REFUSALS_EVERY_S * 9) == 0
    assert log.note(REFUSALS_EVERY_S * 9)
