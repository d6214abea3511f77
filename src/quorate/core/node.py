"""Who takes part: a node's descriptor, and what it says about itself."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Annotated, Any

import msgspec

__all__ = ["LABELS_MAX", "NodeDesc", "NodeProfile", "natural_order", "natural_text"]


class NodeDesc(
    msgspec.Struct, frozen=True, order=True, array_like=True, gc=False, repr_omit_defaults=True
):
    """One life of one node.

    Args:
        addr: The name or address at which other nodes reach it.
        pid: The process id of its agent.
        local_id: A number that is unique within that process.
        incarnation: Random text, so that a restarted process with the same three values above
            (process id 1 in every container) is another life (R12).
    """

    addr: str
    pid: int
    local_id: int
    incarnation: str = ""

    def __repr__(self) -> str:
        return f"{self.addr}_{self.pid}_{self.local_id}"


# More than a greeting can carry to a coordinator. It counts while a profile is decoded.
LABELS_MAX = 8192


class NodeProfile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a node says about itself when it joins.

    Args:
        node_id: An identity that outlives the process, empty if it has none (R12).
        rank_hint: The index that a scheduler gave it, for the rank policy ``hint`` (R3).
        labels: Free words by name; ``block`` is read by the rank policy ``topology``.
        port: A port that was free on the node when it joined, for the workers' own bootstrap.
        slots: How many workers it runs, so that every worker's rank follows from the world.
        addr: The address at which other nodes reach it now, empty while that of its descriptor
            holds: the descriptor names a life, and a machine may get another address meanwhile.
        release: The release of quorate that it runs.
    """

    node_id: str = ""
    rank_hint: int | None = None
    labels: Annotated[dict[str, str], msgspec.Meta(max_length=LABELS_MAX)] = {}
    port: int = 0
    slots: int = 1
    addr: str = ""
    release: str = ""


def natural_order(node: NodeDesc) -> tuple[Any, ...]:
    """Return a sort key under which node2 comes before node10 (R3)."""
    return (natural_text(node.addr), node.pid, node.local_id, node.incarnation)


# Thousands of agents share hundreds of addresses, and are sorted by them again and again.
@lru_cache(maxsize=16_384)
def natural_text(text: str) -> str:
    """Return a sort key for text in which runs of digits compare as numbers.

    Different texts have different keys, so that the order never depends on chance. It is one text,
    for a hundred thousand of them are compared two million times.
    """
    words = re.split(r"([0-9]+)", text)
    key = [_digits(word) if index % 2 else _word(word) for index, word in enumerate(words)]
    return f"{''.join(key)}\0{text}"


def _digits(part: str) -> str:
    """Compare as numbers do, of any length: `int` refuses long ones, and the text is a peer's.

    It begins with its length, and with more than a zero character, which stands for the end.
    """
    number = part.lstrip("0")
    return chr(min(1 + len(number), sys.maxunicode)) + number


def _word(part: str) -> str:
    """End with what comes before all that another word may go on with."""
    return part.replace("\0", "\0\1") + "\0\0"
