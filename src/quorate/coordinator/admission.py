"""Which connections there is room for, and who goes when there is none. Pure.

A newcomer is a connection whose hello was not accepted yet. There may be half as many of them as
there may be connections; beyond that the oldest one goes: a flood of strangers cannot keep agents
out, who need a moment to come in, where a stranger would stay for as long as it is let.
"""

from __future__ import annotations

__all__ = ["Admission", "connections_max"]

# Files that are no connections: the journal, listening sockets, a compaction, the log, and those
# that were accepted in one turn and have to go in the next one.
FILES_RESERVED = 128

# However few files the system allows, a coordinator of so few is of use to nobody.
CONNECTIONS_MIN = 16


def connections_max(files_max: int) -> int:
    """Return how many connections there may be.

    Args:
        files_max: How many files the system lets the process open (RLIMIT_NOFILE).
    """
    return max(files_max - FILES_RESERVED, CONNECTIONS_MIN)


class Admission:
    """Counts the connections of one coordinator.

    Args:
        connections_max: How many there may be.
    """

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        self._newcomers: dict[int, None] = {}
        self._welcome: set[int] = set()

    def arrived(self, number: int) -> int | None:
        """Count a new connection.

        Returns:
            The one that has to go for it, which may be itself: there is room for nobody.
        """
        self._newcomers[number] = None
        count = len(self._newcomers) + len(self._welcome)
        if count <= self.connections_max and len(self._newcomers) <= self.connections_max // 2:
            return None
        oldest = next(iter(self._newcomers))
        del self._newcomers[oldest]
        return oldest

    def welcomed(self, number: int) -> None:
        """Note that a connection is no newcomer any more."""
        if number in self._newcomers:
            del self._newcomers[number]
            self._welcome.add(number)

    def gone(self, number: int) -> None:
        """Note that a connection has ended."""
        self._newcomers.pop(number, None)
        self._welcome.discard(number)
