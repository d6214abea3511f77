"""Reports are made in slices and shared; what has changed is never kept from whoever asks after."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from quorate.coordinator.engine.reports import FRESH_S, REPORTS_BY_CONNECTION_MAX
from quorate.wire.messages import Done, Drain, Failed, Hold, Report, Status
from tests.coordinator.driver import RUN, Driver, Peer

PART_NODES = 4
NODES = 10 * PART_NODES


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A world of which a report takes many slices."""
    for module in ("parts", "reports"):
        monkeypatch.setattr(f"quorate.coordinator.engine.{module}.PART_NODES", PART_NODES)
    driver = Driver(NODES, NODES + 10)
    driver.world(*(f"node{number}" for number in range(NODES)))
    return driver


def small() -> Driver:
    driver = Driver(2, 3)
    driver.world("a", "b")
    return driver


def ask(driver: Driver, id: int, run_id: str = "") -> Peer:
    operator = driver.operator("")
    operator.say(Status(id, run_id))
    return operator


def told(operator: Peer) -> dict[str, Any]:
    status: dict[str, Any] = msgspec.json.decode(operator.last(Report).text())
    return status


def answer(driver: Driver, id: int, run_id: str = "") -> dict[str, Any]:
    operator = ask(driver, id, run_id)
    driver.finish()
    assert operator.last(Report).id == id
    return told(operator)


def test_a_slice_is_about_so_many_nodes(driver: Driver) -> None:
    operator = driver.operator("")
    assert operator.connection is not None
    driver.engine.receive(operator.connection, Status(1, ""))
    slices = 1
    while driver.engine.has_chores:
        driver.engine.carry_on()
        slices += 1
    # The run itself, its nodes, what comes after them.
    assert slices == 1 + NODES // PART_NODES + 1
    driver.deliver()
    (run,) = told(operator)["runs"]
    assert len(run["nodes"]) == NODES


def test_it_shows_one_moment_though_the_run_changes_between_slices(driver: Driver) -> None:
    before = answer(driver, 1)["runs"]
    driver.let_pass(FRESH_S)
    operator = ask(driver, 2)
    newcomer = driver.agent("newcomer")
    newcomer.join()
    lost = next(peer for peer in driver.peers.values() if peer is not operator)
    lost.cut(finished=True)
    driver.operator().say(Hold(1, "power works"))
    while driver.engine.has_chores:
        driver.let_pass(0.25)
    shown = told(operator)["runs"]
    for run in (*before, *shown):
        for node in run["nodes"]:
            del node["heard_s_ago"]
    assert shown == before
    (after,) = answer(driver, 3)["runs"]
    assert after["held"] == "power works"
    assert len(after["nodes"]) == NODES + 1


def test_r14_it_is_told_once_everything_that_it_shows_is_stored(driver: Driver) -> None:
    driver.stalled = True
    drained = next(iter(driver.state.participants))
    driver.operator().say(Drain(1, str(drained), "repairs"))
    operator = ask(driver, 2)
    driver.finish()
    assert operator.all(Report) == []
    # The batch before it is stored: then it is made, from what is not stored yet.
    driver.stalled = False
    driver.operator().say(Hold(3, "power works"))
    while driver.engine.has_chores:
        assert operator.all(Report) == []
        driver.deliver()
    (run,) = told(operator)["runs"]
    assert [node["draining"] for node in run["nodes"] if node["draining"]] == [
        "drained by the operator: repairs"
    ]


def test_r14_a_report_waits_for_the_batch_that_stores_what_it_shows(driver: Driver) -> None:
    operator, other = driver.operator(""), driver.operator()
    assert operator.connection is not None
    assert other.connection is not None
    engine = driver.engine
    engine.receive(other.connection, Hold(1, "power works"))
    engine.receive(operator.connection, Status(2, ""))
    while engine.has_chores:
        engine.carry_on()
        assert engine.take_sends() == []
    batch = engine.take_batch()
    assert batch is not None
    assert engine.take_sends() == []
    engine.settle(batch)
    answers = [send.message for send in engine.take_sends()]
    assert [type(message) for message in answers] == [Done, Report]


