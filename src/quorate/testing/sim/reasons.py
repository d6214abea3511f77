"""Whether a world should be left for the next one (R8), in a reading of its own."""

from __future__ import annotations

from quorate.core.node import NodeDesc
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState, WorldName
from quorate.testing.sim.gathering import ROUNDING_S, wanted

__all__ = ["Newcomers", "is_broken"]


def is_broken(
    state: RendezvousState, settings: RendezvousSettings, node: NodeDesc, holding: WorldName
) -> bool:
    """Return whether a world should change, whoever may wait for a place in it.

    Args:
        state: The state of the run.
        settings: The settings of the run.
        node: Who asks.
        holding: The world that it was given.
    """
    if state.closed:
        return False
    is_over = not state.complete or state.name != holding or node not in state.participants
    is_too_large = len(state.participants) > wanted(state, settings)
    return is_over or bool(state.departed) or is_too_large


class Newcomers:
    """Those who wait for a place beside a world.

    They are a reason to regroup once they fill it, or one last call after the first of them came;
    never while the operator holds the run, when members have begun to finish, or where they do not
    fill a unit.

    Args:
        settings: The settings of the run.
    """

    def __init__(self, settings: RendezvousSettings) -> None:
        self._settings = settings
        self._came_s: dict[NodeDesc, float] = {}
        self._fit_since: tuple[NodeDesc, float] | None = None

    def look(self, state: RendezvousState, now_s: float) -> None:
        """Note who waits since when. Call it before anything happens, and after.

        Args:
            state: The state of the run.
            now_s: The coordinator's time.
        """
        if not (self._came_s or state.wait_list):
            return
        self._came_s = {node: self._came_s.get(node, now_s) for node in state.wait_list}
        first = next(iter(state.wait_list), None)
        if first is None or not self._fit(state):
            self._fit_since = None
        elif self._fit_since is None or self._fit_since[0] != first:
            self._fit_since = (first, now_s)

    def may_count(self, state: RendezvousState, now_s: float) -> bool:
        """Return whether they may be a reason by now."""
        if not self._fit(state):
            return False
        return self._fill(state) or self._is_over(min(self._came_s.values(), default=now_s), now_s)

    def must_count(self, state: RendezvousState, now_s: float) -> bool:
        """Return whether they must be a reason by now: nothing has held them off meanwhile."""
        if not self._fit(state):
            return False
        since = self._fit_since
        return self._fill(state) or (since is not None and self._is_over(since[1], now_s))

    def _is_over(self, since_s: float, now_s: float) -> bool:
        last_call_s = self._settings.timeout.last_call.total_seconds()
        return now_s - since_s + ROUNDING_S >= last_call_s

    def _fit(self, state: RendezvousState) -> bool:
        """Return whether a world that was completed now would have some of them in it."""
        if not state.complete or state.closed or state.held or state.finishing:
            return False
        there = len(state.participants)
        size = there + len(state.wait_list) + len(state.redundancy_list)
        size = min(size, wanted(state, self._settings))
        return bool(state.wait_list) and size - size % self._settings.node_unit > there

    def _fill(self, state: RendezvousState) -> bool:
        there = len(state.participants)
        return there + len(state.wait_list) >= wanted(state, self._settings)
