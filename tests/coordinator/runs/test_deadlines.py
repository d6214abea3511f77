"""What is due when."""

from __future__ import annotations

from quorate.coordinator.runs.deadlines import SWEPT_FROM, Deadlines


def test_what_is_due_comes_earliest_first_and_once() -> None:
    deadlines: Deadlines[str] = Deadlines(lambda _: True)
    for at_s, what in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (9.0, "late")):
        deadlines.add(at_s, what)
    assert list(deadlines.due(3.5)) == ["a", "b", "c"]
    assert list(deadlines.due(3.5)) == []
    assert list(deadlines.due(9.0)) == []
    assert list(deadlines.due(9.1)) == ["late"]


def test_what_is_due_together_comes_in_the_order_in_which_it_was_added() -> None:
    deadlines: Deadlines[object] = Deadlines(lambda _: True)
    for what in ("b", {}, "a"):
        deadlines.add(1.0, what)
    assert list(deadlines.due(2.0)) == ["b", {}, "a"]


def test_what_is_settled_is_passed_over() -> None:
    live = {"a", "b"}
    deadlines: Deadlines[str] = Deadlines(live.__contains__)
    deadlines.add(1.0, "a")
    deadlines.add(1.0, "b")
    live.discard("a")
    assert list(deadlines.due(2.0)) == ["b"]


def test_what_is_settled_long_before_it_is_due_does_not_pile_up() -> None:
    live: set[int] = set()
    deadlines: Deadlines[int] = Deadlines(live.__contains__)
    for number in range(100 * SWEPT_FROM):
        live.add(number)
        deadlines.add(1e9 + number, number)
        if number >= SWEPT_FROM:
            live.discard(number - SWEPT_FROM)
    assert len(live) == SWEPT_FROM
    assert len(deadlines) <= 3 * SWEPT_FROM
    assert list(deadlines.due(2e9)) == sorted(live)


def test_a_sweep_forgets_what_is_settled() -> None:
    live = {1}
    deadlines: Deadlines[int] = Deadlines(live.__contains__)
    deadlines.add(1.0, 1)
    deadlines.add(2.0, 2)
    deadlines.sweep()
    assert len(deadlines) == 1
