"""Many seeds in a row, and what came of them."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from quorate.testing.sim.coordinated import SimWorld
from quorate.testing.sim.direct import DirectWorld
from quorate.testing.sim.result import SimResult

__all__ = ["WAYS", "Tally", "play"]

WAYS: dict[str, type[SimWorld] | type[DirectWorld]] = {
    "coordinated": SimWorld,
    "direct": DirectWorld,
}


class Tally(NamedTuple):
    """What came of the seeds of one way.

    Args:
        runs: How many runs were played.
        nodes: How many nodes they began with, together.
        rounds: How many rounds were completed.
        seconds: How much virtual time has passed.
        faults: How many faults were injected, by kind.
        violations: The runs in which a rule was broken.
    """

    runs: int
    nodes: int
    rounds: int
    seconds: float
    faults: Counter[str]
    violations: list[SimResult]


def play(
    way: str,
    seeds: Iterable[int],
    found: Callable[[SimResult], object] = lambda _: None,
    events_max: int | None = 200,
) -> Tally:
    """Play every seed.

    Args:
        way: One of `WAYS`.
        seeds: Which.
        found: Told of every violation at once.
        events_max: How many events a trace keeps; `None` for all.
    """
    runs = nodes = rounds = 0
    seconds = 0.0
    faults: Counter[str] = Counter()
    violations = []
    for seed in seeds:
        result = _played(way, seed, events_max)
        runs += 1
        nodes += result.nodes
        rounds += result.rounds
        seconds += result.seconds
        faults.update(result.faults)
        if result.violation is not None:
            violations.append(result)
            found(result)
    return Tally(runs, nodes, rounds, seconds, faults, violations)


def _played(way: str, seed: int, events_max: int | None) -> SimResult:
    """Play one seed; whatever it leaves behind is collected at once, and not again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return WAYS[way](seed, events_max).run()
    finally:
        if was_enabled:
            gc.enable()
        gc.collect(1)
