"""Who may ask for what, of those who have said hello."""

from __future__ import annotations

from typing import Any

import pytest

from quorate.core.node import NodeProfile
from quorate.core.settings import PROTOCOL_VERSION
from quorate.wire.messages import (
    ROLE_OPERATOR,
    Close,
    Failed,
    Finish,
    Hello,
    Join,
    Leave,
    Report,
    Status,
)
from tests.coordinator.driver import RUN, Driver, Peer, refusal


@pytest.mark.parametrize(
    "message", [Join(1, None, 1.0, NodeProfile()), Leave(1, ""), Finish(1)], ids=str
)
def test_r15_only_agents_take_part(message: Any) -> None:
    driver = Driver()
    driver.agent("a")
    worker = driver.store("w")
    worker.say(message)
    assert refusal(worker).code == "protocol"
    assert "Only agents" in refusal(worker).message


def test_r15_a_worker_does_not_close_its_run() -> None:
    driver = Driver()
    driver.agent("a")
    worker = driver.store("w")
    worker.say(Close(1, "enough"))
    assert refusal(worker).code == "protocol"
    assert not driver.state.closed


def test_r15_an_operator_that_may_not_act_looks_and_changes_nothing() -> None:
    driver = Driver(2, 2)
    a, _ = driver.world("a", "b")
    operator = Peer(driver, Hello(PROTOCOL_VERSION, ROLE_OPERATOR, RUN, "o"))
    operator.connection = driver.open(operator)
    driver.engine.restrict(operator.connection)
    operator.say(operator.hello)
    operator.say(Close(1, "enough"))
    failed = operator.last(Failed)
    assert (failed.id, failed.code) == (1, "authentication")
    assert "operators' token" in failed.message
    assert not driver.state.closed
    operator.say(Status(2))
    assert operator.last(Report).id == 2
    assert a.take() == []


def test_r15_a_join_with_an_unsound_profile_is_refused() -> None:
    driver = Driver()
    a = driver.agent("a")
    a.profile = NodeProfile(slots=-1)
    a.say(Join(1, None, 1.0, a.profile))
    assert refusal(a).code == "protocol"


def test_an_unknown_run_is_an_error_and_no_end() -> None:
    driver = Driver()
    operator = driver.operator("absent")
    operator.say(Close(1, "over"))
    assert "no run 'absent'" in operator.last(Failed).message
    assert operator.connection is not None
