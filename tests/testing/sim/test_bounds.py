"""What a node may decide: each limit by its own clock, to the moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.node import NodeProfile
from quorate.core.observer import Observer
from quorate.core.state import RendezvousState, World
from quorate.testing import ManualClock
from quorate.testing.sim.bounds import NodeBounds
from quorate.testing.sim.trace import Violation
from tests.core.support import LAST_CALL_S, REGROUP_S, make_settings, node

A, B, C = (node(name) for name in "abc")

WAITS = Decision(Action.SYNC, "", "last_call")
COMPLETES = Decision(Action.MARK_RENDEZVOUS_COMPLETE, "", "complete")
GIVES_UP = Decision(Action.ERROR_TIMEOUT, "", "join_timeout")
PROMOTED = Decision(Action.REMOVE_FROM_REDUNDANCY_LIST, "", "promoted")


class One:
    """Node A, in a run for two or three nodes, with a state to its liking."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.settings = make_settings(2, 3)
        self.observer = Observer(self.clock)
        self.bounds = NodeBounds(A, self.settings, self.clock)
        self.state = RendezvousState("e")
        self.bounds.joins(timedelta(seconds=100))

    def there(self, *nodes: object) -> None:
        """Let nodes have places in the open round."""
        for each in nodes:
            self.state.participants[each] = 0  # type: ignore[index]
            self.state.last_heartbeats[each] = self.clock.now()  # type: ignore[index]
        if len(self.state.participants) >= 2 and self.state.deadline is None:
            self.state.deadline = self.clock.now()

    def decides(self, decision: Decision) -> None:
        ctx = RendezvousContext(A, self.state, self.settings, self.observer, NodeProfile())
        self.bounds.decided(ctx, decision)


@pytest.fixture
def one() -> One:
    return One()


def breaks(rule: str, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(Violation) as caught:
        call(*arguments)
    assert caught.value.rule == rule


def test_r4_a_last_call_is_neither_shorter_nor_longer_than_it_is(one: One) -> None:
    one.there(A, B)
    one.decides(WAITS)
    one.clock.advance(LAST_CALL_S - 0.1)
    one.decides(WAITS)
    breaks("R4", one.decides, COMPLETES)
    one.clock.advance(0.1)
    one.decides(COMPLETES)
    breaks("R4", one.decides, WAITS)


def test_r9_a_last_call_counts_from_its_first_sight(one: One) -> None:
    one.there(A, B)
    one.clock.advance(LAST_CALL_S)
    assert not one.bounds.call_is_over(one.state.deadline)
    one.bounds.read(one.state)
    one.decides(WAITS)
    one.clock.advance(LAST_CALL_S)
    assert one.bounds.call_is_over(one.state.deadline)
    one.decides(COMPLETES)
    one.state.deadline = one.clock.now()
    assert not one.bounds.call_is_over(one.state.deadline)
    one.decides(WAITS)


def test_r4_a_round_with_all_its_nodes_is_complete_at_once(one: One) -> None:
    one.there(A, B, C)
    breaks("R4", one.decides, WAITS)
    one.decides(COMPLETES)


def test_r4_a_regroup_for_which_nobody_is_missing_is_complete_at_once(one: One) -> None:
    one.there(A, B)
    one.state.world = World("e", 0, (A, B, C), (NodeProfile(),) * 3)
    breaks("R4", one.decides, WAITS)
    one.decides(COMPLETES)
    one.state.departed[B] = "it has left, and come again"
    one.decides(WAITS)
    del one.state.departed[B]
    one.state.last_heartbeats[C] = one.clock.now()
    one.decides(WAITS)
    one.state.stragglers[C] = one.clock.now()
    breaks("R4", one.decides, WAITS)


def test_r4_there_are_never_too_few(one: One) -> None:
    one.there(A)
    one.clock.advance(2 * LAST_CALL_S)
    breaks("R4", one.decides, COMPLETES)
    one.decides(WAITS)


def test_r10_nobody_is_awaited_for_longer_than_a_regroup_may_take(one: One) -> None:
    one.there(A)
    one.state.survivors[B] = 0
    one.state.regrouping_since = one.clock.now()
    one.bounds.read(one.state)
    one.clock.advance(REGROUP_S - 0.1)
    one.bounds.read(one.state)
    assert not one.bounds.regroup_is_over(one.state.regrouping_since)
    one.clock.advance(0.1)
    breaks("R10", one.bounds.read, one.state)
    assert one.bounds.regroup_is_over(one.state.regrouping_since)


def test_r6_a_join_ends_with_its_time_and_not_before(one: One) -> None:
    breaks("R6", one.decides, GIVES_UP)
    one.clock.advance(100)
    one.decides(WAITS)
    one.clock.advance(0.1)
    breaks("R6", one.decides, WAITS)
    one.decides(GIVES_UP)


def test_r6_a_spare_waits_without_a_deadline_until_it_is_promoted(one: One) -> None:
    one.state.redundancy_list[A] = one.clock.now()
    one.clock.advance(1000)
    one.decides(WAITS)
    breaks("R6", one.decides, GIVES_UP)
    one.decides(PROMOTED)
    one.state.redundancy_list.clear()
    one.clock.advance(one.settings.timeout.join.total_seconds())
    one.decides(WAITS)
    one.clock.advance(0.1)
    breaks("R6", one.decides, WAITS)


def test_r11_a_node_ends_once_it_has_been_without_an_answer_for_too_long(one: One) -> None:
    one.clock.advance(50)
    one.decides(WAITS)
    one.clock.advance(one.settings.silence_s - 0.1)
    one.bounds.retries()
    breaks("R11", one.bounds.gives_up)
    one.clock.advance(0.1)
    breaks("R11", one.bounds.retries)
    one.bounds.gives_up()
