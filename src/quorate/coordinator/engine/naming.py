"""Whom an operator means: a node by its rank, address, id or description. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from heapq import nlargest
from itertools import islice

from quorate.core.node import NodeDesc, natural_order
from quorate.core.state import RendezvousState
from quorate.errors import RendezvousError

__all__ = ["nearest", "resolve_ban", "resolve_node"]

# Of many candidates, these are enough to see what to write.
NAMED_MAX = 5

# Others wait while names are compared: of so many names, those that share the largest part with the
# wrong one at their ends are compared letter by letter, which takes up to 0.3 ms for such lengths.
KNOWN_MAX = 2000
COMPARED_MAX = 10
NAME_CHARACTERS_MAX = 64


def resolve_node(name: str, run_id: str, state: RendezvousState) -> NodeDesc:
    """Return the attached node that is meant.

    Args:
        name: Its rank (`3`, `rank 3`), its address if it is the only one there, its id, its
            description as `quorate status` prints it, or that with its incarnation.
        run_id: The run, for the message.
        state: The state of the run.

    Raises:
        RendezvousError: Nobody is called so, or several are; it names the nearest, or all.
    """
    names = list(_names(state))
    found = list(dict.fromkeys(node for known, node in names if known == name))
    if len(found) == 1:
        return found[0]
    if found:
        first = sorted(found, key=natural_order)[:NAMED_MAX]
        # In containers all agents may have one address and one process id.
        describe = str if len(set(map(str, found))) == len(found) else _in_full
        listed = ", ".join(map(describe, first))
        more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
        raise RendezvousError(
            f"'{name}' stands for {len(found)} nodes of the run '{run_id}': {listed}{more}. Name "
            f"the one by what stands here."
        )
    raise RendezvousError(
        f"There is no node '{name}' in the run '{run_id}'"
        f"{nearest(name, (known for known, _ in names))}. `quorate status {run_id}` shows all."
    )


def resolve_ban(name: str, run_id: str, state: RendezvousState) -> str:
    """Return the key under which somebody is kept out of the run.

    Args:
        name: A node's id or address, alone or as `quorate status` prints it.
        run_id: The run, for the message.
        state: The state of the run.

    Raises:
        RendezvousError: Nobody of that name is kept out.
    """
    for key in (name, f"node id {name}", f"address {name}"):
        if key in state.bans:
            return key
    raise RendezvousError(
        f"The run '{run_id}' keeps out nobody called '{name}'{nearest(name, state.bans)}."
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known names that are close to a wrong one, as a part of a sentence."""
    if len(name) > NAME_CHARACTERS_MAX:
        return ""
    short = (word for word in dict.fromkeys(known) if len(word) <= NAME_CHARACTERS_MAX)
    compared = nlargest(
        COMPARED_MAX, islice(short, KNOWN_MAX), key=lambda word: _part_shared(name, word)
    )
    close = difflib.get_close_matches(name, compared, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(repr(word) for word in close)}?)" if close else ""


def _part_shared(one: str, other: str) -> float:
    """Return what part of two names their beginnings and ends have in common."""
    head = _beginning_shared(one, other)
    tail = _beginning_shared(one[head:][::-1], other[head:][::-1])
    return 2 * (head + tail) / (len(one) + len(other) or 1)


def _beginning_shared(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _in_full(node: NodeDesc) -> str:
    return f"{node}.{node.incarnation}"


def _names(state: RendezvousState) -> Iterator[tuple[str, NodeDesc]]:
    for rank, node in _ranks(state):
        yield str(rank), node
        yield f"rank {rank}", node
    for node, profile in state.profiles.items():
        yield str(node), node
        yield _in_full(node), node
        yield node.addr, node
        if profile.addr:
            yield profile.addr, node
        if profile.node_id:
            yield profile.node_id, node


def _ranks(state: RendezvousState) -> Iterator[tuple[int, NodeDesc]]:
    """Yield who has a rank in the last world, and is still attached."""
    members = state.world.members if state.world is not None else ()
    for rank, node in enumerate(members):
        if node in state.last_heartbeats:
            yield rank, node
