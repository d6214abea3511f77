"""The manual clock: it stands still until it is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from quorate.clock import Clock
from quorate.testing.clock import ManualClock


def test_it_stands_still() -> None:
    clock: Clock = ManualClock(monotonic_s=5.0)
    assert (clock.monotonic(), clock.monotonic()) == (5.0, 5.0)
    assert clock.now() == clock.now()


def test_advance_and_sleep_move_both_readings() -> None:
    start = datetime(2024, 2, 28, tzinfo=UTC)
    clock = ManualClock(start=start)
    before_s = clock.monotonic()
    clock.advance(86_400)
    clock.sleep(0.5)
    assert clock.monotonic() - before_s == 86_400.5
    assert clock.now() == start + timedelta(days=1, seconds=0.5)


def test_the_skew_moves_the_wall_clock_only() -> None:
    clock = ManualClock(wall_skew_s=60.0)
    right = ManualClock()
    assert clock.now() - right.now() == timedelta(minutes=1)
    before_s = clock.monotonic()
    clock.wall_skew_s = -3600.0
    assert right.now() - clock.now() == timedelta(hours=1)
    assert clock.monotonic() == before_s


def test_it_never_goes_back() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="cannot go back by 1 s"):
        clock.advance(-1.0)
