"""Time that stands still until a test moves it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

__all__ = ["ManualClock"]

START = datetime(2020, 1, 1, tzinfo=UTC)


class ManualClock:
    """A `quorate.clock.Clock` that only `advance` and `sleep` move; threads may share it.

    Args:
        monotonic_s: The first reading of the monotonic clock, in seconds.
        start: The first reading of the wall clock.
        wall_skew_s: How far the wall clock is wrong, in seconds.

    Attributes:
        wall_skew_s: May be set at any time; the monotonic clock does not care (R9).
    """

    def __init__(
        self, monotonic_s: float = 1000.0, start: datetime = START, wall_skew_s: float = 0.0
    ) -> None:
        self.wall_skew_s = wall_skew_s
        self._monotonic_s = monotonic_s
        self._origin = start - timedelta(seconds=monotonic_s)
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return the seconds that have passed, on top of those at the start."""
        return self._monotonic_s

    def now(self) -> datetime:
        """Return the wall-clock time: the start, the seconds passed, the skew."""
        return self._origin + timedelta(seconds=self._monotonic_s + self.wall_skew_s)

    def sleep(self, seconds: float) -> None:
        """Move on by `seconds` without waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass.

        Raises:
            ValueError: They are negative: a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"A monotonic clock cannot go back by {-seconds:g} s.")
        with self._lock:
            self._monotonic_s += seconds
