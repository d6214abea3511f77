from __future__ import annotations

from collections.abc import Callable

import pytest

from quorate.codec import decode_state, encode_state
from quorate.core.action import Action, Decision
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import RendezvousState, World, WorldName, capacity, check, room
from quorate.core.transitions import apply
from tests.core.support import Run, make_settings, node

A, B, C, D = (node(name) for name in "abcd")


def make_world(**profiles: NodeProfile) -> World:
    return World("e", 3, tuple(node(name) for name in profiles), tuple(profiles.values()))


def test_a_world_is_named_by_epoch_and_round() -> None:
    """R1"""
    world = make_world(a=NodeProfile())
    assert world.name == WorldName("e", 3)
    assert str(world.name) == "e.3"
    assert RendezvousState(epoch="e", round=3).name == world.name


def test_a_world_cannot_be_changed() -> None:
    """R1"""
    world = make_world(a=NodeProfile())
    with pytest.raises(AttributeError):
        world.round = 4  # type: ignore[misc]
    with pytest.raises(AttributeError):
        world.places()[A].rank = 1  # type: ignore[misc]


def test_equal_records_have_equal_digests() -> None:
    """R1: and unequal ones have not; what the nodes said about themselves is no part of it."""
    world = make_world(a=NodeProfile(), b=NodeProfile())
    assert world.digest() == make_world(a=NodeProfile(), b=NodeProfile(port=1)).digest()
    assert world.digest() != make_world(b=NodeProfile(), a=NodeProfile()).digest()
    assert world.digest() != World("f", 3, world.members, world.profiles).digest()
    assert world.digest() != World("e", 4, world.members, world.profiles).digest()


def test_who_is_a_member_is_looked_up_once_for_all() -> None:
    """Of 80,000 members 2,000 are lost at once while a round is open: each must not cost O(N)."""
    world = make_world(b=NodeProfile(), a=NodeProfile())
    assert world.ranks == {B: 0, A: 1}
    assert world.ranks is world.ranks
    assert world == make_world(b=NodeProfile(), a=NodeProfile())


def test_a_record_can_be_sent_in_parts() -> None:
    """R1: put together they are the record, and nothing beyond its end."""
    world = make_world(a=NodeProfile(), b=NodeProfile(port=1), c=NodeProfile(), d=NodeProfile())
    parts = [world.part(0, 3), world.part(3, 3), world.part(4, 3)]
    assert [len(part.members) for part in parts] == [3, 1, 0]
    assert parts[1].ranks == {D: 0}
    assert parts[0].extended(parts[1]).extended(parts[2]) == world


def test_every_member_has_its_place() -> None:
    """R1, R2: ranks of nodes and of their workers, and how to reach the leader."""
    world = make_world(b=NodeProfile(port=29500, slots=2), a=NodeProfile(slots=4))
    places = world.places()
    assert [*places] == [B, A]
    assert {node: place.rank for node, place in places.items()} == world.ranks
    first, second = places.values()
    assert (first.rank, first.size, first.first_worker, first.workers) == (0, 2, 0, 6)
    assert (second.rank, second.size, second.first_worker, second.workers) == (1, 2, 2, 6)
    for place in places.values():
        assert (place.leader_addr, place.leader_port) == ("b", 29500)
        assert place.world == world.name
        assert place.digest == world.digest()


def test_a_leader_that_has_moved_is_reached_where_it_is() -> None:
    """R1: it says so when it joins; what was recorded before stays."""
    places = make_world(b=NodeProfile(port=29500, addr="b2"), a=NodeProfile(addr="a2")).places()
    assert {place.leader_addr for place in places.values()} == {"b2"}


def test_states_do_not_share_their_lists() -> None:
    first, second = RendezvousState(), RendezvousState()
    first.participants[A] = 0
    assert second.participants == {}


@pytest.mark.parametrize(
    ("desired", "expected"), [(None, 4), (0, 2), (1, 2), (2, 2), (3, 3), (4, 4), (9, 4)]
)
def test_capacity_is_the_wish_within_limits(desired: int | None, expected: int) -> None:
    """R4"""
    state = RendezvousState(desired_nodes=desired)
    assert capacity(state, make_settings(2, 4)) == expected


def test_room_is_what_is_neither_taken_nor_kept() -> None:
    """R5"""
    run = Run(1, 4)
    run.completed(A, B, C)
    assert room(run.state, run.settings) == 1
    run.comes_back(A)
    assert room(run.state, run.settings) == 1
    run.state.desired_nodes = 2
    assert room(run.state, run.settings) == -1


def test_a_state_keeps_the_order_of_arrival_in_bytes() -> None:
    """R5"""
    run = Run(1, 2)
    run.completed(D, A)
    run.join(C, B)
    again = decode_state(encode_state(run.state))
    assert again == run.state
    assert [*again.redundancy_list] == [C, B]


def test_encoded_size_is_within_expected_limit() -> None:
    """What `STATE_BYTES_MAX` rests on: the state of a complete round, by node."""
    members = [NodeDesc(f"node{i}.cluster.example", 4242, 0, "0123456789") for i in range(500)]
    run = Run(2, len(members))
    for who in members:
        run.profiles[who] = NodeProfile(node_id=who.addr, port=29500, slots=8)
        apply(run.ctx(who), Decision(Action.ADD_TO_PARTICIPANTS))
    assert run.state.complete
    assert len(encode_state(run.state)) < 400 * len(members)


def breaks(state: RendezvousState) -> dict[str, Callable[[], object]]:
    """Return the ways to break a state, by the rule that `check` must name."""
    assert state.world is not None
    world = state.world
    return {
        "R6: a node stands in two lists": lambda: state.wait_list.update(
            {A: state.last_heartbeats[A]}
        ),
        "R8: a node in a list is not attached": lambda: state.last_heartbeats.pop(A),
        "a profile is missing or left": lambda: state.profiles.pop(A),
        "R1": lambda: state.departed.update({A: "lost"}),
        "R5: survivors awaited in a complete round": lambda: (
            state.participants.pop(B),
            state.survivors.update({B: 1}),
        ),
        "R1: a complete round has its world": lambda: setattr(state, "round", 9),
        "R2: size": lambda: setattr(
            state,
            "world",
            World(world.epoch, 0, (*world.members, C), (*world.profiles, NodeProfile())),
        ),
        "R2: a member twice": lambda: setattr(
            state, "world", World(world.epoch, 0, (A, A), world.profiles)
        ),
        "should have moved on": state.participants.clear,
        "R2: a rank differs from the record": lambda: state.participants.update({A: 1}),
        "R8: a loss that is not told": lambda: state.participants.pop(B),
    }


RULES = [*breaks(RendezvousState(world=make_world(a=NodeProfile())))]


@pytest.mark.parametrize("rule", RULES)
def test_check_names_the_rule_that_is_broken(rule: str) -> None:
    run = Run(2, 2)
    run.completed(A, B)
    check(run.state, run.settings)
    breaks(run.state)[rule]()
    with pytest.raises(AssertionError, match=rule):
        check(run.state, run.settings)


def test_check_knows_the_limit_of_an_open_round() -> None:
    """R2"""
    run = Run(2, 3)
    run.join(A, B)
    run.settings = make_settings(1, 1)
    with pytest.raises(AssertionError, match="R2: more participants than max_nodes"):
        check(run.state, run.settings)
