"""Many seeds in a row, and what came of them."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import NamedTuple

from quorate.testing.sim.coordinated import SimWorld
from quorate.testing.sim.direct import DirectWorld
from quorate.testing.sim.result import SimResult

__all__ = ["WAYS", "Tally", "play"]

WAYS: dict[str, type[SimWorld] | type[DirectWorld]] = {
    "coordinated": SimWorld,
    "direct": DirectWorld,
}

# How many seeds a process plays before it tells what came of them: about a second's work.
PART = 40


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

    def plus(self, other: Tally) -> Tally:
        """Return what came of the seeds of both."""
        return Tally(
            self.runs + other.runs,
            self.nodes + other.nodes,
            self.rounds + other.rounds,
            self.seconds + other.seconds,
            self.faults + other.faults,
            self.violations + other.violations,
        )


def play(
    way: str,
    seeds: Sequence[int],
    found: Callable[[SimResult], object] = lambda _: None,
    events_max: int | None = 200,
    jobs: int = 1,
    played: Callable[[Tally], object] = lambda _: None,
) -> Tally:
    """Play every seed.

    Args:
        way: One of `WAYS`.
        seeds: Which.
        found: Told of every violation, in the order of the seeds.
        events_max: How many events a trace keeps; `None` for all.
        jobs: How many processes play; with 1 it is this one.
        played: Told now and then what came of the seeds so far.
    """
    tally = Tally(0, 0, 0, 0.0, Counter(), [])
    for part in _parts(way, seeds, events_max, jobs):
        for result in part.violations:
            found(result)
        tally = tally.plus(part)
        played(tally)
    return tally


def _parts(way: str, seeds: Sequence[int], events_max: int | None, jobs: int) -> Iterator[Tally]:
    parts = [seeds[first : first + PART] for first in range(0, len(seeds), PART)]
    if jobs == 1:
        yield from map(_play_part, repeat(way), parts, repeat(events_max))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent) as pool:
        yield from pool.map(_play_part, repeat(way), parts, repeat(events_max))


def _end_with_parent() -> None:
    """End this process once the one that started it is gone: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _play_part(way: str, seeds: Sequence[int], events_max: int | None) -> Tally:
    results = [_played(way, seed, events_max) for seed in seeds]
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result.faults)
    return Tally(
        len(results),
        sum(result.nodes for result in results),
        sum(result.rounds for result in results),
        sum(result.seconds for result in results),
        faults,
        [result for result in results if result.violation is not None],
    )


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
