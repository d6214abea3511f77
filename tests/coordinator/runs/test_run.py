"""The rules of a run, as the agents of one coordinator see them: what they are told, and when."""

from __future__ import annotations

import pytest

from quorate.wire.messages import (
    FAILED,
    SUCCEEDED,
    Changed,
    Drain,
    Evict,
    Failed,
    Finish,
    Flag,
    Joined,
    Ping,
    Pong,
    Scale,
    Waiting,
    Welcome,
)
from tests.coordinator.driver import Driver, places, rejoin


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

    def test_r7_the_word_of_a_former_member_counts_for_nothing(self) -> None:
        """It has left before, and is not written down as leaving again."""
        driver = Driver(1, 2)
        a, b = driver.world("a", "b")
        a.leave("taken ill")
        b.join()
        a.close("the job was shut down", SUCCEEDED)
        assert not a.last(Flag).value
        assert (driver.state.closed, b.told.waiting) == (False, 0)
        lefts = [event for event in driver.run.history.events if event.kind == "left"]
        assert [event.text for event in lefts] == ["left: taken ill"]

    def test_r7_the_run_is_closed_once_all_have_finished(self) -> None:
        driver = Driver(2, 3)
        a, b = driver.world("a", "b")
        a.say(Finish(1))
        a.leave()
        driver.let_pass(20)
        assert (b.told.waiting, driver.state.closed) == (0, False)
        b.say(Finish(1))
        assert b.told.closed_reason.startswith(SUCCEEDED)


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
    """R8: what is told of a loss, and of newcomers."""

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

    def test_r8_a_newcomer_does_not_wait_anew_when_the_one_before_it_goes(self) -> None:
        driver = Driver(2, 5)
        a, _ = driver.world("a", "b")
        c, d = driver.agent("c"), driver.agent("d")
        c.join()
        driver.let_pass(1)
        d.join()
        driver.let_pass(28)
        c.leave()
        driver.let_pass(1.5)
        assert a.told.waiting == 0
        driver.let_pass(1)
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

    def test_r8_who_comes_back_to_another_world_is_told_why_it_is_in_none(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.cut()
        driver.let_pass(16)
        rejoin(a, b)
        c.reconnect()
        assert c.told.waiting > 0
        assert "it was declared lost" in c.told.reason

    @pytest.mark.parametrize("command", [Drain(1, "c"), Scale(1, 2)])
    def test_r8_who_loses_its_place_in_a_regroup_of_one_batch_is_told(
        self, command: Drain | Scale
    ) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        driver.stall()
        rejoin(a, b)
        driver.operator().say(command)
        driver.go_on()
        assert driver.state.complete
        assert places(a, b) == [0, 1]
        assert c.told.waiting
        assert "lost its place" in c.told.reason
        assert (a.told.waiting, b.told.waiting) == (0, 0)

    def test_r8_who_has_finished_is_told_of_a_regroup_of_one_batch(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.say(Finish(1))
        driver.stall()
        rejoin(a, b)
        driver.go_on()
        assert places(a, b) == [0, 1]
        assert c.told.waiting

    def test_r8_who_is_new_is_told_nothing_besides_its_place(self) -> None:
        driver = Driver(1, 2)
        a = driver.agent("a")
        driver.let_pass(1)
        a.cut()
        driver.stalled = True
        driver.agent("b")
        a.reconnect()
        a.join()
        driver.operator().say(Scale(1, 1))
        driver.go_on()
        assert [type(message) for message in a.take()][-1] is Joined

    def test_r8_who_comes_back_hears_that_a_reason_was_taken_back(self) -> None:
        driver = Driver(2, 3)
        a, b, _ = driver.world("a", "b", "c")
        operator = driver.operator()
        operator.say(Scale(1, 2))
        assert b.told.waiting
        b.cut()
        operator.say(Scale(2, None))
        b.reconnect()
        assert (a.told.waiting, b.told.waiting) == (0, 0)


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


def test_r9_time_in_which_nobody_was_there_does_not_shorten_a_ban() -> None:
    driver = Driver(1, 2)
    (a,) = driver.world("a")
    a.leave()
    a.cut()
    driver.let_pass(900)
    driver.agent("b").join()
    driver.operator().say(Evict(1, "b_1_0", 600.0, "noisy"))
    driver.let_pass(2)
    assert [round(ban.left_s) for ban in driver.state.bans.values()] == [598]


def test_a_pong_is_no_news() -> None:
    driver = Driver()
    a = driver.agent("a")
    a.say(Ping(41))
    assert a.last(Pong).sequence == 41
    assert [type(message) for message in a.take()] == [Welcome]
