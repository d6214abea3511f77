"""When a round is complete, when its members should meet again, and why not yet (R4, R8, R16)."""

from __future__ import annotations

from itertools import chain, islice

from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.state import WorldName, capacity, has_come_back, prospects, room

__all__ = [
    "LAST_CALL",
    "SURVIVORS",
    "completion",
    "last_call_remaining_s",
    "may_enter",
    "newcomers_due_in_s",
    "nodes_waiting",
    "regroup_over",
    "regroup_remaining_s",
    "stands",
]

LAST_CALL = "last_call"
REGROUP = "regroup"
SURVIVORS = "survivors"


def completion(ctx: RendezvousContext) -> Decision:
    """Decide whether the open round completes now (R4).

    Returns:
        `MARK_RENDEZVOUS_COMPLETE`, or `SYNC` with what the round still waits for.
    """
    state, settings = ctx.state, ctx.settings
    joined, wanted = len(state.participants), capacity(state, settings)
    # Asked before anything else: the last call counts from the first sight of its deadline.
    last_call_s = last_call_remaining_s(ctx)
    if joined < settings.min_nodes:
        missing = settings.min_nodes - joined
        return _wait("min_nodes", f"waiting for {missing} more {_nodes(missing)} ({_of(ctx)})")
    if state.held:
        because = f", {state.held_reason}" if state.held_reason else ""
        return _wait("held", f"the operator holds the round open ({_of(ctx)}{because})")
    if joined >= wanted:
        return _complete(f"all {wanted} {_nodes(wanted)} are here")
    if state.survivors:
        missing = len(state.survivors)
        return _wait(
            SURVIVORS, f"waiting for {missing} {_nodes(missing)} of the last world to come back"
        )
    regroups = state.regrouping_since is not None
    if regroups and not _still_to_join(ctx) and _are_enough_back(ctx):
        return _complete(f"all {joined} {_nodes(joined)} that are left are back{_units(ctx)}")
    if last_call_s <= 0:
        return _complete(f"the last call is over with {_of(ctx)}{_units(ctx)}")
    return _wait(LAST_CALL, f"last call for more nodes ({_of(ctx)})")


def last_call_remaining_s(ctx: RendezvousContext) -> float:
    """Return how long, in seconds, the last call still lasts; 0 once it is over.

    It runs from the moment at which this observer first saw the deadline (R9).
    """
    deadline = ctx.state.deadline
    # Asked without a deadline too: the next one begins anew, though a clock may repeat its stamp.
    age_s = ctx.observer.age_s(LAST_CALL, deadline)
    if deadline is None:
        return ctx.settings.timeout.last_call.total_seconds()
    return max(ctx.settings.timeout.last_call.total_seconds() - age_s, 0.0)


def regroup_over(ctx: RendezvousContext) -> bool:
    """Return whether members that are still missing have had their time to come back (R10)."""
    remaining_s = regroup_remaining_s(ctx)
    return remaining_s is not None and remaining_s <= 0


def regroup_remaining_s(ctx: RendezvousContext) -> float | None:
    """Return how long, in seconds, members that are missing may still take; `None` if none are."""
    state = ctx.state
    if state.complete or not state.survivors or state.regrouping_since is None:
        return None
    age_s = ctx.observer.age_s(REGROUP, state.regrouping_since)
    return max(ctx.settings.timeout.regroup.total_seconds() - age_s, 0.0)


def may_enter(ctx: RendezvousContext) -> bool:
    """Return whether the node may take a place in the open round now (R5).

    Survivors have their places; then come the wait list and the spares, each in order of arrival.
    """
    state = ctx.state
    if ctx.node in state.survivors:
        return True
    free = room(state, ctx.settings)
    if free <= 0:
        return False
    in_line = len(state.wait_list) + len(state.redundancy_list)
    if free > in_line:
        return True
    if free == in_line:
        return ctx.node in state.wait_list or ctx.node in state.redundancy_list
    return ctx.node in islice(chain(state.wait_list, state.redundancy_list), free)


def nodes_waiting(
    ctx: RendezvousContext, mine: WorldName | None, newcomers_at_once: bool = False
) -> int:
    """Return how many nodes give the holder of a world a reason to leave it for the next (R8).

    Args:
        ctx: The node that asks, and the state.
        mine: The world that the node was given last, if any.
        newcomers_at_once: Count newcomers from their arrival, as the direct way does; otherwise
            once they fill the world or the first of those that are there has waited for one last
            call.
    """
    state = ctx.state
    if state.closed:
        return 0
    if mine is not None and not stands(ctx, mine):
        return max(1, len(state.departed) + len(state.participants) + len(state.wait_list))
    surplus = max(len(state.participants) - capacity(state, ctx.settings), 0)
    newcomers = _gain(ctx) if newcomers_at_once else _newcomers(ctx)
    return len(state.departed) + surplus + newcomers


def newcomers_due_in_s(ctx: RendezvousContext) -> float | None:
    """Return in how many seconds waiting newcomers alone become a reason to regroup, if ever."""
    state = ctx.state
    # Asked before anything else: whatever keeps them from counting, they have come.
    age_s = ctx.observer.line_age_s(state.wait_list)
    if not state.complete or not state.wait_list or state.held or state.finishing:
        return None
    if not _gain(ctx):
        return None
    if len(state.wait_list) >= room(state, ctx.settings):
        return 0.0
    return max(ctx.settings.timeout.last_call.total_seconds() - age_s, 0.0)


def _newcomers(ctx: RendezvousContext) -> int:
    due_in_s = newcomers_due_in_s(ctx)
    if due_in_s is None or due_in_s > 0:
        return 0
    return _gain(ctx)


def stands(ctx: RendezvousContext, mine: WorldName) -> bool:
    """Return whether a world that the node was given is the present one, with it in it."""
    state = ctx.state
    return state.complete and state.name == mine and ctx.node in state.participants


def _gain(ctx: RendezvousContext) -> int:
    """Return how many of the wait list a world of whole units could take in."""
    return min(len(ctx.state.wait_list), prospects(ctx.state, ctx.settings))


def _still_to_join(ctx: RendezvousContext) -> int:
    state = ctx.state
    return len(state.last_heartbeats) - len(state.participants) - len(state.stragglers)


def _are_enough_back(ctx: RendezvousContext) -> bool:
    """Return whether those who have come back from the last world are enough for one by themselves.

    Where they are not, the round depends on newcomers, and others may be on their way.
    """
    back = (node for node in ctx.state.participants if has_come_back(ctx.state, node))
    least = ctx.settings.min_nodes
    return sum(1 for _ in islice(back, least)) == least


def _complete(reason: str) -> Decision:
    return Decision(Action.MARK_RENDEZVOUS_COMPLETE, reason, "complete")


def _wait(kind: str, reason: str) -> Decision:
    return Decision(Action.SYNC, reason, kind)


def _of(ctx: RendezvousContext) -> str:
    settings = ctx.settings
    joined = len(ctx.state.participants)
    if joined < settings.min_nodes:
        return f"{joined} of {settings.min_nodes}"
    return f"{joined} of at most {capacity(ctx.state, settings)}"


def _units(ctx: RendezvousContext) -> str:
    """Return what is to be said of those who do not fill a unit."""
    unit = ctx.settings.node_unit
    surplus = len(ctx.state.participants) % unit
    return f", {surplus} too many for units of {unit}" if surplus else ""


def _nodes(count: int) -> str:
    return "node" if count == 1 else "nodes"
