"""R4, R5, R8, R10, R16: when a round is complete, and when its members should meet again."""

from __future__ import annotations

import pytest

from quorate.core.action import Action
from quorate.core.completion import (
    completion,
    last_call_remaining_s,
    may_enter,
    newcomers_due_in_s,
    nodes_waiting,
    regroup_over,
)
from quorate.core.node import NodeDesc
from quorate.core.ops import RendezvousCloseOp
from quorate.core.state import WorldName
from quorate.core.transitions import drop_stragglers, withdraw
from tests.core.support import LAST_CALL_S, REGROUP_S, Run, node

A, B, C, D, E = (node(name) for name in "abcde")
FIRST = WorldName("e", 0)


def lose(run: Run, who: NodeDesc) -> None:
    withdraw(run.state, run.settings, who, "lost", run.observer)


def waiting(run: Run, who: NodeDesc, **options: bool) -> int:
    return nodes_waiting(run.ctx(who), FIRST, **options)


class TestCompletion:
    """`completion`: each wait explains itself (R16)."""

    def test_never_before_the_minimum(self) -> None:
        """R4: however long it takes."""
        run = Run(3, 4)
        run.join(A, B)
        run.advance(10 * LAST_CALL_S)
        decision = completion(run.ctx(A))
        assert decision == (Action.SYNC, "waiting for 1 more node (2 of 3)", "min_nodes")

    def test_the_last_call_gives_others_time(self) -> None:
        """R4"""
        run = Run(2, 4)
        run.join(A, B)
        decision = completion(run.ctx(A))
        assert decision == (
            Action.SYNC,
            "last call for more nodes (2 of at most 4)",
            "last_call",
        )
        run.advance(LAST_CALL_S)
        decision = completion(run.ctx(A))
        assert decision.action is Action.MARK_RENDEZVOUS_COMPLETE
        assert decision.reason == "the last call is over with 2 of at most 4"

    def test_the_operator_may_hold_the_round(self) -> None:
        """R4"""
        run = Run(1, 2)
        run.state.held = True
        run.join(A, B)
        decision = completion(run.ctx(A))
        assert decision.kind == "held"
        assert decision.reason == "the operator holds the round open (2 of at most 2)"

    def test_a_last_call_goes_on_while_the_round_is_held(self) -> None:
        """R4, R9: it counts from the first sight of its deadline."""
        run = Run(1, 2)
        run.state.held = True
        run.join(A)
        run.advance(LAST_CALL_S)
        run.state.held = False
        assert completion(run.ctx(A)).action is Action.MARK_RENDEZVOUS_COMPLETE

    def test_survivors_are_waited_for(self) -> None:
        """R4, R5: though the minimum is there, and longer than a last call."""
        run = Run(1, 3)
        run.completed(A, B, C)
        run.comes_back(A)
        run.advance(LAST_CALL_S)
        decision = completion(run.ctx(A))
        assert decision.kind == "survivors"
        assert decision.reason == "waiting for 2 nodes of the last world to come back"

    def test_at_once_when_all_that_are_left_are_back(self) -> None:
        """R4"""
        run = Run(2, 4)
        run.completed(A, B, C)
        lose(run, C)
        run.comes_back(A, B)
        assert run.members == (A, B)

    def test_not_at_once_where_too_few_of_the_last_world_are_back(self) -> None:
        """R4: with newcomers there are enough, and more may be on their way."""
        run = Run(2, 8)
        run.completed(A, B, C)
        lose(run, B)
        lose(run, C)
        run.comes_back(A)
        run.join(D)
        assert not run.state.complete
        assert completion(run.ctx(A)).kind == "last_call"
        run.advance(LAST_CALL_S)
        run.join(A)
        assert run.members == (A, D)

    def test_not_at_once_where_nobody_of_the_last_world_is_left(self) -> None:
        """R4: a newcomer has come before the last survivor went."""
        run = Run(3, 8)
        run.completed(A, B, C)
        lose(run, B)
        lose(run, C)
        run.comes_back(A)
        run.join(D)
        run.leave(A)
        run.join(E, node("f"))
        assert not run.state.complete
        assert completion(run.ctx(D)).kind == "last_call"

    def test_who_was_thrown_out_and_joins_again_is_a_newcomer(self) -> None:
        """R4, R10"""
        run = Run(2, 8)
        run.completed(A, B)
        run.comes_back(A)
        drop_stragglers(run.state, run.observer)
        run.join(B)
        assert not run.state.complete
        assert completion(run.ctx(A)).kind == "last_call"

    def test_not_at_once_while_an_attached_node_is_still_to_join(self) -> None:
        """R4: the newcomer that made them regroup gets its place."""
        run = Run(2, 4)
        run.completed(A, B, C)
        run.join(D)
        run.comes_back(A, B, C)
        assert not run.state.complete
        assert completion(run.ctx(A)).kind == "last_call"
        run.join(D)
        assert run.members == (A, B, C, D)

    def test_stragglers_are_not_still_to_join(self) -> None:
        """R10: heartbeats or not."""
        run = Run(2, 4)
        run.completed(A, B, C)
        run.comes_back(A, B)
        drop_stragglers(run.state, run.observer)
        assert completion(run.ctx(A)).action is Action.MARK_RENDEZVOUS_COMPLETE

    def test_a_wish_below_the_number_present_completes(self) -> None:
        """R4"""
        run = Run(1, 4)
        run.join(A, B)
        run.state.desired_nodes = 1
        decision = completion(run.ctx(A))
        assert decision.action is Action.MARK_RENDEZVOUS_COMPLETE
        assert decision.reason == "all 1 node are here"


