"""Who is attached, and in which life."""

from __future__ import annotations

import pytest

from quorate.coordinator.runs.roll import Roll
from quorate.errors import RendezvousSettingsError
from quorate.wire.messages import Evict, Failed
from tests.coordinator.driver import Driver, places, refusal, rejoin
from tests.coordinator.rooms import Rooms
from tests.core.support import make_settings


class TestByHand:
    """The roll alone."""

    def test_who_comes_in_is_on_the_roll_and_has_to_be_stored(self) -> None:
        rooms = Rooms()
        a = rooms.session("a")
        assert rooms.roll.admit(a) is None
        assert rooms.roll.is_attached(a)
        assert rooms.roll.moved
        assert rooms.touches == [(a.node,)]
        assert rooms.tally.joins == 1

    def test_r12_a_new_life_is_told_of_the_former_one(self) -> None:
        rooms = Rooms()
        old = rooms.add("a", node_id="n")
        new = rooms.session("a", node_id="n")
        rooms.touches.clear()
        assert rooms.roll.admit(new) == old.node
        assert rooms.touches == [(new.node,), (old.node,)]
        assert rooms.roll.end(old.node, "replaced") is old
        assert rooms.roll.sessions == {new.node: new}

    def test_who_is_withdrawn_stays_known_while_it_is_connected(self) -> None:
        rooms = Rooms()
        a, b = rooms.add("a"), rooms.add("b")
        b.connection = None
        rooms.ask(b)
        for session in (a, b):
            rooms.roll.withdraw(session, "lost", "silent")
        assert rooms.roll.strays == {a.node: a}
        assert b.join is None, "nobody is there to be answered"
        assert rooms.roll.sessions == {}
        assert rooms.state.last_heartbeats == {}
        rooms.roll.withdraw(a, "left", "left")
        assert rooms.tally.losses == {"silent": 2}, "it had gone before"

    def test_a_stray_that_comes_back_is_none_any_more(self) -> None:
        rooms = Rooms()
        a = rooms.add("a")
        rooms.roll.withdraw(a, "lost", "silent")
        rooms.roll.admit(a)
        assert rooms.roll.strays == {}

    def test_r13_settings_are_the_first_nodes_until_nobody_is_left(self) -> None:
        rooms = Rooms(2, 3)
        assert not rooms.roll.has_settings
        a = rooms.add("a")
        other = rooms.session("b")
        other.settings = make_settings(2, 4).agreed
        with pytest.raises(RendezvousSettingsError, match="max_nodes"):
            rooms.roll.admit(other)
        rooms.roll.withdraw(a, "left", "left")
        rooms.roll.admit(other)
        assert rooms.roll.settings.max_nodes == 4

    def test_r9_who_was_loaded_has_a_full_window(self) -> None:
        rooms = Rooms()
        rooms.world("a", "b")
        rooms.let_pass(100)
        loaded = Roll("run", rooms.state, rooms.observer, rooms.tally, lambda *nodes: None)
        assert loaded.sessions.keys() == rooms.state.last_heartbeats.keys()
        assert [each.heard_s for each in loaded.sessions.values()] == [rooms.observer.now_s] * 2
        assert loaded.settings.max_nodes == 3


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


class TestSettings:
    """R13: by whatever way a node comes in, its settings are compared."""

    def test_r13_one_that_joins_again_on_its_connection(self) -> None:
        driver = Driver(2, 3)
        a, b = driver.world("a", "b")
        a.leave()
        b.leave()
        driver.agent("c", max_nodes=5)
        a.join()
        assert "max_nodes" in refusal(a).message
        assert a.node not in driver.state.last_heartbeats

    def test_r13_one_that_is_kept_out_sets_nothing(self) -> None:
        driver = Driver(2, 3)
        a, b = driver.world("a", "b")
        driver.agent("bad", node_id="bad")
        driver.operator().say(Evict(1, "bad"))
        a.leave()
        b.leave()
        assert "keeps out" in refusal(driver.agent("bad", "bad", min_nodes=7, max_nodes=9)).message
        b.join()
        assert driver.state.agreed == driver.settings.agreed
        assert driver.agent("c").connection is not None
