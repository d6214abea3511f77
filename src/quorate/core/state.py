"""What all nodes of a run share, and the record of a completed round."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import AgreedSettings, RendezvousSettings

__all__ = [
    "Ban",
    "Moment",
    "Place",
    "RendezvousState",
    "World",
    "WorldName",
    "capacity",
    "check",
    "has_come_back",
    "prospects",
    "room",
]


# Without its zone a moment could not be compared with others.
Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class WorldName(NamedTuple):
    """What a world is called: the epoch of the run's state, and the round in it."""

    epoch: str
    round: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.round}"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """One member's place in a world: all that it needs to know, of a size that does not grow.

    Args:
        epoch: The epoch of the world.
        round: The round of the world.
        rank: This member's rank.
        size: The number of members.
        digest: The digest of the whole record, to compare with other members'.
        leader_addr: The address of rank 0.
        leader_port: A port that was free on rank 0 when it joined.
        first_worker: The rank of this member's first worker.
        workers: The number of workers in the world.
    """

    epoch: str
    round: int
    rank: int
    size: int
    digest: str
    leader_addr: str
    leader_port: int
    first_worker: int
    workers: int

    @property
    def world(self) -> WorldName:
        """Return the name of the world."""
        return WorldName(self.epoch, self.round)


class World(msgspec.Struct, frozen=True, dict=True):
    """The record of a completed round. Nothing edits it, a later loss least of all (R1).

    Args:
        epoch: The epoch of the state in which the round was completed.
        round: The number of the round.
        members: The nodes, in the order of their ranks.
        profiles: What each of them said about itself, in the same order.
    """

    epoch: str
    round: int
    members: tuple[NodeDesc, ...]
    profiles: tuple[NodeProfile, ...]

    @property
    def name(self) -> WorldName:
        """Return the name of the world."""
        return WorldName(self.epoch, self.round)

    @cached_property
    def ranks(self) -> Mapping[NodeDesc, int]:
        """Each member's rank: to look through all members for each one that is lost is O(N)."""
        return {node: rank for rank, node in enumerate(self.members)}

    def part(self, first: int, count: int) -> World:
        """Return the record with some of its members only: so many from a rank on."""
        last = first + count
        return World(self.epoch, self.round, self.members[first:last], self.profiles[first:last])

    def extended(self, part: World) -> World:
        """Return the record with the members that come next."""
        members, profiles = self.members + part.members, self.profiles + part.profiles
        return World(self.epoch, self.round, members, profiles)

    def digest(self) -> str:
        """Return a short fingerprint of the record; equal records have equal digests."""
        body = msgspec.msgpack.encode((self.epoch, self.round, self.members))
        return hashlib.blake2b(body, digest_size=8).hexdigest()

    def places(self) -> dict[NodeDesc, Place]:
        """Return every member's place."""
        digest = self.digest()
        workers = sum(profile.slots for profile in self.profiles)
        places: dict[NodeDesc, Place] = {}
        first_worker = 0
        for rank, (node, profile) in enumerate(zip(self.members, self.profiles, strict=True)):
            places[node] = Place(
                epoch=self.epoch,
                round=self.round,
                rank=rank,
                size=len(self.members),
                digest=digest,
                leader_addr=self.profiles[0].addr or self.members[0].addr,
                leader_port=self.profiles[0].port,
                first_worker=first_worker,
                workers=workers,
            )
            first_worker += profile.slots
        return places


class Ban(msgspec.Struct, frozen=True, array_like=True):
    """Why, and for how long still, somebody is kept out of the run.

    Args:
        reason: Why, for people.
        left_s: How much of it was left when the state was stored last, on the clock of the one who
            decides; `None` for the rest of the run. Time in which nobody decides does not count
            (R9).
    """

    reason: str
    left_s: float | None = None


class RendezvousState(msgspec.Struct):
    """The shared state of a run. Only `quorate.core.transitions` changes it.

    The times in it are identities of moments, set by the one that wrote them; nobody compares
    them with a clock of its own (R9).

    Args:
        epoch: Random text, minted when the state was created rather than loaded (R2).
        round: The round that is complete, or being filled.
        complete: Whether the round is complete.
        deadline: When the last call ends, once there are enough participants.
        closed: Whether the run is over.
        closed_reason: Why, in the words of the first one that closed it (R7).
        participants: The nodes in the round with their ranks; the ranks count once complete.
        wait_list: Newcomers for whom there is room in the next round, in order of arrival.
        redundancy_list: Spares, in order of arrival.
        last_heartbeats: Every attached node with the moment of its last sign of life.
        profiles: What each attached node said about itself.
        agreed: The settings of the run, as its first node gave them (R13).
        world: The last completed world.
        survivors: While regrouping, members of the last world that are still to come back, with
            their old ranks. Their places are kept (R5).
        regrouping_since: The moment at which the regroup began (R10).
        stragglers: Attached members that did not come back in time and lost their places.
        departed: Members that the last world has lost, with the reason.
        finishing: Members of the complete world whose work is done: they will not come back, and
            nobody regroups because they go (R7).
        identities: Explicit node ids, each with its latest incarnation (R12).
        gone: Those of them that are not attached, with their ids; the latest one last.
        replaced: Former incarnations whose requests must end, oldest first.
        desired_nodes: The size that the operator wants, if any (R4).
        held: Whether the operator holds the round open.
        held_reason: Why, in the operator's words.
        draining: Nodes that leave when their world ends, with the operator's reason.
        bans: Who is kept out of the run: `node id ID` or `address ADDR`.
    """

    epoch: str = ""
    round: int = 0
    complete: bool = False
    deadline: Moment | None = None
    closed: bool = False
    closed_reason: str = ""
    participants: dict[NodeDesc, int] = {}
    wait_list: dict[NodeDesc, Moment] = {}
    redundancy_list: dict[NodeDesc, Moment] = {}
    last_heartbeats: dict[NodeDesc, Moment] = {}
    profiles: dict[NodeDesc, NodeProfile] = {}
    agreed: AgreedSettings | None = None
    world: World | None = None
    survivors: dict[NodeDesc, int] = {}
    regrouping_since: Moment | None = None
    stragglers: dict[NodeDesc, Moment] = {}
    departed: dict[NodeDesc, str] = {}
    finishing: dict[NodeDesc, Moment] = {}
    identities: dict[str, NodeDesc] = {}
    gone: dict[NodeDesc, str] = {}
    replaced: dict[NodeDesc, str] = {}
    desired_nodes: int | None = None
    held: bool = False
    held_reason: str = ""
    draining: dict[NodeDesc, str] = {}
    bans: dict[str, Ban] = {}

    @property
    def name(self) -> WorldName:
        """Return the name that the round's world has, or will have."""
        return WorldName(self.epoch, self.round)


