"""How often nodes have failed of late. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["Failures"]

# Names cost a peer nothing: beyond this many the oldest is forgotten.
WATCHED_MAX = 4096


class Failures:
    """Counts what has gone wrong, by whom, within a window.

    A coordinator that was started anew counts from zero: who is kept out already stays so.
    """

    def __init__(self) -> None:
        self._moments: dict[str, deque[float]] = {}

    def note(self, who: str, now_s: float, failures_max: int, window_s: float) -> bool:
        """Note a failure.

        Args:
            who: Whose.
            now_s: When, in seconds.
            failures_max: So many failures are too many; 0 for no limit.
            window_s: How long one counts, in seconds.

        Returns:
            Whether it was one too many, after which the count is at zero.
        """
        if not failures_max:
            return False
        self._forget(now_s - window_s)
        moments = self._moments.setdefault(who, deque())
        moments.append(now_s)
        if len(self._moments) > WATCHED_MAX:
            del self._moments[next(iter(self._moments))]
        if len(moments) < failures_max:
            return False
        del self._moments[who]
        return True

    def _forget(self, before_s: float) -> None:
        for who, moments in list(self._moments.items()):
            while moments and moments[0] < before_s:
                moments.popleft()
            if not moments:
                del self._moments[who]
