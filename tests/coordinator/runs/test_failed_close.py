"""A close because the job failed: who is asked, what is an answer, and what comes of it."""

from __future__ import annotations

import pytest

from quorate.coordinator.runs.failed_close import FailedClose
from quorate.coordinator.runs.outbox import Send
from quorate.coordinator.runs.session import Session
from quorate.wire.messages import (
    FAILED,
    Changed,
    Close,
    Failed,
    Finish,
    Flag,
    GetWorld,
    Ping,
    Probe,
    Scale,
    Welcome,
)
from tests.coordinator.driver import QUICK_REGROUP, Driver, places, rejoin
from tests.coordinator.rooms import Rooms


def failure(number: int) -> Close:
    return Close(number, f"failure {number}", FAILED)


def connections(*sessions: Session) -> tuple[int, ...]:
    return tuple(session.connection for session in sessions if session.connection is not None)


class TestByHand:
    """The count alone: every order in which words and losses may come."""

    def test_the_others_are_asked_once_in_one_message(self) -> None:
        rooms = Rooms()
        a, b, c = rooms.world("a", "b", "c")
        held = FailedClose(rooms.roll, rooms.outbox)
        held.hold(a, failure(1))
        held.hold(b, failure(2))
        assert rooms.said() == [Send(connections(b, c), Probe(1))]

    def test_all_who_asked_are_returned_and_the_first_is_the_first(self) -> None:
        rooms = Rooms()
        a, b, c = rooms.world("a", "b", "c")
        held = FailedClose(rooms.roll, rooms.outbox)
        held.hold(b, failure(1))
        held.hold(a, failure(2))
        for session in (a, c):
            assert not held.is_answered
            assert held.heard(session.node, 1)
        assert held.is_answered
        assert [asker.request.reason for asker in held.take()] == ["failure 1", "failure 2"]
        assert not held.is_held
        assert not held.is_answered
        assert held.take() == []

    def test_who_said_so_too_must_answer_all_the_same(self) -> None:
        rooms = Rooms(2, 2)
        a, b = rooms.world("a", "b")
        held = FailedClose(rooms.roll, rooms.outbox)
        held.hold(a, failure(1))
        held.hold(b, failure(2))
        assert held.awaits(b.node)
        assert not held.awaits(a.node)

    def test_a_word_counts_once_and_only_with_the_number_of_the_probe(self) -> None:
        rooms = Rooms(2, 2)
        a, b = rooms.world("a", "b")
        held = FailedClose(rooms.roll, rooms.outbox)
        assert not held.heard(b.node, 99), "nothing is held"
        held.hold(a, failure(1))
        held.take()
        held.hold(a, failure(2))
        assert not held.heard(b.node, 0)
        assert not held.heard(b.node, 1), "that is the answer to the former probe"
        assert not held.heard(a.node, 2), "nobody has asked it"
        assert held.heard(b.node, 2)
        assert not held.heard(b.node, 2)

    def test_a_member_that_is_lost_makes_it_a_symptom_whether_it_has_answered_or_not(self) -> None:
        rooms = Rooms()
        a, b, c = rooms.world("a", "b", "c")
        spare = rooms.add("spare")
        held = FailedClose(rooms.roll, rooms.outbox)
        assert not held.lose(b.node), "nothing is held"
        held.hold(a, failure(1))
        held.heard(b.node, 1)
        assert [held.lose(each.node) for each in (a, b, c, spare)] == [True, True, True, False]

    def test_a_member_that_is_lost_with_its_work_done_is_awaited_no_more(self) -> None:
        rooms = Rooms(2, 2)
        a, b = rooms.world("a", "b")
        held = FailedClose(rooms.roll, rooms.outbox)
        held.hold(a, failure(1))
        held.finish(b.node)
        assert not held.lose(b.node)
        assert held.is_answered

    def test_it_is_answered_at_once_where_there_is_nobody_to_ask(self) -> None:
        rooms = Rooms(1, 1)
        (a,) = rooms.world("a")
        held = FailedClose(rooms.roll, rooms.outbox)
        held.hold(a, failure(1))
        assert held.is_answered
        assert rooms.said() == []

    def test_only_those_whose_answer_is_missing_are_asked_again(self) -> None:
        rooms = Rooms()
        a, b, c = rooms.world("a", "b", "c")
        held = FailedClose(rooms.roll, rooms.outbox)
        held.ask_again(b)
        assert rooms.said() == []
        held.hold(a, failure(1))
        held.heard(b.node, 1)
        rooms.said()
        for session in (a, b, c):
            held.ask_again(session)
        assert rooms.said() == [Send(connections(c), Probe(1))]


