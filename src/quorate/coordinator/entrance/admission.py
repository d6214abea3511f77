"""Which connections there is room for, and who goes when there is none. Pure.

A newcomer is a connection whose hello was not accepted yet. There may be half as many of them as
there may be connections; beyond that the oldest one goes that has nothing to wait for: a flood of
strangers cannot keep agents out, who need a moment to come in, where a stranger would stay for as
long as it is let. Who waits for the coordinator to shake hands is no such stranger.
"""

from __future__ import annotations

from collections import OrderedDict

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
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._waiting: set[int] = set()
        self._welcome: set[int] = set()

    def arrived(self, number: int) -> bool:
        """Count a new connection; return whether it is one too many."""
        self._idle[number] = None
        newcomers = len(self._idle) + len(self._waiting)
        return (
            newcomers + len(self._welcome) > self.connections_max
            or newcomers > self.connections_max // 2
        )

    def oldest_idle(self) -> int:
        """Return the newcomer that has been idle for longest, if only since it arrived."""
        return next(iter(self._idle))

    def waits(self, number: int) -> None:
        """Note that a newcomer waits for the coordinator: it is not idle."""
        if number in self._idle:
            del self._idle[number]
            self._waiting.add(number)

    def served(self, number: int) -> None:
        """Note that it is the newcomer's part again to say something."""
        if number in self._waiting:
            self._waiting.discard(number)
            self._idle[number] = None

    def welcomed(self, number: int) -> None:
        """Note that a connection is no newcomer any more."""
        if number in self._idle or number in self._waiting:
            self.gone(number)
            self._welcome.add(number)

    def gone(self, number: int) -> None:
        """Note that a connection has ended, or has to."""
        self._idle.pop(number, None)
        self._waiting.discard(number)
        self._welcome.discard(number)
