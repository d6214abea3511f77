"""Who may be turned away, and for which reason (R7, R12, R13)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quorate.core.node import NodeProfile
from quorate.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousEvictedError,
    RendezvousGracefulExitError,
    RendezvousLimitError,
    RendezvousReplacedError,
    RendezvousSettingsError,
)
from quorate.testing.sim.endings import Endings
from quorate.wire.messages import Drain, Evict
from tests.core.support import make_settings, node

AGREED = make_settings(2, 3).agreed


def agent(name: str, node_id: str = "", settings: Any = AGREED) -> Any:
    profile = NodeProfile(node_id=node_id)
    return SimpleNamespace(node=node(name), profile=profile, settings=settings)


def endings(*agents: Any) -> Endings:
    return Endings({str(each.node): each for each in agents}, AGREED)


A, B = agent("a"), agent("b")


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (RendezvousReplacedError("a newer life"), "R12"),
        (RendezvousSettingsError("they differ"), "R13"),
        (RendezvousEvictedError("kept out"), "R7"),
        (RendezvousGracefulExitError("not needed"), "R7"),
        (RendezvousLimitError("too much"), "R7"),
        (RendezvousError("has left"), "R7"),
    ],
)
def test_who_has_done_nothing_is_not_turned_away(error: RendezvousError, rule: str) -> None:
    assert endings(A, B).broken_rule(A, error) == rule


def test_r12_a_life_ends_for_another_one() -> None:
    first, second, other = agent("a", "same"), agent("b", "same"), agent("c", "other")
    made, error = endings(first, second, other), RendezvousReplacedError("")
    assert not made.broken_rule(first, error)
    assert made.broken_rule(other, error)


def test_r13_other_settings_are_refused() -> None:
    other = agent("a", settings=make_settings(2, 4).agreed)
    assert not endings(other).broken_rule(other, RendezvousSettingsError("they differ"))


def test_r7_who_was_named_goes() -> None:
    made = endings(A, B, agent("c"))
    made.commands = [Evict(1, str(A.node), None, ""), Drain(2, str(B.node), "")]
    assert not made.broken_rule(A, RendezvousEvictedError(""))
    assert made.broken_rule(B, RendezvousEvictedError(""))
    assert not made.broken_rule(B, RendezvousGracefulExitError(""))
    assert made.broken_rule(A, RendezvousGracefulExitError(""))


def test_r7_the_other_lives_of_a_node_that_was_named_go_too() -> None:
    first, second, other = agent("a", "same"), agent("b", "same"), agent("c", "other")
    made = endings(first, second, other)
    made.commands = [Evict(1, str(first.node), None, "")]
    assert not made.broken_rule(second, RendezvousEvictedError(""))
    assert made.broken_rule(other, RendezvousEvictedError(""))


def test_r7_nobody_is_needed_once_the_run_is_closed() -> None:
    made = endings(A)
    made.is_closed = True
    assert not made.broken_rule(A, RendezvousGracefulExitError(""))


def test_r7_who_says_that_its_job_has_ended_may_have_left() -> None:
    made = endings(A)
    made.verdicts.add(A.node)
    assert not made.broken_rule(A, RendezvousError("has left"))
    assert made.broken_rule(A, RendezvousClosedError("another kind of error"))
