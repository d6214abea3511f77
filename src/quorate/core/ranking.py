"""Who gets which rank (R3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from quorate.core.node import NodeDesc, NodeProfile, natural_order, natural_text

__all__ = ["rank_nodes"]


def rank_nodes(
    policy: str,
    profiles: Mapping[NodeDesc, NodeProfile],
    survivors: Mapping[NodeDesc, int],
) -> list[NodeDesc]:
    """Return the nodes in the order of their new ranks.

    Args:
        policy: One of `quorate.core.settings.RANK_POLICIES`.
        profiles: The nodes of the new world, with what they say about themselves.
        survivors: Those of them that were in the last world, with their old ranks.
    """
    return _POLICIES[policy](profiles, survivors)


def _stable(
    profiles: Mapping[NodeDesc, NodeProfile], survivors: Mapping[NodeDesc, int]
) -> list[NodeDesc]:
    """Keep old ranks where they still exist; a survivor leads; the others fill the gaps."""
    size = len(profiles)
    by_old_rank = sorted(survivors, key=lambda node: survivors[node])
    newcomers = sorted(profiles.keys() - survivors.keys(), key=natural_order)
    ranks: dict[int, NodeDesc] = {}
    if by_old_rank and survivors[by_old_rank[0]] != 0:
        ranks[0] = by_old_rank.pop(0)
    displaced = []
    for node in by_old_rank:
        if survivors[node] < size:
            ranks[survivors[node]] = node
        else:
            displaced.append(node)
    gaps = (rank for rank in range(size) if rank not in ranks)
    ranks.update(zip(gaps, [*displaced, *newcomers], strict=True))
    return [ranks[rank] for rank in range(size)]


def _sorted(nodes: Iterable[NodeDesc], _: Mapping[NodeDesc, int]) -> list[NodeDesc]:
    """Take the natural order of the addresses, every round afresh."""
    return sorted(nodes, key=natural_order)


def _hint(profiles: Mapping[NodeDesc, NodeProfile], _: Mapping[NodeDesc, int]) -> list[NodeDesc]:
    """Follow the scheduler's index; nodes without one come last."""

    def order(node: NodeDesc) -> tuple[Any, ...]:
        hint = profiles[node].rank_hint
        return (hint is None, hint or 0, natural_order(node))

    return sorted(profiles, key=order)


def _topology(
    profiles: Mapping[NodeDesc, NodeProfile], _: Mapping[NodeDesc, int]
) -> list[NodeDesc]:
    """Give adjacent ranks to nodes with the same label ``block``; unlabelled nodes come last."""

    def order(node: NodeDesc) -> tuple[Any, ...]:
        block = profiles[node].labels.get("block", "")
        return (not block, natural_text(block), natural_order(node))

    return sorted(profiles, key=order)


_Policy = Callable[[Mapping[NodeDesc, NodeProfile], Mapping[NodeDesc, int]], list[NodeDesc]]

_POLICIES: Mapping[str, _Policy] = {
    "stable": _stable,
    "sorted": _sorted,
    "hint": _hint,
    "topology": _topology,
}
