"""What a coordinator wants to send: data, until somebody sends it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from quorate.wire.messages import Reply

__all__ = ["Outbox", "Send"]


class Send(NamedTuple):
    """One message for one or many connections; it is encoded once.

    Args:
        connections: Who gets it.
        message: What they get; `None` if there is nothing to say.
        end: Whether the connections end after it.
    """

    connections: tuple[int, ...]
    message: Reply | None
    end: bool = False


class Outbox:
    """Collects what is to be sent, in order."""

    def __init__(self) -> None:
        self._sends: list[Send] = []

    def __len__(self) -> int:
        return len(self._sends)

    def send(self, connection: int | None, message: Reply) -> None:
        """Send a message to a connection, if there still is one."""
        if connection is not None:
            self._sends.append(Send((connection,), message))

    def send_all(self, connections: Iterable[int | None], message: Reply) -> None:
        """Send the same message to many."""
        present = tuple(connection for connection in connections if connection is not None)
        if present:
            self._sends.append(Send(present, message))

    def end(self, connection: int | None, message: Reply | None = None) -> None:
        """End a connection, after a last message if there is one."""
        if connection is not None:
            self._sends.append(Send((connection,), message, end=True))

    def take(self) -> list[Send]:
        """Return what is to be sent, and forget it."""
        sends, self._sends = self._sends, []
        return sends
