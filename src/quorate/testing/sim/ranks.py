"""Who should have which rank (R3), in a reading of its own: the core's is what is tested."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quorate.core.node import NodeDesc, NodeProfile

__all__ = ["ranks_due"]


def ranks_due(
    policy: str, profiles: Mapping[NodeDesc, NodeProfile], survivors: Mapping[NodeDesc, int]
) -> list[NodeDesc]:
    """Return the members of a world in the order of the ranks that they should have.

    Args:
        policy: One of `quorate.core.settings.RANK_POLICIES`.
        profiles: The members, with what they say about themselves.
        survivors: Those of them that were in the last world, with their old ranks.
    """
    if policy == "stable":
        return _steady(list(profiles), survivors)
    if policy == "hint":
        return sorted(profiles, key=lambda node: (_hint(profiles[node]), _natural(node)))
    if policy == "topology":
        return sorted(profiles, key=lambda node: (_block(profiles[node]), _natural(node)))
    return sorted(profiles, key=_natural)


def _steady(members: list[NodeDesc], survivors: Mapping[NodeDesc, int]) -> list[NodeDesc]:
    """A survivor leads, the others keep the ranks that there still are, the rest fill the gaps."""
    size = len(members)
    places: list[NodeDesc | None] = [None] * size
    by_rank = sorted(survivors, key=lambda node: survivors[node])
    filling = []
    for node in by_rank:
        rank = 0 if node == by_rank[0] else survivors[node]
        if rank < size:
            places[rank] = node
        else:
            filling.append(node)
    filling += sorted((node for node in members if node not in survivors), key=_natural)
    return [filling.pop(0) if node is None else node for node in places]


def _hint(profile: NodeProfile) -> tuple[bool, int]:
    return (False, profile.rank_hint) if profile.rank_hint is not None else (True, 0)


def _block(profile: NodeProfile) -> tuple[bool, Any]:
    block = profile.labels.get("block", "")
    return not block, _words(block)


def _natural(node: NodeDesc) -> tuple[Any, ...]:
    return _words(node.addr), node.pid, node.local_id, node.incarnation


def _words(text: str) -> list[tuple[int, str | int]]:
    """Part a text into words and numbers, so that node2 comes before node10."""
    parts = enumerate(re.split(r"([0-9]+)", text))
    return [(1, int(part)) if index % 2 else (0, part) for index, part in parts]
