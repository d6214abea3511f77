"""What each operation decides, one state at a time."""

from __future__ import annotations

import math

import pytest

from quorate.core.action import Action, RendezvousContext
from quorate.core.node import NodeProfile
from quorate.core.ops import (
    ROLLBACK_S,
    RendezvousCloseOp,
    RendezvousExitOp,
    RendezvousJoinOp,
    RendezvousKeepAliveOp,
    RendezvousVerdictOp,
)
from quorate.core.state import WorldName
from quorate.errors import (
    RendezvousGracefulExitError,
    RendezvousReplacedError,
    RendezvousSettingsError,
)
from tests.core.support import KEEP_ALIVE_S, LAST_CALL_S, Run, make_settings, node

A, B, C, D, E = (node(name) for name in "abcde")


class TestRendezvousJoinOp:
    """`RendezvousJoinOp`."""

    op = RendezvousJoinOp()

    def test_raises_closed_if_rendezvous_is_closed(self) -> None:
        """R7: the reason is told to everyone who is turned away."""
        run = Run()
        run.join(A)
        run.step(RendezvousCloseOp("the job is done"), A)
        for who in (A, B):
            decision = run.decide(self.op, who)
            assert decision.action is Action.ERROR_CLOSED
            assert decision.reason == "the job is done"

    def test_finishes_if_rendezvous_is_complete_and_node_is_participant(self) -> None:
        """R1, R14: as often as it is asked, and after the deadline too."""
        run = Run(2, 2)
        run.completed(A, B)
        assert run.decide(self.op, A).action is Action.FINISH
        assert run.decide(self.op, A, deadline=0).action is Action.FINISH
        later = RendezvousJoinOp(WorldName("an earlier epoch", 7))
        assert run.decide(later, A).action is Action.FINISH

    def test_comes_back_if_the_complete_round_is_the_one_it_was_given(self) -> None:
        """R10: the first one to return opens the next round."""
        run = Run(2, 2)
        run.completed(A, B)
        decision = run.decide(RendezvousJoinOp(WorldName("e", 0)), A)
        assert decision.action is Action.ADD_TO_PARTICIPANTS
        assert decision.reason == "comes back from round 0 to regroup"

    def test_waits_next_round_if_rendezvous_is_complete_and_node_is_in_wait_list(self) -> None:
        """R6, R16"""
        run = Run()
        run.completed(A, B)
        run.join(C)
        decision = run.decide(self.op, C)
        assert decision.action is Action.SYNC
        assert decision.kind == "next_round"
        assert "round 0 is under way without this node" in decision.reason
        run.advance(KEEP_ALIVE_S / 2)
        assert run.decide(self.op, C).action is Action.KEEP_ALIVE

    def test_waits_next_round_if_rendezvous_is_complete_and_node_is_redundant(self) -> None:
        """R6"""
        run = Run(2, 2)
        run.completed(A, B)
        run.join(C)
        decision = run.decide(self.op, C)
        assert C in run.state.redundancy_list
        assert decision.action is Action.SYNC
        assert decision.reason == "waiting as one of 1 spare(s) until a place falls free"

    def test_treat_as_redundancy_for_next_rendezvous_if_rendezvous_is_complete(self) -> None:
        """R6: the world is full."""
        run = Run(2, 2)
        run.completed(A, B)
        assert run.decide(self.op, C).action is Action.ADD_TO_REDUNDANCY_LIST

    def test_adds_to_wait_list_if_rendezvous_is_complete_and_num_nodes_is_less_than_max_nodes(
        self,
    ) -> None:
        """R6: there is room."""
        run = Run()
        run.completed(A, B)
        assert run.decide(self.op, C).action is Action.ADD_TO_WAIT_LIST

    def test_adds_to_redundancy_list_if_others_wait_for_all_the_room(self) -> None:
        """R6"""
        run = Run()
        run.completed(A, B)
        run.join(C)
        assert run.decide(self.op, D).action is Action.ADD_TO_REDUNDANCY_LIST

    def test_does_not_overtake_a_spare(self) -> None:
        """R5, R6: a place that falls free is the spare's, though a newcomer may ask first."""
        run = Run(2, 2)
        run.completed(A, B)
        run.join(C)
        run.leave(B)
        assert run.decide(self.op, D).action is Action.ADD_TO_REDUNDANCY_LIST
        run.join(D)
        run.join(C)
        assert [*run.state.wait_list] == [C]
        assert [*run.state.redundancy_list] == [D]

    def test_adds_to_participants(self) -> None:
        run = Run()
        decision = run.decide(self.op, A)
        assert decision.action is Action.ADD_TO_PARTICIPANTS
        assert decision.reason == "joins round 0"

    def test_adds_to_participants_if_node_has_waited_for_this_round(self) -> None:
        """R5: the wait list comes before those who have not waited."""
        run = Run(2, 3)
        run.completed(A, B)
        run.join(C)
        run.comes_back(A)
        assert run.decide(self.op, D).action is Action.ADD_TO_REDUNDANCY_LIST
        assert run.decide(self.op, C).action is Action.ADD_TO_PARTICIPANTS

    def test_waits_rendezvous_to_complete_if_node_is_participant(self) -> None:
        """R4, R16"""
        run = Run(3, 4)
        run.join(A)
        decision = run.decide(self.op, A)
        assert decision.action is Action.SYNC
        assert decision.reason == "waiting for 2 more nodes (1 of 3)"
        run.join(B, C)
        decision = run.decide(self.op, A)
        assert decision.action is Action.SYNC
        assert decision.reason == "last call for more nodes (3 of at most 4)"

    def test_keep_alive_is_sent_while_waiting(self) -> None:
        """R11: at half the interval; the wait still explains itself."""
        run = Run()
        run.join(A)
        run.decide(self.op, A)
        run.advance(KEEP_ALIVE_S / 2)
        decision = run.decide(self.op, A)
        assert decision.action is Action.KEEP_ALIVE
        assert decision.kind == "min_nodes"

    def test_marks_rendezvous_complete_if_node_is_participant_and_last_call_deadline_exceeded(
        self,
    ) -> None:
        """R4"""
        run = Run()
        run.join(A, B)
        run.advance(LAST_CALL_S - 1)
        assert run.decide(self.op, A).action is not Action.MARK_RENDEZVOUS_COMPLETE
        run.advance(1)
        assert run.decide(self.op, A).action is Action.MARK_RENDEZVOUS_COMPLETE

    def test_raises_timeout_if_deadline_exceeded(self) -> None:
        """R7, R16: there is nothing to take back, and the error says what was waited for."""
        run = Run()
        decision = run.decide(self.op, A, deadline=run.clock.monotonic() - 1)
        assert decision.action is Action.ERROR_TIMEOUT
        assert decision.reason == "waiting for 2 more nodes (0 of 2)"

    def test_raises_timeout_if_rollback_deadline_exceeded_and_node_is_participant(self) -> None:
        run = Run()
        run.join(A)
        deadline = run.clock.monotonic() - ROLLBACK_S - 1
        assert run.decide(self.op, A, deadline).action is Action.ERROR_TIMEOUT

    def test_raises_timeout_if_rollback_deadline_exceeded_and_node_is_in_wait_list(self) -> None:
        run = Run()
        run.completed(A, B)
        run.join(C)
        deadline = run.clock.monotonic() - ROLLBACK_S - 1
        decision = run.decide(self.op, C, deadline)
        assert decision.action is Action.ERROR_TIMEOUT
        assert decision.reason == "waiting for the next round"

    def test_removes_from_participants_if_timed_out_but_rollback_deadline_is_not_reached(
        self,
    ) -> None:
        """R7: it takes back what it did, and closes nothing."""
        run = Run()
        run.join(A)
        deadline = run.clock.monotonic() - 1
        decision = run.step(self.op, A, deadline)
        assert decision.action is Action.REMOVE_FROM_PARTICIPANTS
        assert decision.reason == "gave up: waiting for 1 more node (1 of 2)"
        assert run.decide(self.op, A, deadline).action is Action.ERROR_TIMEOUT
        assert not run.state.closed
        assert A not in run.state.last_heartbeats

    def test_removes_from_wait_list_if_timed_out_but_rollback_deadline_is_not_reached(
        self,
    ) -> None:
        """R7"""
        run = Run()
        run.completed(A, B)
        run.join(C)
        deadline = run.clock.monotonic() - 1
        assert run.step(self.op, C, deadline).action is Action.REMOVE_FROM_WAIT_LIST
        assert run.decide(self.op, C, deadline).action is Action.ERROR_TIMEOUT
        assert run.state.complete
        assert not run.state.closed

    def test_no_timeout_for_redundant_node(self) -> None:
        """R6: a spare waits without a deadline."""
        run = Run(1, 1)
        run.completed(A)
        run.join(B)
        for deadline in (0.0, run.clock.monotonic() - 1):
            assert run.decide(self.op, B, deadline).action is Action.SYNC

    def test_keep_alive_for_redundant_node(self) -> None:
        """R6, R11"""
        run = Run(1, 1)
        run.completed(A)
        run.join(B)
        run.advance(KEEP_ALIVE_S / 2)
        decision = run.step(self.op, B)
        assert decision.action is Action.KEEP_ALIVE
        assert decision.kind == "spare"
        assert run.decide(self.op, B).action is Action.SYNC

    def test_remove_from_rednundancy_list(self) -> None:
        """R6: promoted when a place falls free, in the complete round and in the next one."""
        run = Run(1, 2)
        run.completed(A, B)
        run.join(C, D)
        run.leave(B)
        assert run.decide(self.op, C).action is Action.REMOVE_FROM_REDUNDANCY_LIST
        assert run.decide(self.op, D).action is Action.SYNC
        run.comes_back(A)
        assert run.decide(self.op, C).action is Action.REMOVE_FROM_REDUNDANCY_LIST
        assert run.decide(self.op, D).action is Action.SYNC

    def test_raises_graceful_exit_if_the_run_is_closed_and_node_is_redundant(self) -> None:
        """R6, R7: nothing has failed."""
        run = Run(1, 1)
        run.completed(A)
        run.join(B)
        run.step(RendezvousCloseOp("the job is done"), A)
        with pytest.raises(RendezvousGracefulExitError, match="the job is done"):
            run.decide(self.op, B)

    def test_raises_error_if_a_newer_incarnation_has_joined(self) -> None:
        """R12"""
        run = Run()
        run.profiles |= {A: NodeProfile(node_id="n1"), B: NodeProfile(node_id="n1")}
        run.join(A, B)
        with pytest.raises(RendezvousReplacedError, match="'n1' has joined the run 'run' again"):
            run.decide(self.op, A)
        assert run.decide(self.op, B).action is Action.SYNC

    def test_raises_error_if_the_settings_differ_from_those_of_the_run(self) -> None:
        """R13"""
        run = Run(2, 3)
        run.join(A)
        theirs = RendezvousContext(B, run.state, make_settings(1, 4), run.observer)
        with pytest.raises(RendezvousSettingsError, match=r"min_nodes is 2 in the run, 1 here"):
            self.op(theirs, math.inf)
        assert [*run.state.participants] == [A]

    def test_a_run_that_everybody_has_left_takes_new_settings(self) -> None:
        """R13: they are what its first node gives."""
        run = Run(2, 3)
        run.join(A)
        run.leave(A)
        run.settings = make_settings(1, 4)
        run.join(B)
        assert run.state.agreed == run.settings.agreed


