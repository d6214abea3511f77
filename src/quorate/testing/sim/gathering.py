"""When a round should be complete (R4), and who is late (R10), in a reading of its own."""

from __future__ import annotations

from collections.abc import Collection

from quorate.core.node import NodeDesc
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState, World, WorldName

__all__ = ["Gathering", "are_enough", "still_to_join", "wanted"]

# What it takes to add up times.
ROUNDING_S = 1e-6


def wanted(state: RendezvousState, settings: RendezvousSettings) -> int:
    """Return the size at which a round is complete at once: the operator's, or the largest."""
    wish = settings.max_nodes if state.desired_nodes is None else state.desired_nodes
    return min(max(wish, settings.min_nodes), settings.max_nodes)


def still_to_join(state: RendezvousState) -> list[NodeDesc]:
    """Return who is attached and may still join: not those who came too late."""
    there = state.participants.keys() | state.stragglers.keys()
    return [node for node in state.last_heartbeats if node not in there]


def are_enough(
    last: World | None,
    departed: Collection[NodeDesc],
    joined: Collection[NodeDesc],
    settings: RendezvousSettings,
) -> bool:
    """Return whether those who came back from the last world are enough for one by themselves.

    Args:
        last: The last world of the epoch.
        departed: Who has left it, or was lost.
        joined: Who has joined the round after it.
        settings: The settings of the run.
    """
    members = () if last is None else last.members
    back = [node for node in members if node in joined and node not in departed]
    return len(back) >= settings.min_nodes


class Gathering:
    """The rounds that are filled under one coordinator.

    Args:
        settings: The settings of the run.
    """

    def __init__(self, settings: RendezvousSettings) -> None:
        self._settings = settings
        self._enough: tuple[WorldName, float] | None = None
        self._regroup: tuple[WorldName, float] | None = None

    def look(self, state: RendezvousState, now_s: float) -> None:
        """Note since when there are enough nodes, and since when members come back.

        Call it before anything happens, and after.

        Args:
            state: The state of the run.
            now_s: The coordinator's time.
        """
        if state.complete or len(state.participants) < self._settings.min_nodes:
            self._enough = None
        elif self._enough is None or self._enough[0] != state.name:
            self._enough = (state.name, now_s)
        if state.complete or not state.survivors:
            self._regroup = None
        elif self._regroup is None or self._regroup[0] != state.name:
            self._regroup = (state.name, now_s)

    def too_early(
        self,
        state: RendezvousState,
        now_s: float,
        kept: Collection[NodeDesc],
        last: World | None,
        departed: Collection[NodeDesc],
    ) -> str:
        """Return why a round should not be complete that is now, empty if it should be.

        Call it before `look`.

        Args:
            state: The state, with the new world.
            now_s: The coordinator's time.
            kept: For whom places were kept just before.
            last: The last world of the epoch.
            departed: Who had left that one just before.
        """
        assert state.world is not None
        members, others = state.world.members, still_to_join(state)
        if state.held:
            return "the operator holds it open"
        if len(members) >= wanted(state, self._settings):
            return ""
        in_line = state.wait_list.keys() | state.redundancy_list.keys()
        missing = [node for node in kept if node in others and node not in in_line]
        if missing:
            return f"{missing} are still to come back"
        # Who does not fill a unit has joined, and waits again.
        is_enough = are_enough(last, departed, {*members, *in_line}, self._settings)
        if is_enough and len(others) < self._settings.node_unit:
            return ""
        called_s = now_s - self._enough[1] if self._enough is not None else 0.0
        last_call_s = self._settings.timeout.last_call.total_seconds()
        if called_s + ROUNDING_S >= last_call_s:
            return ""
        return f"others may still join, and the last call has lasted for {called_s} s"

    def dropped_early(
        self, state: RendezvousState, now_s: float, kept: Collection[NodeDesc]
    ) -> list[NodeDesc]:
        """Return who has lost its place for being late, and was not (R10). Call it before `look`.

        Args:
            state: The state of the run.
            now_s: The coordinator's time.
            kept: For whom places were kept just before.
        """
        since_s = self._regroup[1] if self._regroup is not None else now_s
        if now_s - since_s + ROUNDING_S >= self._settings.timeout.regroup.total_seconds():
            return []
        late = state.stragglers.keys() & state.departed.keys()
        return [node for node in kept if node in late and node not in state.draining]

    def overdue(self, state: RendezvousState) -> str:
        """Return why a round should be complete that is not, empty if it should not be.

        Args:
            state: The state, with all consequences drawn.
        """
        joined = len(state.participants)
        waits = state.complete or state.closed or state.held
        if waits or joined < self._settings.min_nodes:
            return ""
        if joined >= wanted(state, self._settings):
            return f"all {joined} are here"
        is_enough = are_enough(state.world, state.departed, state.participants, self._settings)
        if is_enough and not state.survivors and not still_to_join(state):
            return f"all {joined} that are left are back"
        return ""