def capacity(state: RendezvousState, settings: RendezvousSettings) -> int:
    """Return how many nodes the round is meant to have: the operator's wish, within limits (R4)."""
    if state.desired_nodes is None:
        return settings.max_nodes
    return max(settings.min_nodes, min(state.desired_nodes, settings.max_nodes))


def has_come_back(state: RendezvousState, node: NodeDesc) -> bool:
    """Return whether a participant of the open round was in the last world, and never left it."""
    return state.world is not None and node in state.world.ranks and node not in state.departed


def room(state: RendezvousState, settings: RendezvousSettings) -> int:
    """Return how many places are neither taken nor kept for a survivor (R5)."""
    return capacity(state, settings) - len(state.participants) - len(state.survivors)


def prospects(state: RendezvousState, settings: RendezvousSettings, arriving: int = 0) -> int:
    """Return how many of those who wait have a place in the next round, in their order (R5, R6).

    A world grows by whole units only: where one is not filled, nobody of it has a place.

    Args:
        state: The state of the run.
        settings: The run's settings.
        arriving: How many more are about to wait.
    """
    placed = len(state.participants) + len(state.survivors)
    waiting = len(state.wait_list) + len(state.redundancy_list) + arriving
    wanted = min(capacity(state, settings), placed + waiting)
    return max(wanted - wanted % settings.node_unit - placed, 0)


def check(state: RendezvousState, settings: RendezvousSettings) -> None:
    """Check the invariants that hold after every transition; tests call it after every step.

    It also tells whether a state that somebody else has stored can be used.

    Raises:
        AssertionError: An invariant is broken; it names the rule.
    """
    lists = (
        state.participants,
        state.wait_list,
        state.redundancy_list,
        state.survivors,
        state.stragglers,
    )
    placed = [node for members in lists for node in members]
    _must(len(placed) == len(set(placed)), "R6: a node stands in two lists")
    _must(state.last_heartbeats.keys() >= set(placed), "R8: a node in a list is not attached")
    _must(state.last_heartbeats.keys() == state.profiles.keys(), "a profile is missing or left")
    _must(state.departed.keys().isdisjoint(state.participants) or not state.complete, "R1")
    _must(len(state.participants) <= settings.max_nodes, "R2: more participants than max_nodes")
    _must(not (state.complete and state.survivors), "R5: survivors awaited in a complete round")
    _must(not state.survivors or state.regrouping_since is not None, "R10: an endless regroup")
    _must(state.round >= 0, "R2: a round before the first")
    attached = state.last_heartbeats.keys()
    _must(attached >= state.draining.keys(), "a drained node is not attached")
    _must(attached.isdisjoint(state.gone), "R12: a node that is gone is attached")
    known = all(state.identities.get(node_id) == node for node, node_id in state.gone.items())
    _must(known, "R12: a node that is gone has no identity")
    lasting = all(ban.left_s is None or ban.left_s > 0 for ban in state.bans.values())
    _must(lasting, "a ban is over")
    if state.world is not None:
        _check_world(state, state.world)
    if state.complete:
        _check_complete(state, settings)
    else:
        placed_nodes = state.participants.keys() | state.survivors.keys()
        _must(state.draining.keys().isdisjoint(placed_nodes), "a drained node has a place")
        _must(len(placed_nodes) <= capacity(state, settings), "R4: more places than are wanted")


def _check_world(state: RendezvousState, world: World) -> None:
    _must(world.epoch == state.epoch, "R2: a world of another epoch")
    _must(0 <= world.round <= state.round - (not state.complete), "R2: a world of a later round")
    _must(len(world.profiles) == len(world.members) > 0, "R1: members and profiles differ")
    _must(len(set(world.members)) == len(world.members), "R2: a member twice")


def _check_complete(state: RendezvousState, settings: RendezvousSettings) -> None:
    world = state.world
    _must(world is not None and world.name == state.name, "R1: a complete round has its world")
    assert world is not None
    _must(settings.min_nodes <= len(world.members) <= settings.max_nodes, "R2: size")
    _must(len(world.members) % settings.node_unit == 0, "R4: not whole units")
    _must(bool(state.participants), "a complete round without participants should have moved on")
    ranks = world.ranks
    _must(state.participants.items() <= ranks.items(), "R2: a rank differs from the record")
    missing = ranks.keys() - state.participants.keys()
    told = state.departed.keys() & ranks.keys()
    _must(told <= missing, "R8: a loss is told of a node that is there")
    _must(missing <= told | state.finishing.keys(), "R8: a loss that is not told")


def _must(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(rule)
