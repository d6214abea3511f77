"""Whole runs of many nodes in one thread and in virtual time: a seed replays any failure.

`SimWorld` plays the coordinated way, `DirectWorld` the direct one. The rules' code is the real one
throughout; sockets, timers, disks and machines are played, with their faults. On the command line:

    python -m quorate.testing.sim --seeds 1-1000
    python -m quorate.testing.sim --replay 42 --ways coordinated --trace
"""

from __future__ import annotations

from quorate.testing.sim.coordinated import SimWorld
from quorate.testing.sim.direct import DirectWorld
from quorate.testing.sim.result import SimResult
from quorate.testing.sim.trace import Violation

__all__ = ["DirectWorld", "SimResult", "SimWorld", "Violation"]
