"""The simulator's own reading of who gives a reason to regroup (R8)."""

from __future__ import annotations

from typing import Any

import pytest

from quorate.core.state import RendezvousState, WorldName
from quorate.testing.sim.reasons import Newcomers, is_broken
from tests.core.support import LAST_CALL_S, make_settings, node

SETTINGS = make_settings(2, 4)
PRESENT = WorldName("e", 0)


def ranks(names: str) -> dict[Any, Any]:
    return {node(name): rank for rank, name in enumerate(names)}


def world(names: str = "ab", **changes: Any) -> RendezvousState:
    given: dict[str, Any] = {"complete": True, "participants": ranks(names)}
    return RendezvousState("e", **(given | changes))


def broken(state: RendezvousState, holding: WorldName = PRESENT) -> bool:
    return is_broken(state, SETTINGS, node("a"), holding)


def test_r8_a_world_that_is_whole_is_no_reason() -> None:
    assert not broken(world())


@pytest.mark.parametrize(
    "state",
    [
        world(departed={node("c"): "lost"}),
        world(complete=False),
        world("bc"),
        world("abc", desired_nodes=2),
        world(round=1),
    ],
)
def test_r8_a_world_that_should_change_is_one_until_the_run_is_closed(state: Any) -> None:
    assert broken(state)
    state.closed = True
    assert not broken(state)


def test_r8_another_epoch_is_one() -> None:
    assert broken(world(), WorldName("former", 0))


def counts(waited_s: float, state: RendezvousState, **settings: Any) -> list[bool]:
    """Return whether those who have waited for so long may count, and whether they must."""
    newcomers = Newcomers(make_settings(2, 4, **settings))
    newcomers.look(state, 100.0)
    now_s = 100.0 + waited_s
    return [newcomers.may_count(state, now_s), newcomers.must_count(state, now_s)]


def test_r8_newcomers_count_once_they_fill_the_world() -> None:
    assert counts(0.0, world(wait_list=ranks("xy"))) == [True, True]


def test_r8_newcomers_count_after_a_last_call() -> None:
    one = world(wait_list=ranks("x"))
    assert counts(LAST_CALL_S - 1, one) == [False, False]
    assert counts(LAST_CALL_S, one) == [True, True]


@pytest.mark.parametrize(
    "changes", [{"held": True}, {"finishing": ranks("a")}, {"closed": True}, {"desired_nodes": 2}]
)
def test_r8_newcomers_do_not_count_where_they_may_not_come(changes: Any) -> None:
    assert counts(2 * LAST_CALL_S, world(wait_list=ranks("xy"), **changes)) == [False, False]


def test_r8_newcomers_that_fill_no_unit_do_not_count() -> None:
    one = world(wait_list=ranks("x"))
    assert counts(2 * LAST_CALL_S, one, node_unit=2) == [False, False]
    one.redundancy_list = ranks("y")
    assert counts(2 * LAST_CALL_S, one, node_unit=2) == [True, True]


def test_r8_newcomers_that_were_held_off_may_count_and_need_not() -> None:
    newcomers, state = Newcomers(SETTINGS), world(wait_list=ranks("x"), held=True)
    newcomers.look(state, 100.0)
    state.held = False
    newcomers.look(state, 120.0)
    now_s = 100.0 + LAST_CALL_S
    assert newcomers.may_count(state, now_s)
    assert not newcomers.must_count(state, now_s)
    assert newcomers.must_count(state, now_s + 20.0)


def test_r8_the_first_of_them_is_waited_for() -> None:
    newcomers, state = Newcomers(SETTINGS), world(wait_list=ranks("x"))
    newcomers.look(state, 100.0)
    state.wait_list = {}
    newcomers.look(state, 110.0)
    state.wait_list = ranks("y")
    newcomers.look(state, 120.0)
    assert not newcomers.may_count(state, 100.0 + LAST_CALL_S)
