"""What each action does to the state."""

from __future__ import annotations

from datetime import timedelta

import pytest

from quorate.core import transitions
from quorate.core.action import Action, Decision
from quorate.core.completion import nodes_waiting
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import SPARE, RendezvousCloseOp, RendezvousJoinOp
from quorate.core.state import Ban, WorldName, check
from quorate.core.transitions import (
    SILENT_ACTIONS,
    TRANSITIONS,
    admit,
    apply,
    ban,
    drain,
    drop_stragglers,
    finish,
    hold,
    lift_ban,
    pass_time,
    release,
    scale,
    withdraw,
)
from quorate.errors import RendezvousReplacedError
from tests.core.support import KEEP_ALIVE_S, LAST_CALL_S, Run, make_settings, node

A, B, C, D, E, F = (node(name) for name in "abcdef")


def lose(run: Run, who: NodeDesc, reason: str = "lost") -> None:
    """Take a node out as one that was lost."""
    withdraw(run.state, run.settings, who, reason, run.observer)
    check(run.state, run.settings)


def test_every_action_has_a_transition_or_is_silent() -> None:
    assert TRANSITIONS.keys() | SILENT_ACTIONS == set(Action)
    assert TRANSITIONS.keys().isdisjoint(SILENT_ACTIONS)


@pytest.mark.parametrize("action", [action for action in Action if action in SILENT_ACTIONS])
def test_silent_actions_change_nothing(action: Action) -> None:
    run = Run()
    run.join(A)
    before = repr(run.state)
    assert not apply(run.ctx(A), Decision(action))
    assert repr(run.state) == before


@pytest.mark.parametrize("action", list(TRANSITIONS))
def test_the_others_have_to_be_stored(action: Action) -> None:
    run = Run(1, 2)
    run.join(A, B)
    assert apply(run.ctx(A), Decision(action))


def test_a_participant_is_attached_and_beats() -> None:
    run = Run()
    run.profiles[A] = NodeProfile(port=29500)
    run.step(RendezvousJoinOp(), A)
    assert run.state.participants.keys() == {A}
    assert run.state.last_heartbeats == {A: run.clock.now()}
    assert run.state.profiles == {A: NodeProfile(port=29500)}


def test_the_last_call_starts_once_with_the_node_that_makes_up_the_minimum() -> None:
    """R4"""
    run = Run(2, 4)
    run.join(A)
    assert run.state.deadline is None
    run.join(B)
    deadline = run.clock.now() + timedelta(seconds=LAST_CALL_S)
    assert run.state.deadline == deadline
    run.advance(5)
    run.join(C)
    assert run.state.deadline == deadline


def test_the_last_call_is_taken_back_when_the_minimum_is_lost() -> None:
    """R4: never before min_nodes; the next last call is a whole one."""
    run = Run(2, 4)
    run.join(A, B)
    run.advance(LAST_CALL_S - 1)
    run.leave(B)
    assert run.state.deadline is None
    run.join(B)
    run.advance(LAST_CALL_S - 1)
    run.join(A)
    assert not run.state.complete
    run.advance(1)
    run.join(A)
    assert run.state.complete


def test_the_round_is_complete_with_the_last_place() -> None:
    """R4: at once; R3: natural order."""
    run = Run(2, 3)
    run.join(B, C, A)
    assert run.state.complete
    assert run.state.deadline is None
    assert run.members == (A, B, C)
    assert run.state.participants == {A: 0, B: 1, C: 2}
    assert run.state.world is not None
    assert run.state.world.name == WorldName("e", 0)


def test_the_round_is_complete_with_the_desired_number() -> None:
    """R4: the operator's wish, within the limits."""
    run = Run(2, 4)
    run.state.desired_nodes = 3
    run.join(A, B, C)
    assert run.members == (A, B, C)


def test_the_last_call_goes_on_when_enough_are_left() -> None:
    """R4"""
    run = Run(2, 4)
    run.join(A, B, C)
    deadline = run.state.deadline
    run.advance(LAST_CALL_S - 1)
    run.leave(C)
    assert run.state.deadline == deadline
    run.advance(1)
    run.join(A)
    assert run.members == (A, B)


def test_a_held_round_stays_open() -> None:
    """R4"""
    run = Run(1, 2)
    run.state.held = True
    run.join(A, B)
    run.advance(LAST_CALL_S)
    run.join(A)
    assert not run.state.complete
    run.state.held = False
    run.join(A)
    assert run.state.complete


