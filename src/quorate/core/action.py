"""What a node may do next, and why."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.observer import Observer
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState

__all__ = ["Action", "Decision", "RendezvousContext"]


class Action(Enum):
    """What an operation decides to do. The names are PyTorch's."""

    KEEP_ALIVE = 1
    ADD_TO_PARTICIPANTS = 2
    ADD_TO_WAIT_LIST = 3
    ADD_TO_REDUNDANCY_LIST = 4
    REMOVE_FROM_PARTICIPANTS = 5
    REMOVE_FROM_WAIT_LIST = 6
    REMOVE_FROM_REDUNDANCY_LIST = 7
    MARK_RENDEZVOUS_COMPLETE = 8
    MARK_RENDEZVOUS_CLOSED = 9
    SYNC = 10
    ERROR_CLOSED = 11
    ERROR_TIMEOUT = 12
    FINISH = 13


class Decision(NamedTuple):
    """An action with its reason: the log, the status page and the errors all read this one (R16).

    Args:
        action: What to do.
        reason: Why, for a person.
        kind: The reason without its numbers; a change of kind is worth telling at once.
    """

    action: Action
    reason: str = ""
    kind: str = ""


class RendezvousContext:
    """All that an operation or a transition may look at.

    Args:
        node: The node that acts.
        state: The state of the run, as it is now.
        settings: The node's settings.
        observer: Judges how old something is; the only source of time (R9).
        profile: What the node says about itself.
    """

    __slots__ = ("node", "observer", "profile", "settings", "state")

    def __init__(
        self,
        node: NodeDesc,
        state: RendezvousState,
        settings: RendezvousSettings,
        observer: Observer,
        profile: NodeProfile | None = None,
    ) -> None:
        self.node = node
        self.state = state
        self.settings = settings
        self.observer = observer
        self.profile = profile or NodeProfile()
