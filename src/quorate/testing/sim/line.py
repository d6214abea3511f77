"""Who is next for a place (R5, R6), in a reading of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from quorate.core.node import NodeDesc

__all__ = ["overtaken"]


def overtaken(
    line: Sequence[NodeDesc], served: Collection[NodeDesc], waiting: Iterable[NodeDesc], left: int
) -> list[NodeDesc]:
    """Return who was passed over: the places go to the line in the order of arrival.

    Args:
        line: Who has waited, the first one first.
        served: Who has got what they wait for; somebody of them may not have waited at all.
        waiting: Who still waits.
        left: How many places are left: where there is one for each, nobody was passed over.
    """
    if not served:
        return []
    came = {node: number for number, node in enumerate(line)}
    last = max(came.get(node, len(line)) for node in served)
    ahead = [node for node in waiting if came.get(node, len(line)) < last]
    return ahead if len(ahead) > max(left, 0) else []
