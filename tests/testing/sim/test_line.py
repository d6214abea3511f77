"""Places go to those who have waited, in the order of their arrival (R5, R6)."""

from __future__ import annotations

from quorate.testing.sim.line import overtaken
from tests.core.support import node

A, B, C, NEW = map(node, ("a", "b", "c", "new"))


def test_r5_the_first_in_line_are_served() -> None:
    assert not overtaken([A, B, C], [A], [B, C], 0)
    assert not overtaken([A, B, C], [A, B], [C], 0)
    assert not overtaken([A, B, C], [], [A, B, C], 0)


def test_r5_who_came_before_was_passed_over() -> None:
    assert overtaken([A, B, C], [B], [A, C], 0) == [A]
    assert overtaken([A, B, C], [C], [A, B], 1) == [A, B]
    assert overtaken([A, B], [NEW], [A, B], 0) == [A, B]


def test_r5_nobody_was_passed_over_for_whom_there_is_a_place_left() -> None:
    assert not overtaken([A, B], [NEW], [A, B], 2)
    assert not overtaken([A, B], [B], [A], 1)


def test_r5_who_does_not_wait_any_more_was_not_passed_over() -> None:
    assert not overtaken([A, B], [B], [], 0)
    assert not overtaken([A], [B], [NEW], 0)
