"""How often nodes have failed of late. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["Failures"]

# Names cost a peer nothing: beyond this many the oldest is forgotten.
WATCHED_MAX = 4096


class Failures:
    """Counts what has gone wrong, by whom, within a window.

    A coordinator that was started anew counts from zero: who is kept out already stays so.

    Args:
        failures_max: So many failures are too many.
        window_s: How long one counts, in seconds.
    """

    def __init__(self, failures_max: int, window_s: float) -> None:
        self._failures_max = failures_max
        self._window_s = window_s
        self._moments: dict[str, deque[float]] = {}

    def note(self, who: str, now_s: float) -> bool:
        """Note a failure; return whether it was one too many, after which the count is at zero."""
        if not self._failures_max:
            return False
        self._forget(now_s)
        moments = self._moments.setdefault(who, deque())
        moments.append(now_s)
        if len(self._moments) > WATCHED_MAX:
            del self._moments[next(iter(self._moments))]
        if len(moments) < self._failures_max:
            return False
        del self._moments[who]
        return True

    def _forget(self, now_s: float) -> None:
        for who, moments in list(self._moments.items()):
            while moments and now_s - moments[0] > self._window_s:
                moments.popleft()
            if not moments:
                del self._moments[who]
