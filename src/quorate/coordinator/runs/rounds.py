"""How the rounds of a run come about: when one is complete, and what it waits for. Pure."""

from __future__ import annotations

from quorate.coordinator.runs.minutes import Minutes
from quorate.coordinator.runs.roll import Roll
from quorate.coordinator.runs.tally import RunTally
from quorate.core.action import Action
from quorate.core.completion import completion, regroup_over
from quorate.core.transitions import apply, drop_stragglers

__all__ = ["Rounds"]


class Rounds:
    """The rounds of one run, one after another.

    Args:
        roll: Who is attached.
        minutes: Where it is noted why a round is complete.
        tally: Where rounds are counted, and how long each took.
    """

    def __init__(self, roll: Roll, minutes: Minutes, tally: RunTally) -> None:
        self._roll = roll
        self._state = roll.state
        self._minutes = minutes
        self._tally = tally
        self._phase = self._present_phase() if roll.state.complete else None
        self._wait_kind, self._wait_since_s = "", 0.0
        self._changing_since_s: float | None = None

    @property
    def waits_for_s(self) -> float | None:
        """For how long, in seconds, the round has waited for what it waits for now."""
        if self._state.complete or not self._wait_kind:
            return None
        return self._roll.now_s - self._wait_since_s

    def has_turned(self) -> bool:
        """Return whether a round has begun, is complete or was closed since the last call."""
        before, self._phase = self._phase, self._present_phase()
        return self._phase != before

    def try_to_complete(self) -> bool:
        """Complete the open round if it is time (R4); return whether it was."""
        state = self._state
        if state.closed or state.complete or not state.participants:
            self._wait_kind = ""
            return False
        ctx = self._roll.anyone()
        decision = completion(ctx)
        if decision.action is not Action.MARK_RENDEZVOUS_COMPLETE:
            if decision.kind != self._wait_kind:
                self._wait_kind, self._wait_since_s = decision.kind, self._roll.now_s
            return False
        self._wait_kind = ""
        self._minutes.because = decision.reason
        self._minutes.note(decision.reason)
        if apply(ctx, decision):
            self._roll.touch()
        return True

    def drop_stragglers(self) -> None:
        """Take their places from members that have not come back to regroup in time (R10)."""
        if not self._roll.has_settings or not regroup_over(self._roll.anyone()):
            return
        late = drop_stragglers(self._state, self._roll.observer)
        self._tally.losses["straggler"] += len(late)
        self._minutes.note(f"{len(late)} member(s) did not come back in time and lost their places")
        for node in late:
            self._minutes.record("left", "did not come back to regroup in time", node)
        self._roll.touch(*late)
        self._roll.moved = True

    def count_world(self) -> None:
        """Count a round that is complete, and how long it took to get from one world to it."""
        self._tally.rounds_completed += 1
        if self._changing_since_s is not None:
            self._tally.regroup.observe(self._roll.now_s - self._changing_since_s)
            self._changing_since_s = None

    def note_change(self) -> None:
        """Note when the world has begun to change, if it has: that is when a regroup begins."""
        if self._changing_since_s is None and self._is_changing():
            self._changing_since_s = self._roll.now_s

    def _is_changing(self) -> bool:
        """Whether there was a world that has lost a member, or to whose members others come."""
        state = self._state
        changing = bool(state.departed) or not state.complete
        return changing and state.world is not None and not state.closed

    def _present_phase(self) -> tuple[bool, int, bool]:
        return self._state.complete, self._state.round, self._state.closed
