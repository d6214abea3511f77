"""How many failures are too many."""

from __future__ import annotations

import pytest

from quorate.coordinator.runs import failures as module
from quorate.coordinator.runs.failures import Failures


def test_so_many_within_the_window_are_too_many() -> None:
    failures = Failures()
    assert [failures.note("a", at_s, 3, 10.0) for at_s in (0.0, 5.0, 10.0)] == [False, False, True]
    assert not failures.note("a", 11.0, 3, 10.0), "it counts anew"


def test_what_is_long_ago_does_not_count() -> None:
    failures = Failures()
    assert not failures.note("a", 0.0, 2, 10.0)
    assert not failures.note("a", 10.5, 2, 10.0)
    assert failures.note("a", 11.0, 2, 10.0)


def test_each_has_a_count_of_its_own() -> None:
    failures = Failures()
    assert not failures.note("a", 0.0, 2, 10.0)
    assert not failures.note("b", 0.0, 2, 10.0)
    assert failures.note("b", 1.0, 2, 10.0)


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """R15: the oldest is forgotten."""
    monkeypatch.setattr(module, "WATCHED_MAX", 2)
    failures = Failures()
    assert not any(failures.note(who, 0.0, 2, 10.0) for who in "abc")
    assert failures.note("c", 1.0, 2, 10.0)
    assert not failures.note("a", 1.0, 2, 10.0)


def test_zero_is_for_never() -> None:
    failures = Failures()
    assert not any(failures.note("a", 0.0, 0, 10.0) for _ in range(10))
