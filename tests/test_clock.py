from __future__ import annotations

import select
import socket
import time
from datetime import UTC, datetime, timedelta

from quorate.clock import SECONDS_MAX, Clock, SystemClock


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


def test_the_system_can_wait_for_so_many_seconds() -> None:
    ready, writable = socket.socketpair()
    with ready, writable:
        poll = select.poll()
        poll.register(writable, select.POLLOUT)
        assert poll.poll(SECONDS_MAX * 1000)
