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
from quorate.core.state import Ban, RendezvousState, World, capacity, has_come_back, prospects

__all__ = [
    "SILENT_ACTIONS",
    "TRANSITIONS",
    "Transition",
    "admit",
    "apply",
    "ban",
    "drain",
    "drop_stragglers",
    "finish",
    "forget_oldest",
    "hold",
    "lift_ban",
    "pass_time",
    "release",
    "scale",
    "withdraw",
]

Transition = Callable[[RendezvousContext, Decision], None]

# Former incarnations are remembered so that a late word of theirs ends in a clear error, and so
# are those that are gone and may yet have an heir. Beyond this many the oldest is forgotten: it
# then looks like a newcomer that carries a taken node id.
FORMER_MAX = 1024

# A run that keeps out more than this forgets the oldest: names cost a peer nothing.
BANS_MAX = 4096

# Newcomers come after every rank.
_NO_RANK = float("inf")


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
        _open_next_round(state, ctx.settings, ctx.observer)
        if ctx.node not in state.survivors:
            _add_to_redundancy_list(ctx, decision)
            return
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
    surplus = len(state.participants) % ctx.settings.node_unit
    _make_spares(state, _last_to_claim(state, list(state.participants), surplus), ctx.observer)
    old_ranks = _old_ranks(state)
    survivors = {node: rank for node, rank in old_ranks.items() if node in state.participants}
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
    _keep_within_prospects(state, ctx.settings, ctx.observer)


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


def admit(ctx: RendezvousContext) -> bool:
    """Attach the node to the run: from now on it is expected to show signs of life.

    The first node of a run sets the settings on which the others must agree (R13). A node with an
    explicit id takes the place of its former incarnation at once (R12), also of one that is gone:
    it may have been silent only, and must not take the place back when it is heard again.

    Returns:
        Whether others became spares, as for `withdraw`.
    """
    state, node, node_id = ctx.state, ctx.node, ctx.profile.node_id
    if state.agreed is None or not state.last_heartbeats:
        state.agreed = ctx.settings.agreed
    former = state.identities.get(node_id) if node_id else None
    rearranged = False
    if former is not None and former != node:
        if former in state.draining:
            state.draining[node] = state.draining[former]
        if former not in state.gone:
            reason = f"replaced by {node}"
            rearranged = withdraw(state, ctx.settings, former, reason, ctx.observer)
        state.gone.pop(former, None)
        state.replaced[former] = str(node)
    given_up = state.gone.pop(node, node_id)
    if given_up != node_id:
        del state.identities[given_up]
    if node_id:
        state.identities[node_id] = node
    forget_oldest(state)
    state.profiles[node] = ctx.profile
    _beat(ctx)
    return rearranged


def forget_oldest(state: RendezvousState) -> None:
    """Keep no more than `FORMER_MAX` incarnations that were replaced, and as many that are gone."""
    while len(state.replaced) > FORMER_MAX:
        del state.replaced[next(iter(state.replaced))]
    while len(state.gone) > FORMER_MAX:
        node = next(iter(state.gone))
        del state.identities[state.gone.pop(node)]


def withdraw(
    state: RendezvousState,
    settings: RendezvousSettings,
    node: NodeDesc,
    reason: str,
    observer: Observer,
) -> bool:
    """Take a node out of everything except the record of the world that it was in (R1).

    Args:
        state: The state to change.
        settings: The run's settings.
        node: The node that left, was lost, was replaced or is turned out.
        reason: Why, for those who are told (R8).
        observer: Gives the moment.

    Returns:
        Whether others became spares: without the node they do not fill a unit any more (R6).
    """
    was_member = node in state.survivors or _holds_place_of_last_world(state, node)
    state.participants.pop(node, None)
    _take_from_lists(state, node)
    state.draining.pop(node, None)
    state.last_heartbeats.pop(node, None)
    profile = state.profiles.pop(node, None)
    if profile is not None and state.identities.get(profile.node_id) == node:
        state.gone[node] = profile.node_id
        forget_oldest(state)
    if was_member and node not in state.finishing:
        state.departed[node] = reason
    if not state.complete:
        _shrink_open_round(state, settings)
    elif state.participants:
        return _keep_within_prospects(state, settings, observer)
    else:
        _open_next_round(state, settings, observer)
    return False


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
    return late


def hold(state: RendezvousState, reason: str) -> None:
    """Keep rounds from completing until they are released (R4)."""
    state.held, state.held_reason = True, reason


def release(state: RendezvousState) -> None:
    """Let rounds complete again."""
    state.held, state.held_reason = False, ""


def scale(
    state: RendezvousState, settings: RendezvousSettings, nodes: int | None, observer: Observer
) -> None:
    """Set the size that the operator wants (R4). In an open round the surplus becomes spares.

    Args:
        state: The state to change.
        settings: The run's settings.
        nodes: The size, which the settings allow; `None` for as many as they allow.
        observer: Gives the moment.
    """
    state.desired_nodes = nodes
    if not state.complete:
        _keep_within_capacity(state, settings, observer)
    _keep_within_prospects(state, settings, observer)


