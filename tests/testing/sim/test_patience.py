"""A join ends when its time is over, and not before (R6)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quorate.core.state import RendezvousState
from quorate.testing.sim.patience import LATE_S, Patience
from quorate.testing.sim.trace import Violation
from tests.core.support import node

A = node("a")
LIMIT_S, JOIN_S = 5.0, 50.0


def agent() -> Any:
    return SimpleNamespace(node=A, joining=1, asked_s=100.0, limit_s=LIMIT_S)


def patience(who: Any) -> Patience:
    return Patience({str(A): who}, JOIN_S)


def run(now_s: float, join: Any, **state: Any) -> Any:
    session = SimpleNamespace(node=A, join=join)
    return SimpleNamespace(now_s=now_s, sessions={A: session}, state=RendezvousState(**state))


JOIN: Any = SimpleNamespace(request_id=1)


def test_r6_nobody_gives_up_early() -> None:
    who = agent()
    patience(who).timed_out(who, 105.0)
    with pytest.raises(Violation, match="R6"):
        patience(who).timed_out(who, 104.0)


def test_r6_nobody_waits_for_longer_than_it_wants() -> None:
    checks = patience(agent())
    checks.check(run(10.0, JOIN))
    checks.check(run(10.0 + LIMIT_S + LATE_S, JOIN))
    with pytest.raises(Violation, match="R6"):
        checks.check(run(10.1 + LIMIT_S + LATE_S, JOIN))


def test_r6_a_join_that_is_asked_again_has_all_its_time() -> None:
    checks = patience(agent())
    checks.check(run(10.0, JOIN))
    checks.check(run(30.0, SimpleNamespace(request_id=1)))
    checks.check(run(50.0, SimpleNamespace(request_id=2)))
    checks.check(run(90.0, None))
    checks.check(run(120.0, JOIN))
    checks.forget()
    checks.check(run(150.0, JOIN))


def test_r6_a_spare_waits_without_a_deadline_until_it_has_a_prospect() -> None:
    checks = patience(agent())
    for now_s in (10.0, 90.0):
        spare = run(now_s, JOIN, redundancy_list={A: None})
        checks.look(spare)
        checks.check(spare)
    checks.check(run(90.0 + JOIN_S, JOIN))
    with pytest.raises(Violation, match="R6"):
        checks.check(run(92.0 + JOIN_S, JOIN))


def test_r6_a_spare_keeps_its_time_under_the_next_coordinator() -> None:
    checks = patience(agent())
    checks.look(run(10.0, None, redundancy_list={A: None}))
    checks.check(run(11.0, JOIN))
    checks.check(run(11.0 + JOIN_S, JOIN))
    with pytest.raises(Violation, match="R6"):
        checks.check(run(13.0 + JOIN_S, JOIN))
