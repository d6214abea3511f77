"""The checkers: each rule that is broken is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import RendezvousState, World
from quorate.testing.sim.process import Asleep
from quorate.testing.sim.rules import WorldRules, violation_of
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.trace import Trace, Violation
from tests.core.support import make_settings, node


def rules(**changes: Any) -> WorldRules:
    return WorldRules(make_settings(2, 3, **changes), Trace(Schedule(1)))


def world(*names: str, number: int = 0, epoch: str = "e") -> World:
    members = tuple(map(node, names))
    return World(epoch, number, members, tuple(NodeProfile() for _ in members))


def state(made: World, **changes: Any) -> RendezvousState:
    return RendezvousState(epoch=made.epoch, round=made.round + 1, world=made, **changes)


def broken(rule: str) -> Any:
    return pytest.raises(Violation, match=f"^{rule}: ")


def nodes(*names: str) -> list[NodeDesc]:
    return [node(name) for name in names]


def test_r1_all_members_are_told_the_same() -> None:
    checks = rules()
    checks.placed(node("a"), world("a", "b").places()[node("a")])
    with broken("R1"):
        checks.placed(node("c"), world("a", "c").places()[node("c")])


def test_r1_a_record_is_never_edited() -> None:
    checks = rules()
    checks.state(state(world("a", "b")))
    checks.state(state(world("a", "b")))
    with broken("R1"):
        checks.state(state(world("a", "c")))


def test_r1_a_place_is_that_of_the_record() -> None:
    checks = rules()
    checks.state(state(world("a", "b")))
    with broken("R1"):
        checks.placed(node("b"), world("b", "a").places()[node("b")])


def test_r2_a_rank_is_one_nodes_and_in_range() -> None:
    place = world("a", "b").places()[node("a")]
    checks = rules()
    checks.placed(node("a"), place)
    with broken("R2"):
        checks.placed(node("b"), place)
    with broken("R2"):
        rules().placed(node("a"), msgspec.structs.replace(place, rank=2))
    with broken("R2"):
        rules().placed(node("a"), msgspec.structs.replace(place, size=4))


def test_r2_rounds_grow() -> None:
    checks = rules()
    checks.placed(node("a"), world("a", "b", number=3).places()[node("a")])
    with broken("R2"):
        checks.placed(node("a"), world("a", "b", number=2).places()[node("a")])
    checks.placed(node("a"), world("a", "b", number=2, epoch="another").places()[node("a")])
    checks.state(state(world("a", "b", number=3)))
    with broken("R2"):
        checks.state(state(world("a", "b", number=1)))


def test_r3_a_newcomer_does_not_lead_and_survivors_keep_their_ranks() -> None:
    last = world("a", "b", "c")
    for wrong in (("x", "b", "c"), ("b", "c", "x")):
        with broken("R3"):
            rules().completed(last, nodes("a"), (), state(world(*wrong, number=1)))
    rules().completed(last, nodes("a"), (), state(world("b", "x", "c", number=1)))
    with broken("R3"):
        rules().completed(None, (), (), state(world("b", "a")))


def test_r4_no_world_is_too_small() -> None:
    with broken("R4"):
        rules().state(state(world("a")))


def test_r5_survivors_come_before_newcomers() -> None:
    last, new = world("a", "b"), world("a", "x", number=1)
    beats = {each: None for each in nodes("a", "b", "x")}
    passed_over: Any = state(new, last_heartbeats=beats)
    with broken("R5"):
        rules().completed(last, (), nodes("b"), passed_over)
    rules().completed(last, nodes("b"), (), passed_over)


def test_r7_a_run_is_closed_for_a_reason_that_was_given_once() -> None:
    checks = rules()
    closed = state(world("a", "b"), closed=True, closed_reason="done")
    with broken("R7"):
        checks.state(closed)
    checks.may_close |= {"done", "again"}
    checks.state(closed)
    with broken("R7"):
        checks.state(msgspec.structs.replace(closed, closed_reason="again"))
    with broken("R7"):
        checks.state(state(world("a", "b")))


def test_r7_a_run_is_closed_once_all_members_have_finished() -> None:
    checks = rules()
    reason = "succeeded: all nodes of round 0 have finished"
    closed = state(world("a", "b"), closed=True, closed_reason=reason)
    checks.finished.add(node("a"))
    with broken("R7"):
        checks.state(closed)
    checks.finished.add(node("b"))
    checks.state(closed)


@pytest.mark.parametrize("policy", ["sorted", "hint", "topology"])
def test_r3_every_policy_is_kept(policy: str) -> None:
    checks = rules(rank_policy=policy)
    checks.completed(world("b", "a"), (), (), state(world("a", "b", number=1)))
    with broken("R3"):
        checks.completed(world("b", "a"), (), (), state(world("b", "a", number=1)))


@pytest.mark.parametrize("error", [KeyError("a bug"), AssertionError("another"), Asleep("slept")])
def test_an_error_that_ends_a_run_is_a_violation_with_its_origin(error: BaseException) -> None:
    def play() -> None:
        raise error

    found = violation_of(play)
    assert found is not None
    assert found.rule == type(error).__name__
    assert __file__ in found.what
    assert str(error) in found.what


def test_r12_a_former_incarnation_is_in_no_world() -> None:
    new = state(world("a", "b"), replaced={node("a"): "another life"})
    with broken("R12"):
        rules().completed(None, (), (), new)
    profiles = (NodeProfile(node_id="same"), NodeProfile(node_id="same"))
    twice = msgspec.structs.replace(world("a", "b"), profiles=profiles)
    with broken("R12"):
        rules().completed(None, (), (), state(twice))


def test_an_invariant_of_the_state_names_its_rule() -> None:
    with broken("R6"):
        rules().state(
            RendezvousState("e", participants={node("a"): 0}, wait_list={node("a"): None})  # type: ignore[dict-item]
        )