class TestRendezvousExitOp:
    """`RendezvousExitOp`."""

    op = RendezvousExitOp()

    def test_removes_from_participants_if_node_is_participant(self) -> None:
        """R7, R8: from a round that fills, from a complete one, and a place kept for a return."""
        run = Run(2, 3)
        run.join(A)
        assert run.decide(self.op, A).action is Action.REMOVE_FROM_PARTICIPANTS
        run.join(B, C)
        assert run.decide(self.op, A).action is Action.REMOVE_FROM_PARTICIPANTS
        run.comes_back(B)
        assert A in run.state.survivors
        assert run.step(self.op, A).action is Action.REMOVE_FROM_PARTICIPANTS
        assert run.state.departed == {A: "left"}

    def test_removes_from_wherever_the_node_waits(self) -> None:
        run = Run(1, 2)
        run.join(A)
        run.advance(LAST_CALL_S)
        run.join(A)
        run.join(B, C)
        assert run.decide(self.op, B).action is Action.REMOVE_FROM_WAIT_LIST
        run.leave(B)
        run.leave(C)
        assert run.state.last_heartbeats.keys() == {A}

    def test_a_spare_leaves_at_once(self) -> None:
        """R6: it does not wait before others for a moment, or for ever if its next write fails."""
        run = Run(1, 1)
        run.completed(A)
        run.join(B, C)
        assert list(run.state.redundancy_list) == [B, C]
        run.step(self.op, C)
        assert C not in run.state.wait_list
        assert run.decide(self.op, C).action is Action.FINISH

    def test_removes_a_straggler(self) -> None:
        run = Run(1, 2)
        run.completed(A, B)
        run.state.desired_nodes = 1
        run.comes_back(A)
        assert B in run.state.stragglers
        run.leave(B)
        assert run.state.last_heartbeats.keys() == {A}

    def test_raises_timeout_if_deadline_exceeded(self) -> None:
        run = Run()
        run.join(A)
        assert run.decide(self.op, A, deadline=0).action is Action.ERROR_TIMEOUT

    def test_finishes_if_node_is_not_participant(self) -> None:
        run = Run()
        run.join(A)
        assert run.decide(self.op, B).action is Action.FINISH
        assert run.decide(self.op, B, deadline=0).action is Action.FINISH


