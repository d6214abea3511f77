"""How much may be asked at once; beyond that nothing is read from those who ask for more. Pure.

They wait, the others do not (R15).
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Asker", "Flow"]

# What one connection may ask, and all of them together, until it is carried out, and stored if it
# has to be.
REQUESTS_AT_ONCE_MAX = 16
REQUEST_BYTES_AT_ONCE_MAX = 8 * 1024 * 1024
REQUEST_BYTES_AT_ONCE_TOTAL_MAX = 64 * 1024 * 1024


class Asker(Protocol):
    """Who asks: a connection.

    Attributes:
        number: Its name.
        asked: How many requests are counted of it; 0 at first.
        asked_bytes: How many bytes they have; 0 at first.
    """

    number: int
    asked: int
    asked_bytes: int

    def pause(self) -> None:
        """Read nothing more until `resume`."""
        ...

    def resume(self) -> None:
        """Go on, with what was received before the pause first."""
        ...


class Flow:
    """Pauses those who ask for too much at once, until what they asked is carried out."""

    def __init__(self) -> None:
        self._asked_bytes = 0
        self._paused: dict[int, Asker] = {}

    def count(self, asker: Asker, body_bytes: int) -> None:
        """Count a request of so many bytes, and pause who asked if that is enough for now."""
        self._asked_bytes += body_bytes
        asker.asked += 1
        asker.asked_bytes += body_bytes
        if (
            asker.asked >= REQUESTS_AT_ONCE_MAX
            or asker.asked_bytes >= REQUEST_BYTES_AT_ONCE_MAX
            or self._asked_bytes >= REQUEST_BYTES_AT_ONCE_TOTAL_MAX
        ):
            asker.pause()
            self._paused[asker.number] = asker

    def resume(self) -> None:
        """Let everybody go on: all that was asked is carried out."""
        self._asked_bytes = 0
        paused, self._paused = self._paused, {}
        for asker in paused.values():
            asker.asked = asker.asked_bytes = 0
            asker.resume()

    def gone(self, number: int) -> None:
        """Note that a connection has ended."""
        self._paused.pop(number, None)
