"""What coordinators keep their runs in, with the ways in which that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from quorate.testing.sim.process import Process
from quorate.testing.sim.schedule import Schedule

__all__ = ["SimLedger"]

COMMIT_S = (0.0005, 0.01)
SLOW_S = (0.05, 0.6)


class _Write(NamedTuple):
    """A write that is under way; the arguments are those of `SimLedger.commit`."""

    writer: Process
    fence: int
    changes: Mapping[str, bytes | None]
    done: Callable[[str], None]


class SimLedger:
    """Keys and bytes that outlive a coordinator; writes take time, and fail.

    Args:
        schedule: The true time.
        stored: Told what is stored after every write.

    Attributes:
        records: What is stored.
        stalled: While it is true, no write ends.
        slow: Whether writes take long.
        failing: How likely it is that a write fails, with or without having been applied.
        fence: Which holder of the seat may write; 0 where there is no seat.
    """

    def __init__(self, schedule: Schedule, stored: Callable[[], None]) -> None:
        self.records: dict[str, bytes] = {}
        self.stalled = False
        self.slow = False
        self.failing = 0.0
        self.fence = 0
        self._schedule = schedule
        self._stored = stored
        self._under_way: list[_Write] = []
        self._waiting: list[_Write] = []

    def commit(
        self,
        writer: Process,
        fence: int,
        changes: Mapping[str, bytes | None],
        done: Callable[[str], None],
    ) -> None:
        """Begin a write.

        Args:
            writer: Whose it is.
            fence: What the writer was given with the seat.
            changes: As for `quorate.coordinator.ledgers.base.Ledger.commit`.
            done: Called with `stored`, `failed` or `deposed`, if the writer still lives.
        """
        write = _Write(writer, fence, changes, done)
        self._under_way.append(write)
        self._schedule.after(self._delay_s(), self._apply, write)

    def abandon(self, writer: Process) -> None:
        """Note that a writer has died: what it had under way was written by then, or never will.

        Where there is a seat that is not so: a request may reach etcd long after its sender died.
        """
        if self.fence:
            return
        for write in [write for write in self._under_way if write.writer is writer]:
            self._under_way.remove(write)
            if self._schedule.chance(0.5):
                self.write(write.changes)

    def go_on(self) -> None:
        """Let writes end that were stalled."""
        self.stalled = False
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            self._schedule.after(0.0, self._apply, write)

    def _apply(self, write: _Write) -> None:
        if write not in self._under_way:
            return
        if self.stalled:
            self._waiting.append(write)
            return
        self._under_way.remove(write)
        if not write.writer.alive and self._schedule.chance(0.5):
            return
        outcome = "deposed" if write.fence != self.fence else self._try(write)
        self._schedule.after(self._delay_s(), write.writer.handle, write.done, outcome)

    def _try(self, write: _Write) -> str:
        fails = self.failing > 0 and self._schedule.chance(self.failing)
        if not fails or self._schedule.chance(0.5):
            self.write(write.changes)
        return "failed" if fails else "stored"

    def _delay_s(self) -> float:
        return self._schedule.between(*(SLOW_S if self.slow else COMMIT_S))

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        """Store changes at once."""
        for key, value in changes.items():
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value
        if changes:
            self._stored()
