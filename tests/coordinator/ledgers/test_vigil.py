"""A vigil over somebody else's lease: what counts as a sign of life, and what does not."""

from __future__ import annotations

import pytest

from quorate.coordinator.ledgers.vigil import Vigil

PATIENCE_S = 12.0
TTL_S = 6.0


def over_at(looks: list[tuple[float, float, int]]) -> float | None:
    """Return when a vigil that sees this is over: the time, what is left, the term."""
    vigil = Vigil(PATIENCE_S, 0.0)
    for now_s, left_s, term in looks:
        vigil.look(left_s, term, now_s)
        if vigil.is_over(now_s):
            return now_s
    return None


def times(seconds: int) -> list[float]:
    return [float(second) for second in range(2, seconds, 2)]


@pytest.mark.parametrize("left_s", [3.0, 4.0, 5.0])
def test_one_that_is_kept_alive_is_for_ever(left_s: float) -> None:
    """Though it is seen at the same point between two keep-alives each time."""
    assert over_at([(now_s, left_s, 1) for now_s in times(200)]) is None


def test_one_that_runs_down_is_over() -> None:
    assert over_at([(now_s, 600.0 - now_s, 1) for now_s in times(200)]) == 14.0


@pytest.mark.parametrize("rounding_s", [0.0, 0.9])
def test_what_is_rounded_is_no_sign_of_life(rounding_s: float) -> None:
    looks = [(now_s, 600.0 - now_s + rounding_s * (now_s % 4 == 0), 1) for now_s in times(200)]
    assert over_at(looks) == 14.0


def test_elections_are_no_sign_of_life() -> None:
    """Each gives the lease its whole time anew."""
    assert over_at([(now_s, TTL_S, int(now_s)) for now_s in times(200)]) == 14.0


def test_a_keep_alive_between_elections_is_one() -> None:
    assert over_at([(now_s, TTL_S - 1, int(now_s / 5)) for now_s in times(200)]) is None


def test_who_could_not_look_does_not_judge() -> None:
    """R9: etcd was silent, or this process was frozen."""
    assert over_at([(2.0, 5.0, 1), (60.0, 1.0, 2), (62.0, -1.0, 2)]) is None
