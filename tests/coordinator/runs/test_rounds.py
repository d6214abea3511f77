"""When a round completes, and who is waited for."""

from __future__ import annotations

from quorate.coordinator.runs.rounds import Rounds
from quorate.wire.messages import Joined, Welcome
from tests.coordinator.driver import Driver, places, rejoin
from tests.coordinator.rooms import Rooms
from tests.core.support import LAST_CALL_S, REGROUP_S


class TestByHand:
    """Rounds alone: turns, waits, and what is counted."""

    def test_a_turn_is_told_once(self) -> None:
        rooms = Rooms(2, 2)
        assert rooms.rounds.has_turned(), "the first round has begun"
        assert not rooms.rounds.has_turned()
        rooms.world("a", "b")
        assert rooms.rounds.has_turned()
        assert not rooms.rounds.has_turned()
        rooms.state.closed = True
        assert rooms.rounds.has_turned()

    def test_a_world_that_was_loaded_is_no_turn(self) -> None:
        rooms = Rooms(2, 2)
        rooms.world("a", "b")
        assert not Rounds(rooms.roll, rooms.minutes, rooms.tally).has_turned()

    def test_a_wait_counts_from_when_it_became_of_its_kind(self) -> None:
        rooms = Rooms(2, 3)
        assert rooms.rounds.waits_for_s is None
        rooms.ask(rooms.add("a"))
        assert not rooms.rounds.try_to_complete()
        rooms.let_pass(7)
        assert not rooms.rounds.try_to_complete()
        assert rooms.rounds.waits_for_s == 7
        rooms.ask(rooms.add("b"))
        assert not rooms.rounds.try_to_complete()
        assert rooms.rounds.waits_for_s == 0
        rooms.let_pass(LAST_CALL_S)
        rooms.touches.clear()
        assert rooms.rounds.try_to_complete()
        assert rooms.rounds.waits_for_s is None
        assert rooms.touches == [()], "the state has to be stored"
        assert not rooms.rounds.try_to_complete()

    def test_a_wait_ends_when_nobody_is_left_who_waits(self) -> None:
        rooms = Rooms(2, 3)
        a = rooms.add("a")
        rooms.ask(a)
        assert not rooms.rounds.try_to_complete()
        rooms.let_pass(7)
        rooms.roll.withdraw(a, "left", "left")
        assert not rooms.rounds.try_to_complete()
        assert rooms.rounds.waits_for_s is None
        rooms.let_pass(7)
        rooms.ask(rooms.add("b"))
        assert not rooms.rounds.try_to_complete()
        assert rooms.rounds.waits_for_s == 0

    def test_a_regroup_is_timed_from_the_change_to_the_next_world(self) -> None:
        rooms = Rooms(1, 2)
        a, b = rooms.world("a", "b")
        rooms.rounds.note_change()
        rooms.rounds.count_world()
        assert sum(rooms.tally.regroup.counts) == 0, "the first world is no regroup"
        rooms.roll.withdraw(b, "lost", "ended")
        rooms.rounds.note_change()
        rooms.let_pass(3)
        rooms.rounds.note_change()
        rooms.ask(a)
        assert rooms.state.complete
        rooms.rounds.count_world()
        assert rooms.tally.regroup.sum == 3
        rooms.rounds.count_world()
        assert sum(rooms.tally.regroup.counts) == 1, "nothing has changed since"
        assert rooms.tally.rounds_completed == 3

    def test_r10_nobody_is_a_straggler_before_the_time_is_over(self) -> None:
        rooms = Rooms(2, 2)
        rooms.rounds.drop_stragglers()
        a, b = rooms.world("a", "b")
        rooms.ask(a)
        rooms.rounds.drop_stragglers()
        rooms.let_pass(REGROUP_S - 1)
        rooms.rounds.drop_stragglers()
        assert not rooms.state.stragglers
        rooms.touches.clear()
        rooms.let_pass(1)
        rooms.rounds.drop_stragglers()
        assert list(rooms.state.stragglers) == [b.node]
        assert rooms.touches == [(b.node,)]
        assert rooms.tally.losses["straggler"] == 1


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
