"""How much may be asked at once, and when those go on who ask for more. Pure.

Who asks for too much at once is *greedy*: nothing more is read from it until what it has asked is
carried out. After that the greedy go on by turns, a few at a time; and where others ask for
something meanwhile, one at a time and with rests, so that the others hardly wait for them (R15).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

__all__ = ["Asker", "Flow"]

# What one connection may ask, and all of them together, until it is carried out, and stored if it
# has to be.
REQUESTS_AT_ONCE_MAX = 16
REQUEST_BYTES_AT_ONCE_MAX = 8 * 1024 * 1024
REQUEST_BYTES_AT_ONCE_TOTAL_MAX = 64 * 1024 * 1024

# Who only says that it lives is heard while nothing can be stored, and so needs a limit of its own.
# Agents say it every few seconds, and the quickest some times a second.
BEATS_AT_ONCE_MAX = 256
BEATS_COUNTED_S = 1.0

# What the greedy ask in one go keeps others waiting for some 3 ms at most.
GREEDY_AT_ONCE_MAX = 4

# One of them goes on so long after the last while others ask too: a go takes some 1 ms, and so a
# tenth of the time; a write that it leads to does not count.
GREEDY_EVERY_S = 0.01


class Asker(Protocol):
    """Who asks: a connection.

    Attributes:
        number: Its name.
        asked: How many requests are counted of it; 0 at first.
        asked_bytes: How many bytes they have; 0 at first.
        asked_turn: The turn in which they were; 0 at first.
        beats: How often it has said that it lives; 0 at first.
        beats_since_s: Since when that is counted; 0 at first.
    """

    number: int
    asked: int
    asked_bytes: int
    asked_turn: int
    beats: int
    beats_since_s: float

    def pause(self) -> None:
        """Read nothing more until `resume`."""
        ...

    def resume(self) -> None:
        """Go on, with what was received before the pause first."""
        ...


class Flow:
    """Pauses those who ask for too much at once, and lets them go on by turns."""

    def __init__(self) -> None:
        # A turn lasts until everything that was asked in it is carried out.
        self._turn = 1
        self._asked_bytes = 0
        self._greedy: OrderedDict[int, Asker] = OrderedDict()
        self._held: dict[int, Asker] = {}
        # Whether what they ask in a go is not carried out yet; when that of the last one was.
        self._is_going = False
        self._went_s = float("-inf")
        self._modest = 0
        self._others_ask = False

    @property
    def kept_waiting(self) -> int:
        """How many are paused."""
        return len(self._greedy) + len(self._held)

    def count(self, asker: Asker, body_bytes: int) -> None:
        """Count a request of so many bytes, and pause who asked if that is enough for now."""
        if asker.asked_turn != self._turn:
            asker.asked_turn = self._turn
            asker.asked = asker.asked_bytes = 0
            self._modest += 1
        self._asked_bytes += body_bytes
        asker.asked += 1
        asker.asked_bytes += body_bytes
        if asker.asked >= REQUESTS_AT_ONCE_MAX or asker.asked_bytes >= REQUEST_BYTES_AT_ONCE_MAX:
            self._modest -= 1
            self._greedy[asker.number] = asker
            asker.pause()
        elif self._asked_bytes >= REQUEST_BYTES_AT_ONCE_TOTAL_MAX:
            self._held[asker.number] = asker
            asker.pause()

    def beat(self, asker: Asker, body_bytes: int, now_s: float) -> None:
        """Count a sign of life; too many of them in a second are requests like others.

        Args:
            asker: Who says that it lives.
            body_bytes: The bytes in which it does.
            now_s: The monotonic time in seconds.
        """
        if now_s - asker.beats_since_s >= BEATS_COUNTED_S:
            asker.beats, asker.beats_since_s = 0, now_s
        asker.beats += 1
        if asker.beats > BEATS_AT_ONCE_MAX:
            self.count(asker, body_bytes)

    def resume(self, now_s: float) -> float | None:
        """Let those go on whose turn it is: all that was asked is carried out.

        Args:
            now_s: The monotonic time in seconds.

        Returns:
            In how many seconds to call it again, if all is carried out by then; `None` if nobody
            is kept waiting.
        """
        if self._is_going:
            # A rest begins here: a write that takes longer than a rest would take its place.
            self._is_going, self._went_s = False, now_s
        self._others_ask |= self._modest > 0
        self._turn += 1
        self._modest = self._asked_bytes = 0
        held, self._held = self._held, {}
        for asker in held.values():
            asker.resume()
        if not self._greedy:
            return None
        rest_s = self._went_s + GREEDY_EVERY_S - now_s if self._others_ask else 0.0
        if rest_s > 0:
            return rest_s
        rest_s = GREEDY_EVERY_S if self._others_ask else 0.0
        self._go_on(1 if self._others_ask else GREEDY_AT_ONCE_MAX)
        self._is_going, self._others_ask = True, False
        return rest_s if self._greedy else None

    def gone(self, number: int) -> None:
        """Note that a connection has ended."""
        self._greedy.pop(number, None)
        self._held.pop(number, None)

    def _go_on(self, count: int) -> None:
        going = [self._greedy.popitem(last=False)[1] for _ in range(min(count, len(self._greedy)))]
        for asker in going:
            asker.resume()
