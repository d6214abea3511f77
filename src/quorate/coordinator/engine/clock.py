"""The engine's time: the coordinator's own, less the stretches in which it was away (R9). Pure."""

from __future__ import annotations

from datetime import datetime

from quorate.clock import Clock
from quorate.core.observer import Observer

__all__ = ["GAP_MAX_S", "EngineClock", "EngineObserver"]

# A judge that was away for longer than this does not count the time (R9).
GAP_MAX_S = 1.0


class EngineClock:
    """Time as far as it was attended, for all who judge in an engine."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_s = clock.monotonic()
        self._now_s = 0.0

    def advance(self, stalled: bool) -> bool:
        """Read the machine's clock; a stall, or a gap above `GAP_MAX_S`, does not count.

        Returns:
            Whether the time counted. If not, whatever agents sent meanwhile is still to be read:
            nobody must be judged before that.
        """
        read_s = self._clock.monotonic()
        elapsed_s, self._read_s = read_s - self._read_s, read_s
        if stalled or elapsed_s > GAP_MAX_S:
            return False
        self._now_s += elapsed_s
        return True

    def monotonic(self) -> float:
        """Return the attended time in seconds."""
        return self._now_s

    def now(self) -> datetime:
        """Return the wall-clock time, to mark values with."""
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        """Never called: the engine does not wait."""
        raise AssertionError("the engine does not wait")


class EngineObserver(Observer):
    """Coordinated agents beat on their connection; their stamps in the state are never due."""

    def beat_age_s(self, node: object, value: object) -> float:
        """Return 0: no heartbeat has to be written."""
        return 0.0
