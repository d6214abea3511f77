"""What a ledger holds of a run's state is the state, and costs each change little."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.codec import encode_state
from quorate.coordinator.ledgers.records import amendment_key, run_key
from quorate.coordinator.ledgers.stored_state import StoredState
from quorate.core import transitions
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import RendezvousState
from quorate.errors import RendezvousStateError
from quorate.wire.messages import Drain, Evict, Finish, Hold, OperatorRequest, Release, Scale
from tests.coordinator.driver import RUN, Agent, Driver, assert_stored, rejoin
from tests.core.support import make_settings

NODES = 12
OPERATING: dict[str, Callable[[Agent], OperatorRequest]] = {
    "drain": lambda agent: Drain(1, str(agent.node), "why"),
    "evict": lambda agent: Evict(1, str(agent.node), 8.0, "why"),
    "hold": lambda agent: Hold(1, "why"),
    "release": lambda agent: Release(1),
    "scale": lambda agent: Scale(1, 2 + int(agent.node.addr[1:]) % (NODES - 4)),
    "fill": lambda agent: Scale(1, None),
}
SAYING: dict[str, Callable[[Agent], object]] = {
    "join": lambda agent: agent.join(),
    "hasty join": lambda agent: agent.join(timeout_s=3.0),
    "leave": lambda agent: agent.leave(),
    "cut": lambda agent: agent.cut(finished=True),
    "finish": lambda agent: agent.say(Finish(next(agent.driver.numbers))),
}
ALWAYS = ("pass", "long", "restart", "stall", "go", "again")
STEPS = st.tuples(
    st.sampled_from([*SAYING, *SAYING, *OPERATING, *ALWAYS]), st.integers(0, NODES - 1)
)


def amendments(driver: Driver) -> list[str]:
    return [key for key in driver.ledger if key.startswith("amendment")]


def stored_bytes(nodes: int) -> int:
    """Return how many bytes are written while nodes join one by one."""
    driver, written = Driver(nodes + 1, nodes + 1), 0
    commit = driver._commit

    def counting(changes: dict[str, bytes | None]) -> None:
        nonlocal written
        written += sum(len(value) for value in changes.values() if value is not None)
        commit(changes)

    driver._commit = counting  # type: ignore[method-assign]
    for number in range(nodes):
        driver.agent(f"n{number}").join()
    return written


def test_what_a_join_costs_does_not_grow_with_the_nodes() -> None:
    assert stored_bytes(160) < 2.2 * stored_bytes(80)


def test_a_join_adds_what_is_new_and_a_complete_round_is_stored_whole() -> None:
    driver = Driver(7, 7)
    for name in "abcdef":
        driver.agent(name).join()
    assert amendments(driver)
    driver.agent("g").join()
    assert driver.state.complete
    assert not amendments(driver)


def test_whoever_is_forgotten_among_the_replaced_is_forgotten_in_the_ledger_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transitions, "FORMER_MAX", 2)
    driver = Driver(9, 9)
    for number in range(6):
        driver.agent(f"n{number}")
    for number in range(4):
        driver.agent(f"x{number}", node_id="x")
    assert amendments(driver)
    assert len(driver.state.replaced) == 2


def test_an_amendment_is_part_of_its_run() -> None:
    driver = Driver(9, 9)
    for name in "abcdef":
        driver.agent(name).join()
    del driver.ledger[run_key(RUN)]
    driver.crash()
    assert RUN not in driver.engine.runs


def test_amendments_that_no_run_can_have_are_refused() -> None:
    """R15: each is of the right type; what comes of them is no state."""
    driver = Driver(9, 9)
    for name in "abcdef":
        driver.agent(name).join()
    (*_, last) = amendments(driver)
    nodes, state = msgspec.msgpack.decode(driver.ledger[last])
    driver.ledger[last] = msgspec.msgpack.encode((nodes, state | {"profiles": {}}))
    with pytest.raises(RendezvousStateError, match="profile is missing"):
        driver.crash()


def test_a_run_without_settings_is_refused() -> None:
    """R15: it was loaded, and ended the coordinator a second later."""
    driver = Driver()
    driver.ledger |= {run_key(RUN): encode_state(RendezvousState(epoch="e"))}
    with pytest.raises(RendezvousStateError, match="has no settings"):
        driver.crash()


def test_who_stays_in_a_line_keeps_the_place_in_it() -> None:
    """R5"""
    early, late = NodeDesc("z", 1, 0), NodeDesc("a", 1, 0)
    driver = Driver()
    state = RendezvousState(epoch="e", agreed=make_settings().agreed)
    for node in (early, late):
        state.wait_list[node] = driver.clock.now()
        state.profiles[node] = NodeProfile()
        state.last_heartbeats[node] = driver.clock.now()
    stored, records = StoredState(RUN), {}
    records |= stored.changes(state, (early, late))
    state.last_heartbeats |= {NodeDesc(name, 1, 0): driver.clock.now() for name in "bcd"}
    records |= stored.changes(state, (late, early))
    loaded = StoredState(RUN).load({k: v for k, v in records.items() if v is not None})
    assert amendment_key(RUN, 1) in records
    assert list(loaded.wait_list) == [early, late]


@given(st.lists(STEPS, max_size=60))
def test_the_ledger_holds_the_state_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """R14. The driver compares them after every step."""
    driver = Driver(2, NODES - 3)
    agents = [driver.agent(f"n{n}", node_id="x" * (n % 2) and f"id{n}") for n in range(NODES)]
    for step, number in steps:
        act(driver, agents, step, number)
    driver.go_on()
    if RUN in driver.engine.runs:
        assert_stored(driver.ledger, driver.run)
    else:
        assert driver.ledger == {}, "a run that nobody would miss was forgotten"


def act(driver: Driver, agents: list[Agent], step: str, number: int) -> None:
    agent = agents[number]
    # No two things happen at the same moment.
    driver.clock.advance(0.001)
    if step in OPERATING:
        driver.operator().say(OPERATING[step](agent))
    elif step == "pass":
        driver.let_pass(0.5)
    elif step == "long":
        driver.let_pass(16)
    elif step == "restart":
        driver.crash()
    elif step == "stall":
        driver.stalled = True
    elif step == "go":
        driver.go_on()
    elif agent.connection is None or step == "again":
        agent.cut()
        agents[number] = driver.agent(f"n{number}", node_id=agent.profile.node_id)
    else:
        SAYING[step](agent)


def test_who_leaves_and_comes_again_in_one_batch_comes_last() -> None:
    """R5: the latest newcomer is the first to lose its place."""
    driver = Driver(9, 12)
    a, b, *_ = [driver.agent(name) for name in "abcdefgh"]
    rejoin(a, b)
    driver.stalled = True
    driver.agent("i")
    a.leave()
    a.join()
    driver.go_on()
    assert list(driver.state.participants) == [b.node, a.node]
    assert amendments(driver)


def test_of_one_batch_too_the_order_of_arrival_is_kept() -> None:
    """R5: b stands in line before a, though a was attached first. The driver compares."""
    driver = Driver(2, 9)
    driver.world(*"uvwxyz")
    driver.stalled = True
    driver.agent("first")
    a, b = driver.agent("a"), driver.agent("b")
    b.join()
    a.join()
    driver.go_on()
    assert list(driver.state.wait_list) == [b.node, a.node]
    assert amendments(driver)
