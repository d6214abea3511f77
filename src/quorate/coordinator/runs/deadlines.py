"""What is due when, earliest first. Pure.

Most things are settled long before they are due, and cost nothing then: they are passed over, or
swept out once they are the greater part of what is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T")

# Below this many a sweep is not worth its time.
SWEPT_FROM = 64


class Deadlines(Generic[T]):
    """Things with deadlines, in seconds on the clock of whoever asks.

    Args:
        is_live: Returns whether a thing is not settled yet.
    """

    def __init__(self, is_live: Callable[[T], bool]) -> None:
        self._is_live = is_live
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()
        self._swept_at = SWEPT_FROM

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at_s: float, what: T) -> None:
        """Note when something is due; the same thing may be due several times."""
        heappush(self._heap, (at_s, next(self._order), what))
        if len(self._heap) > self._swept_at:
            self.sweep()

    def due(self, now_s: float) -> Iterator[T]:
        """Yield, and forget, what was due before a moment and is not settled."""
        while self._heap and self._heap[0][0] < now_s:
            what = heappop(self._heap)[2]
            if self._is_live(what):
                yield what

    def sweep(self) -> None:
        """Forget what is settled."""
        self._heap = [entry for entry in self._heap if self._is_live(entry[2])]
        heapify(self._heap)
        self._swept_at = max(SWEPT_FROM, 2 * len(self._heap))
