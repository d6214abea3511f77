"""What a node wants, as functions of the state: each call decides on one next action.

An operation is called as `op(ctx, deadline)` again and again, with its action carried out in
between, until it says `FINISH` or an error. `deadline` is in seconds on the observer's clock.
"""

from __future__ import annotations

from itertools import islice

from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.completion import completion, may_enter, stands
from quorate.core.exclusion import require_admissible
from quorate.core.state import WorldName, prospects
from quorate.errors import RendezvousGracefulExitError, RendezvousReplacedError

__all__ = [
    "JOIN",
    "SPARE",
    "RendezvousCloseOp",
    "RendezvousExitOp",
    "RendezvousJoinOp",
    "RendezvousKeepAliveOp",
    "RendezvousVerdictOp",
]

# The kind of wait that has no deadline (R6).
SPARE = "spare"

# The kinds of timeout: the keys of the configuration that say how long there is.
JOIN, CLOSE, HEARTBEAT = "join_timeout", "close_timeout", "heartbeat_timeout"

# After its deadline an operation takes back what it had done for this long; later than that it
# leaves the rest to the loss of its heartbeat.
ROLLBACK_S = 5.0


class RendezvousJoinOp:
    """Join a round, and wait until it is complete.

    Args:
        after: The world that the node was given last; a round later than that is wanted. With
            it, a repeated call is recognised as the same one, and a new one as a return (R14).
    """

    def __init__(self, after: WorldName | None = None) -> None:
        self._after = after

    def __call__(self, ctx: RendezvousContext, deadline: float) -> Decision:
        """Decide on the next step.

        Raises:
            RendezvousEvictedError: The node is kept out of the run.
            RendezvousGracefulExitError: The run was closed while the node waited for a place, or
                the operator has drained the node.
            RendezvousReplacedError: A newer incarnation of the node has joined (R12).
            RendezvousSettingsError: The node's settings differ from the run's (R13).
        """
        state, node = ctx.state, ctx.node
        _require_present_incarnation(ctx)
        if state.closed:
            return _closed(ctx)
        _require_welcome(ctx)
        if state.complete and node in state.participants and state.name != self._after:
            return Decision(Action.FINISH, f"round {state.round} is complete", "complete")
        if node in state.draining:
            return _drained(ctx)
        if node in state.redundancy_list:
            return _as_spare(ctx)
        if ctx.observer.now_s > deadline:
            return _timed_out(ctx, deadline)
        if state.complete:
            return self._towards_next_round(ctx)
        if node in state.participants:
            return _unless_beat_is_due(ctx, completion(ctx))
        if may_enter(ctx):
            return Decision(Action.ADD_TO_PARTICIPANTS, f"joins round {state.round}", "join")
        return _wait_in_line(ctx)

    def _towards_next_round(self, ctx: RendezvousContext) -> Decision:
        if ctx.node in ctx.state.participants:
            reason = f"comes back from round {ctx.state.round} to regroup"
            return Decision(Action.ADD_TO_PARTICIPANTS, reason, "join")
        return _wait_in_line(ctx)


class RendezvousExitOp:
    """Leave the run: the others are told, and go on without this node (R7)."""

    def __call__(self, ctx: RendezvousContext, deadline: float) -> Decision:
        """Decide on the next step."""
        action = _leaving_action(ctx)
        if action is None:
            return Decision(Action.FINISH, "is not in the run", "left")
        if ctx.observer.now_s > deadline:
            return Decision(Action.ERROR_TIMEOUT, "could not leave in time", CLOSE)
        return Decision(action, "left", "left")


class RendezvousCloseOp:
    """Close the run: no round of it will ever complete again. The first reason wins (R7).

    Args:
        reason: Why, for everyone who is turned away from now on.
    """

    def __init__(self, reason: str = "") -> None:
        self._reason = reason

    def __call__(self, ctx: RendezvousContext, deadline: float) -> Decision:
        """Decide on the next step."""
        if ctx.state.closed:
            return Decision(Action.FINISH, ctx.state.closed_reason, "closed")
        if ctx.observer.now_s > deadline:
            return Decision(Action.ERROR_TIMEOUT, "could not close the run in time", CLOSE)
        reason = self._reason or f"closed by {ctx.node}"
        return Decision(Action.MARK_RENDEZVOUS_CLOSED, reason, "closed")


class RendezvousVerdictOp:
    """Say that the job has ended: a member's word closes the run, anybody else's is a leave (R7).

    It counts while the member's world stands. Where another member was lost or has left, work is
    undone, and a failure is a symptom.

    Args:
        mine: The world that the node was given last, if any.
        reason: How the job has ended, for everyone.
    """

    def __init__(self, mine: WorldName | None, reason: str) -> None:
        self._mine = mine
        self._reason = reason

    def __call__(self, ctx: RendezvousContext, deadline: float) -> Decision:
        """Decide on the next step."""
        state = ctx.state
        if state.closed:
            return Decision(Action.FINISH, state.closed_reason, "closed")
        counts = self._mine is not None and stands(ctx, self._mine) and not state.departed
        action = Action.MARK_RENDEZVOUS_CLOSED if counts else _leaving_action(ctx)
        if action is None:
            return Decision(Action.FINISH, "is not in the run", "left")
        if ctx.observer.now_s > deadline:
            reason = "could not say in time how the job has ended"
            return Decision(Action.ERROR_TIMEOUT, reason, CLOSE)
        return Decision(action, self._reason, "closed" if counts else "left")


