"""What coordinators keep their runs in, with the ways in which that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quorate.testing.sim.process import Process
from quorate.testing.sim.schedule import Schedule

__all__ = ["SimLedger"]

COMMIT_S = (0.0005, 0.01)


class SimLedger:
    """Keys and bytes that outlive a coordinator; writes take time, and fail.

    Args:
        schedule: The true time.
        stored: Told what is stored after every write.

    Attributes:
        records: What is stored.
        stalled: While it is true, no write ends.
        failing: How likely it is that a write fails, with or without having been applied.
        fence: Which holder of the seat may write; 0 where there is no seat.
    """

    def __init__(self, schedule: Schedule, stored: Callable[[], None]) -> None:
        self.records: dict[str, bytes] = {}
        self.stalled = False
        self.failing = 0.0
        self.fence = 0
        self._schedule = schedule
        self._stored = stored
        self._waiting: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def commit(
        self,
        writer: Process,
        fence: int,
        changes: Mapping[str, bytes | None],
        done: Callable[[str], None],
    ) -> None:
        """Begin a write.

        Args:
            writer: Whose it is; one that dies before the write is applied has not written.
            fence: What the writer was given with the seat.
            changes: As for `quorate.coordinator.ledger.Ledger.commit`.
            done: Called with `stored`, `failed` or `deposed`, if the writer still lives.
        """
        delay_s = self._schedule.between(*COMMIT_S)
        self._schedule.after(delay_s, self._apply, writer, fence, changes, done)

    def go_on(self) -> None:
        """Let writes end that were stalled."""
        self.stalled = False
        waiting, self._waiting = self._waiting, []
        for call, arguments in waiting:
            self._schedule.after(0.0, call, *arguments)

    def _apply(
        self,
        writer: Process,
        fence: int,
        changes: Mapping[str, bytes | None],
        done: Callable[[str], None],
    ) -> None:
        if self.stalled:
            self._waiting.append((self._apply, (writer, fence, changes, done)))
            return
        if not writer.alive:
            return
        delay_s = self._schedule.between(*COMMIT_S)
        if fence != self.fence:
            self._schedule.after(delay_s, writer.handle, done, "deposed")
            return
        fails = self.failing > 0 and self._schedule.chance(self.failing)
        if not fails or self._schedule.chance(0.5):
            self.write(changes)
        self._schedule.after(delay_s, writer.handle, done, "failed" if fails else "stored")

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        """Store changes at once."""
        for key, value in changes.items():
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value
        if changes:
            self._stored()
