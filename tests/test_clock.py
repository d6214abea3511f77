from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from quorate.clock import Clock, SystemClock


def test_monotonic_is_the_machines() -> None:
    clock: Clock = SystemClock()
    before = time.monotonic()
    reading = clock.monotonic()
    assert before <= reading <= time.monotonic()


def test_monotonic_never_goes_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)


def test_now_is_in_utc() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert now.utcoffset() == timedelta(0)
    assert before <= now <= datetime.now(UTC)


def test_sleep_lets_time_pass() -> None:
    clock = SystemClock()
    before = time.monotonic()
    clock.sleep(0.01)
    assert time.monotonic() - before >= 0.01