class RendezvousKeepAliveOp:
    """Say that the node is alive, if it is attached and its last word is old enough."""

    def __call__(self, ctx: RendezvousContext, deadline: float) -> Decision:
        """Decide on the next step."""
        if not _beat_is_due(ctx):
            return Decision(Action.FINISH, "no heartbeat is due", "alive")
        if ctx.observer.now_s > deadline:
            return Decision(Action.ERROR_TIMEOUT, "could not send a heartbeat in time", HEARTBEAT)
        return Decision(Action.KEEP_ALIVE, "a heartbeat is due", "alive")


def _require_present_incarnation(ctx: RendezvousContext) -> None:
    newer = ctx.state.replaced.get(ctx.node)
    if newer is not None:
        raise RendezvousReplacedError(
            f"The node '{ctx.profile.node_id}' has joined the run '{ctx.settings.run_id}' again as "
            f"{newer}: this incarnation ({ctx.node}) must end. If two machines were given the same "
            f"node id, give each its own."
        )


def _require_welcome(ctx: RendezvousContext) -> None:
    state, run_id = ctx.state, ctx.settings.run_id
    if ctx.node not in state.last_heartbeats:
        require_admissible(state, run_id, ctx.node, ctx.profile)
    if state.agreed is not None and state.last_heartbeats:
        state.agreed.require_same(run_id, ctx.settings.agreed)


def _drained(ctx: RendezvousContext) -> Decision:
    reason = ctx.state.draining[ctx.node]
    raise RendezvousGracefulExitError(
        f"{ctx.node} leaves the run '{ctx.settings.run_id}': {reason}."
    )


def _closed(ctx: RendezvousContext) -> Decision:
    reason = ctx.state.closed_reason
    if ctx.node in ctx.state.redundancy_list or ctx.node in ctx.state.wait_list:
        raise RendezvousGracefulExitError(
            f"The run '{ctx.settings.run_id}' has ended ({reason}) and {ctx.node} was not needed."
        )
    return Decision(Action.ERROR_CLOSED, reason, "closed")


def _as_spare(ctx: RendezvousContext) -> Decision:
    """A spare waits without a deadline, until a place falls free (R6)."""
    state = ctx.state
    free = may_enter(ctx) if not state.complete else _next_in_line(ctx)
    if free:
        return Decision(Action.REMOVE_FROM_REDUNDANCY_LIST, "a place is free", "promoted")
    spares = len(state.redundancy_list)
    reason = f"waiting as one of {spares} spare(s) until a place falls free"
    return _unless_beat_is_due(ctx, Decision(Action.SYNC, reason, SPARE))


def _next_in_line(ctx: RendezvousContext) -> bool:
    state = ctx.state
    free = prospects(state, ctx.settings) - len(state.wait_list)
    return free > 0 and ctx.node in islice(state.redundancy_list, free)


def _timed_out(ctx: RendezvousContext, deadline: float) -> Decision:
    """Take back what was done, then give up. It never closes the run (R7)."""
    reason = completion(ctx).reason if not ctx.state.complete else "waiting for the next round"
    if ctx.observer.now_s <= deadline + ROLLBACK_S:
        action = _leaving_action(ctx)
        if action is not None:
            return Decision(action, f"gave up: {reason}", "timeout")
    return Decision(Action.ERROR_TIMEOUT, reason, JOIN)


def _wait_in_line(ctx: RendezvousContext) -> Decision:
    """Stand in the wait list while there is room in the next round, else among the spares (R6)."""
    state = ctx.state
    if ctx.node in state.wait_list:
        reason = (
            f"round {state.round} is under way without this node; waiting for the next "
            f"({len(state.wait_list)} waiting)"
        )
        return _unless_beat_is_due(ctx, Decision(Action.SYNC, reason, "next_round"))
    ahead = len(state.wait_list) + len(state.redundancy_list)
    if prospects(state, ctx.settings, arriving=1) > ahead:
        return Decision(Action.ADD_TO_WAIT_LIST, "waits for the next round", "next_round")
    return Decision(Action.ADD_TO_REDUNDANCY_LIST, "the world is full; waits as a spare", SPARE)


def _leaving_action(ctx: RendezvousContext) -> Action | None:
    state, node = ctx.state, ctx.node
    if node in state.participants or node in state.survivors:
        return Action.REMOVE_FROM_PARTICIPANTS
    if node in state.last_heartbeats:
        # A spare too: on its way over the wait list it would stand before those who came earlier.
        return Action.REMOVE_FROM_WAIT_LIST
    return None


def _beat_is_due(ctx: RendezvousContext) -> bool:
    """Return whether half a keep-alive interval has gone by since the node's last word (R11)."""
    last = ctx.state.last_heartbeats.get(ctx.node)
    if last is None:
        return False
    age_s = ctx.observer.beat_age_s(ctx.node, last)
    return age_s >= ctx.settings.beat_s


def _unless_beat_is_due(ctx: RendezvousContext, decision: Decision) -> Decision:
    if decision.action is Action.SYNC and _beat_is_due(ctx):
        return Decision(Action.KEEP_ALIVE, decision.reason, decision.kind)
    return decision