def drain(
    state: RendezvousState,
    settings: RendezvousSettings,
    node: NodeDesc,
    reason: str,
    observer: Observer,
) -> None:
    """Let an attached node leave when its world ends; nobody keeps a place for it any more."""
    state.draining[node] = reason
    if not state.complete:
        _give_up_place(state, node, reason, observer)
        _shrink_open_round(state, settings)


def ban(state: RendezvousState, key: str, reason: str, left_s: float | None) -> None:
    """Keep a node or an address out of the run.

    Args:
        state: The state to change.
        key: Whom, see `quorate.core.exclusion.ban_key`.
        reason: Why.
        left_s: For how long, in seconds; `None` for the rest of the run.
    """
    state.bans[key] = Ban(reason, left_s)
    while len(state.bans) > BANS_MAX:
        del state.bans[next(iter(state.bans))]


def lift_ban(state: RendezvousState, key: str) -> None:
    """Let somebody in again that was kept out."""
    del state.bans[key]


def pass_time(state: RendezvousState, elapsed_s: float) -> bool:
    """Let time pass for whatever is in the state for a while.

    Returns:
        Whether something is over, and the state has to be stored.
    """
    lasting = {key: _shortened(ban, elapsed_s) for key, ban in state.bans.items()}
    before = len(state.bans)
    state.bans = {key: ban for key, ban in lasting.items() if ban.left_s is None or ban.left_s > 0}
    return len(state.bans) < before


def _shortened(ban: Ban, elapsed_s: float) -> Ban:
    return ban if ban.left_s is None else Ban(ban.reason, ban.left_s - elapsed_s)


def _open_next_round(
    state: RendezvousState, settings: RendezvousSettings, observer: Observer
) -> None:
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
    for node, reason in state.draining.items():
        _give_up_place(state, node, reason, observer)
    _keep_within_capacity(state, settings, observer)
    state.regrouping_since = observer.stamp() if state.survivors else None


def _give_up_place(state: RendezvousState, node: NodeDesc, reason: str, observer: Observer) -> None:
    """Take an open round's place from a node that stays attached, until it hears of it."""
    if node in state.survivors or _holds_place_of_last_world(state, node):
        state.departed[node] = reason
    state.participants.pop(node, None)
    _take_from_lists(state, node)
    state.stragglers[node] = observer.stamp()


def _keep_within_capacity(
    state: RendezvousState, settings: RendezvousSettings, observer: Observer
) -> None:
    """Take the surplus out of an open round.

    Who has come waits as a spare; who is still to come back finds its place gone.
    """
    placed = [*state.participants, *state.survivors]
    surplus = len(placed) - capacity(state, settings)
    losing = _last_to_claim(state, placed, surplus)
    for node in losing:
        if node in state.survivors:
            del state.survivors[node]
            state.stragglers[node] = observer.stamp()
    _make_spares(state, [node for node in losing if node in state.participants], observer)
    _shrink_open_round(state, settings)


def _last_to_claim(state: RendezvousState, placed: list[NodeDesc], surplus: int) -> list[NodeDesc]:
    """Return those of an open round whose claim is the weakest, the strongest of them first (R5).

    Survivors come before newcomers: the former in the order of their old ranks, the latter in that
    of their arrival.
    """
    if surplus <= 0:
        return []
    ranks = _old_ranks(state)
    by_claim = sorted(placed, key=lambda node: ranks.get(node, _NO_RANK))
    return by_claim[-surplus:]


def _make_spares(state: RendezvousState, nodes: list[NodeDesc], observer: Observer) -> None:
    """Let participants of an open round wait, before all spares that never had a place (R5)."""
    if not nodes:
        return
    for node in nodes:
        del state.participants[node]
    state.redundancy_list = {node: observer.stamp() for node in nodes} | state.redundancy_list


def _keep_within_prospects(
    state: RendezvousState, settings: RendezvousSettings, observer: Observer
) -> bool:
    """Turn those of the wait list into spares for whom there is no room in the next round (R6).

    Theirs would otherwise be a wait with a deadline, for something that does not come.

    Returns:
        Whether there were any.
    """
    surplus = list(state.wait_list)[prospects(state, settings) :]
    for node in surplus:
        del state.wait_list[node]
    if surplus:
        state.redundancy_list = {node: observer.stamp() for node in surplus} | state.redundancy_list
    return bool(surplus)


def _old_ranks(state: RendezvousState) -> dict[NodeDesc, int]:
    """Return the ranks that those had in the last world who have not left it."""
    last = state.world.ranks if state.world is not None else {}
    return {node: rank for node, rank in last.items() if node not in state.departed}


def _shrink_open_round(state: RendezvousState, settings: RendezvousSettings) -> None:
    if len(state.participants) < settings.min_nodes:
        state.deadline = None


def _holds_place_of_last_world(state: RendezvousState, node: NodeDesc) -> bool:
    """Return whether the node is in the world that stands, or has come back from it."""
    return node in state.participants and (state.complete or has_come_back(state, node))


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
