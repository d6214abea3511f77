"""Who is lost, and when."""

from __future__ import annotations

import pytest

from quorate.coordinator.runs.judge import Judge, Loss
from quorate.wire.messages import Ping, Welcome
from tests.coordinator.driver import RUN, Driver
from tests.coordinator.rooms import Rooms

# The defaults of the settings: three keep-alive intervals of 5 s, and the reconnect grace.
SILENCE_S = 15.0
GRACE_S = 2.0


class TestByHand:
    """The judge alone: the race between a look and a word."""

    def test_an_ended_process_is_overdue_at_one_look_and_lost_at_the_next(self) -> None:
        rooms = Rooms()
        _, b = rooms.world("a", "b")
        judge = Judge(rooms.roll)
        judge.ended(b)
        rooms.let_pass(GRACE_S - 0.1)
        assert list(judge.lost()) + list(judge.lost()) == []
        rooms.let_pass(0.1)
        assert list(judge.lost()) == []
        assert list(judge.lost()) == [Loss(b, "its process ended", "ended", GRACE_S)]

    def test_a_word_between_two_looks_saves_who_is_overdue(self) -> None:
        rooms = Rooms()
        _, b = rooms.world("a", "b")
        judge = Judge(rooms.roll)
        judge.ended(b)
        rooms.let_pass(GRACE_S)
        assert list(judge.lost()) == []
        judge.heard(b)
        assert list(judge.lost()) + list(judge.lost()) == []

    def test_silence_is_counted_from_the_last_word(self) -> None:
        rooms = Rooms()
        a, b = rooms.world("a", "b")
        judge = Judge(rooms.roll)
        judge.heard(b)
        rooms.let_pass(SILENCE_S)
        judge.heard(a)
        judge.look_for_silence(1.0)
        assert list(judge.lost()) == [Loss(b, "it was silent for 15 s", "silent", SILENCE_S)]
        assert list(judge.lost()) == [], "it is judged once"

    def test_silence_of_all_says_nothing(self) -> None:
        rooms = Rooms()
        a, b = rooms.world("a", "b")
        judge = Judge(rooms.roll)
        for session in (a, b):
            judge.heard(session)
        rooms.let_pass(SILENCE_S)
        judge.look_for_silence(SILENCE_S)
        assert list(judge.lost()) == []
        assert b.silence_s(rooms.roll.now_s) == 0.0
        judge.heard(a)
        judge.look_for_silence(1.0)
        assert list(judge.lost()) == [], "its window has gone on from where it was"

    def test_who_leaves_because_of_a_loss_is_not_judged_any_more(self) -> None:
        rooms = Rooms()
        _, b, c = rooms.world("a", "b", "c")
        judge = Judge(rooms.roll)
        judge.ended(b)
        judge.ended(c)
        rooms.let_pass(GRACE_S)
        assert list(judge.lost()) == []
        lost = []
        for loss in judge.lost():
            lost.append(loss.session)
            rooms.roll.withdraw(c, "left after a failure", "failed")
        assert lost == [b]

    def test_who_ended_last_is_judged_last(self) -> None:
        rooms = Rooms()
        _, b, c = rooms.world("a", "b", "c")
        judge = Judge(rooms.roll)
        judge.ended(b)
        judge.heard(b)
        judge.ended(c)
        judge.ended(b)
        rooms.let_pass(GRACE_S)
        assert list(judge.lost()) == []
        assert [loss.session for loss in judge.lost()] == [c, b]

    def test_who_is_attached_no_more_is_forgotten(self) -> None:
        """A node that ended and gave up waiting within the grace was kept for ever."""
        rooms = Rooms()
        a = rooms.add("a")
        judge = Judge(rooms.roll)
        judge.ended(a)
        rooms.roll.end(a.node, "timeout")
        rooms.let_pass(GRACE_S)
        assert list(judge.lost()) == []
        assert judge._ended == {}
        assert judge._overdue == []

    def test_nodes_are_awaited_for_as_long_as_a_loss_takes(self) -> None:
        rooms = Rooms()
        judge = Judge(rooms.roll)
        assert not judge.awaits_nodes()
        rooms.add("a")
        rooms.let_pass(SILENCE_S - 0.1)
        assert judge.awaits_nodes()
        rooms.let_pass(0.1)
        assert not judge.awaits_nodes()


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
