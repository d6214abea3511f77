"""What the page shows of a run: lanes, bands, events, and diffs that lead to the same."""

from __future__ import annotations

from typing import Any

import msgspec

from quorate.coordinator.engine.glimpse import glimpse
from quorate.coordinator.engine.parts import Parts
from quorate.page import timeline as module
from quorate.page.timeline import EVENTS_MAX, GONE_MAX, ROUNDS_MAX, STEPS_MAX, Timeline
from quorate.wire.messages import Drain, Evict, Hold
from tests.coordinator.driver import RUN, Agent, Driver


def joined(parts: Parts) -> bytes:
    return b"".join(part for _, part in parts)


class Watcher:
    """A timeline of a driven run, and a viewer that adds up its diffs."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.timeline = Timeline(RUN, "first")
        self.lanes: dict[int, dict[str, Any]] = {}
        self.rounds: dict[tuple[str, int], dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.version = 0

    def look(self) -> dict[str, Any] | None:
        now_s = self.driver.clock.now().timestamp()
        for _ in self.timeline.observe(glimpse(self.driver.run), now_s):
            pass
        if self.timeline.version == self.version:
            return None
        diff: dict[str, Any] = msgspec.json.decode(joined(self.timeline.diff(now_s)))
        assert (diff["timeline"], diff["from"]) == ("first", self.version)
        self.version = diff["version"]
        self._add(diff)
        self._compare()
        return diff

    def lane(self, agent: Agent) -> list[list[Any]]:
        (found,) = [lane for lane in self.lanes.values() if lane["node"] == str(agent.node)]
        return [[state, rank] for _, state, rank, _ in found["steps"]]

    def texts(self) -> list[str]:
        return [event["text"] for event in self.events]

    def _add(self, diff: dict[str, Any]) -> None:
        for lane in diff.get("lanes", ()):
            self.lanes[lane["lane"]] = lane
        for number, *step in diff.get("steps", ()):
            steps = self.lanes[number]["steps"]
            steps.append(step)
            del steps[:-STEPS_MAX]
        for number, *marks in diff.get("marks", ()):
            self.lanes[number]["marks"] = marks
        for number in diff.get("forgotten", ()):
            del self.lanes[number]
        for band in diff.get("rounds", ()):
            self.rounds[band["epoch"], band["round"]] = band
        self.events += diff.get("events", ())
        del self.events[:-EVENTS_MAX]

    def _compare(self) -> None:
        told = msgspec.json.decode(joined(self.timeline.snapshot(0)))
        assert {lane["lane"]: lane for lane in told["lanes"]} == self.lanes
        assert told["rounds"] == list(self.rounds.values())[-ROUNDS_MAX:]
        assert told["events"] == self.events
        assert (told["timeline"], told["version"]) == ("first", self.version)


def test_a_node_joins_takes_part_and_is_lost() -> None:
    driver = Driver(2, 3)
    watcher = Watcher(driver)
    a, b, c = (driver.agent(name) for name in "abc")
    watcher.look()
    for agent in (a, b, c):
        agent.join()
    watcher.look()
    c.cut(finished=True)
    watcher.look()
    driver.let_pass(2.25)
    watcher.look()
    a.join()
    watcher.look()
    assert watcher.lane(a) == [["attached", None], ["participant", 0], ["joined", None]]
    assert watcher.lane(b) == [["attached", None], ["participant", 1], ["returning", None]]
    assert watcher.lane(c) == [["attached", None], ["participant", 2], ["lost", None]]
    assert "lost c_1_0: its process ended" in watcher.texts()
    assert "round 0 is complete: all 3 nodes are here" in watcher.texts()
    head = watcher.timeline.head
    assert (head["phase"], head["lost"]) == ("regrouping", 1)
    assert head["waiting_for"] == "waiting for 1 more node (1 of 2)"
    assert head["waiting_since"] == driver.clock.now().timestamp()


def test_since_when_is_told_once_somebody_waits() -> None:
    driver = Driver(2, 3)
    watcher = Watcher(driver)

    def look() -> tuple[str, float | None]:
        watcher.look()
        head = watcher.timeline.head
        return head["waiting_for"], head["waiting_since"]

    a, b = driver.agent("a"), driver.agent("b")
    assert look() == ("waiting for 2 more nodes (0 of 2)", None)
    driver.let_pass(5)
    a.join()
    came_s = driver.clock.now().timestamp()
    assert look() == ("waiting for 1 more node (1 of 2)", came_s)
    driver.let_pass(5)
    assert look() == ("waiting for 1 more node (1 of 2)", came_s)
    b.join()
    driver.let_pass(5)
    b.leave()
    assert look() == ("waiting for 1 more node (1 of 2)", driver.clock.now().timestamp())


def test_nothing_new_is_no_version() -> None:
    driver = Driver(2, 3)
    watcher = Watcher(driver)
    driver.world("a", "b", "c")
    assert watcher.look() is not None
    driver.let_pass(10)
    assert watcher.look() is None


def test_rounds_are_bands_with_an_end() -> None:
    driver = Driver(2, 2)
    watcher = Watcher(driver)
    a, b = driver.world("a", "b")
    watcher.look()
    (band,) = watcher.rounds.values()
    assert (band["round"], band["size"], band["ended"]) == (0, 2, None)
    driver.let_pass(5)
    a.join()
    watcher.look()
    (band,) = watcher.rounds.values()
    assert band["ended"] == band["completed"] + 5
    assert band["end"] == "a_1_0 came back to regroup"
    b.join()
    watcher.look()
    assert [band["round"] for band in watcher.rounds.values()] == [0, 1]


def test_two_rounds_between_two_looks() -> None:
    driver = Driver(1, 2)
    watcher = Watcher(driver)
    a = driver.world("a")[0]
    watcher.look()
    a.join()
    watcher.look()
    first, second = watcher.rounds.values()
    assert first["ended"] == second["completed"]


def test_a_connection_that_is_cut_and_back() -> None:
    driver = Driver(2, 3)
    watcher = Watcher(driver)
    a = driver.world("a", "b", "c")[0]
    watcher.look()
    a.cut()
    diff = watcher.look()
    assert diff is not None
    assert (diff["head"]["cut_off"], [mark[1:] for mark in diff["marks"]]) == (1, [[False, ""]])
    a.reconnect()
    diff = watcher.look()
    assert diff is not None
    assert diff["head"]["cut_off"] == 0


def test_the_same_for_many_is_one_event() -> None:
    driver = Driver(5, 10)
    watcher = Watcher(driver)
    for number in range(6):
        driver.agent(f"node{number}").join()
    watcher.look()
    assert watcher.texts() == ["6 nodes: joins round 0"]


def test_a_close_is_told_once() -> None:
    driver = Driver(1, 2)
    watcher = Watcher(driver)
    (a,) = driver.world("a")
    watcher.look()
    a.close("it is done")
    watcher.look()
    a.cut(finished=True)
    driver.let_pass(3)
    watcher.look()
    assert watcher.texts().count("closed: it is done") == 1
    assert [event["kind"] for event in watcher.events][-1] == "lost"


def test_operators_are_seen() -> None:
    driver = Driver(2, 4)
    watcher = Watcher(driver)
    b = driver.world("a", "b", "c", "d")[1]
    watcher.look()
    operator = driver.operator()
    operator.say(Drain(1, "a", "a new disk"))
    operator.say(Hold(2, "power works"))
    diff = watcher.look()
    assert diff is not None
    (marks,) = diff["marks"]
    assert marks[1:] == [True, "drained by the operator: a new disk"]
    assert diff["head"]["held"] == "power works"
    operator.say(Evict(3, "b", None, "it is slow"))
    diff = watcher.look()
    assert diff is not None
    assert [state for _, _, state, *_ in diff["steps"]] == ["lost"]
    assert watcher.lane(b)[-1] == ["lost", None]
    assert diff["head"]["bans"] == 1


def test_a_coordinator_that_was_restarted_knows_since_when_its_world_stands() -> None:
    driver = Driver(2, 2)
    a, _ = driver.world("a", "b")
    driver.let_pass(100)
    driver.crash()
    watcher = Watcher(driver)
    watcher.look()
    (band,) = watcher.rounds.values()
    (steps,) = [lane["steps"] for lane in watcher.lanes.values() if lane["addr"] == "a"]
    assert steps == [[band["completed"], "participant", 0, ""]]
    assert watcher.lane(a) == [["participant", 0]]


def test_more_events_than_are_remembered_between_two_looks() -> None:
    driver = Driver(1, 1)
    watcher = Watcher(driver)
    driver.world("a")
    watcher.look()
    spare = driver.agent("b")
    for _ in range(400):
        spare.join()
        spare.leave()
    diff = watcher.look()
    assert diff is not None
    assert len(diff["events"]) <= EVENTS_MAX
    assert all(event["text"].startswith("at least ") for event in diff["events"])


def test_what_is_kept_of_the_past_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "GONE_MAX", 3)
    driver = Driver(1, 1)
    watcher = Watcher(driver)
    driver.world("a")
    for number in range(8):
        spare = driver.agent(f"spare{number}")
        spare.join()
        watcher.look()
        spare.leave()
        watcher.look()
    assert len(watcher.lanes) == 1 + 3
    assert GONE_MAX >= 100


def test_a_lane_keeps_its_last_steps() -> None:
    driver = Driver(1, 1)
    watcher = Watcher(driver)
    (a,) = driver.world("a")
    for _ in range(STEPS_MAX + 5):
        watcher.look()
        a.reconnect()
        driver.agent("b").join()
        driver.let_pass(1)
        a.join()
    (lane,) = [lane for lane in watcher.lanes.values() if lane["addr"] == "a"]
    assert len(lane["steps"]) <= STEPS_MAX
