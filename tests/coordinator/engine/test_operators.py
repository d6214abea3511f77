"""What operators do to a run, and what comes of it for its agents."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import pytest

from quorate.core.transitions import scale
from quorate.errors import RendezvousEvictedError
from quorate.wire.messages import (
    Close,
    Done,
    Drain,
    Evict,
    Failed,
    Flag,
    Hold,
    Refused,
    Release,
    Report,
    Request,
    Scale,
    Status,
    error_of,
)
from tests.coordinator.driver import RUN, Agent, Driver

NUMBERS = count(1000)


def do(driver: Driver, make: Any, *arguments: Any, **more: Any) -> Done:
    """Carry out a command that succeeds."""
    operator = driver.operator()
    operator.say(make(next(NUMBERS), *arguments, **more))
    done = operator.last(Done)
    operator.cut()
    return done


def refused(driver: Driver, request: Request) -> str:
    """Return why a command is not carried out; the operator may go on."""
    operator = driver.operator()
    operator.say(request)
    message = operator.last(Failed).message
    operator.say(Status(1))
    assert operator.all(Report)
    operator.cut()
    return message


def run_status(driver: Driver) -> dict[str, Any]:
    operator = driver.operator("")
    operator.say(Status(1, RUN))
    (run,) = msgspec.json.decode(operator.last(Report).json)["runs"]
    operator.cut()
    assert isinstance(run, dict)
    return run


def node_of(driver: Driver, name: str) -> dict[str, Any]:
    (node,) = [node for node in run_status(driver)["nodes"] if node["addr"] == name]
    assert isinstance(node, dict)
    return node


def members(driver: Driver) -> list[str]:
    assert driver.state.world is not None
    return [node.addr for node in driver.state.world.members]


def spares(driver: Driver) -> list[str]:
    return [node.addr for node in driver.state.redundancy_list]


def come_back(driver: Driver, *agents: Agent) -> None:
    for agent in agents:
        agent.join()


class TestDrain:
    """A drained node leaves when its world ends, and ends with 0."""

    def test_a_member_stays_until_others_regroup(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        done = do(driver, Drain, "1", "new disks")
        assert (done.changed, done.node) == (True, "b_1_0")
        assert done.text == "b_1_0 leaves at the next regroup"
        assert not any(agent.told.waiting for agent in (a, b, c))
        assert node_of(driver, "b")["draining"] == "drained by the operator: new disks"
        come_back(driver, a, c)
        assert members(driver) == ["a", "c"]
        assert b.told.waiting
        b.join()
        assert b.last(Failed).code == "graceful_exit"
        assert b.node not in driver.state.last_heartbeats

    def test_a_member_that_comes_back_itself_ends_the_world(self) -> None:
        driver = Driver(1, 2)
        a, b = driver.world("a", "b")
        do(driver, Drain, "b")
        b.join()
        assert b.last(Failed).code == "graceful_exit"
        assert a.told.waiting
        assert a.told.reason == "b_1_0 drained by the operator"
        come_back(driver, a)
        assert members(driver) == ["a"]

    def test_who_waits_leaves_at_once(self) -> None:
        driver = Driver(1, 2)
        driver.world("a", "b")
        spare = driver.agent("c")
        spare.join()
        assert do(driver, Drain, "c").text == "c_1_0 leaves now"
        assert spare.last(Failed).code == "graceful_exit"
        assert "drained by the operator" in spare.last(Failed).message

    def test_a_survivor_whose_workers_stop_is_not_awaited(self) -> None:
        driver = Driver(1, 3)
        a, b, c = driver.world("a", "b", "c")
        come_back(driver, a)
        assert do(driver, Drain, "c").text == "c_1_0 leaves once its workers have stopped"
        come_back(driver, b)
        assert members(driver) == ["a", "b"]
        c.join()
        assert c.last(Failed).code == "graceful_exit"
        assert not a.told.waiting, "it is in no world any more"

    def test_twice_is_once(self) -> None:
        driver = Driver(1, 2)
        driver.world("a", "b")
        do(driver, Drain, "b")
        again = do(driver, Drain, "b")
        assert not again.changed
        assert "already" in again.text

    def test_it_outlasts_the_coordinator(self) -> None:
        driver = Driver(1, 2)
        a, b = driver.world("a", "b")
        do(driver, Drain, "b")
        driver.crash()
        for agent in (a, b):
            agent.reconnect()
        come_back(driver, a)
        assert members(driver) == ["a"]


class TestEvict:
    """An evicted node is out now, and kept out."""

    def test_a_member_is_out_and_the_others_regroup(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        done = do(driver, Evict, "b", None, "noisy")
        assert done.text == "b_1_0 is out, and address b is kept out for good"
        error = error_of(b.last(Refused))
        assert isinstance(error, RendezvousEvictedError)
        assert "evicted by the operator: noisy" in str(error)
        assert a.told.reason == "b_1_0 evicted by the operator: noisy"
        come_back(driver, a, c)
        assert members(driver) == ["a", "c"]

    def test_it_does_not_come_back_before_its_time(self) -> None:
        driver = Driver(1, 2)
        driver.world("a", "b")
        do(driver, Evict, "b", 60.0)
        again = driver.agent("b")
        assert error_of(again.last(Refused)).exit_code == 80
        (ban,) = run_status(driver)["bans"]
        assert (ban["who"], ban["reason"]) == ("address b", "evicted by the operator")
        assert ban["left_s"] == pytest.approx(60, abs=1)
        driver.let_pass(61)
        assert run_status(driver)["bans"] == []
        late = driver.agent("b")
        late.join()
        assert not late.all(Refused)

    def test_one_who_waits_is_answered(self) -> None:
        driver = Driver(2, 3)
        a = driver.agent("a")
        a.join()
        do(driver, Evict, "a")
        assert a.last(Failed).code == "evicted"
        assert a.connection is None

    def test_a_node_with_an_id_is_kept_out_by_it_wherever_it_is(self) -> None:
        driver = Driver(1, 2)
        driver.agent("a", node_id="n1").join()
        driver.agent("a2", node_id="n2").join()
        do(driver, Evict, "n1", 60.0)
        assert driver.agent("b", node_id="n1").all(Refused)
        assert not driver.agent("a", node_id="n3").all(Refused)

    def test_others_of_its_address_stay_and_newcomers_do_not_come(self) -> None:
        driver = Driver(1, 3)
        first, second = driver.agent("a"), driver.agent("a")
        for agent in (first, second):
            agent.join()
        driver.let_pass(31)
        name = str(first.node)
        assert str(second.node) == name, "both are told apart by nothing but their incarnation"
        assert "stands for 2 nodes" in refused(driver, Evict(1, "a"))
        do(driver, Evict, "0")
        assert len(driver.state.last_heartbeats) == 1
        assert driver.agent("a").all(Refused)

    def test_a_request_that_was_on_its_way_does_not_bring_it_back(self) -> None:
        """R14: the connection ends after what is stored; what comes before that is refused."""
        driver = Driver(1, 2)
        _, b = driver.world("a", "b")
        connection = b.connection
        assert connection is not None
        driver.stalled = True
        do_later = driver.operator()
        do_later.say(Evict(1, "b"))
        b.join()
        driver.stalled = False
        driver.deliver()
        assert b.node not in driver.state.last_heartbeats

    def test_it_outlasts_the_coordinator_that_keeps_what_is_left(self) -> None:
        """R9: time in which nobody decides does not count."""
        driver = Driver(1, 2)
        driver.world("a", "b")
        do(driver, Evict, "b", 100.0)
        driver.let_pass(40)
        driver.clock.advance(1000)
        driver.crash()
        assert driver.agent("b").all(Refused)
        (ban,) = run_status(driver)["bans"]
        assert 60 <= ban["left_s"] <= 70

    def test_it_can_be_let_in_again(self) -> None:
        driver = Driver(1, 2)
        driver.world("a", "b")
        do(driver, Evict, "b")
        done = do(driver, Evict, "b", 0.0)
        assert (done.node, done.text) == ("address b", "address b may join again")
        assert not driver.agent("b").all(Refused)
        assert "keeps out nobody" in refused(driver, Evict(1, "b", 0.0))

    def test_a_failure_of_the_job_after_it_is_a_symptom(self) -> None:
        """R7"""
        driver = Driver(1, 3)
        a, b, c = driver.world("a", "b", "c")
        b.beats = False
        request_id = a.close("broken pipe", "failed")
        do(driver, Evict, "b")
        assert not driver.state.closed
        assert [flag.value for flag in a.all(Flag) if flag.id == request_id] == [False]
        assert c.told.waiting


class TestHold:
    """A hold keeps rounds from completing."""

    def test_a_round_waits_for_the_release(self) -> None:
        driver = Driver(1, 2)
        assert driver.agent("a").join()
        assert do(driver, Hold, "wait for the data").changed
        driver.agent("b").join()
        driver.let_pass(31)
        assert not driver.state.complete
        status = run_status(driver)
        assert status["held"] == "wait for the data"
        assert "the operator holds the round open" in status["waiting_for"]
        assert "wait for the data" in status["waiting_for"]
        assert status["waiting_since_s"] == pytest.approx(31, abs=1)
        assert do(driver, Release).changed
        assert members(driver) == ["a", "b"]
        assert run_status(driver)["held"] is None

    def test_newcomers_are_no_reason_to_regroup_meanwhile(self) -> None:
        """R8"""
        driver = Driver(1, 3)
        a, _ = driver.world("a", "b")
        do(driver, Hold)
        driver.agent("c").join()
        driver.let_pass(40)
        assert not a.told.waiting
        do(driver, Release)
        driver.let_pass(1)
        assert a.told.waiting

    def test_what_changes_nothing_says_so(self) -> None:
        driver = Driver(1, 2)
        driver.world("a", "b")
        assert not do(driver, Release).changed
        assert do(driver, Hold, "x").changed
        assert not do(driver, Hold, "x").changed
        assert do(driver, Hold, "y").changed


class TestScale:
    """The operator's size counts at once (R4)."""

    def test_a_larger_world_takes_spares_in(self) -> None:
        driver = Driver(1, 4)
        driver.agent("a").join()
        assert do(driver, Scale, 2).text == "a round is to have 2 node(s)"
        for name in ("b", "c", "d"):
            driver.agent(name).join()
        a, b = (agent for agent in driver.agents if agent.place is not None)
        assert spares(driver) == ["c", "d"]
        do(driver, Scale, 4)
        assert spares(driver) == []
        assert a.told.waiting
        come_back(driver, a, b)
        assert members(driver) == ["a", "b", "c", "d"]
        assert run_status(driver)["desired_nodes"] == 4

    def test_a_smaller_world_lets_the_last_ranks_go(self) -> None:
        driver = Driver(1, 4)
        a, b, c, d = driver.world("a", "b", "c", "d")
        do(driver, Scale, 2)
        assert all(agent.told.waiting for agent in (a, b, c, d))
        come_back(driver, d, b, a, c)
        assert members(driver) == ["a", "b"]
        assert spares(driver) == ["d", "c"]

    def test_a_survivor_is_not_dropped_silently_while_others_regroup(self) -> None:
        driver = Driver(1, 4)
        a, b, c, d = driver.world("a", "b", "c", "d")
        come_back(driver, d, c)
        do(driver, Scale, 2)
        assert spares(driver) == ["c", "d"]
        come_back(driver, a, b)
        assert members(driver) == ["a", "b"]
        do(driver, Scale, None)
        driver.let_pass(1)
        come_back(driver, a, b)
        assert members(driver) == ["a", "b", "c", "d"]
        assert run_status(driver)["desired_nodes"] is None

    def test_a_round_that_has_enough_now_completes(self) -> None:
        driver = Driver(1, 4)
        for name in ("a", "b", "c"):
            driver.agent(name).join()
        do(driver, Scale, 2)
        assert members(driver) == ["a", "b"]
        assert spares(driver) == ["c"]

    @pytest.mark.parametrize(("nodes", "why"), [(0, "1 to 4"), (5, "1 to 4")])
    def test_a_size_that_the_run_cannot_have_is_refused(self, nodes: int, why: str) -> None:
        driver = Driver(1, 4)
        driver.world("a")
        assert why in refused(driver, Scale(1, nodes))

    def test_a_size_of_broken_units_is_refused(self) -> None:
        driver = Driver(2, 4, node_unit=2)
        driver.world("a", "b")
        assert "whole units of 2" in refused(driver, Scale(1, 3))
        assert not do(driver, Scale, None).changed


