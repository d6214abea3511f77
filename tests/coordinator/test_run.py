"""The rules of a run, as the agents of one coordinator see them: what they are told, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from quorate.core.settings import RendezvousTimeout
from quorate.wire.messages import (
    FAILED,
    SUCCEEDED,
    Changed,
    Failed,
    Finish,
    Flag,
    GetWorld,
    Joined,
    Ping,
    Pong,
    Probe,
    Waiting,
    Welcome,
)
from tests.coordinator.driver import RUN, Agent, Driver, refusal

QUICK_REGROUP = RendezvousTimeout(regroup=timedelta(seconds=5))


def places(*agents: Agent) -> list[int]:
    """Return the agents' ranks, after checking that all hold the present world."""
    world = agents[0].driver.state.world
    assert world is not None
    for agent in agents:
        assert agent.place is not None
        assert agent.place.world == world.name
        assert agent.place.digest == world.digest()
        assert agent.place.size == len(world.members)
    return [agent.place.rank for agent in agents if agent.place is not None]


def rejoin(*agents: Agent) -> None:
    for agent in agents:
        agent.join()


class TestCompletion:
    """R4, and the cold join."""

    def test_r4_at_once_when_all_places_are_taken(self) -> None:
        driver = Driver(2, 3)
        agents = [driver.agent(name) for name in ("node10", "node2", "node1")]
        rejoin(*agents[:2])
        assert not driver.state.complete
        agents[2].join()
        assert places(*agents) == [2, 1, 0]

    def test_r4_when_the_last_call_is_over(self) -> None:
        driver = Driver(2, 4)
        a, b = driver.agent("a"), driver.agent("b")
        rejoin(a, b)
        driver.let_pass(29.75)
        assert not driver.state.complete
        driver.let_pass(0.5)
        assert places(a, b) == [0, 1]

    def test_r4_never_with_too_few(self) -> None:
        driver = Driver(3, 4)
        rejoin(driver.agent("a"), driver.agent("b"))
        driver.let_pass(120)
        assert not driver.state.complete

    def test_r4_at_once_when_all_survivors_are_back(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.cut(finished=True)
        driver.let_pass(2.25)
        rejoin(a)
        assert not driver.state.complete
        rejoin(b)
        assert places(a, b) == [0, 1]

    def test_r4_a_regroup_waits_for_an_attached_newcomer(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.leave()
        late = driver.agent("late")
        rejoin(a, b)
        assert not driver.state.complete
        late.join()
        assert places(a, b, late) == [0, 1, 2]

    def test_a_cold_join_costs_one_message_for_each_step_of_a_node(self) -> None:
        driver = Driver(8, 8)
        agents = [driver.agent(f"n{number}") for number in range(8)]
        rejoin(*agents[:7])
        assert driver.messages() == 8, "a join of another node cost a message"
        agents[7].join()
        assert driver.messages() == 16
        assert [type(message) for message in agents[0].take()] == [Welcome, Joined]


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


class TestLeaving:
    """R7: only an explicit close ends a run."""

    def test_r7_a_latecomer_that_times_out_disturbs_nobody(self) -> None:
        driver = Driver(2, 4)
        a, b = driver.world("a", "b")
        late = driver.agent("late")
        request = late.join(timeout_s=5)
        driver.let_pass(6)
        error = late.last(Failed)
        assert (error.id, error.code) == (request, "timeout")
        assert "waiting for the next" in error.message
        driver.let_pass(60)
        assert a.take() + b.take() == []
        assert len(driver.run.sessions) == 2

    def test_r7_a_timeout_long_after_the_deadline_takes_the_node_out_too(self) -> None:
        driver = Driver(2, 4)
        a = driver.agent("a")
        a.join(timeout_s=0)
        for _ in range(8):
            driver.clock.advance(0.9)
            a.say(Ping(0))
        driver.engine.tick()
        driver.deliver()
        assert a.last(Failed).code == "timeout"
        assert driver.run.sessions == {}

    def test_r7_a_leaver_is_told_and_the_others_go_on(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.leave("done with it")
        assert c.last(Flag).value
        assert (a.told.waiting, b.told.waiting) == (1, 1)
        assert "done with it" in a.told.reason
        assert not driver.state.closed

    def test_r7_the_first_reason_wins_is_told_and_outlives_the_coordinator(self) -> None:
        driver = Driver(2, 3)
        a, b = driver.world("a", "b")
        spare, waiting = driver.agent("c"), driver.agent("d")
        a.join()
        waiting.join()
        spare.join()
        b.close("first")
        b.close("second")
        assert [flag.value for flag in b.all(Flag)] == [True, True]
        assert {a.last(Failed).reason, waiting.last(Failed).reason} == {"first"}
        assert b.told.closed
        assert b.told.closed_reason == "first"
        driver.crash()
        late = driver.agent("late")
        assert late.told.closed_reason == "first"
        late.join()
        assert (late.last(Failed).code, late.last(Failed).reason) == ("closed", "first")

    def test_r7_a_spare_of_a_closed_run_may_go_in_peace(self) -> None:
        driver = Driver(2, 2)
        a, _ = driver.world("a", "b")
        spare = driver.agent("spare")
        spare.join()
        a.close("done", SUCCEEDED)
        assert spare.last(Failed).code == "graceful_exit"

    def test_r7_a_success_counts_while_the_world_stands_only(self) -> None:
        driver = Driver(1, 3)
        a, b, c = driver.world("a", "b", "c")
        c.leave()
        a.close("done", SUCCEEDED)
        assert not a.last(Flag).value
        assert not driver.state.closed
        assert b.told.waiting == 2

    def test_r7_the_run_is_closed_once_all_have_finished(self) -> None:
        driver = Driver(2, 3)
        a, b = driver.world("a", "b")
        a.say(Finish(1))
        a.leave()
        driver.let_pass(20)
        assert (b.told.waiting, driver.state.closed) == (0, False)
        b.say(Finish(1))
        assert b.told.closed_reason.startswith(SUCCEEDED)


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
        assert [type(message) for message in b.take()] == [Welcome, Probe]
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

    def test_r7_who_said_that_it_failed_and_came_back_stays(self) -> None:
        driver = Driver(2, 3, timeout=QUICK_REGROUP)
        a, b, c = driver.world("a", "b", "c")
        c.beats = False
        a.close("it broke", FAILED)
        rejoin(a, b)
        driver.let_pass(20)
        assert not a.last(Flag).value
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


class TestClosedForAll:
    """R7: whoever is connected hears that the run is closed, and why."""

    def test_r7_who_was_lost_after_the_close_still_knows_of_it(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        b.beats = False
        a.close("enough")
        assert b.told.closed
        driver.let_pass(16)
        assert "declared lost" in b.told.reason
        assert (b.told.waiting, b.told.closed, b.told.closed_reason) == (0, True, "enough")

    def test_r7_who_was_lost_before_the_close_and_lives_hears_of_it(self) -> None:
        driver = Driver(1, 2)
        a, b = driver.world("a", "b")
        b.beats = False
        driver.let_pass(16)
        assert (b.told.waiting, b.told.closed) == (1, False)
        a.close("enough")
        assert (b.told.waiting, b.told.closed_reason) == (0, "enough")

    def test_r7_who_was_let_go_after_a_failure_hears_of_its_own_close(self) -> None:
        driver = Driver(1, 2)
        a, b = driver.world("a", "b")
        b.cut(finished=True)
        driver.let_pass(2.5)
        a.close("it broke", FAILED)
        assert a.node not in driver.run.sessions
        a.close("enough")
        assert a.told.closed_reason == "enough"


class TestLoss:
    """R8, R9 and R11: who is lost, when, and who is not."""

    def test_r8_the_end_of_a_process_is_told_after_the_grace(self) -> None:
        driver = Driver(2, 3)
        a, _, c = driver.world("a", "b", "c")
        c.cut(finished=True)
        driver.let_pass(1.75)
        assert a.take() == []
        driver.let_pass(0.5)
        assert a.told.waiting == 1
        assert "its process ended" in a.told.reason

    def test_r8_a_reset_is_told_after_the_silence(self) -> None:
        driver = Driver(2, 3)
        a, _, c = driver.world("a", "b", "c")
        c.say(Ping(1))
        c.cut()
        driver.let_pass(14)
        assert a.take() == []
        driver.let_pass(2.25)
        assert "silent" in a.told.reason

    @pytest.mark.parametrize("finished", [True, False])
    def test_r9_a_tick_that_comes_late_judges_nobody_whose_words_are_unread(
        self, finished: bool
    ) -> None:
        driver = Driver(2, 3)
        _, _, c = driver.world("a", "b", "c")
        c.say(Ping(1))
        c.cut(finished)
        driver.let_pass(1.5 if finished else 14.5)
        driver.clock.advance(0.9)
        driver.engine.tick()
        driver.deliver()
        c.reconnect()
        driver.let_pass(5)
        assert c.node in driver.state.participants, "its hello was waiting to be read"

    @pytest.mark.parametrize("finished", [True, False])
    def test_r11_who_comes_back_in_time_was_never_away(self, finished: bool) -> None:
        driver = Driver(2, 3)
        a, _, c = driver.world("a", "b", "c")
        c.cut(finished)
        driver.let_pass(1.5)
        c.reconnect()
        assert c.last(Welcome).resumed
        driver.let_pass(40)
        assert a.take() == []
        assert c.told.waiting == 0

    def test_r8_the_end_of_an_older_connection_ends_nobody(self) -> None:
        driver = Driver(2, 3)
        a, _, c = driver.world("a", "b", "c")
        old = c.connection
        assert old is not None
        c.connection = None
        c.reconnect()
        assert old not in driver.peers, "the older connection was left open"
        driver.engine.closed(old, True)
        driver.let_pass(20)
        assert a.take() == []

    def test_r8_who_was_declared_lost_and_lives_is_told_and_joins_afresh(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.beats = False
        driver.let_pass(16.25)
        assert c.told.waiting == 1
        c.beats = True
        rejoin(c, a, b)
        assert places(a, b, c) == [0, 1, 2]

    def test_r8_a_join_of_one_that_was_declared_lost_is_not_forgotten(self) -> None:
        """The connection ends, so that the agent asks again."""
        driver = Driver(3, 3)
        a, b = driver.agent("a"), driver.agent("b")
        rejoin(a, b)
        b.beats = False
        driver.let_pass(16.25)
        assert b.connection is None
        b.beats = True
        b.reconnect()
        c = driver.agent("c")
        c.join()
        assert places(a, b, c) == [0, 1, 2]

    def test_r8_newcomers_count_at_once_when_they_fill_the_world(self) -> None:
        driver = Driver(2, 3)
        a, b = driver.world("a", "b")
        c = driver.agent("c")
        c.join()
        assert (a.told.waiting, b.told.waiting) == (1, 1)
        assert "newcomer" in a.told.reason

    def test_r8_newcomers_count_after_one_last_call_otherwise(self) -> None:
        driver = Driver(2, 4)
        a, _ = driver.world("a", "b")
        driver.agent("c").join()
        driver.let_pass(29.5)
        assert a.take() == []
        driver.let_pass(1)
        assert a.take() == [a.told]
        assert a.told.waiting == 1

    def test_r8_a_newcomer_that_goes_again_is_no_reason_any_more(self) -> None:
        driver = Driver(2, 3)
        a, _ = driver.world("a", "b")
        c = driver.agent("c")
        c.join()
        c.leave()
        assert [message.waiting for message in a.all(Changed)] == [1, 0]

    def test_r8_surplus_newcomers_cost_nothing(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        for number in range(5):
            driver.agent(f"s{number}").join()
        driver.let_pass(60)
        assert a.take() + b.take() == []

    def test_r8_a_regroup_is_pushed_once_a_change(self) -> None:
        """Told of the loss; told that a member is back; then no word until the answer."""
        driver = Driver(2, 8)
        agents = driver.world(*"abcdefgh")
        agents[7].cut(finished=True)
        driver.let_pass(2.25)
        counts = [len(agent.take()) for agent in agents[:7]]
        assert counts == [1] * 7
        rejoin(*agents[:6])
        assert [len(agent.take()) for agent in agents[:6]] == [0] + [1] * 5
        agents[6].join()
        assert [type(message) for message in agents[0].take()] == [Joined]
        driver.let_pass(5)
        assert agents[0].take() == []

    def test_r9_a_frozen_coordinator_loses_nobody(self) -> None:
        driver = Driver(2, 3)
        agents = driver.world("a", "b", "c")
        agents[1].cut(finished=True)
        driver.freeze(20)
        assert driver.state.departed == {}
        agents[1].reconnect()
        driver.freeze(3600)
        driver.let_pass(5)
        assert [agent.told.waiting for agent in agents] == [0, 0, 0]

    def test_r9_windows_pause_while_a_commit_stalls(self) -> None:
        driver = Driver(2, 4)
        a, b = driver.world("a", "b")
        b.cut()
        driver.stalled = True
        a.take()
        c = driver.agent("c")
        c.join()
        driver.let_pass(60)
        assert a.take() + c.take() == [], "somebody was answered from what is not stored"
        driver.stalled = False
        driver.let_pass(5)
        assert driver.state.departed == {}
        b.reconnect()
        driver.let_pass(10)
        assert a.told.waiting == b.told.waiting == 0

    def test_r9_who_hears_nobody_declares_nobody_lost(self) -> None:
        """It may be cut off itself; and who beats at other times falls silent at other times."""
        driver = Driver(2, 3)
        agents = driver.world("a", "b", "c")
        for agent in agents:
            agent.say(Ping(1))
            driver.let_pass(0.75)
        for agent in agents:
            agent.cut()
        driver.let_pass(60)
        agents[0].reconnect()
        driver.let_pass(5)
        for agent in agents[1:]:
            agent.reconnect()
        driver.let_pass(20)
        assert [agent.told.waiting for agent in agents] == [0, 0, 0]
        assert not driver.engine.runs[RUN].state.departed

    def test_r9_windows_go_on_once_somebody_is_heard(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        for agent in (a, b, c):
            agent.cut()
        driver.let_pass(60)
        a.reconnect()
        b.reconnect()
        driver.let_pass(8)
        assert a.told.waiting == 0
        driver.let_pass(4)
        assert "c_1_0 lost: it was silent" in a.told.reason

    def test_r8_who_comes_back_to_another_world_is_told_why_it_is_in_none(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.cut()
        driver.let_pass(16)
        rejoin(a, b)
        c.reconnect()
        assert c.told.waiting > 0
        assert "it was declared lost" in c.told.reason


class TestStragglers:
    """R10."""

    def test_r10_a_member_that_does_not_come_back_loses_its_place(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        rejoin(a, b)
        driver.let_pass(59.5)
        assert not driver.state.complete
        driver.let_pass(1)
        assert places(a, b) == [0, 1]
        assert c.told.waiting > 0
        driver.let_pass(60)
        assert a.told.waiting == 0, "a straggler at work disturbs the world"
        rejoin(c)
        rejoin(a, b)
        assert places(a, b, c) == [0, 1, 2]


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


class TestIncarnations:
    """R12."""

    def test_r12_a_new_incarnation_replaces_the_old_at_once(self) -> None:
        driver = Driver(2, 2)
        old, other = driver.agent("a", node_id="n"), driver.agent("b")
        old.join()
        new = driver.agent("a", node_id="n")
        assert old.last(Failed).code == "replaced"
        assert refusal(old).code == "replaced"
        rejoin(new, other)
        assert places(new, other) == [0, 1]

    def test_r12_a_late_word_of_the_old_one_changes_nothing(self) -> None:
        """It may have been sent before the old one could read that it is replaced."""
        driver = Driver(2, 2)
        old = driver.agent("a", node_id="n")
        driver.stalled = True
        new = driver.agent("a", node_id="n")
        old.join()
        driver.stalled = False
        driver.deliver()
        assert new.node in driver.run.sessions
        assert old.node not in driver.run.sessions

    def test_r12_the_old_one_is_refused_when_it_comes_back_even_after_a_restart(self) -> None:
        driver = Driver(2, 2)
        old = driver.agent("a", node_id="n")
        driver.agent("a", node_id="n")
        driver.crash()
        old.reconnect()
        assert refusal(old).code == "replaced"

    def test_r12_a_session_keeps_its_node_id(self) -> None:
        driver = Driver(2, 2)
        driver.agent("a", node_id="n")
        thief = driver.agent("b", node_id="m")
        thief.profile = driver.run.sessions[driver.agents[0].node].profile
        thief.join()
        assert refusal(thief).code == "protocol"

    def test_r12_without_a_node_id_nothing_is_replaced(self) -> None:
        driver = Driver(2, 2)
        agents = [driver.agent("same"), driver.agent("same")]
        rejoin(*agents)
        assert sorted(places(*agents)) == [0, 1]


class TestExplanations:
    """R16."""

    def test_r16_a_wait_is_explained_after_a_second_and_again_every_ten(self) -> None:
        driver = Driver(3, 3)
        a = driver.agent("a")
        a.join()
        assert a.all(Waiting) == []
        driver.let_pass(2.25)
        assert [w.kind for w in a.all(Waiting)] == ["min_nodes"]
        assert "waiting for 2 more nodes (1 of 3)" in a.last(Waiting).reason
        driver.let_pass(8)
        assert len(a.all(Waiting)) == 1
        driver.let_pass(2.5)
        assert len(a.all(Waiting)) == 2
        assert a.last(Waiting).since_s > 10

    def test_r16_a_change_of_kind_is_told_soon(self) -> None:
        driver = Driver(2, 3)
        a, b = driver.agent("a"), driver.agent("b")
        a.join()
        driver.let_pass(3)
        b.join()
        driver.let_pass(2.25)
        assert [w.kind for w in a.all(Waiting)] == ["min_nodes", "last_call"]

    def test_r16_who_has_not_come_back_is_named_with_the_time_that_is_left(self) -> None:
        driver = Driver(2, 3)
        a, _, c = driver.world("a", "b", "c")
        c.cut(finished=True)
        driver.let_pass(2.25)
        rejoin(a)
        driver.let_pass(10)
        told = a.last(Waiting)
        assert told.kind == "min_nodes"
        assert told.missing == (
            "b_1_0 (rank 1, not back yet)",
            "c_1_0 (lost: its process ended)",
        )
        assert told.missing_count == 2
        assert told.ends_in_s is None

    def test_r16_the_last_call_says_how_long_it_lasts(self) -> None:
        driver = Driver(2, 3)
        a, b = driver.agent("a"), driver.agent("b")
        rejoin(a, b)
        driver.let_pass(2.25)
        told = a.last(Waiting)
        assert (told.missing, told.missing_count) == ((), 0)
        assert told.ends_in_s is not None
        assert 27 <= told.ends_in_s <= 29

    def test_r16_a_timeout_names_who_was_present_and_who_was_missing(self) -> None:
        driver = Driver(3, 3)
        a, b, c = driver.world("a", "b", "c")
        c.leave("was tired")
        for agent in (a, b):
            agent.join(timeout_s=5)
        driver.let_pass(5.5)
        assert a.last(Failed).message.startswith(
            "No round of the run 'run' was completed with a_1_0 within 5 s: waiting for 1 more "
            "node (2 of 3); present: a_1_0, b_1_0; missing: c_1_0 (left: was tired). Start"
        )

    def test_r16_all_in_one_line_are_told_the_same(self) -> None:
        driver = Driver(3, 3)
        a, b = driver.agent("a"), driver.agent("b")
        rejoin(a, b)
        driver.let_pass(2.25)
        assert a.all(Waiting) == b.all(Waiting) != []

    def test_r16_a_timeout_says_what_was_waited_for(self) -> None:
        driver = Driver(3, 3)
        a = driver.agent("a")
        a.join(timeout_s=3)
        driver.let_pass(4)
        assert "waiting for 2 more nodes" in a.last(Failed).message


def test_a_pong_is_no_news() -> None:
    driver = Driver()
    a = driver.agent("a")
    a.say(Ping(41))
    assert a.last(Pong).sequence == 41
    assert [type(message) for message in a.take()] == [Welcome]


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


def test_r7_who_leaves_is_told_nothing_of_a_join_that_was_held() -> None:
    driver = Driver(2, 3)
    a = driver.agent("a")
    a.join(timeout_s=5)
    a.leave()
    a.take()
    driver.let_pass(10)
    assert a.take() == []
