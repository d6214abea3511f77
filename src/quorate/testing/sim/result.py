"""What came of one simulated world."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from quorate.testing.sim.trace import Violation

__all__ = ["SimResult"]


@dataclass(frozen=True)
class SimResult:
    """One seed, played to its end.

    Attributes:
        way: `coordinated` or `direct`.
        seed: What everything follows from.
        nodes: How many nodes there were at first.
        rounds: How many rounds were completed.
        seconds: How much virtual time has passed.
        faults: How many faults there were, by kind.
        violation: The rule that was broken, if one was.
        trace: The last events, oldest first; empty without a violation.
    """

    way: str
    seed: int
    nodes: int
    rounds: int
    seconds: float
    faults: Counter[str]
    violation: Violation | None = None
    trace: tuple[str, ...] = ()
