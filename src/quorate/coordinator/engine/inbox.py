"""Messages that wait for their turn while a batch is being stored. Pure.

A write may stall for hours. What connections had asked that have ended meanwhile counts for
nothing: it is swept out once it is the greater part of what is held.
"""

from __future__ import annotations

from collections import deque

from quorate.wire.messages import Request

__all__ = ["Inbox"]

# Below this many a sweep is not worth its time.
SWEPT_FROM = 64


class Inbox:
    """Messages, each with its connection, in the order in which they came."""

    def __init__(self) -> None:
        self._messages: deque[tuple[int, Request]] = deque()
        self._held: dict[int, int] = {}
        self._ownerless = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, connection: int, message: Request) -> None:
        """Let a message wait."""
        self._messages.append((connection, message))
        self._held[connection] = self._held.get(connection, 0) + 1

    def take(self) -> tuple[int, Request]:
        """Return the next message; its connection may have ended."""
        connection, message = self._messages.popleft()
        held = self._held.pop(connection, 0)
        if held > 1:
            self._held[connection] = held - 1
        elif not held:
            self._ownerless -= 1
        return connection, message

    def closed(self, connection: int) -> None:
        """Note that a connection has ended."""
        self._ownerless += self._held.pop(connection, 0)
        if self._ownerless > max(SWEPT_FROM, len(self._messages) // 2):
            self._messages = deque(entry for entry in self._messages if entry[0] in self._held)
            self._ownerless = 0