def test_the_first_to_return_opens_the_next_round_and_places_are_kept() -> None:
    """R5, R10"""
    run = Run(2, 3)
    run.completed(A, B, C)
    run.advance(100)
    run.comes_back(B)
    state = run.state
    assert (state.round, state.complete) == (1, False)
    assert [*state.participants] == [B]
    assert state.survivors == {A: 0, C: 2}
    assert state.regrouping_since == run.clock.now()


def test_a_regroup_is_complete_with_the_last_survivor() -> None:
    """R3, R4: at once, and everyone keeps the rank."""
    run = Run(2, 4)
    run.completed(A, B, C)
    run.comes_back(C, B)
    assert not run.state.complete
    run.comes_back(A)
    assert run.members == (A, B, C)
    assert run.state.round == 1
    assert run.state.regrouping_since is None


def test_a_world_is_never_edited() -> None:
    """R1: a loss takes the participant, not the record."""
    run = Run(1, 3)
    run.completed(A, B, C)
    world = run.state.world
    lose(run, B, "silent for 15 s")
    assert run.state.world is world
    assert run.state.participants == {A: 0, C: 2}
    assert run.state.departed == {B: "silent for 15 s"}


def test_the_leader_of_the_survivors_leads_after_a_loss() -> None:
    """R3: not the newcomer, though natural order would put it first."""
    run = Run(2, 3)
    run.completed(B, C, D)
    lose(run, B)
    run.join(A)
    run.comes_back(D, C)
    run.join(A)
    assert run.members == (C, A, D)
    assert run.state.departed == {}


def test_one_who_was_lost_and_comes_back_is_a_newcomer() -> None:
    """R3"""
    run = Run(2, 3)
    run.completed(A, B, C)
    lose(run, A)
    run.join(A)
    run.comes_back(B, C)
    run.join(A)
    assert run.members == (B, A, C)


def test_one_who_came_back_and_then_left_is_a_newcomer_when_it_comes_again() -> None:
    """R3, R5: a place is kept for those who stay, in the ranking as at the door."""
    run = Run(2, 3)
    run.completed(A, B, C)
    run.comes_back(A)
    lose(run, A, "gave up")
    assert run.state.departed == {A: "gave up"}
    run.join(A)
    run.comes_back(B, C)
    assert run.members == (B, A, C)


def test_a_round_that_everybody_has_left_is_followed_by_the_next() -> None:
    """R2: rounds only grow; R4: nobody is left to regroup, so that there is a last call."""
    run = Run(1, 3)
    run.completed(A, B)
    lose(run, A)
    lose(run, B)
    assert (run.state.round, run.state.complete) == (1, False)
    assert run.join(C).kind == "last_call"
    run.advance(LAST_CALL_S)
    run.join(C)
    assert run.state.world is not None
    assert run.state.world.name == WorldName("e", 1)


@pytest.mark.parametrize("where", ["participant", "member", "survivor", "waiting", "spare"])
def test_a_withdrawn_node_is_nowhere(where: str) -> None:
    """R8: only members of the last world are told as departed."""
    run = Run(2, 3)
    if where == "participant":
        run.join(C)
    elif where == "waiting":
        run.completed(A, B)
        run.join(C)
    elif where == "spare":
        run.completed(A, B, D)
        run.join(C)
    else:
        run.completed(A, B, C)
        if where == "survivor":
            run.comes_back(A)
    lose(run, C)
    state = run.state
    for place in (
        state.participants,
        state.wait_list,
        state.redundancy_list,
        state.survivors,
        state.last_heartbeats,
        state.profiles,
    ):
        assert C not in place
    assert (C in state.departed) == (where in ("member", "survivor"))


def test_a_spare_that_is_promoted_waits_for_the_next_round() -> None:
    """R6"""
    run = Run(1, 2)
    run.completed(A, B)
    run.join(C)
    lose(run, B)
    run.join(C)
    assert [*run.state.wait_list] == [C]
    assert run.state.redundancy_list == {}