class TestLastCall:
    """`last_call_remaining_s`."""

    def test_it_runs_from_the_first_sight_of_the_deadline(self) -> None:
        """R9: never from the difference of two machines' clocks."""
        run = Run(1, 2)
        run.clock.wall_skew_s = 3600
        run.join(A)
        run.clock.wall_skew_s = -3600
        assert last_call_remaining_s(run.ctx(A)) == LAST_CALL_S
        run.advance(20)
        assert last_call_remaining_s(run.ctx(A)) == LAST_CALL_S - 20
        run.advance(LAST_CALL_S)
        assert last_call_remaining_s(run.ctx(A)) == 0

    def test_it_begins_anew_though_a_clock_repeats_its_stamp(self) -> None:
        """R9: the third node's clock says what the second's said when it came."""
        run = Run(2, 3)
        run.join(A, B)
        stamp = run.state.deadline
        run.advance(20)
        run.leave(B)
        run.join(A)
        run.clock.wall_skew_s = -20
        run.join(C)
        assert run.state.deadline == stamp
        assert last_call_remaining_s(run.ctx(A)) == LAST_CALL_S

    def test_it_has_not_begun_before_the_minimum(self) -> None:
        run = Run(2, 2)
        run.join(A)
        run.advance(100)
        assert last_call_remaining_s(run.ctx(A)) == LAST_CALL_S


class TestRegroupOver:
    """`regroup_over`."""

    def test_members_have_their_time_to_come_back(self) -> None:
        """R10"""
        run = Run(2, 3)
        run.completed(A, B, C)
        assert not regroup_over(run.ctx(A))
        run.comes_back(A, B)
        assert not regroup_over(run.ctx(A))
        run.advance(REGROUP_S - 1)
        assert not regroup_over(run.ctx(A))
        run.advance(1)
        assert regroup_over(run.ctx(A))
        drop_stragglers(run.state, run.observer)
        assert not regroup_over(run.ctx(A))

    def test_each_regroup_has_its_own_time(self) -> None:
        """R10"""
        run = Run(2, 2)
        run.completed(A, B)
        run.comes_back(A)
        regroup_over(run.ctx(A))
        run.advance(REGROUP_S - 1)
        run.comes_back(B)
        run.comes_back(B)
        run.advance(1)
        assert not regroup_over(run.ctx(B))


class TestMayEnter:
    """`may_enter`."""

    def test_survivors_have_their_places(self) -> None:
        """R5: no newcomer takes one, in whatever order they come."""
        run = Run(1, 2)
        run.completed(A, B)
        run.comes_back(A)
        assert may_enter(run.ctx(B))
        assert not may_enter(run.ctx(C))

    def test_a_straggler_has_its_place_no_more(self) -> None:
        """R10"""
        run = Run(1, 2)
        run.completed(A, B)
        run.join(C)
        run.comes_back(A)
        drop_stragglers(run.state, run.observer)
        assert not may_enter(run.ctx(B))
        assert may_enter(run.ctx(C))

    def test_the_wait_list_comes_before_spares_and_both_in_order(self) -> None:
        """R5"""
        run = Run(1, 3)
        run.completed(A, B)
        run.join(C, D, E)
        assert [*run.state.redundancy_list] == [D, E]
        lose(run, B)
        run.comes_back(A)
        assert [may_enter(run.ctx(who)) for who in (C, D, E)] == [True, True, False]
        run.state.desired_nodes = 2
        assert [may_enter(run.ctx(who)) for who in (C, D, E)] == [True, False, False]

    def test_where_as_many_wait_as_there_are_places_nobody_else_enters(self) -> None:
        """R5: with one place more, one who has not stood in line may take it."""
        run = Run(1, 4)
        run.completed(A, B)
        run.join(C, D)
        run.comes_back(A, B)
        run.state.participants.pop(C, None)
        assert [*run.state.wait_list] == [C, D]
        assert [may_enter(run.ctx(who)) for who in (C, D, E)] == [True, True, False]
        run.state.participants.pop(B)
        assert [may_enter(run.ctx(who)) for who in (C, D, E)] == [True, True, True]

    def test_nobody_enters_where_there_is_no_room(self) -> None:
        """R2"""
        run = Run(1, 2)
        run.state.held = True
        run.join(A, B)
        assert not may_enter(run.ctx(C))


