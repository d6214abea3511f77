"""JSON that is made in parts, because all of it would take long. Pure.

Between two parts whoever makes them may do something else. A part comes with its weight: how many
nodes could be described in the time that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import msgspec

__all__ = ["PART_NODES", "Parts", "members", "opened"]

# The nodes of one part: 0.3 to 0.5 ms of work. Smaller parts delay others no less, and on a machine
# that is busy with other things each pause between two parts costs milliseconds.
PART_NODES = 200

Parts: TypeAlias = Iterator[tuple[int, bytes]]


def opened(content: dict[str, Any]) -> bytes:
    """Return a JSON object without its end, so that something can be added."""
    return msgspec.json.encode(content)[:-1]


def members(kind: Callable[[Iterable[Any]], Any], content: Iterable[Any]) -> Parts:
    """Yield what is between the brackets of a JSON array or object, `PART_NODES` members a part.

    Args:
        kind: `list` or `dict`.
        content: The members, one for each node; of a `dict`, keys with values.
    """
    rest = iter(content)
    separator = b""
    while chunk := kind(islice(rest, PART_NODES)):
        yield len(chunk), separator + msgspec.json.encode(chunk)[1:-1]
        separator = b","
