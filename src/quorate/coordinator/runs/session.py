"""One agent's attachment to a coordinator, as the coordinator sees it."""

from __future__ import annotations

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import RendezvousJoinOp
from quorate.core.settings import AgreedSettings
from quorate.core.state import WorldName

__all__ = ["HeldJoin", "Session"]


class HeldJoin:
    """A join that is not answered yet.

    Args:
        request_id: The id to answer with.
        op: What decides about it.
        deadline_s: When to give up, on the engine's clock.
        since_s: When it came.

    Attributes:
        reason: What it was told to wait for last.
    """

    __slots__ = ("deadline_s", "op", "reason", "request_id", "since_s")

    def __init__(
        self, request_id: int, op: RendezvousJoinOp, deadline_s: float, since_s: float
    ) -> None:
        self.request_id = request_id
        self.op = op
        self.deadline_s = deadline_s
        self.since_s = since_s
        self.reason = ""


class Session:
    """What is known of one attached agent.

    Args:
        node: The agent's node.
        profile: What it says about itself.
        heard_s: When it was heard last, on the engine's clock.
        settings: What it was given; `None` if it was loaded, and has not come yet.
    """

    __slots__ = (
        "connection",
        "ended_s",
        "excused_s",
        "heard_s",
        "holding",
        "join",
        "node",
        "profile",
        "settings",
    )

    def __init__(
        self,
        node: NodeDesc,
        profile: NodeProfile,
        heard_s: float,
        settings: AgreedSettings | None = None,
    ) -> None:
        self.node = node
        self.profile = profile
        self.settings = settings
        self.hear(heard_s)
        self.connection: int | None = None
        self.ended_s: float | None = None
        self.holding: WorldName | None = None
        self.join: HeldJoin | None = None

    def hear(self, now_s: float) -> None:
        """Note a sign of life."""
        self.heard_s = now_s
        self.excused_s = 0.0

    def silence_s(self, now_s: float) -> float:
        """Return for how long it has been silent, less the time in which that says nothing (R9)."""
        return now_s - self.heard_s - self.excused_s