def test_stragglers_lose_their_places_and_stay_attached() -> None:
    """R10"""
    run = Run(2, 3)
    run.completed(A, B, C)
    run.comes_back(A, B)
    assert drop_stragglers(run.state, run.observer) == [C]
    check(run.state, run.settings)
    assert run.state.survivors == {}
    assert run.state.stragglers.keys() == {C}
    assert run.state.departed == {C: "did not come back to regroup in time"}
    assert C in run.state.last_heartbeats
    run.join(A)
    assert run.members == (A, B)


def test_a_straggler_may_join_again_as_a_newcomer() -> None:
    """R3, R10: the leader that was late does not lead again."""
    run = Run(2, 3)
    run.completed(A, B, C)
    run.comes_back(B)
    drop_stragglers(run.state, run.observer)
    run.join(A)
    run.advance(LAST_CALL_S)
    run.join(B)
    assert run.members == (B, A)


def test_a_regroup_of_nobody_is_over_when_its_stragglers_are_dropped() -> None:
    """R4, R10: the one that came back has left again; whoever comes next gets a last call."""
    run = Run(1, 3)
    run.completed(A, B)
    run.comes_back(A)
    run.leave(A)
    drop_stragglers(run.state, run.observer)
    assert run.join(C).kind == "last_call"


def test_a_regroup_of_nobody_is_over_when_its_last_survivor_is_lost() -> None:
    """R4: likewise."""
    run = Run(1, 3)
    run.completed(A, B)
    run.comes_back(A)
    run.leave(A)
    lose(run, B)
    assert run.join(C).kind == "last_call"


def test_nobody_regroups_because_a_member_whose_work_is_done_goes() -> None:
    """R7, R8: in whatever way it goes."""
    run = Run(2, 3)
    run.completed(A, B, C)
    assert finish(run.ctx(C))
    check(run.state, run.settings)
    lose(run, C)
    assert run.state.departed == {}
    assert nodes_waiting(run.ctx(A), WorldName("e", 0)) == 0


def test_newcomers_wait_while_members_finish() -> None:
    """R7, R8: the work is nearly done, nobody is asked to stop it."""
    run = Run(2, 3)
    run.completed(A, B)
    finish(run.ctx(B))
    run.join(C)
    run.advance(LAST_CALL_S)
    assert nodes_waiting(run.ctx(A), WorldName("e", 0)) == 0


def test_a_regroup_does_not_wait_for_a_member_whose_work_is_done() -> None:
    """R4, R7: somebody else's is not."""
    run = Run(2, 3)
    run.completed(A, B, C)
    finish(run.ctx(C))
    run.comes_back(A, B)
    assert run.members == (A, B)
    assert run.state.finishing == {}
    assert run.state.stragglers.keys() == {C}


def test_a_member_whose_work_was_done_may_come_back() -> None:
    """R5: its place is there as long as no other round was opened."""
    run = Run(2, 2)
    run.completed(A, B)
    finish(run.ctx(A))
    run.comes_back(A)
    assert [*run.state.participants] == [A]
    assert run.state.finishing == {}
    run.comes_back(B)
    assert run.members == (A, B)


def test_a_member_whose_work_was_done_comes_back_before_spares() -> None:
    """R5: it is a survivor, as if it had never said so."""
    run = Run(2, 2)
    run.completed(A, B)
    run.join(C)
    finish(run.ctx(A))
    run.comes_back(A)
    run.join(C)
    run.comes_back(B)
    assert run.members == (A, B)
    assert [*run.state.redundancy_list] == [C]


def test_only_members_of_the_present_world_can_finish() -> None:
    """R7"""
    run = Run(2, 2)
    run.join(A)
    assert not finish(run.ctx(A))
    run.join(B, C)
    assert not finish(run.ctx(C))
    assert run.state.finishing == {}


def test_survivors_beyond_the_desired_number_lose_their_places() -> None:
    """R4, R5: from the last rank on, also where those return first."""
    run = Run(1, 3)
    run.completed(A, B, C)
    scale(run.state, run.settings, 2, run.observer)
    run.comes_back(C, A)
    assert [*run.state.redundancy_list] == [C]
    run.join(B, after=WorldName("e", 0))
    assert run.members == (A, B)


def test_a_new_incarnation_takes_the_place_of_the_former_one_at_once() -> None:
    """R12, R8: the others are told that the former one is gone."""
    run = Run(2, 2)
    again = node("b-again")
    run.profiles |= {B: NodeProfile(node_id="n1"), again: NodeProfile(node_id="n1")}
    run.completed(A, B)
    run.join(again)
    assert run.state.departed == {B: "replaced by b-again_1_0"}
    assert run.state.replaced == {B: "b-again_1_0"}
    assert run.state.identities == {"n1": again}
    run.comes_back(A)
    run.join(again)
    assert run.members == (A, again)


