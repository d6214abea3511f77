"""How nodes that have finished wait for those that have not.

When all workers of a node have exited with 0, the node has finished, and whatever happens then its
agent exits with 0. It must not just go: to the others that would look like a loss, and they would
stop their workers and regroup. So it counts itself in the store of the round, and waits until one
of four things happens.

* Everyone has finished. The one that counts itself last tells the others through the store, all
  close the run as succeeded (the first one does), and a latecomer is told so instead of waiting
  for members that will not come.
* The run is closed: by one that knew before us that everyone has finished, by an operator, or
  because a member failed for good. There is nothing left to wait for.
* The world is to change: a member that had not finished was lost, or is back to regroup, or a
  newcomer is to be admitted. A finished node does not start its workers a second time, since their
  work is done and a program without checkpoints would do it all again. Neither does it stay, since
  the others would wait for it as for a straggler (R10). It leaves, and the rest regroup at once if
  they are enough. It does not close the run: work is undone, and a lost node that comes again may
  do it.
* The barrier's time is up. The others still work, and leaving would make them regroup. The run is
  closed as succeeded instead: that ends all regrouping and disturbs nobody's workers (R8). This is
  what torchrun does.

Nobody closes the run as succeeded while a member is known to be lost unfinished.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from quorate.clock import Clock

__all__ = ["BarrierStore", "Ending", "await_others"]

FINISHED = "quorate/finished"
ALL_FINISHED = "quorate/all_finished"

# Nodes mostly finish within moments of each other; those that do not cost the store little.
POLL_FIRST_S = 0.05
POLL_LAST_S = 1.0


class BarrierStore(Protocol):
    """As much of a store as the barrier needs; torch's stores have it too."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number and return the sum."""
        ...

    def set(self, key: str, value: str, /) -> Any:
        """Give a key a value."""
        ...

    def check(self, keys: Sequence[str], /) -> bool:
        """Return whether all keys are there."""
        ...


class Ending(enum.Enum):
    """What ended the wait."""

    EVERYONE = "everyone has finished"
    CLOSED = "the run is closed"
    CHANGE = "the world is to change"
    TIMEOUT = "the time is up"


def await_others(
    store: BarrierStore,
    nodes: int,
    is_closed: Callable[[], bool],
    is_changing: Callable[[], bool],
    clock: Clock,
    timeout_s: float,
) -> Ending:
    """Count this node as finished, and wait for the others.

    Args:
        store: The store of the round.
        nodes: The number of nodes in the round.
        is_closed: Returns whether the run is closed.
        is_changing: Returns whether the world is to change.
        clock: Measures the time.
        timeout_s: How long to wait, in seconds.
    """
    deadline = clock.monotonic() + timeout_s
    if store.add(FINISHED, 1) >= nodes:
        store.set(ALL_FINISHED, "1")
        return Ending.EVERYONE
    pause_s = POLL_FIRST_S
    while True:
        if store.check([ALL_FINISHED]):
            return Ending.EVERYONE
        if is_closed():
            return Ending.CLOSED
        if is_changing():
            return Ending.CHANGE
        remaining_s = deadline - clock.monotonic()
        if remaining_s <= 0:
            return Ending.TIMEOUT
        clock.sleep(min(pause_s, remaining_s))
        pause_s = min(2 * pause_s, POLL_LAST_S)
