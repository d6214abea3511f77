"""A run in memory, for the tests of the core: one state, one clock, one observer."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.observer import Observer
from quorate.core.ops import RendezvousExitOp, RendezvousJoinOp
from quorate.core.settings import RendezvousSettings, RendezvousTimeout
from quorate.core.state import RendezvousState, WorldName, check
from quorate.core.transitions import apply
from quorate.testing import ManualClock

Op = Callable[[RendezvousContext, float], Decision]

LAST_CALL_S = 30.0
REGROUP_S = 60.0
JOIN_S = 600.0
KEEP_ALIVE_S = 5.0

# A member never needs more steps than these to come to rest: to leave the spares, wait, enter.
STEPS_MAX = 6


def node(name: str) -> NodeDesc:
    return NodeDesc(name, 1, 0)


def make_settings(min_nodes: int = 2, max_nodes: int = 3, **changes: Any) -> RendezvousSettings:
    timeout = RendezvousTimeout(
        join=timedelta(seconds=JOIN_S),
        last_call=timedelta(seconds=LAST_CALL_S),
        regroup=timedelta(seconds=REGROUP_S),
    )
    defaults: dict[str, Any] = {
        "run_id": "run",
        "min_nodes": min_nodes,
        "max_nodes": max_nodes,
        "timeout": timeout,
        "keep_alive_interval": timedelta(seconds=KEEP_ALIVE_S),
    }
    return RendezvousSettings(**(defaults | changes))


class Run:
    """One run: `decide` asks an operation, `step` carries the answer out and checks the state."""

    def __init__(self, min_nodes: int = 2, max_nodes: int = 3, **changes: Any) -> None:
        self.settings = make_settings(min_nodes, max_nodes, **changes)
        self.state = RendezvousState(epoch="e")
        self.clock = ManualClock()
        self.observer = Observer(self.clock)
        self.profiles: dict[NodeDesc, NodeProfile] = {}

    def ctx(self, who: NodeDesc, settings: RendezvousSettings | None = None) -> RendezvousContext:
        profile = self.profiles.get(who)
        return RendezvousContext(who, self.state, settings or self.settings, self.observer, profile)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.observer.tick()

    def decide(self, op: Op, who: NodeDesc, deadline: float = math.inf) -> Decision:
        return op(self.ctx(who), deadline)

    def step(self, op: Op, who: NodeDesc, deadline: float = math.inf) -> Decision:
        decision = self.decide(op, who, deadline)
        apply(self.ctx(who), decision)
        check(self.state, self.settings)
        return decision

    def settle(self, op: Op, who: NodeDesc, deadline: float = math.inf) -> Decision:
        """Step until the operation has nothing to do but wait, or is at its end."""
        resting = {Action.SYNC, Action.FINISH, Action.ERROR_CLOSED, Action.ERROR_TIMEOUT}
        for _ in range(STEPS_MAX):
            decision = self.step(op, who, deadline)
            if decision.action in resting:
                return decision
        raise AssertionError(f"{who} does not come to rest: {decision}")

    def join(self, *nodes: NodeDesc, after: WorldName | None = None) -> Decision:
        for who in nodes:
            decision = self.settle(RendezvousJoinOp(after), who)
        return decision

    def comes_back(self, *nodes: NodeDesc) -> Decision:
        """Let members of the world that stands now return to regroup."""
        world = self.state.world
        assert world is not None
        return self.join(*nodes, after=world.name)

    def leave(self, *nodes: NodeDesc) -> None:
        for who in nodes:
            self.settle(RendezvousExitOp(), who)

    def completed(self, *nodes: NodeDesc) -> None:
        """Bring about a world of exactly these nodes, from an empty run."""
        self.join(*nodes)
        if not self.state.complete:
            self.advance(LAST_CALL_S)
            self.join(nodes[0])
        assert self.state.complete

    @property
    def members(self) -> tuple[NodeDesc, ...]:
        assert self.state.world is not None
        return self.state.world.members