def test_the_only_member_can_be_replaced() -> None:
    """R12"""
    run = Run(1, 1)
    run.profiles |= {A: NodeProfile(node_id="n1"), B: NodeProfile(node_id="n1")}
    run.completed(A)
    run.join(B)
    assert run.members == (B,)
    assert run.state.round == 1


def test_nodes_without_an_id_replace_nobody() -> None:
    """R12: several agents may share an address."""
    run = Run(1, 2)
    run.join(node("a"), node("a2"))
    assert len(run.state.participants) == 2
    assert run.state.identities == {}


def test_a_life_that_is_gone_may_come_back() -> None:
    """R12: nobody has taken its place."""
    run = Run()
    run.profiles |= {A: NodeProfile(node_id="n1")}
    run.join(A)
    run.leave(A)
    assert run.state.gone == {A: "n1"}
    run.join(A)
    assert run.state.gone == {}
    assert run.state.replaced == {}
    assert run.state.identities == {"n1": A}


def test_a_life_that_is_gone_does_not_come_back_once_it_has_an_heir() -> None:
    """R12: it was silent for too long, and another one works in its place."""
    run = Run(2, 2)
    heir = node("b-again")
    run.profiles |= {B: NodeProfile(node_id="n1"), heir: NodeProfile(node_id="n1")}
    run.completed(A, B)
    withdraw(run.state, run.settings, B, "silent", run.observer)
    run.join(heir)
    assert run.state.departed == {B: "silent"}
    assert run.state.gone == {}
    assert run.state.replaced == {B: "b-again_1_0"}
    with pytest.raises(RendezvousReplacedError):
        run.join(B)


def test_a_life_that_comes_back_under_another_node_id_gives_the_former_one_up() -> None:
    """R12"""
    run = Run()
    run.profiles |= {A: NodeProfile(node_id="n1")}
    run.join(A)
    run.leave(A)
    run.profiles |= {A: NodeProfile(node_id="n2")}
    run.join(A)
    assert run.state.gone == {}
    assert run.state.identities == {"n2": A}


def test_what_is_remembered_of_the_gone_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """R15: the oldest is forgotten first, and its node id with it."""
    monkeypatch.setattr(transitions, "FORMER_MAX", 2)
    run = Run()
    lives = [node(name) for name in "abcd"]
    for life in lives:
        run.profiles[life] = NodeProfile(node_id=f"id-{life.addr}")
        run.join(life)
        run.leave(life)
    assert [*run.state.gone] == lives[2:]
    assert run.state.identities == {"id-c": lives[2], "id-d": lives[3]}


def test_the_memory_of_former_incarnations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """R15: the oldest is forgotten first."""
    monkeypatch.setattr(transitions, "FORMER_MAX", 2)
    run = Run()
    lives = [node(name) for name in "abcd"]
    for life in lives:
        run.profiles[life] = NodeProfile(node_id="n1")
        run.join(life)
    assert [*run.state.replaced] == lives[1:3]


def test_the_first_node_sets_the_settings() -> None:
    """R13"""
    run = Run()
    assert run.state.agreed is None
    admit(run.ctx(A))
    assert run.state.agreed == run.settings.agreed


def test_a_later_node_does_not_change_them() -> None:
    """R13"""
    run = Run()
    run.join(A)
    admit(run.ctx(B, make_settings(1, 9)))
    assert run.state.agreed == run.settings.agreed


def test_closing_keeps_everything_else() -> None:
    """R1, R7"""
    run = Run(2, 2)
    run.completed(A, B)
    world = run.state.world
    run.step(RendezvousCloseOp("done"), A)
    assert (run.state.closed, run.state.closed_reason) == (True, "done")
    assert run.state.world is world
    assert run.state.complete


@pytest.mark.parametrize("step_s", [0.0, -3600.0])
def test_each_beat_is_a_new_value(step_s: float) -> None:
    """R9: whatever the wall clock does, observers see that the node lives."""
    run = Run()
    run.join(A)
    seen = {run.state.last_heartbeats[A]}
    for _ in range(3):
        run.clock.wall_skew_s += step_s
        apply(run.ctx(A), Decision(Action.KEEP_ALIVE))
        seen.add(run.state.last_heartbeats[A])
    assert len(seen) == 4


