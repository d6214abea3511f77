"""What a node of the direct way may decide, and when it must: a second reading of the rules."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from quorate.clock import Clock
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.node import NodeDesc
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState
from quorate.testing.sim.gathering import are_enough, still_to_join
from quorate.testing.sim.rules import require

__all__ = ["NodeBounds"]

# What a node that joins does once its time is over, and at no other time.
GIVING_UP = {
    Action.ERROR_TIMEOUT,
    Action.REMOVE_FROM_PARTICIPANTS,
    Action.REMOVE_FROM_WAIT_LIST,
}


class NodeBounds:
    """Checks the times of one node by its own clock, as each observer judges by its own (R9).

    In a simulation no time passes within a step, so that there is nothing to allow for.

    Args:
        node: Who it is.
        settings: What it was given.
        clock: Its machine's.
    """

    def __init__(self, node: NodeDesc, settings: RendezvousSettings, clock: Clock) -> None:
        self._node = node
        self._settings = settings
        self._clock = clock
        # Nothing is counted from before it was read first; what concerns a node only from some
        # moment on may be counted from then.
        self._read = {"call": _Sight(), "regroup": _Sight()}
        self._awaited = _Sight()
        self._called = _Sight()
        self._answered_s = 0.0
        self._gives_up_s = math.inf

    def joins(self, timeout: timedelta) -> None:
        """Note that the node asks for a place, and for how long it is willing to wait."""
        self._answered_s = self._clock.monotonic()
        self._gives_up_s = self._answered_s + timeout.total_seconds()

    def read(self, state: RendezvousState) -> None:
        """Look at what the node has made of the state that is stored: nobody's place outlasts R10.

        Args:
            state: Its copy, just after an exchange.
        """
        now_s = self._clock.monotonic()
        for what, moment in (("call", state.deadline), ("regroup", state.regrouping_since)):
            # Its copy may be without it for a while only.
            if moment is not None:
                self._read[what].see(moment, now_s)
        if state.complete or not state.survivors:
            return
        self._awaited.see(state.regrouping_since, now_s)
        waited_s = self._awaited.age_s(state.regrouping_since, now_s)
        in_time = waited_s < self._settings.timeout.regroup.total_seconds()
        require(in_time, "R10", "{} awaits {} for {} s", self._node, [*state.survivors], waited_s)

    def call_is_over(self, deadline: datetime | None) -> bool:
        """Return whether a last call has lasted for long enough since the node read of it (R4)."""
        limit_s = self._settings.timeout.last_call.total_seconds()
        return self._read["call"].age_s(deadline, self._clock.monotonic()) >= limit_s

    def regroup_is_over(self, since: datetime | None) -> bool:
        """Return whether members have had their time since the node read of a regroup (R10)."""
        limit_s = self._settings.timeout.regroup.total_seconds()
        return self._read["regroup"].age_s(since, self._clock.monotonic()) >= limit_s

    def decided(self, ctx: RendezvousContext, decision: Decision) -> None:
        """Check a decision of a join: the node gives up in time, and completes a round in time.

        Args:
            ctx: What it was decided on, unchanged yet.
            decision: What the node does next.
        """
        now_s = self._answered_s = self._clock.monotonic()
        if decision.action in {Action.FINISH, Action.ERROR_CLOSED}:
            return
        gives_up = decision.action in GIVING_UP
        self._gives_up_in_time(ctx.state, gives_up, now_s)
        if decision.action is Action.REMOVE_FROM_REDUNDANCY_LIST:
            self._gives_up_s = now_s + self._settings.timeout.join.total_seconds()
        is_in = ctx.node in ctx.state.participants
        if ctx.state.complete or not (is_in or gives_up):
            return
        self._called.see(ctx.state.deadline, now_s)
        if not gives_up:
            due = self._due(ctx.state, now_s)
            completes = decision.action is Action.MARK_RENDEZVOUS_COMPLETE
            about = (self._node, decision.action.name, due or "is not complete")
            require(completes == bool(due), "R4", "{} decides on {}, the round {}", *about)

    def retries(self) -> None:
        """Check that the node may still go on without an answer (R11)."""
        unanswered_s = self._clock.monotonic() - self._answered_s
        in_time = unanswered_s < self._settings.silence_s
        require(in_time, "R11", "{} goes on after {} s without answer", self._node, unanswered_s)

    def gives_up(self) -> None:
        """Check that the node has been without an answer for long enough to end (R11)."""
        unanswered_s = self._clock.monotonic() - self._answered_s
        is_over = unanswered_s >= self._settings.silence_s
        require(is_over, "R11", "{} ends after {} s without answer", self._node, unanswered_s)

    def _gives_up_in_time(self, state: RendezvousState, gives_up: bool, now_s: float) -> None:
        """Check that a wait ends with its time, and not before; a spare's has none (R6)."""
        is_over = now_s > self._gives_up_s and self._node not in state.redundancy_list
        over_s = now_s - self._gives_up_s
        require(is_over or not gives_up, "R6", "{} gives up at {:+} s", self._node, over_s)
        require(gives_up or not is_over, "R6", "{} still waits at {:+} s", self._node, over_s)

    def _due(self, state: RendezvousState, now_s: float) -> str:
        """Return why the open round should be complete by now, empty if it should not be (R4)."""
        joined, settings = len(state.participants), self._settings
        if joined >= settings.max_nodes:
            return "has all its nodes"
        if joined < settings.min_nodes or state.survivors:
            return ""
        is_enough = are_enough(state.world, state.departed, state.participants, settings)
        if is_enough and not still_to_join(state):
            return "has all that are left"
        limit_s = settings.timeout.last_call.total_seconds()
        is_over = self._called.age_s(state.deadline, now_s) >= limit_s
        return "has had its last call" if is_over else ""


class _Sight:
    """Since when a value is what was seen last."""

    def __init__(self) -> None:
        self._value: object = None
        self._since_s = 0.0

    def see(self, value: object, now_s: float) -> None:
        if value != self._value:
            self._value, self._since_s = value, now_s

    def age_s(self, value: object, now_s: float) -> float:
        """Return for how long it is; 0 for what was never seen."""
        return now_s - self._since_s if value is not None and value == self._value else 0.0
