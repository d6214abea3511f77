"""What an operator sees: the state, and the same reasons that waiting agents are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from quorate.coordinator.engine.status import status_parts
from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.store import RunStore
from quorate.wire.messages import Evict, Report, SetValue, Status
from tests.coordinator.driver import RUN, Driver


def status(driver: Driver, run_id: str = "") -> dict[str, Any]:
    operator = driver.operator("")
    operator.say(Status(1, run_id))
    report: dict[str, Any] = msgspec.json.decode(operator.last(Report).json)
    operator.cut()
    return report


def run_of(driver: Driver) -> dict[str, Any]:
    (run,) = status(driver)["runs"]
    assert isinstance(run, dict)
    return run


def test_a_coordinator_without_runs() -> None:
    report = status(Driver())
    assert report == {
        "coordinator": "here",
        "time": "2020-01-01T00:00:00Z",
        "protocol": 1,
        "connections": 1,
        "runs": [],
    }


def test_r16_a_run_that_fills_says_what_it_waits_for() -> None:
    driver = Driver(2, 3)
    driver.agent("node10").join()
    driver.agent("node2")
    run = run_of(driver)
    assert (run["run_id"], run["state"], run["round"]) == (RUN, "joining", 0)
    assert run["waiting_for"] == "waiting for 1 more node (1 of 2)"
    assert (run["min_nodes"], run["max_nodes"], run["world_size"]) == (2, 3, 0)
    nodes = [(node["addr"], node["state"], node["rank"]) for node in run["nodes"]]
    assert nodes == [("node10", "participant", None), ("node2", "attached", None)], "as they came"


def test_a_complete_round_has_ranks_and_shows_who_waits_and_who_is_away() -> None:
    driver = Driver(2, 3)
    _, b = driver.world("a", "b")
    driver.agent("c").join()
    driver.agent("d").join()
    b.cut()
    driver.let_pass(2.5)
    run = run_of(driver)
    assert run["state"] == "complete"
    assert run["waiting_for"] == ""
    nodes = {node["addr"]: node for node in run["nodes"]}
    assert [nodes[name]["state"] for name in "abcd"] == [
        "participant",
        "participant",
        "waiting",
        "spare",
    ]
    assert [nodes[name]["rank"] for name in "abcd"] == [0, 1, None, None]
    assert [nodes[name]["connected"] for name in "abcd"] == [True, False, True, True]
    assert nodes["b"]["heard_s_ago"] >= 2.0
    assert nodes["a"]["heard_s_ago"] < 2.5


def test_a_regroup_shows_who_is_gone_and_who_is_awaited() -> None:
    driver = Driver(2, 3)
    a, _, c = driver.world("a", "b", "c")
    c.leave("enough")
    a.join()
    run = run_of(driver)
    assert run["state"] == "regrouping"
    assert run["departed"] == {str(c.node): "left: enough"}
    assert {node["addr"]: node["state"] for node in run["nodes"]} == {
        "a": "participant",
        "b": "returning",
    }
    assert "1 more node" in run["waiting_for"]
    driver.let_pass(61)
    states = {node["addr"]: node["state"] for node in run_of(driver)["nodes"]}
    assert states["b"] == "straggler"


def test_a_closed_run_says_why() -> None:
    driver = Driver(2, 2)
    a, _ = driver.world("a", "b")
    a.close("enough")
    run = run_of(driver)
    assert (run["state"], run["closed_reason"]) == ("closed", "enough")


def test_the_stores_are_counted() -> None:
    driver = Driver(2, 2)
    driver.world("a", "b")
    world = driver.state.world
    assert world is not None
    driver.store("w").say(SetValue(1, (world.epoch, world.round), "key", b"12345"))
    run = run_of(driver)
    assert (run["store_keys"], run["store_bytes"]) == (1, 8)


def test_one_run_may_be_asked_for() -> None:
    driver = Driver()
    driver.agent("a")
    assert [run["run_id"] for run in status(driver, RUN)["runs"]] == [RUN]
    assert status(driver, "absent")["runs"] == []


def test_a_part_has_so_many_nodes_and_weighs_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.coordinator.engine.parts.PART_NODES", 4)
    driver = Driver(2, 20)
    for number in range(10):
        driver.agent(f"node{number}").join()
    run, store = driver.run, RunStore(RUN, Outbox())
    told = list(status_parts("here", driver.clock.now(), 10, [(run, store), (run, store)]))
    described = [(weight, text.count(b'"pid"')) for weight, text in told if b'"pid"' in text]
    assert described == [(4, 4), (4, 4), (2, 2)] * 2
    first, second = msgspec.json.decode(b"".join(text for _, text in told))["runs"]
    assert first == second
    assert [node["addr"] for node in first["nodes"]] == [f"node{number}" for number in range(10)]


def test_those_who_are_gone_or_kept_out_have_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.coordinator.engine.parts.PART_NODES", 2)
    driver = Driver(1, 9)
    names = [f"node{number}" for number in range(9)]
    agents = driver.world(*names)
    for number, agent in enumerate(agents[1:], 1):
        driver.operator().say(Evict(number, str(agent.node), None, "sick"))
    run = run_of(driver)
    assert list(run["departed"]) == [str(agent.node) for agent in agents[1:]]
    assert [ban["who"] for ban in run["bans"]] == [f"address {name}" for name in names[1:]]


def test_labels_and_ids_are_shown() -> None:
    driver = Driver()
    driver.agent("a", node_id="n7")
    (node,) = run_of(driver)["nodes"]
    assert (node["node_id"], node["labels"], node["pid"]) == ("n7", {}, 1)
