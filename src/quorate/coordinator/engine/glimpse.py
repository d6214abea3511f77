"""What is to be seen of a run at one moment. Pure, and cheap: nothing is made for each node.

All who look at a run look at a glimpse of it, for as long as they like, while the run goes on. Of
10,000 nodes it takes half a millisecond: containers are copied as a whole, and what is immutable
or only ever replaced is shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from quorate.coordinator.runs.history import Event, Round
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.session import HeldJoin
from quorate.core.completion import completion
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import Ban, RendezvousState

__all__ = ["JOINED", "PARTICIPANT", "Glimpse", "Standing", "count_standings", "glimpse"]

PARTICIPANT = "participant"
JOINED = "joined"

_Place: TypeAlias = tuple[str, Mapping[NodeDesc, Any]]


class Standing(NamedTuple):
    """Where a node stands.

    Args:
        state: `participant`, `joined` (a place in a round that is not complete), `returning` (a
            survivor that is awaited), `waiting`, `spare`, `straggler` or `attached`.
        rank: Its rank, for a participant.
    """

    state: str
    rank: int | None = None


_ATTACHED = Standing("attached")


class Glimpse(NamedTuple):
    """A run at one moment.

    Args:
        run_id: The run.
        now_s: The moment, on the engine's clock.
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
        world_size: How many members the last complete world has; 0 if there was none.
        nodes: The attached nodes, in the order in which they came.
        connections: The connection of each of them, in the same order; `None` if it has none.
        heard_s: When each of them was heard last, on the engine's clock, in the same order.
        joins: The join of each of them that is not answered yet, in the same order.
        profiles: What each of them said about itself.
        places: The ranks or the moments of those who stand somewhere, by the name of where they
            stand: see `Standing`. Nobody stands in two places.
        departed: The members that the last world has lost, with the reason.
        draining: Who leaves at the next regroup, and why.
        bans: Who is kept out, and why.
        rounds: The last rounds, oldest first.
        events: The last events, oldest first.
    """

    run_id: str
    now_s: float
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
    node_unit: int | None
    held: str | None
    world_size: int
    nodes: Sequence[NodeDesc]
    connections: Sequence[int | None]
    heard_s: Sequence[float]
    joins: Sequence[HeldJoin | None]
    profiles: Mapping[NodeDesc, NodeProfile]
    places: Mapping[str, Mapping[NodeDesc, Any]]
    departed: Mapping[NodeDesc, str]
    draining: Mapping[NodeDesc, str]
    bans: Mapping[str, Ban]
    rounds: Sequence[Round]
    events: Sequence[Event]

    def standing(self, node: NodeDesc) -> Standing:
        """Return where an attached node stands."""
        for state, members in self.places.items():
            if node in members:
                rank = members[node]
                return Standing(state, rank if state == PARTICIPANT else None)
        return _ATTACHED

    def counts(self) -> dict[str, int]:
        """Return how many nodes stand where, those places left out where nobody does."""
        return _counted(self.places.items(), len(self.nodes))


def glimpse(run: Run) -> Glimpse:
    """Return what is to be seen of a run now."""
    state, sessions = run.state, run.sessions.values()
    waits = not (state.closed or state.complete) and state.agreed is not None
    decision = completion(run.anyone()) if waits else None
    return Glimpse(
        run_id=run.run_id,
        now_s=run.now_s,
        epoch=state.epoch,
        round=state.round,
        phase=_phase(state),
        closed_reason=state.closed_reason,
        waiting_kind=decision.kind if decision else "",
        waiting_for=decision.reason if decision else "",
        waits_for_s=run.waits_for_s,
        min_nodes=state.agreed.min_nodes if state.agreed else None,
        max_nodes=state.agreed.max_nodes if state.agreed else None,
        desired_nodes=state.desired_nodes,
        node_unit=state.agreed.node_unit if state.agreed else None,
        held=(state.held_reason or "on request") if state.held else None,
        world_size=len(state.world.members) if state.world else 0,
        nodes=list(run.sessions),
        connections=[session.connection for session in sessions],
        heard_s=[session.heard_s for session in sessions],
        joins=[session.join for session in sessions],
        profiles=dict(state.profiles),
        places={name: dict(members) for name, members in _places(state)},
        departed=dict(state.departed),
        draining=dict(state.draining),
        bans=dict(state.bans),
        rounds=list(run.history.rounds),
        events=list(run.history.events),
    )


def count_standings(run: Run) -> dict[str, int]:
    """Return how many nodes of a run stand where now, as its glimpse would, without taking one."""
    return _counted(_places(run.state), len(run.sessions))


def _counted(places: Iterable[_Place], nodes: int) -> dict[str, int]:
    counts = {state: len(members) for state, members in places}
    attached = nodes - sum(counts.values())
    return counts | ({_ATTACHED.state: attached} if attached else {})


def _phase(state: RendezvousState) -> str:
    """Return `joining`, `complete`, `regrouping` or `closed`."""
    if state.closed:
        return "closed"
    if state.complete:
        return "complete"
    return "joining" if state.world is None else "regrouping"


def _places(state: RendezvousState) -> Iterator[_Place]:
    for place in (
        (PARTICIPANT if state.complete else JOINED, state.participants),
        ("returning", state.survivors),
        ("waiting", state.wait_list),
        ("spare", state.redundancy_list),
        ("straggler", state.stragglers),
    ):
        if place[1]:
            yield place
