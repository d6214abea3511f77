"""Why an agent may be turned away for good: whoever did nothing to deserve it is not (R7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quorate.core.node import NodeDesc
from quorate.core.settings import AgreedSettings
from quorate.errors import (
    RendezvousError,
    RendezvousEvictedError,
    RendezvousGracefulExitError,
    RendezvousReplacedError,
    RendezvousSettingsError,
)
from quorate.testing.sim.agent import SimAgent
from quorate.wire.messages import Drain, Evict

__all__ = ["Endings"]


class Endings:
    """What has happened that may put agents out of the run.

    Args:
        agents: All agents there ever were, by their nodes' names.
        agreed: The settings of the run.

    Attributes:
        commands: What the operator has asked for.
        verdicts: Who has said how its job has ended.
        is_closed: Whether the run was closed.
    """

    def __init__(self, agents: Mapping[str, SimAgent], agreed: AgreedSettings) -> None:
        self.commands: Sequence[object] = ()
        self.verdicts: set[NodeDesc] = set()
        self.is_closed = False
        self._agents = agents
        self._agreed = agreed

    def broken_rule(self, agent: SimAgent, error: RendezvousError) -> str:
        """Return the rule that an agent's end breaks, empty if it is justified."""
        if isinstance(error, RendezvousReplacedError):
            return "" if self._has_heir(agent) else "R12"
        if isinstance(error, RendezvousSettingsError):
            return "" if agent.settings != self._agreed else "R13"
        if isinstance(error, RendezvousEvictedError):
            return "" if self._is_named(agent, Evict) else "R7"
        if isinstance(error, RendezvousGracefulExitError):
            return "" if self.is_closed or self._is_named(agent, Drain) else "R7"
        # Its own word that the job has failed may have become a leave.
        has_left = type(error) is RendezvousError and agent.node in self.verdicts
        return "" if has_left else "R7"

    def _has_heir(self, agent: SimAgent) -> bool:
        """Whether its node has another life; who starts later may come first."""
        node_id = agent.profile.node_id
        lives = (other for other in self._agents.values() if other.profile.node_id == node_id)
        return bool(node_id) and any(other is not agent for other in lives)

    def _is_named(self, agent: SimAgent, command: type[Drain | Evict]) -> bool:
        named = (each.node for each in self.commands if isinstance(each, command))
        return any(_are_one(agent, self._agents[name]) for name in named)


def _are_one(agent: SimAgent, named: SimAgent) -> bool:
    """Whether what is done to one node concerns another: its other life, or its address."""
    if agent.profile.node_id:
        return agent.profile.node_id == named.profile.node_id
    return agent.node.addr == named.node.addr
