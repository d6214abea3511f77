"""What agents believe of their worlds, compared with what their coordinator knows (R8)."""

from __future__ import annotations

from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.session import Session
from quorate.core.settings import RendezvousSettings
from quorate.testing.sim.agent import SimAgent
from quorate.testing.sim.coordinator import SimCoordinator
from quorate.testing.sim.reasons import Newcomers, is_broken
from quorate.testing.sim.rules import require

__all__ = ["Beliefs"]

# What follows from the passing of time alone is told at a tick of the engine's that counts.
TELL_S = 1.0


class Beliefs:
    """Checks, where nothing is on its way any more, that each agent knows whether to regroup.

    Args:
        settings: The settings of the run.
    """

    def __init__(self, settings: RendezvousSettings) -> None:
        self._settings = settings
        self._newcomers = Newcomers(settings)
        self._untold_since_s: dict[SimAgent, float] = {}

    def forget(self) -> None:
        """Begin anew: another coordinator decides, by another clock."""
        self._newcomers = Newcomers(self._settings)
        self._untold_since_s.clear()

    def look(self, run: Run) -> None:
        """Look at a run before anything happens in it, and after."""
        self._newcomers.look(run.state, run.now_s)

    def check(self, coordinator: SimCoordinator, run: Run) -> None:
        """Look at all agents that wait for no answer and have read what they were told."""
        untold: dict[SimAgent, float] = {}
        may_count = self._newcomers.may_count(run.state, run.now_s)
        must_count = self._newcomers.must_count(run.state, run.now_s)
        for session in run.sessions.values():
            agent = _at_work(coordinator, session)
            if agent is None or session.holding is None:
                continue
            believed = agent.attachment.waiting
            broken = is_broken(run.state, self._settings, session.node, session.holding)
            has_reason = broken or may_count
            require(
                has_reason or not believed, "R8", "{} believes that {} wait", agent.node, believed
            )
            if (broken or must_count) and not believed:
                since_s = self._untold_since_s.get(agent, run.now_s)
                told_in_time = run.now_s - since_s <= TELL_S
                require(told_in_time, "R8", "{} does not know that it should regroup", agent.node)
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
