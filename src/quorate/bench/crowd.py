"""What a load process holds: many agents of one kind, which do what a task says."""

from __future__ import annotations

import asyncio
from typing import Protocol

from quorate.bench.tasks import Begin, Moments, Places, Report, Task, Traffic

__all__ = ["DIALING_MAX", "Countdown", "Crowd"]

# Real agents have a process each. So many in one may dial at once without being late themselves.
DIALING_MAX = 256


class Crowd(Protocol):
    """Agents of one load process. Times are on the machine's monotonic clock, limits in seconds.

    Every step reports for those agents that were done within its limit.
    """

    async def begin(self, task: Begin) -> None:
        """Make the agents; none of them connects yet."""
        ...

    async def connect(self, timeout_s: float) -> Moments:
        """Let all connect."""
        ...

    async def join(self, timeout_s: float) -> Places:
        """Let all join, and connect before if they have not yet."""
        ...

    async def other(self, task: Task) -> Report:
        """Do what only some kinds of agents can.

        Raises:
            RendezvousSettingsError: These cannot.
        """
        ...

    def traffic(self) -> Traffic:
        """Return what all connections have carried."""
        ...

    async def close(self) -> None:
        """Close the run and the connections."""
        ...


class Countdown:
    """Counts what is left until everybody is done, or somebody has failed."""

    def __init__(self) -> None:
        self._left = 0
        self._awaited = ""
        self._over = asyncio.Event()
        self._failure: Exception | None = None

    def start(self, awaited: str, count: int) -> None:
        """Begin to count.

        Args:
            awaited: What is counted; other things are not.
            count: How often it must happen.
        """
        self._awaited, self._left = awaited, count
        self._over.clear()
        if count <= 0 or self._failure is not None:
            self._over.set()

    def note(self, what: str) -> None:
        """Note that something has happened once."""
        if what == self._awaited:
            self._left -= 1
            if self._left == 0:
                self._over.set()

    def fail(self, error: Exception) -> None:
        """End this and every later wait with an error, the first one."""
        self._failure = self._failure or error
        self._over.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when it is over, or the time is.

        Raises:
            Exception: What `fail` was given.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._over.wait()
        except TimeoutError:
            return
        if self._failure is not None:
            raise self._failure
