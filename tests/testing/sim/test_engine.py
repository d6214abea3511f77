"""The engine of a simulated coordinator is looked at around each message that it handles."""

from __future__ import annotations

from quorate.core.node import NodeProfile
from quorate.core.settings import PROTOCOL_VERSION
from quorate.testing import ManualClock
from quorate.testing.sim.engine import SimEngine
from quorate.wire.messages import ROLE_AGENT, Hello, Join
from tests.core.support import make_settings, node


def test_each_message_is_looked_at_that_came_during_a_write() -> None:
    seen: list[str] = []

    def before() -> None:
        seen.append("before")

    def after() -> None:
        state = engine.runs["run"].state
        seen.append(f"after {len(state.participants)}")

    engine = SimEngine(before, after, {}, ManualClock(), lambda: "epoch")
    settings = make_settings(2, 3).agreed
    for number, name in enumerate("ab"):
        engine.opened(number)
        hello = Hello(PROTOCOL_VERSION, ROLE_AGENT, "run", name, node(name), None, settings)
        engine.receive(number, hello)
    batch = engine.take_batch()
    assert batch is not None
    for number in range(2):
        engine.receive(number, Join(1, None, 30.0, NodeProfile()))
    seen.clear()
    engine.settle(batch)
    assert seen == ["before", "after 1", "before", "after 2"]
