"""Answers that are made once and shared by all who ask for them within half a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from quorate.clock import Clock

__all__ = ["FRESH_S", "Snapshots"]

FRESH_S = 0.5


class Snapshots:
    """Keeps answers for as long as they are fresh.

    Args:
        clock: Measures how old they are.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: dict[str, tuple[float, asyncio.Future[bytes]]] = {}

    async def get(self, key: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the answer, made anew if the last one is too old; what `make` raises is raised.

        Args:
            key: What is asked for.
            make: Makes the answer.
        """
        now_s = self._clock.monotonic()
        fresh = {key: made for key, made in self._made.items() if now_s - made[0] < FRESH_S}
        if key not in fresh:
            fresh[key] = (now_s, asyncio.ensure_future(make()))
        self._made = fresh
        # Whoever gives up waiting does not take the answer from the others.
        return await asyncio.shield(fresh[key][1])