def test_waiting_nodes_stand_in_order_of_arrival() -> None:
    """R5"""
    run = Run(1, 4)
    run.join(A)
    run.advance(LAST_CALL_S)
    run.join(A)
    for who in (C, B, D, E):
        run.advance(KEEP_ALIVE_S)
        run.join(who)
    assert [*run.state.wait_list] == [C, B, D]
    assert [*run.state.redundancy_list] == [E]
    assert [*run.state.wait_list.values()] == sorted(run.state.wait_list.values())


def drained(run: Run, who: NodeDesc, reason: str = "for repair") -> None:
    drain(run.state, run.settings, who, reason, run.observer)
    check(run.state, run.settings)


def scaled(run: Run, nodes: int | None) -> None:
    scale(run.state, run.settings, nodes, run.observer)
    check(run.state, run.settings)


def test_a_hold_keeps_its_reason_until_the_release() -> None:
    """R4"""
    run = Run(1, 2)
    hold(run.state, "disks are checked")
    run.join(A, B)
    assert not run.state.complete
    assert (run.state.held, run.state.held_reason) == (True, "disks are checked")
    release(run.state)
    assert (run.state.held, run.state.held_reason) == (False, "")
    run.join(A)
    assert run.members == (A, B)


def test_a_drained_member_stays_until_its_world_ends() -> None:
    """R5: then nobody keeps a place for it, or waits for it."""
    run = Run(2, 3)
    run.completed(A, B, C)
    drained(run, B)
    assert run.state.participants == {A: 0, B: 1, C: 2}
    assert nodes_waiting(run.ctx(A), WorldName("e", 0)) == 0
    run.comes_back(A)
    assert run.state.survivors == {C: 2}
    assert run.state.departed == {B: "for repair"}
    run.comes_back(C)
    assert run.members == (A, C)
    withdraw(run.state, run.settings, B, "for repair", run.observer)
    assert not run.state.draining
    check(run.state, run.settings)


def test_a_survivor_that_is_drained_while_others_regroup_is_not_awaited() -> None:
    run = Run(2, 3)
    run.completed(A, B, C)
    run.comes_back(A)
    drained(run, C)
    assert run.state.survivors == {B: 1}
    run.comes_back(B)
    assert run.members == (A, B)


def test_a_participant_that_is_drained_gives_its_place_back() -> None:
    run = Run(2, 3)
    run.join(A, B)
    assert run.state.deadline is not None
    drained(run, B)
    assert run.state.participants == {A: 0}
    assert run.state.deadline is None
    assert run.state.departed == {}


def test_a_new_incarnation_of_a_drained_node_is_drained() -> None:
    """R12"""
    run = Run(1, 2)
    again = node("b-again")
    run.profiles |= {B: NodeProfile(node_id="n1"), again: NodeProfile(node_id="n1")}
    run.completed(A, B)
    drained(run, B)
    admit(run.ctx(again))
    assert run.state.draining == {again: "for repair"}
    check(run.state, run.settings)


def test_a_round_that_is_made_smaller_gives_its_last_places_up() -> None:
    """R5: newcomers lose theirs first, the latest of them; then survivors, from the last rank."""
    run = Run(1, 5)
    run.completed(A, B, C)
    run.comes_back(A, B)
    run.join(D, E)
    assert run.state.survivors == {C: 2}
    scaled(run, 4)
    assert [*run.state.redundancy_list] == [E]
    scaled(run, 2)
    assert [*run.state.redundancy_list] == [D, E]
    assert [*run.state.stragglers] == [C]
    run.join(A)
    assert run.members == (A, B)
    run.join(C, after=WorldName("e", 0))
    assert [*run.state.redundancy_list] == [D, E, C]


def test_the_survivor_of_the_last_rank_comes_before_newcomers() -> None:
    """R5: also when few of the last world are left."""
    run = Run(2, 4, node_unit=2)
    run.completed(A, B, C, D)
    lose(run, A)
    lose(run, B)
    run.comes_back(C)
    run.join(E)
    run.comes_back(D)
    assert run.members == (C, D)
    assert [*run.state.redundancy_list] == [E]


