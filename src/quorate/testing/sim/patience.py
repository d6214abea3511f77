"""How long agents wait for a round, compared with what they have asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.session import HeldJoin
from quorate.core.node import NodeDesc
from quorate.testing.sim.agent import SimAgent
from quorate.testing.sim.process import DRIFT_MAX
from quorate.testing.sim.rules import require

__all__ = ["Patience"]

# A coordinator ticks four times a second, and looks at who is overdue at the tick after.
LATE_S = 1.5


class _Wait(NamedTuple):
    join: HeldJoin | None
    since_s: float
    limit_s: float


class Patience:
    """Checks that a join ends when its time is over, and not before.

    A spare waits without a deadline; the run's own counts from the moment at which it has a
    prospect (R6).

    Args:
        agents: All agents there ever were, by their nodes' names.
        join_s: How long the run's settings let a node wait, in seconds.
    """

    def __init__(self, agents: Mapping[str, SimAgent], join_s: float) -> None:
        self._agents = agents
        self._join_s = join_s
        self._waits: dict[NodeDesc, _Wait] = {}

    def forget(self) -> None:
        """Begin anew: another coordinator decides, by another clock."""
        self._waits.clear()

    def timed_out(self, agent: SimAgent, now_s: float) -> None:
        """Look at an agent that is told that its time is over, at this true time."""
        waited_s = now_s - agent.asked_s
        in_time = waited_s * (1 + DRIFT_MAX) >= agent.limit_s
        require(in_time, "R6", "{} gave up after {} s of {}", agent.node, waited_s, agent.limit_s)

    def look(self, run: Run) -> None:
        """Note who is a spare. Call it before anything happens, and after."""
        for node in run.state.redundancy_list:
            session = run.sessions.get(node)
            join = session.join if session is not None else None
            self._waits[node] = _Wait(join, run.now_s, self._join_s)

    def check(self, run: Run) -> None:
        """Look at all who wait, with nothing left that is to be done."""
        waits: dict[NodeDesc, _Wait] = {}
        for session in run.sessions.values():
            agent, join = self._agents[str(session.node)], session.join
            if join is None or join.request_id != agent.joining:
                continue
            wait = self._waits.get(session.node)
            if wait is not None and wait.join is None:
                # It was a spare before it has asked this coordinator.
                wait = _Wait(join, run.now_s, self._join_s)
            elif wait is None or wait.join is not join:
                wait = _Wait(join, run.now_s, agent.limit_s)
            waits[session.node] = wait
            waited_s, limit_s = run.now_s - wait.since_s, wait.limit_s
            in_time, about = waited_s <= limit_s + LATE_S, (session.node, waited_s, limit_s)
            require(in_time, "R6", "{} waits since {} s of {}", *about)
        self._waits = waits
