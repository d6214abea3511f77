"""How often refusals are logged: strangers must not fill the log. Pure."""

from __future__ import annotations

__all__ = ["RefusalLog"]

# Refusals of so many seconds become one line of the log.
REFUSALS_EVERY_S = 1.0


class RefusalLog:
    """Decides which refusals are worth a line of their own, and counts the others."""

    def __init__(self) -> None:
        self._told_s = float("-inf")
        self._untold = 0

    def note(self, now_s: float) -> bool:
        """Count a refusal, and return whether to write a line about it."""
        if now_s - self._told_s < REFUSALS_EVERY_S:
            self._untold += 1
            return False
        self._told_s = now_s
        return True

    def take_untold(self, now_s: float) -> int:
        """Return how many refusals to mention together now, 0 for none; call it now and then."""
        if not self._untold or now_s - self._told_s < REFUSALS_EVERY_S:
            return 0
        self._told_s = now_s
        untold, self._untold = self._untold, 0
        return untold