class TestCoolDown:
    """A node that fails again and again is kept out for a while."""

    def test_a_node_that_is_lost_too_often(self) -> None:
        driver = Driver(1, 2, failures_max=2)
        driver.world("a")
        for _ in range(2):
            b = driver.agent("b", node_id="n1")
            b.cut(finished=True)
            driver.let_pass(3)
        assert driver.agent("b", node_id="n1").all(Refused)
        (ban,) = run_status(driver)["bans"]
        assert ban["who"] == "node id n1"
        assert ban["reason"] == "it failed 2 times within 600 s"
        driver.let_pass(601)
        assert not driver.agent("b", node_id="n1").all(Refused)

    def test_a_failure_that_was_a_symptom_counts_too(self) -> None:
        """R7: who leaves because its job has failed there."""
        driver = Driver(1, 3, failures_max=1)
        a, b, c = driver.world("a", "b", "c")
        c.beats = False
        b.close("out of memory", "failed")
        c.cut(finished=True)
        driver.let_pass(3)
        assert {ban["who"] for ban in run_status(driver)["bans"]} == {"address b", "address c"}
        assert a.told.waiting

    def test_by_default_nobody_is_kept_out(self) -> None:
        driver = Driver(1, 2)
        driver.world("a")
        for _ in range(20):
            driver.agent("b").cut(finished=True)
            driver.let_pass(3)
        assert run_status(driver)["bans"] == []


