"""What happened in a simulated world: the last events in words, and every fault counted."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from quorate.testing.sim.schedule import Schedule

__all__ = ["Trace", "Violation"]


class Violation(Exception):
    """A rule was broken.

    Args:
        rule: The number of the rule, as in docs/architecture.md.
        what: What was seen.
    """

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(rule, what)
        self.rule = rule
        self.what = what

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


class Trace:
    """Notes what happens. Texts are put together only when somebody reads them.

    Args:
        schedule: Gives the time.
        events_max: How many of the last events are kept; `None` for all.
    """

    def __init__(self, schedule: Schedule, events_max: int | None = 200) -> None:
        self.faults: Counter[str] = Counter()
        self._schedule = schedule
        self._events: deque[tuple[float, str, str, tuple[Any, ...]]] = deque(maxlen=events_max)

    def note(self, who: str, text: str, *arguments: Any) -> None:
        """Note an event; `arguments` fill the `{}` of the text."""
        self._events.append((self._schedule.now_s, who, text, arguments))

    def fault(self, kind: str, who: str, text: str = "", *arguments: Any) -> None:
        """Note and count a fault."""
        self.faults[kind] += 1
        self.note(who, f"FAULT {kind} {text}", *arguments)

    def lines(self) -> list[str]:
        """Return the events that are kept, oldest first."""
        return [
            f"{at_s:9.3f} {who:8} {text.format(*arguments)}"
            for at_s, who, text, arguments in self._events
        ]