def test_who_asks_while_it_is_made_has_the_same(driver: Driver) -> None:
    first, second = ask(driver, 1), ask(driver, 2)
    driver.finish()
    # Of those who look, the second has come after it was begun: both have what the first asked for.
    assert told(first) == told(second)
    assert (first.last(Report).id, second.last(Report).id) == (1, 2)
    assert told(first)["connections"] == NODES + 1


def test_who_asks_after_a_change_has_the_next(driver: Driver) -> None:
    first = ask(driver, 1)
    driver.operator().say(Hold(1, "power works"))
    second, third = ask(driver, 2), ask(driver, 3)
    driver.finish()
    assert told(first)["runs"][0]["held"] is None
    assert told(second)["runs"][0]["held"] == "power works"
    assert told(third) == told(second)


def test_a_command_that_is_not_stored_yet_is_a_change(driver: Driver) -> None:
    answer(driver, 1)
    operator = driver.operator()
    assert operator.connection is not None
    driver.engine.receive(operator.connection, Hold(1, "power works"))
    driver.engine.receive(operator.connection, Status(2, ""))
    driver.finish()
    assert told(operator)["runs"][0]["held"] == "power works"


def test_a_large_report_is_kept_for_those_who_ask_soon_after(driver: Driver) -> None:
    # Each one who asks is a connection more.
    assert answer(driver, 1)["connections"] == NODES + 1
    assert answer(driver, 2)["connections"] == NODES + 1
    assert answer(driver, 3, RUN)["connections"] == NODES + 3
    assert answer(driver, 4, "absent")["runs"] == []
    driver.let_pass(FRESH_S)
    assert answer(driver, 5, RUN)["connections"] == NODES + 5


def test_a_small_report_is_always_made_anew() -> None:
    driver = small()
    assert answer(driver, 1)["connections"] == 3
    assert answer(driver, 2)["connections"] == 4


def test_a_small_report_takes_one_slice() -> None:
    driver = small()
    operator = driver.operator("")
    assert operator.connection is not None
    driver.engine.receive(operator.connection, Status(1, ""))
    assert not driver.engine.has_chores


def test_what_has_changed_is_in_it_at_once(driver: Driver) -> None:
    assert answer(driver, 1)["runs"][0]["held"] is None
    driver.operator().say(Hold(1, "power works"))
    assert answer(driver, 2)["runs"][0]["held"] == "power works"
    peer = next(iter(driver.peers.values()))
    peer.cut()
    (run,) = answer(driver, 3)["runs"]
    assert [node["connected"] for node in run["nodes"]].count(False) == 1


def test_whoever_goes_away_is_not_waited_for(driver: Driver) -> None:
    first, second = ask(driver, 1), ask(driver, 2, RUN)
    first.cut()
    assert driver.engine.has_chores
    driver.finish()
    assert first.all(Report) == []
    assert told(second)["runs"][0]["run_id"] == RUN
    third = ask(driver, 3, "absent")
    fourth = ask(driver, 4)
    fourth.cut()
    third.cut()
    assert not driver.engine.has_chores
    assert answer(driver, 5)["connections"] == NODES + 2


def test_a_run_that_is_forgotten_meanwhile_is_shown_only_if_it_had_its_turn(driver: Driver) -> None:
    first = ask(driver, 1)
    held = driver.engine._holdings
    held.runs["later"], held.stores["later"] = held.runs[RUN], held.stores[RUN]
    both = ask(driver, 2)
    del held.runs[RUN]
    while not first.all(Report):
        driver.deliver()
    assert len(told(first)["runs"][0]["nodes"]) == NODES
    assert both.all(Report) == []
    del held.runs["later"]
    driver.finish()
    assert told(both)["runs"] == []


def test_one_connection_waits_for_so_many_and_no_more(driver: Driver) -> None:
    operator = driver.operator("")
    assert operator.connection is not None
    for number in range(REPORTS_BY_CONNECTION_MAX + 2):
        driver.engine.receive(operator.connection, Status(number, RUN))
    driver.finish()
    assert [failed.id for failed in operator.all(Failed)] == [16, 17]
    assert "ask again once they have come" in operator.last(Failed).message
    assert len(operator.all(Report)) == REPORTS_BY_CONNECTION_MAX
    operator.say(Status(99, RUN))
    assert operator.last(Report).id == 99