def test_a_demoted_survivor_that_gets_a_place_after_all_keeps_its_rank() -> None:
    """R3"""
    run = Run(1, 4)
    run.completed(A, B, C, D)
    scaled(run, 3)
    run.comes_back(D)
    assert [*run.state.redundancy_list] == [D]
    lose(run, C)
    run.join(D, after=WorldName("e", 0))
    run.comes_back(A, B)
    assert run.members == (A, B, D)


def test_a_larger_wish_lets_spares_in() -> None:
    """R4, R6"""
    run = Run(1, 3)
    scaled(run, 2)
    run.join(A, B, C)
    assert [*run.state.redundancy_list] == [C]
    scaled(run, None)
    run.join(C)
    assert [*run.state.wait_list] == [C]


def test_a_world_has_whole_units() -> None:
    """R4, R5: the surplus waits as spares, survivors before newcomers, in order of arrival."""
    run = Run(2, 6, node_unit=2)
    run.completed(A, B, C, D)
    lose(run, B)
    run.comes_back(A, C, D)
    assert run.members == (A, C)
    assert [*run.state.redundancy_list] == [D]
    check(run.state, run.settings)


def test_who_waits_beside_a_new_world_and_does_not_fill_a_unit_becomes_a_spare() -> None:
    """R6: it waited with another one, and has not come to the round that was open meanwhile."""
    run = Run(2, 4, node_unit=2)
    run.completed(A, B)
    run.join(C, D)
    run.step(RendezvousJoinOp(), C)
    assert {*run.state.wait_list} == {C, D}
    run.comes_back(A)
    lose(run, D)
    run.comes_back(B)
    run.advance(LAST_CALL_S)
    run.comes_back(A)
    assert run.members == (A, B)
    assert (run.state.wait_list, [*run.state.redundancy_list]) == ({}, [C])


def test_who_does_not_fill_a_unit_any_more_becomes_a_spare() -> None:
    """R6: it was promised a place in the next round, and would time out for one."""
    run = Run(2, 4, node_unit=2)
    run.completed(A, B)
    run.join(C, D, C)
    assert [*run.state.wait_list] == [D, C]
    run.leave(D)
    assert not run.state.wait_list
    assert [*run.state.redundancy_list] == [C]
    assert run.step(RendezvousJoinOp(), C, deadline=-1.0).kind == SPARE


def test_the_loss_of_a_member_may_leave_a_newcomer_without_a_unit() -> None:
    """R6: three and one newcomer are two units, and so are three and two."""
    run = Run(2, 6, node_unit=2)
    run.completed(A, B, C, D)
    run.join(E, F, E)
    assert [*run.state.wait_list] == [F, E]
    lose(run, B)
    assert [*run.state.wait_list] == [F]
    assert [*run.state.redundancy_list] == [E]


def test_spares_that_fill_a_unit_are_newcomers() -> None:
    """R6: one more does not; two do."""
    run = Run(2, 6, node_unit=2)
    run.completed(A, B, C)
    assert run.members == (A, B)
    run.join(C)
    assert [*run.state.redundancy_list] == [C]
    assert nodes_waiting(run.ctx(A), WorldName("e", 0), newcomers_at_once=True) == 0
    run.join(D, C)
    assert {*run.state.wait_list} == {C, D}
    assert nodes_waiting(run.ctx(A), WorldName("e", 0), newcomers_at_once=True) == 2
    run.comes_back(A, B)
    run.join(C, D)
    assert run.members == (A, B, C, D)


def test_a_ban_lasts_for_its_time() -> None:
    """R9: what is kept is what is left of it."""
    run = Run(1, 2)
    ban(run.state, "address a", "noisy", 10.0)
    ban(run.state, "node id n1", "broken", None)
    assert not pass_time(run.state, 9.0)
    assert run.state.bans["address a"] == Ban("noisy", 1.0)
    assert pass_time(run.state, 1.0)
    assert [*run.state.bans] == ["node id n1"]
    lift_ban(run.state, "node id n1")
    assert not run.state.bans


def test_bans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """R15: the oldest is forgotten."""
    monkeypatch.setattr(transitions, "BANS_MAX", 2)
    run = Run(1, 2)
    for name in "abc":
        ban(run.state, f"address {name}", "noisy", None)
    assert [*run.state.bans] == ["address b", "address c"]
