"""What a node waits for, and where that is shown (R16)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from quorate.clock import Clock, SystemClock
from quorate.core.attendance import names_and_count

__all__ = ["NO_COORDINATOR", "Wait", "WaitLog", "WaitReporter", "duration"]

logger = logging.getLogger("quorate.rendezvous")

# The kind of a wait for a coordinator that does not answer.
NO_COORDINATOR = "no_coordinator"

# The same kind of wait is mentioned again when something about it has changed, but not sooner.
EXPLAIN_EVERY_S = 10.0

# Times left that are longer, or unlimited, are no news.
_LONG_S = 24 * 3600.0


@dataclass(frozen=True)
class Wait:
    """Why a join is not answered yet.

    Args:
        kind: The reason without its numbers.
        reason: The reason, for people.
        since_s: How long this has been so, in seconds.
        missing: The first few of those who are missing, with what is known of them.
        missing_count: How many are missing.
        ends_in_s: When the wait ends by itself, in seconds: the last call, or the time that
            members have to come back.
        gives_up_in_s: When this node gives up, in seconds; `None` for one that never does.
    """

    kind: str
    reason: str
    since_s: float = 0.0
    missing: tuple[str, ...] = ()
    missing_count: int = 0
    ends_in_s: float | None = None
    gives_up_in_s: float | None = None

    @property
    def subject(self) -> tuple[str, tuple[str, ...]]:
        """What is news when it changes: all but the times."""
        return (self.reason, self.missing)

    def __str__(self) -> str:
        """Return what is said of it, on one line."""
        parts = [f"{self.reason}, since {duration(self.since_s)}"]
        if self.ends_in_s is not None:
            parts.append(f"ends in {duration(self.ends_in_s)}")
        if self.gives_up_in_s is not None and self.gives_up_in_s < _LONG_S:
            parts.append(f"gives up in {duration(self.gives_up_in_s)}")
        if self.missing:
            parts.append(f"missing: {names_and_count(self.missing, self.missing_count)}")
        return "; ".join(parts)


class WaitReporter(Protocol):
    """Where a node that waits says what it waits for."""

    def report(self, wait: Wait) -> None:
        """Show it; called about once a second, whether or not something has changed."""
        ...

    def done(self) -> None:
        """Note that the node does not wait any more."""
        ...


class WaitLog:
    """Logs a line when something has changed.

    Args:
        run_id: The run, a field of each line.
        clock: Measures how long ago the last line was.
        about: Returns what else a line is about, for the logger's `extra`.
    """

    def __init__(
        self,
        run_id: str,
        clock: Clock | None = None,
        about: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._run_id = run_id
        self._about = about
        self._clock = clock or SystemClock()
        self._kind = ""
        self._subject: object = None
        self._told_s = 0.0

    def report(self, wait: Wait) -> None:
        """Log a wait of a new kind at once, and news of the old kind every 10 s at most."""
        if wait.kind == NO_COORDINATOR:
            # Who dials it has logged more than that.
            return
        now_s = self._clock.monotonic()
        is_due = now_s - self._told_s >= EXPLAIN_EVERY_S
        if wait.kind != self._kind or (wait.subject != self._subject and is_due):
            self._kind, self._subject, self._told_s = wait.kind, wait.subject, now_s
            logger.info("%s", wait, extra={"run": self._run_id, **self._about()})

    def done(self) -> None:
        """Begin anew with the next wait."""
        self._kind, self._subject = "", None


def duration(seconds: float) -> str:
    """Return a time for people: `41 s`, `9 min 20 s`, `3 h 5 min`."""
    whole = max(round(seconds), 0)
    if whole < 100:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
