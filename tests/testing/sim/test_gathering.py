"""The simulator's own reading of when a round is complete (R4)."""

from __future__ import annotations

from typing import Any

import pytest

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import RendezvousState, World
from quorate.testing.sim.gathering import Gathering, wanted
from tests.core.support import LAST_CALL_S, REGROUP_S, make_settings, node

SETTINGS = make_settings(2, 4)


def ranks(names: str) -> dict[NodeDesc, Any]:
    return {node(name): rank for rank, name in enumerate(names)}


def forming(names: str, attached: str = "", **changes: Any) -> RendezvousState:
    beats = ranks(attached or names)
    return RendezvousState("e", participants=ranks(names), last_heartbeats=beats, **changes)


def complete(names: str, attached: str = "", **changes: Any) -> RendezvousState:
    state = forming(names, attached, complete=True, **changes)
    state.world = world_of(names)
    return state


def world_of(names: str) -> World:
    members = tuple(map(node, names))
    return World("e", 0, members, tuple(NodeProfile() for _ in members))


def gathered(names: str) -> Gathering:
    """Return what has seen since 100 s that so many are there."""
    gathering = Gathering(SETTINGS)
    gathering.look(forming(names), 100.0)
    return gathering


def why_not(
    after_s: float, state: RendezvousState, kept: str = "", last: str = "", departed: str = ""
) -> str:
    kept_for, gone = [node(name) for name in kept], [node(name) for name in departed]
    world = world_of(last) if last else None
    return gathered("ab").too_early(state, 100.0 + after_s, kept_for, world, gone)


def test_r4_the_size_is_what_the_operator_wants_within_limits() -> None:
    sizes = {None: 4, 1: 2, 3: 3, 9: 4}
    for wish, size in sizes.items():
        assert wanted(RendezvousState(desired_nodes=wish), SETTINGS) == size


def test_r4_a_full_round_is_complete_at_once() -> None:
    assert not why_not(0.0, complete("abcd", "abcdx"))
    assert not why_not(0.0, complete("abc", "abcx", desired_nodes=3))
    assert "operator" in why_not(0.0, complete("abcd", held=True))


def test_r4_others_have_the_last_call_to_come() -> None:
    assert "last call" in why_not(LAST_CALL_S - 1, complete("abc"))
    assert not why_not(LAST_CALL_S, complete("abc"))


def test_r4_the_last_call_begins_when_there_are_enough() -> None:
    gathering = gathered("a")
    assert "0.0 s" in gathering.too_early(complete("abc"), 200.0, (), None, ())
    gathering.look(forming("ab"), 150.0)
    gathering.look(forming("a"), 160.0)
    gathering.look(forming("ab"), 170.0)
    assert "30.0 s" not in gathering.too_early(complete("ab"), 180.0, (), None, ())
    assert gathering.too_early(complete("ab"), 180.0, (), None, ())


def test_r4_those_who_are_left_do_not_wait_for_the_last_call() -> None:
    assert not why_not(0.0, complete("abc"), last="abc")
    assert "may still join" in why_not(0.0, complete("abc", "abcx"), last="abc")
    late = complete("abc", "abcx", stragglers=ranks("x"))
    assert not why_not(0.0, late, last="abc")


def test_r4_those_who_are_left_must_be_enough_without_newcomers() -> None:
    assert "last call" in why_not(0.0, complete("abc"), last="axy")
    assert "last call" in why_not(0.0, complete("abc"), last="abx", departed="b")
    assert not why_not(LAST_CALL_S, complete("abc"), last="axy")


@pytest.mark.parametrize("after_s", [0.0, 2 * LAST_CALL_S])
def test_r4_survivors_are_waited_for(after_s: float) -> None:
    assert "come back" in why_not(after_s, complete("abc", "abcx"), kept="ax", last="abc")
    assert not why_not(2 * LAST_CALL_S, complete("abc"), kept="ax", last="abc")


def test_r4_who_does_not_fill_a_unit_has_come() -> None:
    settings = make_settings(2, 4, node_unit=2)
    state = complete("ab", "abc", redundancy_list=ranks("c"))
    assert not Gathering(settings).too_early(state, 0.0, [node("c")], world_of("abc"), ())


def test_r10_who_is_late_had_all_its_time() -> None:
    gathering, kept = Gathering(SETTINGS), [node("b")]
    since: Any = "some time ago"
    gathering.look(forming("a", "ab", survivors=ranks("b"), regrouping_since=since), 100.0)
    gone = {"departed": {node("b"): "too late"}, "stragglers": ranks("b")}
    assert gathering.dropped_early(forming("a", "ab", **gone), 99.0 + REGROUP_S, kept) == kept
    assert not gathering.dropped_early(forming("a", "ab", **gone), 100.0 + REGROUP_S, kept)
    let_go = forming("a", "ab", draining={node("b"): "by the operator"}, **gone)
    assert not gathering.dropped_early(let_go, 101.0, kept)


def test_r4_a_round_that_should_be_complete_is_seen() -> None:
    gathering = gathered("ab")
    assert "all 4" in gathering.overdue(forming("abcd"))
    assert not gathering.overdue(forming("abcd", held=True))
    assert not gathering.overdue(complete("abcd"))
    assert not gathering.overdue(forming("abc"))
    last = world_of("abx")
    assert "left are back" in gathering.overdue(forming("abc", world=last))
    assert not gathering.overdue(forming("ac", world=last))
    assert not gathering.overdue(forming("a", world=last))
    assert not gathering.overdue(forming("abc", "abcx", world=last))
    assert not gathering.overdue(forming("abc", world=last, survivors=ranks("x")))
    assert not gathering.overdue(forming("abc", world=last, departed={node("b"): "it left"}))
