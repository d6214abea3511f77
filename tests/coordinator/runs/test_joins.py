"""Held joins: the line, the deadlines, and the answers."""

from __future__ import annotations

import pytest

from quorate.coordinator.runs.joins import Departure
from quorate.core.transitions import drain
from quorate.wire.messages import FAILED, SUCCEEDED, Close, Failed, Flag, Joined, Leave
from tests.coordinator.driver import Driver, places, rejoin
from tests.coordinator.rooms import Rooms


class TestByHand:
    """Held joins alone: whose turn it is, and what follows from an answer."""

    def test_behind_one_that_finds_no_place_nobody_is_looked_at(self) -> None:
        rooms = Rooms(2, 2)
        rooms.world("a", "b")
        first, second = rooms.add("s1"), rooms.add("s2")
        rooms.ask(first)
        rooms.ask(second)
        assert list(rooms.joins.in_line()) == [first]

    def test_the_wait_list_comes_before_the_spares_and_who_does_not_ask_is_passed_over(
        self,
    ) -> None:
        rooms = Rooms(2, 3)
        rooms.world("a", "b")
        waiting, silent, spare = (rooms.add(name) for name in ("w", "x", "s"))
        for session in (waiting, silent, spare):
            rooms.ask(session)
        assert list(rooms.state.wait_list) == [waiting.node]
        waiting.join = silent.join = None
        assert list(rooms.joins.in_line()) == [spare]

    def test_a_join_is_due_once_and_only_while_it_is_held(self) -> None:
        rooms = Rooms()
        a, b = rooms.add("a"), rooms.add("b")
        rooms.ask(a, timeout_s=5)
        rooms.ask(b, timeout_s=5)
        rooms.roll.moved = False
        rooms.let_pass(5)
        assert list(rooms.joins.due()) == []
        assert not rooms.roll.moved
        b.join = None
        rooms.let_pass(1)
        assert list(rooms.joins.due()) == [a]
        assert rooms.roll.moved
        assert list(rooms.joins.due()) == []

    @pytest.mark.parametrize("late_s", [1, 60])
    def test_who_gives_up_has_to_be_withdrawn(self, late_s: float) -> None:
        rooms = Rooms()
        a = rooms.add("a")
        rooms.ask(a, timeout_s=5)
        rooms.let_pass(5 + late_s)
        why = "gave up: waiting for 1 more node (1 of 2)"
        assert rooms.joins.advance(a) == Departure(why, "timeout")
        assert rooms.roll.is_attached(a), "that is its caller's to do"
        (send,) = rooms.said()
        assert isinstance(send.message, Failed)
        assert "waiting for 1 more node (1 of 2); present: a_1_0" in send.message.message

    def test_who_is_drained_goes_with_the_answer(self) -> None:
        rooms = Rooms(2, 2)
        rooms.world("a", "b")
        spare = rooms.add("spare")
        rooms.ask(spare)
        rooms.said()
        drain(rooms.state, rooms.settings, spare.node, "for repair", rooms.observer)
        assert rooms.joins.advance(spare) == Departure("for repair", "drained")
        assert spare.join is None
        (send,) = rooms.said()
        assert isinstance(send.message, Failed)
        assert send.message.code == "graceful_exit"

    def test_all_are_answered_from_one_world(self) -> None:
        rooms = Rooms(2, 2)
        a, b = rooms.add("a"), rooms.add("b")
        for session in (a, b, a):
            rooms.ask(session)
        answers = [send.message for send in rooms.said()]
        assert [type(answer) for answer in answers] == [Joined, Joined]
        assert rooms.minutes.because == "all 2 nodes are here"
        assert rooms.joins.all() == []


