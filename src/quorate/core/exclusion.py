"""Who is kept out of a run."""

from __future__ import annotations

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import RendezvousState
from quorate.errors import RendezvousEvictedError

__all__ = ["ban_key", "require_admissible", "time_left"]


def ban_key(node: NodeDesc, profile: NodeProfile) -> str:
    """Return under what name a node is kept out: its id, or its address if it has none."""
    return f"node id {profile.node_id}" if profile.node_id else _address_key(node)


def require_admissible(
    state: RendezvousState, run_id: str, node: NodeDesc, profile: NodeProfile
) -> None:
    """Refuse a newcomer that is kept out, or whose whole address is.

    Raises:
        RendezvousEvictedError: It says why, and for how long.
    """
    if not state.bans:
        return
    for key in (ban_key(node, profile), _address_key(node)):
        ban = state.bans.get(key)
        if ban is not None:
            raise RendezvousEvictedError(
                f"The run '{run_id}' keeps out {key} {time_left(ban.left_s)}: {ban.reason}."
            )


def time_left(left_s: float | None) -> str:
    """Return for how long something lasts, for people: `for another 90 s`."""
    return "for good" if left_s is None else f"for another {max(left_s, 1):.0f} s"


def _address_key(node: NodeDesc) -> str:
    return f"address {node.addr}"
