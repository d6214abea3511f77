"""Who of a run is lost, judged on the engine's clock alone (R8, R9). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from quorate.coordinator.runs.roll import Roll
from quorate.coordinator.runs.session import Session
from quorate.core.node import NodeDesc

__all__ = ["Judge", "Loss"]


class Loss(NamedTuple):
    """A node that is lost.

    Args:
        session: Its session.
        reason: Why, for people.
        cause: What it is counted under.
        noticed_s: How long it took to notice, in seconds.
    """

    session: Session
    reason: str
    cause: str
    noticed_s: float


class Judge:
    """Judges the lives of the agents that are attached to one run.

    Whoever is overdue is lost only if it still is at the next call of `lost`: a tick that comes
    late may come before what was sent meanwhile is read, and not so the one after it.

    Args:
        roll: Who is attached.
    """

    def __init__(self, roll: Roll) -> None:
        self._roll = roll
        self._observer = roll.observer
        self._ended: dict[NodeDesc, Session] = {}
        self._overdue: list[Session] = []

    def heard(self, session: Session) -> None:
        """Note a word: whatever ended, the agent is there."""
        session.hear(self._observer.now_s)
        session.ended_s = None

    def ended(self, session: Session) -> None:
        """Note that a process has ended, as its connection shows (R8)."""
        session.ended_s = self._roll.now_s
        # Who ended last is judged last, however often it had ended before.
        self._ended.pop(session.node, None)
        self._ended[session.node] = session

    def lost(self) -> Iterator[Loss]:
        """Yield who was overdue at the last call and still is; then find who is overdue now.

        Read it to its end. Who leaves while it is read is not judged any more.
        """
        overdue, self._overdue = self._overdue, []
        for session in overdue:
            loss = self._loss(session)
            if loss is not None and self._roll.is_attached(session):
                yield loss
        self._ended = {
            node: session
            for node, session in self._ended.items()
            if session.ended_s is not None and self._roll.is_attached(session)
        }
        self._overdue = [each for each in self._ended.values() if self._is_past_grace(each)]

    def look_for_silence(self, elapsed_s: float) -> None:
        """Find who has been silent for too long: nobody where all are, and none is left to tell.

        Nodes beat twice in an interval: who has heard none of them for that long is more likely
        cut off itself than alone in the world, and lets their windows pause (R9).

        Args:
            elapsed_s: The time since the last look, in seconds.
        """
        settings, now_s = self._roll.settings, self._roll.now_s
        sessions = self._roll.sessions.values()
        interval_s = settings.keep_alive_interval.total_seconds()
        if all(now_s - session.heard_s > interval_s for session in sessions):
            for session in sessions:
                session.excused_s += elapsed_s
            return
        limit_s = settings.silence_s
        self._overdue += [each for each in sessions if each.silence_s(now_s) >= limit_s]

    def awaits_nodes(self) -> bool:
        """Return whether a node is attached that was heard within the time a loss takes."""
        roll = self._roll
        sessions = roll.sessions.values()
        return any(roll.now_s - each.heard_s < roll.settings.silence_s for each in sessions)

    def _loss(self, session: Session) -> Loss | None:
        now_s = self._roll.now_s
        if session.ended_s is not None and self._is_past_grace(session):
            return Loss(session, "its process ended", "ended", now_s - session.ended_s)
        if session.silence_s(now_s) >= self._roll.settings.silence_s:
            silence_s = now_s - session.heard_s
            return Loss(session, f"it was silent for {silence_s:.0f} s", "silent", silence_s)
        return None

    def _is_past_grace(self, session: Session) -> bool:
        grace_s = self._roll.settings.reconnect_grace.total_seconds()
        return session.ended_s is not None and self._roll.now_s - session.ended_s >= grace_s
