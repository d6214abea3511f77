"""What a scenario can do to a run, whichever way the run is decided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import RendezvousSettings
from quorate.core.state import Place, RendezvousState
from quorate.errors import RendezvousError

__all__ = ["Happening", "Way", "plain"]


class Happening(NamedTuple):
    """Something that an agent has learned.

    Args:
        agent: Its name in the scenario.
        place: Its place in a new world, if that is what it learned.
        error: What its call ended with, if it failed.
    """

    agent: str
    place: Place | None = None
    error: RendezvousError | None = None


class Way(ABC):
    """A run and its agents. Nothing passes by itself: `settle` and `pass_second` move it."""

    @abstractmethod
    def add(
        self, agent: str, node: NodeDesc, profile: NodeProfile, settings: RendezvousSettings
    ) -> None:
        """Start an agent's process; it does not join yet."""

    @abstractmethod
    def join(self, agent: str, timeout_s: float) -> None:
        """Let an agent call `next_rendezvous`, for the first time or to regroup."""

    @abstractmethod
    def leave(self, agent: str) -> None:
        """Let an agent leave, and end its process."""

    @abstractmethod
    def die(self, agent: str) -> None:
        """Kill an agent's process: it cannot say anything any more."""

    @abstractmethod
    def silence(self, agent: str) -> None:
        """Cut an agent off: it runs, but nothing goes to it or comes from it."""

    @abstractmethod
    def restore(self, agent: str) -> None:
        """Connect an agent again that was cut off."""

    @abstractmethod
    def close(self, agent: str, reason: str) -> None:
        """Let an agent close the run."""

    @abstractmethod
    def operate(self, command: str, words: list[str], options: dict[str, str]) -> str:
        """Give an operator's command; return what came of it."""

    @abstractmethod
    def freeze(self, seconds: float) -> None:
        """Stop whoever judges the life of others for a while; the others go on."""

    @abstractmethod
    def skew(self, agent: str, seconds: float) -> None:
        """Set an agent's wall clock wrong."""

    @abstractmethod
    def begin_anew(self, with_state: bool) -> None:
        """Restart whatever keeps the state and decides, with the state or without it."""

    @abstractmethod
    def pass_second(self) -> None:
        """Let one second pass."""

    @abstractmethod
    def settle(self) -> None:
        """Let everyone do what there is to do at this moment."""

    @abstractmethod
    def take_happenings(self) -> list[Happening]:
        """Return what agents have learned since the last call."""

    @abstractmethod
    def waiting(self, agent: str) -> int:
        """Return what `num_nodes_waiting` answers to an agent."""

    @abstractmethod
    def reason(self, agent: str) -> str:
        """Return why an agent is kept waiting, or why it should regroup."""

    @property
    @abstractmethod
    def state(self) -> RendezvousState:
        """The state as it is stored."""


def plain(text: str) -> str:
    """Return a text in which nodes have the names of the scenario: `a_1_0` is `a`."""
    return text.replace("_1_0", "")
