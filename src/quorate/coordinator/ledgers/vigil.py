"""Whether somebody else's lease is still kept alive, as one who looks at it can tell. Pure.

etcd gives every lease its whole time anew at each election. Where elections follow each other, as
on machines that are short of time, the lease of one that is long dead does not end: what looks at
it here counts only what cannot come from an election.
"""

from __future__ import annotations

__all__ = ["Vigil"]

# etcd tells whole seconds.
ROUNDING_S = 1.0


class Vigil:
    """Watches over one lease; all times are on the clock of the one who looks (R9).

    Args:
        patience_s: How long it may not be kept alive, in seconds.
        now_s: The present time.
    """

    def __init__(self, patience_s: float, now_s: float) -> None:
        self._patience_s = patience_s
        self._kept_s = now_s
        self._looked_s = now_s
        self._ends_s = float("inf")
        self._term = 0

    def look(self, left_s: float, term: int, now_s: float) -> None:
        """Note what is left of the lease, and the term of etcd's leader.

        A stretch in which nobody could look, because etcd did not answer or this process was
        away, counts for the lease.
        """
        if now_s - self._looked_s > self._patience_s / 2:
            self._kept_s = now_s
        self._looked_s = now_s
        ends_s = now_s + left_s
        if term == self._term and ends_s > self._ends_s + ROUNDING_S:
            self._kept_s = now_s
        if term != self._term or ends_s > self._ends_s + ROUNDING_S:
            self._term, self._ends_s = term, ends_s

    def is_over(self, now_s: float) -> bool:
        """Return whether it was not kept alive for too long."""
        return now_s - self._kept_s > self._patience_s
