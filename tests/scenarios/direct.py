"""The direct way: every node runs the operations itself, on a state in a shared backend."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from quorate.backends.base import RendezvousBackend, Token
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.codec import decode_state
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.completion import nodes_waiting
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import (
    RendezvousCloseOp,
    RendezvousExitOp,
    RendezvousJoinOp,
    RendezvousKeepAliveOp,
)
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState, WorldName
from quorate.core.transitions import apply
from quorate.errors import RendezvousClosedError, RendezvousError, RendezvousTimeoutError
from quorate.executor import Operation
from quorate.holder import BackendRendezvousStateHolder
from quorate.testing import ManualClock
from tests.scenarios.way import Happening, Way

__all__ = ["DirectWay"]

START = datetime(2020, 1, 1, tzinfo=UTC)
RESTING = {Action.SYNC, Action.FINISH, Action.ERROR_CLOSED, Action.ERROR_TIMEOUT}

# More steps than any operation needs to come to rest.
STEPS_MAX = 10


class LosableBackend(RendezvousBackend):
    """A backend whose state can be lost; tokens of before the loss match nothing after it."""

    def __init__(self) -> None:
        self._lives = 0
        self._backend = MemoryRendezvousBackend()

    @property
    def name(self) -> str:
        return "losable"

    def lose(self) -> None:
        self._lives += 1
        self._backend = MemoryRendezvousBackend()

    def get_state(self) -> tuple[bytes, Token] | None:
        found = self._backend.get_state()
        return None if found is None else (found[0], (self._lives, found[1]))

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        inner: Token | None = token
        if isinstance(token, tuple):
            inner = token[1] if token[0] == self._lives else "of another life"
        answer = self._backend.set_state(state, inner)
        return None if answer is None else (answer[0], (self._lives, answer[1]), answer[2])


class DirectAgent:
    """One node with a clock, a copy of the state and a judgement of its own."""

    def __init__(
        self,
        node: NodeDesc,
        profile: NodeProfile,
        settings: RendezvousSettings,
        backend: RendezvousBackend,
        started_s: float,
    ) -> None:
        # Machines agree on nothing but how fast time passes.
        self.clock = ManualClock(monotonic_s=started_s)
        self.node, self.profile, self.settings = node, profile, settings
        self.holder = BackendRendezvousStateHolder(
            backend, settings, cache_duration=0, clock=self.clock
        )
        self.held: WorldName | None = None
        self.operation: RendezvousJoinOp | None = None
        self.deadline_s = 0.0
        self.waits_for = ""
        self.is_member = False
        self.alive = self.connected = True

    @property
    def acts(self) -> bool:
        return self.alive and self.connected

    def ctx(self) -> RendezvousContext:
        return RendezvousContext(
            self.node, self.holder.state, self.settings, self.holder.observer, self.profile
        )

    def join(self, timeout_s: float) -> None:
        self.is_member = False
        self.operation = RendezvousJoinOp(self.held)
        self.deadline_s = self.clock.monotonic() + timeout_s

    def step(self, operation: Operation, deadline_s: float) -> Decision:
        self.holder.sync()
        decision = operation(self.ctx(), deadline_s)
        if apply(self.ctx(), decision):
            self.holder.mark_dirty()
        return decision

    def run(self, operation: Operation, deadline_s: float = math.inf) -> Decision:
        """Step until there is nothing to do but wait; what was decided is then stored."""
        for _ in range(STEPS_MAX):
            decision = self.step(operation, deadline_s)
            if decision.action in RESTING:
                return decision
            if decision.action is Action.REMOVE_FROM_REDUNDANCY_LIST:
                timeout_s = self.settings.timeout.join.total_seconds()
                deadline_s = self.deadline_s = self.clock.monotonic() + timeout_s
        raise AssertionError(f"{self.node} does not come to rest: {decision}")

    def go_on(self) -> Happening | None:
        """Go on with the call that is under way, if there is one; return how it ended."""
        if self.operation is None:
            if self.is_member:
                self.run(RendezvousKeepAliveOp())
            return None
        name = self.node.addr
        try:
            decision = self.run(self.operation, self.deadline_s)
        except RendezvousError as error:
            self.operation = None
            return Happening(name, error=error)
        self.waits_for = decision.reason
        if decision.action is Action.SYNC:
            return None
        self.operation = None
        self.is_member = decision.action is Action.FINISH
        if self.is_member:
            world = self.holder.state.world
            assert world is not None
            self.held = world.name
            return Happening(name, place=world.places()[self.node])
        if decision.action is Action.ERROR_CLOSED:
            return Happening(name, error=RendezvousClosedError(reason=decision.reason))
        return Happening(name, error=RendezvousTimeoutError(decision.reason))


class DirectWay(Way):
    """All nodes share one backend in memory."""

    def __init__(self, settings: RendezvousSettings) -> None:
        self._backend = LosableBackend()
        self._agents: dict[str, DirectAgent] = {}
        self._happenings: list[Happening] = []
        self._passed_s = 0.0

    def add(
        self, agent: str, node: NodeDesc, profile: NodeProfile, settings: RendezvousSettings
    ) -> None:
        started_s = 1000.0 * (len(self._agents) + 1) + self._passed_s
        self._agents[agent] = DirectAgent(node, profile, settings, self._backend, started_s)

    def join(self, agent: str, timeout_s: float) -> None:
        self._agents[agent].join(timeout_s)

    def leave(self, agent: str) -> None:
        self._agents[agent].run(RendezvousExitOp())
        self._agents[agent].alive = False

    def die(self, agent: str) -> None:
        self._agents[agent].alive = False

    def silence(self, agent: str) -> None:
        self._agents[agent].connected = False

    def restore(self, agent: str) -> None:
        self._agents[agent].connected = True

    def close(self, agent: str, reason: str) -> None:
        self._agents[agent].run(RendezvousCloseOp(reason))

    def operate(self, command: str, words: list[str], options: dict[str, str]) -> str:
        """Without a coordinator there is nobody to be told."""
        return "there is no coordinator"

    def freeze(self, seconds: float) -> None:
        for agent in self._agents.values():
            agent.clock.advance(seconds)

    def skew(self, agent: str, seconds: float) -> None:
        self._agents[agent].clock.wall_skew_s = seconds

    def begin_anew(self, with_state: bool) -> None:
        if not with_state:
            self._backend.lose()

    def pass_second(self) -> None:
        self._passed_s += 1
        for agent in self._agents.values():
            agent.clock.advance(1)
        self.settle()

    def settle(self) -> None:
        changed = True
        while changed:
            before = self._backend.get_state()
            for agent in self._agents.values():
                if agent.acts and (ended := agent.go_on()) is not None:
                    self._happenings.append(ended)
            changed = self._backend.get_state() != before

    def take_happenings(self) -> list[Happening]:
        happenings, self._happenings = self._happenings, []
        return happenings

    def waiting(self, agent: str) -> int:
        asked = self._agents[agent]
        if asked.acts:
            asked.holder.sync()
        return nodes_waiting(asked.ctx(), asked.held, newcomers_at_once=True)

    def reason(self, agent: str) -> str:
        asked = self._agents[agent]
        if asked.operation is not None:
            return asked.waits_for
        gone = asked.holder.state.departed.items()
        return "; ".join(f"{node} {why}" for node, why in gone)

    @property
    def state(self) -> RendezvousState:
        found = self._backend.get_state()
        return RendezvousState() if found is None else decode_state(found[0])
