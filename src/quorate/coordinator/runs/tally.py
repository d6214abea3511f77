"""What a coordinator counts, for those who watch it. Pure; `quorate.page.metrics` shows it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

__all__ = ["OTHER_RUNS", "RUNS_MAX", "Histogram", "RunTally", "Tally"]

# How many runs are counted by name: each costs whoever stores the figures a dozen series.
RUNS_MAX = 100

# What the runs beyond are counted under, together.
OTHER_RUNS = "(others)"

# In seconds. A loss is noticed in 2 to 15 s by default, a regroup takes up to the regroup timeout.
DETECTION_BOUNDS_S = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0)
REGROUP_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
COMMIT_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """How often a value was how large.

    Args:
        bounds: The greatest value of each class but the last, ascending.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class RunTally:
    """What is counted of one run.

    Args:
        detection: Takes how long it took to notice that a node is lost, in seconds.
        regroup: Takes how long it took from a change of the world to the next one, in seconds.
    """

    def __init__(self, detection: Histogram, regroup: Histogram) -> None:
        self.joins = 0
        self.rounds_completed = 0
        self.losses: Counter[str] = Counter()
        self.detection = detection
        self.regroup = regroup


class Tally:
    """What one coordinator has counted since it started; it never counts backwards."""

    def __init__(self) -> None:
        self.detection = Histogram(DETECTION_BOUNDS_S)
        self.regroup = Histogram(REGROUP_BOUNDS_S)
        self.commit = Histogram(COMMIT_BOUNDS_S)
        self.connections_opened = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.runs: dict[str, RunTally] = {}

    def run(self, run_id: str) -> RunTally:
        """Return what is counted of a run; runs above `RUNS_MAX` are counted as one."""
        if run_id not in self.runs and len(self.runs) >= RUNS_MAX:
            run_id = OTHER_RUNS
        return self.runs.setdefault(run_id, RunTally(self.detection, self.regroup))

    def forget(self, run_id: str) -> None:
        """Count a run no more: it has ended long ago."""
        self.runs.pop(run_id, None)
