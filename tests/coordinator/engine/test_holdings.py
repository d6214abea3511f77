"""What outlives a coordinator, and what is forgotten."""

from __future__ import annotations

import pytest

from quorate.coordinator.engine import CLOSED_KEPT_S, Engine, holdings
from quorate.coordinator.engine.holdings import EMPTY_KEPT_S, IDLE_KEPT_S
from quorate.coordinator.ledgers.records import run_key, seen_key
from quorate.coordinator.runs.run import Run
from quorate.core.state import WorldName
from quorate.errors import RendezvousStateError
from quorate.testing import ManualClock
from quorate.wire.messages import (
    GetValue,
    SetValue,
    Value,
    Welcome,
)
from tests.coordinator.driver import RUN, Driver, places, rejoin


def space_of(driver: Driver) -> tuple[str, int]:
    world = driver.state.world
    assert world is not None
    return (world.epoch, world.round)


class TestObsoleteStores:
    """R15: what is deleted of stores may be larger than what a ledger writes at once."""

    KEYS, KEY_CHARACTERS = 100, 200

    @pytest.fixture(autouse=True)
    def _some_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(holdings, "DELETED_BYTES_MAX", 1000)

    def filled(self) -> Driver:
        """Return a driver of a run whose store is full of keys."""
        driver = Driver(2, 2)
        driver.world("a", "b")
        worker = driver.store("w")
        for number in range(self.KEYS):
            key = f"{number:0{self.KEY_CHARACTERS}}"
            worker.say(SetValue(number + 1, space_of(driver), key, b"v"))
        worker.cut()
        return driver

    def deletions(self, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        sizes: list[int] = []
        commit = driver._commit

        def record(changes: dict[str, bytes | None]) -> None:
            sizes.append(sum(len(key) for key, value in changes.items() if value is None))
            commit(changes)

        monkeypatch.setattr(driver, "_commit", record)
        return sizes

    def test_a_store_of_a_former_round_goes_by_and_by(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        driver = self.filled()
        sizes = self.deletions(driver, monkeypatch)
        for _ in range(2):
            rejoin(*driver.agents)
        assert max(sizes) < 1000 + 2 * self.KEY_CHARACTERS
        assert sum(sizes) >= self.KEYS * self.KEY_CHARACTERS
        assert not [key for key in driver.ledger if key.startswith(("entry", "result"))]

    def test_so_does_that_of_a_run_that_is_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        driver = self.filled()
        sizes = self.deletions(driver, monkeypatch)
        for agent in driver.agents:
            agent.leave()
            agent.cut()
        driver.let_pass(IDLE_KEPT_S + 1)
        assert max(sizes) < 1000 + 3 * self.KEY_CHARACTERS
        assert driver.ledger == {}

    def test_a_coordinator_that_ends_meanwhile_leaves_it_to_the_next_one(self) -> None:
        driver = self.filled()
        for agent in driver.agents:
            agent.close("over")
            agent.leave()
            agent.cut()
        driver.stalled = True
        driver.let_pass(CLOSED_KEPT_S + 1)
        driver._commit(driver._in_flight.changes)
        assert run_key(RUN) not in driver.ledger
        assert len(driver.ledger) > self.KEYS / 2
        driver.crash()
        driver.go_on()
        assert driver.ledger == {}

    def test_what_a_session_stores_anew_is_not_deleted(self) -> None:
        driver = self.filled()
        agents = driver.agents
        for number in range(10):
            driver.store(f"{number:0{self.KEY_CHARACTERS}}").say(
                SetValue(1, driver.state.name, "k", b"v")
            )
        rejoin(*agents)
        driver.stalled = True
        rejoin(*agents)
        begun = driver._in_flight
        driver._commit(begun.changes)
        driver._in_flight = None
        driver.engine.settle(begun)
        driver.deliver()
        worker = driver.store("w")
        worker.say(SetValue(self.KEYS + 1, driver.state.name, "k", b"new"))
        driver.go_on()
        assert len([key for key in driver.ledger if key.startswith(("entry", "result"))]) == 2
        driver.crash()
        worker.connect()
        worker.say(GetValue(self.KEYS + 2, driver.state.name, "k", 1.0))
        assert worker.last(Value).value == b"new"


class TestRestart:
    """The coordinator ends, with and without its ledger."""

    def test_the_world_stands_and_every_node_has_a_full_window(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        place = a.place
        driver.crash()
        for agent in (a, b):
            agent.reconnect()
            assert agent.last(Welcome).resumed
        driver.let_pass(14)
        assert a.told.waiting == b.told.waiting == 0
        c.reconnect()
        driver.let_pass(20)
        assert [agent.told.waiting for agent in (a, b, c)] == [0, 0, 0]
        assert a.place == place

    def test_who_does_not_come_back_is_lost_after_the_window(self) -> None:
        driver = Driver(2, 3)
        a, _, _ = driver.world("a", "b", "c")
        driver.crash()
        a.reconnect()
        driver.let_pass(16.25)
        assert a.told.waiting == 2

    @pytest.mark.parametrize("days", [0, 2])
    def test_a_world_stands_however_long_ago_it_was_completed(self, days: int) -> None:
        """The last change of a run that trains for days is days old."""
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        driver.clock.advance(days * 86400)
        driver.crash()
        a.reconnect()
        b.reconnect()
        assert a.last(Welcome).resumed
        assert a.told.waiting == b.told.waiting == 0

    def test_held_joins_go_on(self) -> None:
        driver = Driver(3, 3)
        a, b = driver.agent("a"), driver.agent("b")
        a.join()
        b.join()
        driver.crash()
        a.reconnect()
        b.reconnect()
        c = driver.agent("c")
        c.join()
        assert {agent.place.digest for agent in (a, b, c) if agent.place} == {a.place.digest}

    @pytest.mark.parametrize("newcomer_first", [True, False])
    def test_r2_without_a_ledger_there_is_a_new_epoch_and_one_regroup(
        self, newcomer_first: bool
    ) -> None:
        driver = Driver(2, 3)
        a, b = driver.world("a", "b")
        old = a.place.world
        driver.crash(with_ledger=False)
        newcomer = None
        if newcomer_first:
            newcomer = driver.agent("new")
            newcomer.join()
        for agent in (a, b):
            agent.reconnect()
            assert not agent.last(Welcome).resumed
            assert agent.told.waiting > 0
            assert "anew" in agent.told.reason
        a.join()
        b.join()
        if newcomer is None:
            newcomer = driver.agent("new")
            newcomer.join()
        assert {agent.place.world for agent in (a, b, newcomer)} == {driver.state.name}
        assert driver.state.name.epoch != old.epoch

    def test_a_closed_run_is_remembered_for_a_while_and_then_forgotten(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        a.say(SetValue(1, space_of(driver), "k", b"v"))
        a.close("over")
        for agent in (a, b):
            agent.leave()
            agent.cut()
        driver.let_pass(CLOSED_KEPT_S - 1)
        assert RUN in driver.engine.runs
        driver.let_pass(2)
        assert RUN not in driver.engine.runs
        assert driver.ledger == {}
        fresh = driver.agent("a")
        assert fresh.told.closed is False

    def test_an_idle_run_is_forgotten_later(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        a.leave()
        b.leave()
        a.cut()
        b.cut()
        driver.let_pass(CLOSED_KEPT_S + 1)
        assert RUN in driver.engine.runs
        driver.let_pass(IDLE_KEPT_S - CLOSED_KEPT_S)
        assert driver.engine.runs == {}
        assert driver.ledger == {}

    def test_a_run_is_not_idle_while_its_agents_are_connected(self) -> None:
        """Nodes that have stepped aside, for their health say, join again when they are well."""
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        name = driver.state.name
        a.leave("unhealthy")
        b.leave("unhealthy")
        driver.let_pass(IDLE_KEPT_S + 1)
        rejoin(a, b)
        assert places(a, b) == [0, 1]
        assert a.holding == WorldName(name.epoch, name.round + 1)

    @pytest.mark.parametrize(
        ("closed", "age_s", "kept"),
        [
            (True, CLOSED_KEPT_S - 1, True),
            (True, CLOSED_KEPT_S + 1, False),
            (False, CLOSED_KEPT_S + 1, True),
            (False, IDLE_KEPT_S + 1, False),
        ],
    )
    def test_an_old_run_without_nodes_is_not_loaded(
        self, closed: bool, age_s: float, kept: bool
    ) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        if closed:
            a.close("over")
        a.leave()
        b.leave()
        driver.clock.advance(age_s)
        driver.crash()
        assert (RUN in driver.engine.runs) is kept
        assert (run_key(RUN) in driver.ledger) is kept

    def test_r9_by_another_machines_clock_no_run_is_old(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.world("a", "b")
        a.close("over")
        for agent in (a, b):
            agent.leave()
            agent.cut()
        ahead = ManualClock()
        ahead.advance(IDLE_KEPT_S * 100)
        assert not Engine(dict(driver.ledger), ahead, lambda: "e").runs
        heir = Engine(dict(driver.ledger), ahead, lambda: "e", is_shared=True)
        assert heir.runs[RUN].state.closed_reason == "over"

    def test_r15_a_run_that_nobody_would_miss_is_forgotten_soon(self) -> None:
        driver = Driver(2, 2)
        a = driver.agent("a")
        a.join()
        a.cut()
        driver.let_pass(EMPTY_KEPT_S)
        assert RUN in driver.engine.runs
        driver.let_pass(0.5)
        assert driver.engine.runs == {}
        assert driver.ledger == {}

    def test_r15_runs_without_nodes_take_no_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        driver = Driver(2, 2)
        for agent in driver.world("a", "b"):
            agent.leave()
            agent.cut()
        ticks: list[str] = []
        monkeypatch.setattr(Run, "tick", lambda run: ticks.append(run.run_id))
        driver.let_pass(2)
        assert ticks == []
        driver.agent("c")
        driver.let_pass(2)
        assert ticks

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("what is this", b""),
            (run_key("r"), b"no state"),
            (seen_key("r"), b"\xc1"),
            ("entry\0r\0e\0one\0k", b""),
        ],
    )
    def test_what_is_no_ledger_is_refused_in_one_line(self, key: str, value: bytes) -> None:
        with pytest.raises(RendezvousStateError, match=r"ledger|not a rendezvous state"):
            Engine({key: value}, ManualClock(), lambda: "e")

    def test_a_corrupt_result_is_refused_in_one_line(self) -> None:
        driver = Driver()
        driver.agent("a")
        records = driver.ledger | {f"result\0{RUN}\0s": b"\xc1"}
        with pytest.raises(RendezvousStateError, match=f"run '{RUN}'"):
            Engine(records, driver.clock, lambda: "e")