class TestFailedClose:
    """R7: a close because the job failed waits for the word of all other members."""

    def test_r7_it_is_held_until_all_others_have_answered(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        request = a.close("it broke", FAILED)
        assert a.take() == []
        assert [type(message) for message in b.take()] == [Probe]
        b.ping()
        assert not driver.state.closed
        c.ping()
        assert a.last(Flag) == Flag(request, True)
        assert b.told.closed_reason == "it broke"

    def test_r7_a_word_from_before_the_probe_is_no_answer(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        a.close("it broke", FAILED)
        b.ping()
        c.say(Ping(1))
        c.say(GetWorld(7))
        c.close("it broke here too", FAILED)
        assert a.all(Flag) == [], "c said all this, died, and its words came late"
        c.cut(finished=True)
        driver.let_pass(2.25)
        assert not a.last(Flag).value
        assert not driver.state.closed

    def test_r7_the_answer_to_a_former_probe_is_no_answer(self) -> None:
        driver = Driver(1, 3)
        a, b, c = driver.world("a", "b", "c")
        a.close("it broke", FAILED)
        c.leave()
        assert not a.last(Flag).value, "c went without an answer"
        rejoin(a, b)
        b.close("it broke again", FAILED)
        a.say(Ping(1, 0))
        assert not driver.state.closed
        a.ping()
        assert b.last(Flag).value

    def test_r7_whoever_was_away_is_asked_again(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        b.cut()
        a.close("it broke", FAILED)
        b.reconnect()
        assert [type(message) for message in b.take()] == [Welcome, Probe, Changed]
        assert not driver.state.closed, "its hello may be from before the probe"
        b.ping()
        assert driver.state.closed

    def test_r7_who_has_finished_is_not_awaited(self) -> None:
        driver = Driver(1, 3)
        a, b, c = driver.world("a", "b", "c")
        b.say(Finish(1))
        a.close("it broke", FAILED)
        c.say(Finish(2))
        c.cut(finished=True)
        assert not driver.state.closed
        driver.let_pass(2.25)
        assert driver.state.closed_reason == "it broke"

    @pytest.mark.parametrize("when", ["before", "while it is held"])
    def test_r7_the_end_of_who_has_finished_is_no_loss_while_others_regroup(
        self, when: str
    ) -> None:
        driver = Driver(1, 3)
        a, b, c = driver.world("a", "b", "c")
        b.beats = False
        if when == "before":
            c.say(Finish(1))
        a.close("it broke", FAILED)
        if when != "before":
            c.say(Finish(1))
        b.join()
        c.cut(finished=True)
        driver.let_pass(2.25)
        assert a.all(Flag) == []
        b.ping()
        assert a.last(Flag).value
        assert driver.state.closed_reason == "it broke"

    def test_r7_it_becomes_a_leave_if_a_member_is_lost(self) -> None:
        driver = Driver(1, 3)
        a, b, c = driver.world("a", "b", "c")
        a.close("it broke", FAILED)
        b.ping()
        c.cut(finished=True)
        driver.let_pass(2.25)
        assert not a.last(Flag).value
        assert not driver.state.closed
        assert b.told.waiting == 2
        assert "it broke" in b.told.reason

    def test_r7_a_lost_spare_does_not_make_it_a_symptom(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        spare = driver.agent("spare")
        spare.join()
        b.beats = False
        a.close("it broke", FAILED)
        spare.cut(finished=True)
        driver.let_pass(2.25)
        assert a.all(Flag) == []
        b.ping()
        assert a.last(Flag).value

    def test_r7_it_becomes_a_leave_if_a_member_is_lost_already(self) -> None:
        driver = Driver(1, 3)
        a, b, c = driver.world("a", "b", "c")
        c.cut(finished=True)
        driver.let_pass(2.25)
        a.close("it broke", FAILED)
        assert not a.last(Flag).value
        assert not driver.state.closed
        assert b.told.waiting == 2

    def test_r7_all_members_that_saw_the_failure_are_answered(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        a.close("first", FAILED)
        b.close("second", FAILED)
        c.close("third", FAILED)
        assert a.all(Flag) == [], "who asked may have died since"
        a.ping()
        b.ping()
        c.ping()
        assert [agent.last(Flag).value for agent in (a, b, c)] == [True, True, True]
        assert driver.state.closed_reason == "first"

    def test_r7_a_closer_that_dies_meanwhile_is_a_lost_member(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        b.beats = c.beats = False
        a.close("it broke", FAILED)
        a.cut(finished=True)
        driver.let_pass(2.25)
        b.ping()
        c.ping()
        assert not driver.state.closed
        rejoin(b, c)
        assert places(b, c) == [0, 1] or places(c, b) == [0, 1]

    def test_r7_it_becomes_a_leave_where_the_rest_regroup_without_who_does_not_answer(self) -> None:
        driver = Driver(2, 4, timeout=QUICK_REGROUP)
        a, b, c, d = driver.world("a", "b", "c", "d")
        d.beats = False
        a.close("it broke", FAILED)
        rejoin(b, c)
        driver.let_pass(6)
        assert places(b, c) == [1, 0] or places(c, b) == [1, 0]
        assert d.node in driver.state.stragglers, "it is not lost yet"
        assert not a.last(Flag).value
        assert a.node not in driver.run.sessions

    def test_one_failure_counts_once_though_it_is_said_again(self) -> None:
        driver = Driver(1, 3, failures_max=2)
        a, b, c = driver.world("a", "b", "c")
        c.leave()
        asked = a.close("it broke", FAILED)
        a.reconnect()
        a.say(Close(asked, "it broke", FAILED))
        assert [(flag.id, flag.value) for flag in a.all(Flag)] == [(asked, False)] * 2
        assert not driver.state.bans, "the answer was lost"
        assert a.node not in driver.run.sessions
        rejoin(a, b)
        assert sorted(places(a, b)) == [0, 1]
        b.leave()
        a.close("it broke again", FAILED)
        assert list(driver.state.bans) == ["address a"]

    def test_r7_who_said_that_it_failed_and_came_back_stays(self) -> None:
        driver = Driver(2, 3, timeout=QUICK_REGROUP)
        a, b, c = driver.world("a", "b", "c")
        c.beats = False
        a.close("it broke", FAILED)
        rejoin(a, b)
        driver.let_pass(20)
        assert not a.last(Flag).value
        assert sorted(places(a, b)) == [0, 1]

    def test_r7_who_said_that_it_failed_and_is_coming_back_stays(self) -> None:
        """The next round waits for one that is lost meanwhile."""
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.beats = False
        a.close("it broke", FAILED)
        rejoin(a, b)
        c.cut(finished=True)
        driver.let_pass(3)
        assert not a.last(Flag).value
        assert a.all(Failed) == []
        assert sorted(places(a, b)) == [0, 1]

    def test_r7_a_replaced_member_is_not_awaited_for_ever(self) -> None:
        driver = Driver(1, 2)
        a, b = driver.agent("a"), driver.agent("b", node_id="n")
        rejoin(a, b)
        a.close("it broke", FAILED)
        assert a.all(Flag) == []
        driver.agent("b", node_id="n")
        assert not a.last(Flag).value
        assert not driver.state.closed

    def test_r7_a_failure_of_a_former_world_leaves_that_of_a_member_held(self) -> None:
        driver = Driver(2, 3, timeout=QUICK_REGROUP)
        a, b, c = driver.world("a", "b", "c")
        driver.operator().say(Scale(1, 2))
        rejoin(a, b)
        places(a, b)
        for agent in (a, b, c):
            agent.take()
            agent.beats = False
        asked = a.close("out of memory", FAILED)
        c.close("its peers are gone", FAILED)
        assert [type(message) for message in b.take()] == [Probe], "nobody is asked because of c"
        assert not c.last(Flag).value
        assert c.node not in driver.run.sessions
        b.ping()
        assert (a.last(Flag).id, a.last(Flag).value) == (asked, True)
        assert driver.state.closed_reason == "out of memory"
