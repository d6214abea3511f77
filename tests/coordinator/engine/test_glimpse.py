"""Where each node stands, as somebody who watches sees it."""

from __future__ import annotations

from quorate.coordinator.engine.glimpse import Glimpse, Standing, count_standings, glimpse
from quorate.wire.messages import Drain
from tests.coordinator.driver import Driver


def standings(seen: Glimpse) -> dict[str, Standing]:
    return {node.addr: seen.standing(node) for node in seen.nodes}


def test_before_a_round_is_complete() -> None:
    driver = Driver(2, 3)
    driver.agent("a").join()
    driver.agent("b")
    seen = glimpse(driver.run)
    assert standings(seen) == {"a": Standing("joined"), "b": Standing("attached")}
    assert seen.counts() == {"joined": 1, "attached": 1}
    assert (seen.phase, seen.waiting_kind) == ("joining", "min_nodes")
    assert seen.waiting_for == "waiting for 1 more node (1 of 2)"
    assert (seen.min_nodes, seen.max_nodes) == (2, 3)


def test_in_a_world_with_newcomers() -> None:
    driver = Driver(2, 3)
    driver.world("a", "b", "c")
    driver.agent("d").join()
    seen = glimpse(driver.run)
    assert standings(seen) == {
        "a": Standing("participant", 0),
        "b": Standing("participant", 1),
        "c": Standing("participant", 2),
        "d": Standing("spare"),
    }
    assert (seen.phase, seen.waiting_for) == ("complete", "")
    assert seen.counts() == count_standings(driver.run) == {"participant": 3, "spare": 1}


def test_while_members_come_back() -> None:
    driver = Driver(2, 4)
    a, b, c = driver.world("a", "b", "c")
    c.cut(finished=True)
    driver.let_pass(2.25)
    b.cut()
    a.join()
    seen = glimpse(driver.run)
    assert standings(seen) == {"a": Standing("joined"), "b": Standing("returning")}
    assert seen.phase == "regrouping"
    assert seen.nodes == [a.node, b.node]
    assert seen.connections == [a.connection, None]
    assert list(seen.departed) == [c.node]
    driver.beat()
    driver.agent("d").join()
    assert standings(glimpse(driver.run))["d"] in {Standing("joined"), Standing("waiting")}


def test_once_closed() -> None:
    driver = Driver(1, 1)
    (a,) = driver.world("a")
    a.close("it is enough")
    seen = glimpse(driver.run)
    assert (seen.phase, seen.closed_reason, seen.waiting_for) == ("closed", "it is enough", "")


def test_each_change_has_a_revision() -> None:
    driver = Driver(2, 3)
    a = driver.agent("a")
    seen = [driver.run.revision]
    a.join()
    seen.append(driver.run.revision)
    a.cut()
    seen.append(driver.run.revision)
    a.reconnect()
    seen.append(driver.run.revision)
    assert seen == sorted(set(seen))
    driver.let_pass(2)
    assert driver.run.revision == seen[-1], "nothing has changed"


def test_it_stays_as_it_is_while_the_run_goes_on() -> None:
    driver = Driver(2, 3)
    a, b = driver.world("a", "b")
    seen = glimpse(driver.run)
    before = (standings(seen), list(seen.connections), list(seen.heard_s), list(seen.joins))
    b.cut(finished=True)
    driver.operator().say(Drain(1, str(a.node), "repairs"))
    driver.agent("c").join()
    driver.let_pass(5)
    a.join()
    assert glimpse(driver.run).departed
    assert (standings(seen), seen.connections, seen.heard_s, seen.joins) == before
    assert not seen.departed
    assert not seen.draining
    assert len(seen.events) < len(driver.run.history.events)
