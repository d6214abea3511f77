"""A run's past: its rounds as differences, what was stored of them, its last events."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from quorate.coordinator.engine import NODES_MAX
from quorate.coordinator.ledgers.records import round_key
from quorate.coordinator.runs import history as module
from quorate.coordinator.runs.history import EVENT_KINDS, EVENTS_KEPT, Event
from quorate.errors import RendezvousStateError
from quorate.wire.frames import FRAME_BYTES_MAX
from quorate.wire.messages import Evict, Failed, History, Report, encode
from tests.coordinator.driver import RUN, Agent, Driver


def told(driver: Driver, run_id: str = RUN) -> dict[str, Any]:
    operator = driver.operator("")
    operator.say(History(1, run_id))
    report: dict[str, Any] = msgspec.json.decode(operator.last(Report).json)
    operator.cut()
    return report


def kinds(driver: Driver) -> list[tuple[str, str]]:
    return [(event["kind"], event["node"].split("_")[0]) for event in told(driver)["events"]]


def regroup(driver: Driver, *agents: Agent) -> None:
    for agent in agents:
        agent.join()
    driver.let_pass(31)


def test_a_round_that_stands() -> None:
    driver = Driver(2, 3)
    driver.agent("a").join()
    driver.let_pass(5)
    driver.agent("b").join()
    driver.let_pass(31)
    history = told(driver)
    assert history["run_id"] == RUN
    (entry,) = history["rounds"]
    epoch = driver.state.epoch
    assert entry == {
        "epoch": epoch,
        "round": 0,
        "began_at": "2020-01-01T00:00:00Z",
        "completed_at": "2020-01-01T00:00:35Z",
        "duration_s": None,
        "ended_at": None,
        "world_size": 2,
        "joined": ["a_1_0", "b_1_0"],
        "departed": {},
        "completed_because": "the last call is over with 2 of at most 3",
        "ended_because": "",
    }


def test_the_next_round_is_a_difference() -> None:
    driver = Driver(2, 3)
    a, b, c = driver.world("a", "b", "c")
    c.cut(finished=True)
    driver.let_pass(3)
    driver.agent("d").join()
    regroup(driver, a, b)
    first, second = told(driver)["rounds"]
    assert first["completed_because"] == "all 3 nodes are here"
    assert first["ended_because"] == "c_1_0 lost: its process ended"
    assert first["duration_s"] == pytest.approx(3.0, abs=0.3)
    assert second["joined"] == ["d_1_0"]
    assert second["departed"] == {"c_1_0": "lost: its process ended"}


def test_a_round_that_ends_because_somebody_came_back() -> None:
    driver = Driver(2, 2)
    a, b = driver.world("a", "b")
    regroup(driver, a, b)
    first, second = told(driver)["rounds"]
    assert first["ended_because"] == "a_1_0 came back to regroup"
    assert (second["joined"], second["departed"]) == ([], {})


def test_a_round_that_ends_and_is_followed_within_one_write() -> None:
    driver = Driver(2, 3)
    a, b, c = driver.world("a", "b", "c")
    driver.stall()
    driver.operator().say(Evict(1, str(c.node), None, "bad network card"))
    for agent in (a, b):
        agent.join()
    driver.go_on()
    first, second = told(driver)["rounds"]
    assert "bad network card" in first["ended_because"]
    assert second["round"] == 1


def test_a_round_of_one_node_that_comes_back() -> None:
    """The next one is complete with its first step."""
    driver = Driver(1, 1)
    (a,) = driver.world("a")
    a.join()
    first, second = told(driver)["rounds"]
    assert first["ended_because"] == "a_1_0 came back to regroup"
    assert (second["joined"], second["departed"]) == ([], {})


def test_a_round_of_one_node_that_another_one_follows_within_one_write() -> None:
    driver = Driver(1, 1)
    (a,) = driver.world("a")
    b = driver.agent("b")
    driver.stall()
    a.leave("done with it")
    b.join()
    driver.go_on()
    first, second = told(driver)["rounds"]
    assert first["ended_because"] == "a_1_0 left: done with it"
    assert second["joined"] == ["b_1_0"]


def test_a_closed_run_has_a_last_round() -> None:
    driver = Driver(2, 2)
    a, _ = driver.world("a", "b")
    a.close("enough")
    (entry,) = told(driver)["rounds"]
    assert entry["ended_because"] == "closed: enough"
    assert entry["ended_at"] is not None


def test_a_run_that_is_closed_while_it_fills_has_a_round_that_never_was() -> None:
    driver = Driver(2, 2)
    driver.agent("a").join()
    driver.agent("b").close("too late")
    (entry,) = told(driver)["rounds"]
    assert (entry["completed_at"], entry["world_size"]) == (None, 0)
    assert entry["ended_because"] == "closed: too late"


def test_rounds_outlast_the_coordinator_and_events_do_not() -> None:
    driver = Driver(2, 2)
    a, b = driver.world("a", "b")
    regroup(driver, a, b)
    before = told(driver)
    assert before["events"]
    driver.crash()
    after = told(driver)
    assert after == before | {"events": []}
    a.reconnect()
    a.close("enough")
    assert [entry["ended_because"] for entry in told(driver)["rounds"]] == [
        "a_1_0 came back to regroup",
        "closed: enough",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"began_at": "2020-01-01T00:00:00"}, "timezone"),
        ({"round": 7}, "round 7 lies where 0 must"),
    ],
)
def test_what_is_no_history_is_refused(change: dict[str, Any], told: str) -> None:
    """R15"""
    driver = Driver()
    regroup(driver, *(driver.agent(name) for name in "ab"))
    key = round_key(RUN, 0)
    record = msgspec.msgpack.decode(driver.ledger[key])
    driver.ledger[key] = msgspec.msgpack.encode(record | change)
    with pytest.raises(RendezvousStateError, match=told):
        driver.crash()


def test_old_rounds_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS_KEPT", 2)
    driver = Driver(1, 1)
    (a,) = driver.world("a")
    for _ in range(3):
        regroup(driver, a)
    assert [entry["round"] for entry in told(driver)["rounds"]] == [2, 3]
    stored = sorted(key.split("\0")[-1] for key in driver.ledger if key.startswith("round\0"))
    assert stored == ["2", "3"]
    driver.crash()
    assert [entry["round"] for entry in told(driver)["rounds"]] == [2, 3]


def test_large_rounds_are_forgotten_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_KEPT", 1)
    driver = Driver(1, 1)
    (a,) = driver.world("a")
    regroup(driver, a)
    assert [entry["round"] for entry in told(driver)["rounds"]] == [1]


def test_a_report_fits_into_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(1, 1)
    (a,) = driver.world("a")
    regroup(driver, a)
    newest = driver.run.history.rounds[-1]
    monkeypatch.setattr(module, "REPORT_BYTES_MAX", len(msgspec.json.encode(newest)))
    assert [entry["round"] for entry in told(driver)["rounds"]] == [1]


def test_the_round_of_as_many_nodes_as_a_run_may_have_fits_into_a_message() -> None:
    driver = Driver(1, 1)
    driver.world("a")
    chance = random.Random(1)
    driver.run.history.rounds[-1].joined = [
        f"gpu-node-{number:06}.cluster.example.internal_{chance.randrange(1, 4_000_000)}_0"
        for number in range(NODES_MAX)
    ]
    report = driver.run.history.report(1)
    assert len(encode(report)) < FRAME_BYTES_MAX / 2
    assert msgspec.json.decode(report.text())["rounds"]


def test_what_is_stored_goes_with_the_run() -> None:
    driver = Driver(1, 1)
    (a,) = driver.world("a")
    regroup(driver, a)
    a.close("enough")
    a.cut(finished=True)
    driver.let_pass(700)
    assert not driver.ledger


def test_events_are_of_known_kinds() -> None:
    driver = Driver(2, 3)
    a, b = driver.world("a", "b")
    for name in ("c", "d"):
        driver.agent(name).join()
    driver.let_pass(31)
    c, d = driver.agents[-2:]
    assert kinds(driver) == [
        ("joined", "a"),
        ("joined", "b"),
        ("completed", ""),
        ("waiting", "c"),
        ("spare", "d"),
    ]
    a.join()
    b.leave("is tired")
    c.cut(finished=True)
    driver.let_pass(3)
    assert kinds(driver)[5:] == [
        ("returned", "a"),
        ("regroup", ""),
        ("joined", "c"),
        ("left", "b"),
        ("promoted", "d"),
        ("joined", "d"),
        ("completed", ""),
        ("lost", "c"),
    ]
    d.close("enough")
    assert kinds(driver)[-1] == ("closed", "")
    assert {kind for kind, _ in kinds(driver)} <= set(EVENT_KINDS)


def test_events_are_bounded() -> None:
    driver = Driver(1, 1)
    driver.world("a")
    history = driver.run.history
    for _ in range(EVENTS_KEPT + 1):
        history.note(Event(driver.clock.now(), "held", "", 0, "again"))
    assert len(history.events) == EVENTS_KEPT


def test_r15_what_was_told_is_made_again_only_after_a_change() -> None:
    driver = Driver(1, 2)
    driver.world("a")
    history = driver.run.history
    first = history.report(1)
    again = history.report(2)
    assert (first.id, again.id) == (1, 2)
    assert again.json is first.json
    history.note(Event(driver.clock.now(), "held", "", 0, "for a while"))
    assert history.report(3).json != first.json


def test_what_is_told_after_each_change_is_new() -> None:
    driver = Driver(1, 2)
    a, b = driver.world("a", "b")
    assert len(told(driver)["rounds"]) == 1
    b.cut(finished=True)
    driver.let_pass(5)
    assert told(driver)["events"][-1]["kind"] == "lost"
    a.join()
    driver.let_pass(31)
    first, second = told(driver)["rounds"]
    assert first["ended_because"]
    assert second["world_size"] == 1


def test_an_unknown_run_has_no_history() -> None:
    driver = Driver(1, 1)
    driver.world("a")
    operator = driver.operator("")
    operator.say(History(1, "rum"))
    assert "There is no run 'rum'" in operator.last(Failed).message
    assert "did you mean 'run'" in operator.last(Failed).message
