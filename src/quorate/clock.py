"""Where time enters: the only module that reads the machine's clocks."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["SECONDS_MAX", "Clock", "SystemClock"]

# 23 days, the longest wait that users may ask for: poll(2) takes milliseconds as an int, and no
# more than 24.
SECONDS_MAX = 2e6


class Clock(Protocol):
    """Two readings of time, and a way to let it pass.

    Durations are measured with `monotonic` only. `now` names a moment for people and marks
    values in a shared state; it is never compared with another machine's (R9).
    """

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for `seconds`."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Return seconds on the system's monotonic clock."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the system's wall-clock time in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for `seconds`."""
        time.sleep(seconds)