class TestRendezvousCloseOp:
    """`RendezvousCloseOp`."""

    op = RendezvousCloseOp("enough")

    def test_finishes_if_rendezvous_is_closed(self) -> None:
        """R7: the first reason wins."""
        run = Run()
        run.step(RendezvousCloseOp("first"), A)
        decision = run.step(self.op, B, deadline=0)
        assert decision.action is Action.FINISH
        assert decision.reason == "first"
        assert run.state.closed_reason == "first"

    def test_raises_timeout_if_deadlined_exceeded(self) -> None:
        assert Run().decide(self.op, A, deadline=0).action is Action.ERROR_TIMEOUT

    def test_marks_rendezvous_closed(self) -> None:
        """R7: by anyone, with a reason or without."""
        decision = Run().decide(self.op, A)
        assert decision.action is Action.MARK_RENDEZVOUS_CLOSED
        assert decision.reason == "enough"
        assert Run().decide(RendezvousCloseOp(), A).reason == "closed by a_1_0"


class TestRendezvousVerdictOp:
    """`RendezvousVerdictOp`: R7, whose word about the job closes the run."""

    op = RendezvousVerdictOp(WorldName("e", 0), "the job has failed")

    def test_a_member_of_a_world_that_stands_closes_the_run(self) -> None:
        run = Run(2, 2)
        run.completed(A, B)
        assert run.step(self.op, A).action is Action.MARK_RENDEZVOUS_CLOSED
        decision = run.step(self.op, B, deadline=0)
        assert (decision.action, decision.kind) == (Action.FINISH, "closed")
        assert run.state.closed_reason == "the job has failed"

    def test_beside_a_loss_it_is_a_leave(self) -> None:
        run = Run(1, 3)
        run.completed(A, B, C)
        run.leave(B)
        assert run.step(self.op, A).action is Action.REMOVE_FROM_PARTICIPANTS
        decision = run.step(self.op, A)
        assert (decision.action, decision.kind) == (Action.FINISH, "left")
        assert run.state.departed[A] == "the job has failed"

    def test_while_others_regroup_it_is_a_leave(self) -> None:
        run = Run(1, 2)
        run.completed(A, B)
        run.comes_back(B)
        assert run.step(self.op, A).action is Action.REMOVE_FROM_PARTICIPANTS
        assert A not in run.state.survivors

    def test_nobody_else_closes_anything(self) -> None:
        """Who waits, who was never there, and who holds a world of another life of the run."""
        run = Run(1, 1)
        run.completed(A)
        run.join(B)
        leaves = run.decide(RendezvousVerdictOp(None, ""), B)
        assert leaves.action is Action.REMOVE_FROM_WAIT_LIST
        assert run.decide(self.op, C).action is Action.FINISH
        other = RendezvousVerdictOp(WorldName("an earlier epoch", 0), "")
        assert run.decide(other, A).action is Action.REMOVE_FROM_PARTICIPANTS

    def test_raises_timeout_if_deadline_exceeded(self) -> None:
        run = Run(1, 1)
        run.completed(A)
        assert run.decide(self.op, A, deadline=0).action is Action.ERROR_TIMEOUT


