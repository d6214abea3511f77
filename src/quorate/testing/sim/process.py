"""Machines and processes: clocks that are wrong, and programs that stop, freeze and die."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from quorate.testing.sim.schedule import Schedule

__all__ = ["Asleep", "Machine", "Process"]

START = datetime(2020, 1, 1, tzinfo=UTC)

# A cheap oscillator drifts by 100 parts in a million; ten times that is broken hardware.
DRIFT_MAX = 0.001
SKEW_MAX_S = 7200.0


class Asleep(BaseException):
    """Something wants to sleep: not an error, and nobody's to catch but the simulator's."""


class Machine:
    """A machine with clocks of its own: a `quorate.clock.Clock`.

    Args:
        schedule: The true time.
        name: What it is called; its address too.

    Attributes:
        skew_s: How far the wall clock is wrong; it may jump.
        rate: How fast the monotonic clock goes.
    """

    def __init__(self, schedule: Schedule, name: str) -> None:
        self.name = name
        self.skew_s = schedule.between(-SKEW_MAX_S, SKEW_MAX_S)
        self.rate = 1.0 + schedule.between(-DRIFT_MAX, DRIFT_MAX)
        self._schedule = schedule
        self._booted_s = schedule.between(0.0, 1e6)

    def monotonic(self) -> float:
        """Return the seconds since this machine was started, on its own clock."""
        return self._booted_s + self._schedule.now_s * self.rate

    def now(self) -> datetime:
        """Return what this machine's wall clock shows."""
        return START + timedelta(seconds=self._schedule.now_s * self.rate + self.skew_s)

    def sleep(self, seconds: float) -> None:
        """Stop what is going on; whoever called it goes on later.

        Raises:
            Asleep: Always: a simulated program cannot block.
        """
        raise Asleep(f"sleeps for {seconds:g} s")


class Process:
    """One life of a program.

    Args:
        schedule: The true time.
        machine: Where it runs.

    Attributes:
        alive: Whether it has not ended yet.
        frozen: Whether it is stopped; what reaches it waits.
        backlog: What has reached it while it was frozen, oldest first.
        crash: What ends it, and after how many more turns of its loop; `None` if nothing does.
    """

    def __init__(self, schedule: Schedule, machine: Machine) -> None:
        self.schedule = schedule
        self.machine = machine
        self.alive = True
        self.frozen = False
        self.backlog: list[tuple[bool, Callable[..., object], tuple[Any, ...]]] = []
        self.crash: tuple[int, Callable[[], object]] | None = None

    def later(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call a function in so many seconds of the machine's own clock."""
        self.schedule.after(delay_s / self.machine.rate, self._handle, True, call, arguments)

    def handle(self, call: Callable[..., object], *arguments: Any) -> None:
        """Let the program do something that comes from outside."""
        self._handle(False, call, arguments)

    def freeze(self, seconds: float) -> None:
        """Stop the program for so long."""
        if self.alive and not self.frozen:
            self.frozen = True
            self.schedule.after(seconds, self._wake)

    def die(self) -> None:
        """End the program."""
        self.alive = False
        self.backlog.clear()

    def turn_over(self) -> None:
        """Do what is to be done after each turn of the program's loop."""

    def _handle(self, timer: bool, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if self.frozen:
            self.backlog.append((timer, call, arguments))
        elif self.alive:
            call(*arguments)
            if self.crash is not None:
                self._near_crash(*self.crash)
            if self.alive:
                self.turn_over()

    def _near_crash(self, turns: int, crash: Callable[[], object]) -> None:
        """Count a turn; the last one is cut short, or ends and leaves nothing to follow."""
        self.crash = (turns - 1, crash) if turns > 1 else None
        if turns > 1:
            return
        if self.schedule.chance(0.5):
            self.turn_over()
        crash()

    def _wake(self) -> None:
        if not self.alive:
            return
        self.frozen = False
        # Some loops look at their timers first, others at their sockets.
        if self.schedule.chance(0.5):
            self.backlog.sort(key=lambda entry: not entry[0])
        while self.backlog and self.alive:
            _, call, arguments = self.backlog.pop(0)
            call(*arguments)
        if self.alive:
            self.turn_over()