class TestNodesWaiting:
    """`nodes_waiting`: above 0 if and only if the world should change (R8)."""

    def test_nothing_to_do(self) -> None:
        run = Run(2, 3)
        run.completed(A, B)
        assert waiting(run, A) == 0
        assert waiting(run, A, newcomers_at_once=True) == 0

    def test_a_loss_counts_at_once(self) -> None:
        run = Run(2, 3)
        run.completed(A, B, C)
        lose(run, C)
        assert waiting(run, A) == 1
        assert waiting(run, B, newcomers_at_once=True) == 1

    def test_a_member_that_is_back_to_regroup_counts(self) -> None:
        """R8: even when fewer survive than the minimum."""
        run = Run(2, 2)
        run.completed(A, B)
        run.comes_back(A)
        assert waiting(run, B) > 0
        lose(run, A)
        assert waiting(run, B) > 0

    def test_a_member_of_an_older_world_is_told(self) -> None:
        run = Run(2, 2)
        run.completed(A, B)
        run.comes_back(A, B)
        assert waiting(run, A) > 0
        assert nodes_waiting(run.ctx(A), WorldName("e", 1)) == 0

    def test_a_member_that_was_declared_lost_is_told(self) -> None:
        run = Run(2, 3)
        run.completed(A, B, C)
        lose(run, C)
        assert waiting(run, C) > 0

    def test_newcomers_count_once_they_fill_the_world(self) -> None:
        run = Run(2, 4)
        run.completed(A, B)
        run.join(C)
        assert waiting(run, A) == 0
        run.join(D)
        assert waiting(run, A) == 2

    def test_newcomers_count_one_last_call_after_the_first_of_them(self) -> None:
        run = Run(2, 5)
        run.completed(A, B)
        run.join(C)
        assert waiting(run, A) == 0
        run.advance(LAST_CALL_S - 1)
        run.join(D)
        assert waiting(run, A) == 0
        run.advance(1)
        assert waiting(run, A) == 2

    def test_newcomers_count_at_once_in_the_direct_way(self) -> None:
        run = Run(2, 4)
        run.completed(A, B)
        run.join(C)
        assert waiting(run, A, newcomers_at_once=True) == 1

    def test_held_and_surplus_newcomers_do_not_count(self) -> None:
        run = Run(2, 3)
        run.completed(A, B)
        run.join(C)
        run.state.held = True
        assert waiting(run, A) == 0
        run.state.held = False
        run.state.desired_nodes = 2
        assert waiting(run, A) == 0

    def test_spares_do_not_count(self) -> None:
        run = Run(2, 2)
        run.completed(A, B)
        run.join(C)
        run.advance(LAST_CALL_S)
        assert waiting(run, A) == 0
        assert waiting(run, A, newcomers_at_once=True) == 0

    def test_members_beyond_the_desired_number_count(self) -> None:
        run = Run(1, 4)
        run.completed(A, B, C)
        run.state.desired_nodes = 2
        assert waiting(run, A) == 1

    def test_nothing_counts_once_the_run_is_closed(self) -> None:
        run = Run(2, 3)
        run.completed(A, B, C)
        lose(run, C)
        run.step(RendezvousCloseOp(), A)
        assert waiting(run, A) == 0
        assert waiting(run, C) == 0


class TestNewcomersDue:
    """`newcomers_due_in_s`: what a timer needs to know (R8)."""

    def test_counts_down_from_the_first_newcomer(self) -> None:
        run = Run(2, 5)
        run.completed(A, B)
        assert newcomers_due_in_s(run.ctx(A)) is None
        run.join(C)
        assert newcomers_due_in_s(run.ctx(A)) == LAST_CALL_S
        run.advance(10)
        assert newcomers_due_in_s(run.ctx(A)) == LAST_CALL_S - 10
        run.advance(LAST_CALL_S)
        assert newcomers_due_in_s(run.ctx(A)) == 0

    def test_when_the_first_one_goes_the_next_has_waited_already(self) -> None:
        run = Run(2, 5)
        run.completed(A, B)
        run.join(C)
        newcomers_due_in_s(run.ctx(A))
        run.advance(1)
        run.join(D)
        newcomers_due_in_s(run.ctx(A))
        run.advance(28)
        run.leave(C)
        assert newcomers_due_in_s(run.ctx(A)) == LAST_CALL_S - 28

    def test_they_wait_while_the_run_is_held(self) -> None:
        run = Run(2, 5)
        run.completed(A, B)
        run.state.held = True
        run.join(C)
        assert newcomers_due_in_s(run.ctx(A)) is None
        run.advance(LAST_CALL_S - 1)
        run.state.held = False
        assert newcomers_due_in_s(run.ctx(A)) == 1

    def test_at_once_when_they_fill_the_world(self) -> None:
        run = Run(2, 3)
        run.completed(A, B)
        run.join(C)
        assert newcomers_due_in_s(run.ctx(A)) == 0

    @pytest.mark.parametrize("obstacle", ["held", "open", "full"])
    def test_never_while_they_cannot_enter(self, obstacle: str) -> None:
        run = Run(2, 4)
        run.completed(A, B)
        run.join(C)
        if obstacle == "held":
            run.state.held = True
        elif obstacle == "open":
            run.comes_back(A)
        else:
            run.state.desired_nodes = 2
        assert newcomers_due_in_s(run.ctx(A)) is None