class TestWhoMayAct:
    """Operators may, unless they are restricted; nobody else may."""

    @pytest.mark.parametrize("request_", [Drain(1, "b"), Evict(1, "b"), Hold(1), Close(1, "x")])
    def test_a_worker_may_not(self, request_: Request) -> None:
        driver = Driver(1, 2)
        driver.world("a", "b")
        store = driver.store("w")
        store.say(request_)
        assert store.last(Refused).code == "protocol"
        assert not driver.state.closed

    def test_an_agent_may_not(self) -> None:
        driver = Driver(1, 2)
        a, _ = driver.world("a", "b")
        a.say(Drain(1, "b"))
        assert "Only operators may send Drain" in a.last(Refused).message

    @pytest.mark.parametrize("request_", [Drain(1, "b"), Scale(1, 1), Close(1, "x")])
    def test_one_that_is_restricted_may_look_only(self, request_: Request) -> None:
        driver = Driver(1, 2)
        driver.world("a", "b")
        operator = driver.operator()
        assert operator.connection is not None
        driver.engine.restrict(operator.connection)
        operator.say(request_)
        assert operator.last(Failed).code == "authentication"
        operator.say(Status(2))
        assert operator.all(Report)
        assert not driver.state.closed

    def test_a_closed_run_is_not_changed(self) -> None:
        driver = Driver(1, 2)
        a, _ = driver.world("a", "b")
        a.close("enough")
        assert "is closed (enough)" in refused(driver, Hold(1))

    def test_a_run_that_is_not_there(self) -> None:
        driver = Driver(1, 2)
        driver.world("a", "b")
        operator = driver.operator("rum")
        operator.say(Hold(1))
        assert "did you mean 'run'" in operator.last(Failed).message


def test_r14_the_answer_waits_for_the_store() -> None:
    driver = Driver(1, 2)
    driver.world("a", "b")
    operator = driver.operator()
    driver.stalled = True
    operator.say(Scale(1, 1))
    assert not operator.all(Done)
    driver.stalled = False
    driver.deliver()
    assert operator.all(Done)


def test_a_node_shows_its_release_and_since_when_it_waits() -> None:
    driver = Driver(2, 3)
    driver.agent("a").join()
    driver.let_pass(5)
    node = node_of(driver, "a")
    assert node["release"] == "1"
    assert node["waiting_since_s"] == pytest.approx(5, abs=0.5)
    assert node["draining"] is None


def test_a_wish_that_was_stored_before_is_kept_to() -> None:
    """R4: whoever takes over decides alike."""
    driver = Driver(1, 4)
    a, b, c, d = driver.world("a", "b", "c", "d")
    scale(driver.state, driver.settings, 3, driver.run.observer)
    driver.run.changed("scaled", "by hand")
    driver.let_pass(1)
    driver.crash()
    for agent in (a, b, c, d):
        agent.reconnect()
    assert a.told.waiting
    come_back(driver, a, b, c, d)
    assert members(driver) == ["a", "b", "c"]
