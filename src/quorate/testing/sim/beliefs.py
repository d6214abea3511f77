"""What agents believe of their worlds, compared with what their coordinator knows (R8)."""

from __future__ import annotations

from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.session import Session
from quorate.core.action import RendezvousContext
from quorate.core.completion import nodes_waiting
from quorate.testing.sim.agent import SimAgent
from quorate.testing.sim.coordinator import SimCoordinator
from quorate.testing.sim.rules import require

__all__ = ["Beliefs"]

# What follows from the passing of time alone is told at a tick of the engine's that counts.
TELL_S = 1.0


class Beliefs:
    """Checks, where nothing is on its way any more, that each agent knows whether to regroup."""

    def __init__(self) -> None:
        self._untold_since_s: dict[SimAgent, float] = {}

    def forget(self) -> None:
        """Begin anew: another coordinator decides, by another clock."""
        self._untold_since_s.clear()

    def check(self, coordinator: SimCoordinator, run: Run) -> None:
        """Look at all agents that wait for no answer and have read what they were told."""
        untold: dict[SimAgent, float] = {}
        for session in run.sessions.values():
            agent = _at_work(coordinator, session)
            if agent is None:
                continue
            believed, waiting = agent.attachment.waiting, _waiting_for(run, session)
            about = (agent.node, believed, waiting)
            require(
                bool(waiting) or not believed, "R8", "{} believes that {} wait, it is {}", *about
            )
            if waiting and not believed:
                since_s = self._untold_since_s.get(agent, run.now_s)
                told_in_time = run.now_s - since_s <= TELL_S
                require(told_in_time, "R8", "{} believes that {} wait, it is {}", *about)
                untold[agent] = since_s
        self._untold_since_s = untold


def _at_work(coordinator: SimCoordinator, session: Session) -> SimAgent | None:
    """Return the agent of a session, if it was given a world and there is nothing left to read."""
    if session.connection is None or session.join is not None or session.holding is None:
        return None
    connection = coordinator.connections.get(session.connection)
    if connection is None:
        return None
    agent = connection.client
    assert isinstance(agent, SimAgent)
    idle = agent.joining is None and agent.holding == session.holding
    return agent if idle and agent.has_read_all(connection) else None


def _waiting_for(run: Run, session: Session) -> int:
    ctx = RendezvousContext(session.node, run.state, run.settings, run.observer, session.profile)
    return nodes_waiting(ctx, session.holding)
