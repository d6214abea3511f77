"""Tests of which coordinator is dialled next."""

from __future__ import annotations

import pytest

from quorate.coordinator.agent.candidates import Candidates


def test_they_are_tried_in_order_and_over_again() -> None:
    candidates = Candidates(["a", "b", "c"])
    tried = []
    for _ in range(7):
        tried.append(candidates.advance())
        candidates.failed()
    assert tried == ["a", "b", "c", "a", "b", "c", "a"]


def test_where_the_session_was_accepted_it_is_looked_for_first() -> None:
    candidates = Candidates(["a", "b", "c"])
    candidates.advance()
    candidates.failed()
    candidates.advance("c")
    candidates.accepted()
    assert candidates.advance() == "c"
    candidates.failed()
    assert candidates.advance() == "b"


def test_r11_a_frozen_coordinator_that_another_one_names_is_not_tried_twice_in_a_row() -> None:
    # Seed 3735 of the simulator: "a" is frozen, "b" does not know yet that "c" decides.
    candidates = Candidates(["a", "b", "c"])
    assert candidates.advance() == "a"
    candidates.failed()
    assert candidates.advance() == "b"
    candidates.failed(answers=True)
    assert candidates.advance("a") == "c"


def test_one_that_is_named_is_dialled_though_it_was_silent_once() -> None:
    candidates = Candidates(["a", "b", "c"])
    for name in "ab":
        assert candidates.advance() == name
        candidates.failed()
    assert candidates.advance() == "c"
    candidates.failed(answers=True)
    assert candidates.advance("a") == "a", "it may have come to life"
    candidates.accepted()
    assert candidates.advance() == "a"


@pytest.mark.parametrize("names", [None, "b", "c"])
def test_r11_one_that_answers_is_asked_again_after_each_that_is_silent(names: str | None) -> None:
    # Seeds 91307 and 19546 of the simulator: "b" and "c" are frozen, and "a" is about to decide.
    candidates = Candidates(["b", "c", "a"])
    tried = ""
    named = None
    for _ in range(10):
        tried += candidates.advance(named)
        answers = candidates.current == "a"
        candidates.failed(answers)
        named = names if answers else None
    assert tried[:3] == "bca"
    assert tried[3:] in {"bacabac", "cabacab"}


def test_those_that_answer_wait_for_those_that_do_not() -> None:
    candidates = Candidates(["a", "b", "c"])
    tried = ""
    for _ in range(9):
        tried += candidates.advance()
        candidates.failed(answers=candidates.current != "c")
    assert tried == "abcabcabc"


def test_one_that_was_only_named_is_left_when_it_fails() -> None:
    candidates = Candidates(["a"])
    candidates.advance()
    candidates.failed()
    assert candidates.advance("elsewhere") == "elsewhere"
    candidates.accepted()
    assert candidates.advance() == "a"