class TestRendezvousKeepAliveOp:
    """`RendezvousKeepAliveOp`."""

    op = RendezvousKeepAliveOp()

    def test_updates_keep_alive_if_needed(self) -> None:
        """R11: half an interval after the last word, wherever the node stands."""
        run = Run(1, 2)
        run.completed(A, B)
        run.join(C)
        for who in (A, C):
            assert run.decide(self.op, who).action is Action.FINISH
        run.advance(KEEP_ALIVE_S / 2)
        for who in (A, C):
            before = run.state.last_heartbeats[who]
            assert run.step(self.op, who).action is Action.KEEP_ALIVE
            assert run.state.last_heartbeats[who] > before

    def test_raises_timeout_if_deadlined_exceeded(self) -> None:
        run = Run()
        run.join(A)
        run.decide(self.op, A)
        run.advance(KEEP_ALIVE_S)
        assert run.decide(self.op, A, deadline=0).action is Action.ERROR_TIMEOUT

    def test_finishes_if_no_keep_alive_update_is_needed(self) -> None:
        """A fresh beat, and a node that nobody expects to beat."""
        run = Run()
        run.join(A)
        run.decide(self.op, A)
        run.advance(KEEP_ALIVE_S / 2 - 0.1)
        assert run.decide(self.op, A, deadline=0).action is Action.FINISH
        for _ in range(2):
            assert run.decide(self.op, B, deadline=0).action is Action.FINISH
            run.advance(KEEP_ALIVE_S)
