"""Who is kept out of a run for a while: those who fail again and again, and evicted nodes. Pure."""

from __future__ import annotations

from quorate.coordinator.runs.failures import Failures
from quorate.coordinator.runs.minutes import Minutes
from quorate.coordinator.runs.roll import Roll
from quorate.coordinator.runs.session import Session
from quorate.core.exclusion import ban_key
from quorate.core.transitions import ban, pass_time

__all__ = ["Bans"]

# How much longer than its time somebody is kept out at most, when the coordinator is restarted.
STORED_EVERY_S = 30.0


class Bans:
    """The bans of one run; the state has them, with what is left of each (R9).

    Args:
        roll: Who is attached.
        minutes: Where it is noted that somebody is kept out.
    """

    def __init__(self, roll: Roll, minutes: Minutes) -> None:
        self._roll = roll
        self._minutes = minutes
        self._failures = Failures()
        self._stored_s = roll.now_s

    def blame(self, session: Session) -> None:
        """Count a failure, and keep a node out for a while that fails again and again."""
        settings = self._roll.settings
        window_s = settings.failures_window.total_seconds()
        key = ban_key(session.node, session.profile)
        if self._failures.note(key, self._roll.now_s, settings.failures_max, window_s):
            reason = f"it failed {settings.failures_max} times within {window_s:g} s"
            ban(self._roll.state, key, reason, settings.cool_down.total_seconds())
            text = f"{key} is kept out for a while: {reason}"
            self._minutes.record("evicted", text, session.node)

    def pass_time(self, elapsed_s: float) -> None:
        """Count down what is left of each ban, and have it stored from time to time."""
        if not self._roll.state.bans:
            return
        if pass_time(self._roll.state, elapsed_s):
            self._roll.touch()
        if self._roll.now_s - self._stored_s >= STORED_EVERY_S:
            self._stored_s = self._roll.now_s
            self._roll.touch()
