"""Who is there and who is missing while a round waits: for logs, pushes and errors alike (R16)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from quorate.core.action import RendezvousContext
from quorate.core.completion import (
    LAST_CALL,
    SURVIVORS,
    last_call_remaining_s,
    regroup_remaining_s,
)
from quorate.core.node import NodeDesc
from quorate.core.state import RendezvousState, capacity

__all__ = ["Attendance", "attendance", "ends_in_s", "names_and_count"]

# How many nodes are named: the text goes to every node that waits, and into its log.
NAMED_MAX = 4

# A reason may be as long as its author likes; here it is a remark beside a name.
REMARK_CHARACTERS_MAX = 160


class Attendance(NamedTuple):
    """Who has a place in the open round, and who is missing from it.

    Args:
        present: The first few of those who are there.
        present_count: How many are there.
        missing: The first few of those who are known and missing, each with what is known.
        missing_count: How many are missing, those included of whom nothing is known.
    """

    present: tuple[str, ...] = ()
    present_count: int = 0
    missing: tuple[str, ...] = ()
    missing_count: int = 0

    def __str__(self) -> str:
        """Return both for people."""
        present = f"present: {names_and_count(self.present, self.present_count)}"
        if not self.missing_count:
            return present
        return f"{present}; missing: {names_and_count(self.missing, self.missing_count)}"


def attendance(ctx: RendezvousContext) -> Attendance:
    """Return who is there, in a time that does not grow with the number of nodes.

    Missing are members of the last world that are to come back, and those that it has lost as
    long as there is room for them. With a complete round nobody is.
    """
    state = ctx.state
    joined = len(state.participants)
    present = tuple(str(node) for node in islice(state.participants, NAMED_MAX))
    if state.complete:
        return Attendance(present, joined)
    known = len(state.survivors) + len(state.departed)
    wanted = max(ctx.settings.min_nodes - joined, len(state.survivors))
    free = max(capacity(state, ctx.settings) - joined, 0)
    count = max(wanted, min(known, free))
    return Attendance(present, joined, tuple(islice(_absent(state), min(count, NAMED_MAX))), count)


def ends_in_s(ctx: RendezvousContext, kind: str) -> float | None:
    """Return when a wait ends by itself, in seconds, if it does.

    Args:
        ctx: Who waits, and the state.
        kind: The kind of the decision to wait.
    """
    if kind == LAST_CALL:
        return last_call_remaining_s(ctx)
    if kind == SURVIVORS:
        return regroup_remaining_s(ctx)
    return None


def names_and_count(names: Iterable[str], count: int) -> str:
    """Return some names, and how many there are beside them."""
    named = list(names)
    more = count - len(named)
    if more > 0:
        named.append(f"{more} more" if named else f"{more} node{'s' if more > 1 else ''}")
    return ", ".join(named) or "nobody"


def _absent(state: RendezvousState) -> Iterator[str]:
    awaited = (f"{node} (rank {rank}, not back yet)" for node, rank in state.survivors.items())
    return chain(awaited, (_remarked(*gone) for gone in state.departed.items()))


def _remarked(node: NodeDesc, reason: str) -> str:
    return f"{node} ({reason[:REMARK_CHARACTERS_MAX]})"