class TestLine:
    """R5 and R6: who stands in line, and in which order they move up."""

    def test_r6_a_spare_waits_without_a_deadline_and_is_promoted(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        first, second = driver.agent("s1"), driver.agent("s2")
        first.join(timeout_s=10)
        second.join(timeout_s=10)
        driver.let_pass(60)
        assert first.pending is not None
        assert a.take() == []
        c.leave()
        rejoin(a, b)
        assert places(a, b, first) == [0, 1, 2]
        assert second.pending is not None

    def test_r6_who_does_not_fill_a_unit_any_more_is_a_spare(self) -> None:
        """It waits without a deadline, and the line is stored as it stands."""
        driver = Driver(3, 6, node_unit=3)
        driver.world("a", "b", "c")
        d, e, f = (driver.agent(name) for name in "def")
        for agent in (d, e, f):
            agent.join(timeout_s=20)
        assert list(driver.state.wait_list) == [f.node, d.node, e.node]
        e.leave()
        assert list(driver.state.redundancy_list) == [f.node, d.node]
        assert not driver.state.wait_list
        driver.let_pass(700)
        assert f.all(Failed) + d.all(Failed) == []

    def test_r5_survivors_come_before_the_line(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        spare = driver.agent("spare")
        spare.join()
        rejoin(a)
        assert not driver.state.complete, "the spare took a survivor's place"
        rejoin(b, c)
        assert places(a, b, c) == [0, 1, 2]

    def test_r5_the_line_moves_in_order_of_arrival(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        spares = [driver.agent(f"s{number}") for number in range(3)]
        rejoin(*spares)
        b.leave()
        c.leave()
        rejoin(a)
        assert places(a, spares[0], spares[1]) == [0, 1, 2]
        assert spares[2].pending is not None

    def test_r6_a_promoted_spare_has_the_time_of_a_join_again(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        spare = driver.agent("spare")
        spare.join(timeout_s=5)
        driver.let_pass(20)
        b.leave()
        driver.let_pass(20)
        assert spare.pending is not None
        rejoin(a)
        assert places(a, spare) == [0, 1]


class TestResuming:
    """R11 and R14: what is asked again is the same request."""

    def test_r11_a_join_keeps_its_deadline_over_a_cut(self) -> None:
        driver = Driver(2, 3)
        a = driver.agent("a")
        request = a.join(timeout_s=20)
        driver.let_pass(10)
        a.cut()
        driver.let_pass(5)
        a.reconnect()
        driver.let_pass(4.75)
        assert a.all(Failed) == []
        driver.let_pass(0.75)
        assert a.last(Failed).id == request

    def test_r11_a_join_keeps_its_place_over_a_cut(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.agent("a"), driver.agent("b")
        a.join()
        a.cut()
        b.join()
        assert a.place is None
        a.reconnect()
        assert places(a, b) == [0, 1]

    def test_r14_a_lost_answer_is_given_again_from_the_same_world(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.agent("a"), driver.agent("b")
        a.join()
        asked = a.pending
        b.join()
        assert asked is not None
        a.say(asked)
        assert a.all(Joined)[0] == a.all(Joined)[1]
        assert b.told.waiting == 0
        assert driver.state.round == 0


@pytest.mark.parametrize("outcome", [SUCCEEDED, FAILED])
def test_r7_a_join_that_is_held_ends_when_its_node_is_made_to_leave(outcome: str) -> None:
    driver = Driver(2, 3)
    a, b, c = driver.world("a", "b", "c")
    a.join()
    a.close("over", outcome)
    assert "has left the run" in a.last(Failed).message
    assert a.pending is None
    rejoin(b, c)
    assert sorted(places(b, c)) == [0, 1]


def test_r7_a_join_that_is_held_ends_when_its_node_leaves() -> None:
    """Once: a node that steps aside goes on, and asked it again in its next connection."""
    driver = Driver(2, 3)
    a = driver.agent("a")
    asked = a.join(timeout_s=5)
    a.leave("unhealthy")
    assert a.last(Flag).value
    assert a.last(Failed).id == asked
    assert "has left the run" in a.last(Failed).message
    a.take()
    driver.let_pass(10)
    assert a.take() == []
    a.cut()
    a.reconnect()
    assert a.node not in driver.state.participants


class TestGivingUp:
    """Whoever gives up waiting is no part of the run, but may be connected all the same."""

    def test_a_late_word_on_its_former_connection_does_not_take_it_out_again(self) -> None:
        driver = Driver(2, 3)
        a = driver.agent("a")
        a.join(timeout_s=5)
        driver.let_pass(6)
        assert a.last(Failed).code == "timeout"
        former = a.connection
        assert former is not None
        a.connect()
        a.join()
        driver.send(former, Leave(99, "late"))
        assert a.node in driver.run.sessions
        assert list(driver.state.participants) == [a.node]

    def test_r7_it_hears_of_a_close(self) -> None:
        driver = Driver(2, 3)
        a = driver.agent("a")
        a.join(timeout_s=5)
        driver.let_pass(6)
        driver.operator().say(Close(1, "enough"))
        assert a.told.closed_reason == "by the operator: enough"

    def test_r7_a_member_that_gives_up_instead_of_answering_counts_as_lost(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        b.beats = False
        asked = a.close("it broke", FAILED)
        c.ping()
        b.join(timeout_s=3)
        driver.let_pass(4)
        assert b.last(Failed).code == "timeout"
        assert (a.last(Flag).id, a.last(Flag).value) == (asked, False)
        assert not driver.state.closed
