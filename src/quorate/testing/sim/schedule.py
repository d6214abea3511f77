"""Virtual time: what is to happen, in order, and the only source of chance."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

__all__ = ["Livelock", "Schedule"]

# More than thirty times what a run of 40 nodes takes.
CALLS_MAX = 300_000


class Livelock(Exception):
    """Things go on happening, more of them than in any run that gets anywhere."""


class Schedule:
    """Calls functions at moments of a time that passes only here.

    Args:
        seed: Whatever is left to chance follows from it.

    Attributes:
        random: The one source of chance.
        now_s: The true time, in seconds since the world began.
        calls: How many calls were made.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.calls = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = count()

    def at(self, when_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call a function at a moment; a moment that has passed is now."""
        when_s = max(when_s, self.now_s)
        heappush(self._heap, (when_s, next(self._order), call, arguments))

    def after(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call a function in so many seconds."""
        heappush(self._heap, (self.now_s + delay_s, next(self._order), call, arguments))

    def run_until(self, until_s: float) -> None:
        """Let time pass until a moment.

        Raises:
            Livelock: More than `CALLS_MAX` calls were made in all.
        """
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now_s, _, call, arguments = heappop(heap)
            self.calls += 1
            if self.calls > CALLS_MAX:
                raise Livelock(f"{CALLS_MAX} events, and it is {self.now_s:.3f} s: {call}")
            call(*arguments)
        self.now_s = until_s

    def chance(self, probability: float) -> bool:
        """Return whether something of this probability happens."""
        return self.random.random() < probability

    def between(self, least: float, most: float) -> float:
        """Return a number from a range, all equally likely."""
        return least + (most - least) * self.random.random()
