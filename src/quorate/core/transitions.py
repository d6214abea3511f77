"""The only code that changes a state.

`TRANSITIONS` maps each action that an operation can decide on to its effect. The functions below
the table are what happens to a node rather than what it does: it is lost, replaced, late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.node import NodeDesc
from quorate.core.observer import Observer
from quorate.core.ranking import rank_nodes
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState, World, capacity

__all__ = [
    "SILENT_ACTIONS",
    "TRANSITIONS",
    "Transition",
    "admit",
    "apply",
    "drop_stragglers",
    "finish",
    "forget_oldest_replaced",
    "withdraw",
]

Transition = Callable[[RendezvousContext, Decision], None]

# Former incarnations are remembered so that a late word of theirs ends in a clear error. Beyond
# this many the oldest is forgotten: it then looks like a newcomer that carries a taken node id.
REPLACED_MAX = 4096


def apply(ctx: RendezvousContext, decision: Decision) -> bool:
    """Carry out a decision.

    Returns:
        Whether the state was changed and has to be stored.
    """
    transition = TRANSITIONS.get(decision.action)
    if transition is None:
        return False
    transition(ctx, decision)
    return True


def _add_to_participants(ctx: RendezvousContext, decision: Decision) -> None:
    state = ctx.state
    if state.complete:
        state.finishing.pop(ctx.node, None)
        _open_next_round(state, ctx.observer)
    _take_from_lists(state, ctx.node)
    admit(ctx)
    state.participants[ctx.node] = 0
    if len(state.participants) >= ctx.settings.min_nodes and state.deadline is None:
        state.deadline = ctx.observer.stamp() + ctx.settings.timeout.last_call
    if len(state.participants) >= capacity(state, ctx.settings) and not state.held:
        _mark_complete(ctx, decision)


def _add_to_wait_list(ctx: RendezvousContext, _: Decision) -> None:
    _take_from_lists(ctx.state, ctx.node)
    admit(ctx)
    ctx.state.wait_list[ctx.node] = ctx.observer.stamp()


def _add_to_redundancy_list(ctx: RendezvousContext, _: Decision) -> None:
    _take_from_lists(ctx.state, ctx.node)
    admit(ctx)
    ctx.state.redundancy_list[ctx.node] = ctx.observer.stamp()


def _remove_from_participants(ctx: RendezvousContext, decision: Decision) -> None:
    withdraw(ctx.state, ctx.settings, ctx.node, decision.reason, ctx.observer)


def _remove_from_wait_list(ctx: RendezvousContext, decision: Decision) -> None:
    withdraw(ctx.state, ctx.settings, ctx.node, decision.reason, ctx.observer)


def _remove_from_redundancy_list(ctx: RendezvousContext, decision: Decision) -> None:
    """Turn a spare into one that waits, and for whom join timeouts count again."""
    _add_to_wait_list(ctx, decision)


def _mark_complete(ctx: RendezvousContext, _: Decision) -> None:
    state = ctx.state
    last = state.world.members if state.world is not None else ()
    survivors = {
        node: rank
        for rank, node in enumerate(last)
        if node in state.participants and node not in state.departed
    }
    profiles = {node: state.profiles[node] for node in state.participants}
    members = rank_nodes(ctx.settings.rank_policy, profiles, survivors)
    state.world = World(
        epoch=state.epoch,
        round=state.round,
        members=tuple(members),
        profiles=tuple(profiles[node] for node in members),
    )
    state.participants = {node: rank for rank, node in enumerate(members)}
    state.complete = True
    state.deadline = None
    state.regrouping_since = None
    state.departed = {}
    state.finishing = {}
    state.stragglers |= {node: ctx.observer.stamp() for node in state.survivors}
    state.survivors = {}


def _mark_closed(ctx: RendezvousContext, decision: Decision) -> None:
    ctx.state.closed = True
    ctx.state.closed_reason = decision.reason


def _keep_alive(ctx: RendezvousContext, _: Decision) -> None:
    _beat(ctx)


TRANSITIONS: Mapping[Action, Transition] = {
    Action.KEEP_ALIVE: _keep_alive,
    Action.ADD_TO_PARTICIPANTS: _add_to_participants,
    Action.ADD_TO_WAIT_LIST: _add_to_wait_list,
    Action.ADD_TO_REDUNDANCY_LIST: _add_to_redundancy_list,
    Action.REMOVE_FROM_PARTICIPANTS: _remove_from_participants,
    Action.REMOVE_FROM_WAIT_LIST: _remove_from_wait_list,
    Action.REMOVE_FROM_REDUNDANCY_LIST: _remove_from_redundancy_list,
    Action.MARK_RENDEZVOUS_COMPLETE: _mark_complete,
    Action.MARK_RENDEZVOUS_CLOSED: _mark_closed,
}

SILENT_ACTIONS = frozenset({Action.SYNC, Action.ERROR_CLOSED, Action.ERROR_TIMEOUT, Action.FINISH})


def admit(ctx: RendezvousContext) -> None:
    """Attach the node to the run: from now on it is expected to show signs of life.

    The first node of a run sets the settings on which the others must agree (R13). A node with an
    explicit id takes the place of its former incarnation at once (R12).
    """
    state, node, node_id = ctx.state, ctx.node, ctx.profile.node_id
    if state.agreed is None or not state.last_heartbeats:
        state.agreed = ctx.settings.agreed
    former = state.identities.get(node_id) if node_id else None
    if former is not None and former != node:
        withdraw(state, ctx.settings, former, f"replaced by {node}", ctx.observer)
        state.replaced[former] = str(node)
        forget_oldest_replaced(state)
    if node_id:
        state.identities[node_id] = node
    state.profiles[node] = ctx.profile
    _beat(ctx)


def forget_oldest_replaced(state: RendezvousState) -> None:
    """Keep no more than `REPLACED_MAX` former incarnations."""
    while len(state.replaced) > REPLACED_MAX:
        del state.replaced[next(iter(state.replaced))]


def withdraw(
    state: RendezvousState,
    settings: RendezvousSettings,
    node: NodeDesc,
    reason: str,
    observer: Observer,
) -> None:
    """Take a node out of everything except the record of the world that it was in (R1).

    Args:
        state: The state to change.
        settings: The run's settings.
        node: The node that left, was lost, was replaced or is turned out.
        reason: Why, for those who are told (R8).
        observer: Gives the moment.
    """
    was_member = node in state.survivors or _holds_place_of_last_world(state, node)
    state.participants.pop(node, None)
    _take_from_lists(state, node)
    state.last_heartbeats.pop(node, None)
    profile = state.profiles.pop(node, None)
    if profile is not None and state.identities.get(profile.node_id) == node:
        del state.identities[profile.node_id]
    if was_member and node not in state.finishing:
        state.departed[node] = reason
    if state.complete and not state.participants:
        _open_next_round(state, observer)
    elif not state.complete:
        _shrink_open_round(state, settings)


def finish(ctx: RendezvousContext) -> bool:
    """Note that a member's work is done: it will not come back, and nobody has to regroup (R7).

    Returns:
        Whether it is a member of the present world, and the state was changed.
    """
    state = ctx.state
    if not state.complete or ctx.node not in state.participants:
        return False
    state.finishing[ctx.node] = ctx.observer.stamp()
    return True


def drop_stragglers(state: RendezvousState, observer: Observer) -> list[NodeDesc]:
    """Give up the places of members that did not come back to regroup in time (R10).

    Returns:
        The members that lost their places. They stay attached and may join again as newcomers.
    """
    late = list(state.survivors)
    for node in late:
        state.departed[node] = "did not come back to regroup in time"
        state.stragglers[node] = observer.stamp()
    state.survivors = {}
    _end_regroup_of_nobody(state)
    return late


def _open_next_round(state: RendezvousState, observer: Observer) -> None:
    """Begin to fill the next round; places are kept for those who are left of this one (R5)."""
    state.round += 1
    state.complete = False
    state.deadline = None
    state.survivors = {
        node: rank for node, rank in state.participants.items() if node not in state.finishing
    }
    state.stragglers |= {
        node: stamp for node, stamp in state.finishing.items() if node in state.participants
    }
    state.finishing = {}
    state.participants = {}
    state.regrouping_since = observer.stamp() if state.survivors else None


def _shrink_open_round(state: RendezvousState, settings: RendezvousSettings) -> None:
    if len(state.participants) < settings.min_nodes:
        state.deadline = None
    _end_regroup_of_nobody(state)


def _end_regroup_of_nobody(state: RendezvousState) -> None:
    """Let whoever comes next start afresh, with a last call, if nobody is left to regroup."""
    if not state.participants and not state.survivors:
        state.regrouping_since = None


def _holds_place_of_last_world(state: RendezvousState, node: NodeDesc) -> bool:
    """Return whether the node is in the world that stands, or has come back from it."""
    if node not in state.participants or state.world is None:
        return False
    return state.complete or (node not in state.departed and node in state.world.members)


def _take_from_lists(state: RendezvousState, node: NodeDesc) -> None:
    for members in (state.wait_list, state.redundancy_list, state.survivors, state.stragglers):
        members.pop(node, None)


def _beat(ctx: RendezvousContext) -> None:
    """Write a stamp that differs from the last one, even under a clock that stands still."""
    stamp = ctx.observer.stamp()
    last = ctx.state.last_heartbeats.get(ctx.node)
    if last is not None and stamp <= last:
        stamp = last + timedelta(microseconds=1)
    ctx.state.last_heartbeats[ctx.node] = stamp
