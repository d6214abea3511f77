"""What is to be seen of a run at one moment. Pure, and cheap: no text for each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from quorate.coordinator.history import Event, Round
from quorate.coordinator.run import Run
from quorate.core.completion import completion
from quorate.core.node import NodeDesc, NodeProfile

__all__ = ["Glimpse", "Standing", "glimpse", "phase"]


class Standing(NamedTuple):
    """Where a node stands.

    Args:
        state: `participant`, `joined` (a place in a round that is not complete), `returning` (a
            survivor that is awaited), `waiting`, `spare`, `straggler` or `attached`.
        rank: Its rank, for a participant.
    """

    state: str
    rank: int | None = None


class Glimpse(NamedTuple):
    """A run at one moment.

    Args:
        run_id: The run.
        epoch: The epoch of its state.
        round: The round that is complete, or being filled.
        phase: `joining`, `complete`, `regrouping` or `closed`.
        closed_reason: Why it was closed.
        waiting_kind: The kind of what is waited for; empty while nothing is.
        waiting_for: The same, for people (R16).
        waits_for_s: For how long, in seconds.
        min_nodes: The least size of a world; `None` before the first node has come.
        max_nodes: The greatest.
        desired_nodes: The size that the operator wants, if any.
        node_unit: The worlds' sizes are multiples of it.
        held: Why the operator holds rounds open; `None` if nobody does.
        standings: Where each attached node stands.
        profiles: What each of them said about itself.
        cut_off: The nodes that have no connection now.
        departed: The members that the last world has lost, with the reason.
        draining: Who leaves at the next regroup, and why.
        bans: How many are kept out.
        rounds: The last rounds, oldest first.
        events: The last events, oldest first.
    """

    run_id: str
    epoch: str
    round: int
    phase: str
    closed_reason: str
    waiting_kind: str
    waiting_for: str
    waits_for_s: float | None
    min_nodes: int | None
    max_nodes: int | None
    desired_nodes: int | None
    node_unit: int
    held: str | None
    standings: Mapping[NodeDesc, Standing]
    profiles: Mapping[NodeDesc, NodeProfile]
    cut_off: frozenset[NodeDesc]
    departed: Mapping[NodeDesc, str]
    draining: Mapping[NodeDesc, str]
    bans: int
    rounds: Sequence[Round]
    events: Sequence[Event]


def glimpse(run: Run) -> Glimpse:
    """Return what is to be seen of a run now."""
    state = run.state
    waits = not (state.closed or state.complete) and state.agreed is not None
    decision = completion(run.anyone()) if waits else None
    return Glimpse(
        run_id=run.run_id,
        epoch=state.epoch,
        round=state.round,
        phase=phase(run),
        closed_reason=state.closed_reason,
        waiting_kind=decision.kind if decision else "",
        waiting_for=decision.reason if decision else "",
        waits_for_s=run.waits_for_s,
        min_nodes=state.agreed.min_nodes if state.agreed else None,
        max_nodes=state.agreed.max_nodes if state.agreed else None,
        desired_nodes=state.desired_nodes,
        node_unit=state.agreed.node_unit if state.agreed else 1,
        held=(state.held_reason or "on request") if state.held else None,
        standings=_standings(run),
        profiles=state.profiles,
        cut_off=frozenset(
            node for node, session in run.sessions.items() if session.connection is None
        ),
        departed=state.departed,
        draining=state.draining,
        bans=len(state.bans),
        rounds=run.history.rounds,
        events=run.history.events,
    )


def phase(run: Run) -> str:
    """Return `joining`, `complete`, `regrouping` or `closed`."""
    if run.state.closed:
        return "closed"
    if run.state.complete:
        return "complete"
    return "joining" if run.state.world is None else "regrouping"


def _standings(run: Run) -> dict[NodeDesc, Standing]:
    state = run.state
    standings = dict.fromkeys(state.last_heartbeats, Standing("attached"))
    for name, nodes in (
        ("straggler", state.stragglers),
        ("spare", state.redundancy_list),
        ("waiting", state.wait_list),
        ("returning", state.survivors),
    ):
        standings |= dict.fromkeys(nodes, Standing(name))
    if not state.complete:
        return standings | dict.fromkeys(state.participants, Standing("joined"))
    for node, rank in state.participants.items():
        standings[node] = Standing("participant", rank)
    return standings
