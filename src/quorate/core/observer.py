"""How old something is, judged on one's own clock only (R9)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from quorate.clock import Clock
from quorate.core.node import NodeDesc

__all__ = ["Observer"]


class _Sight(NamedTuple):
    value: object
    seen_s: float
    attended_s: float


class Observer:
    """Remembers when it first saw each value, and for how long it has really been watching.

    A value's age is the time since this observer first saw it, never the difference between a
    foreign stamp and the own clock. Life is judged on attended time: a stretch in which the
    observer itself was away (frozen, starved, without a backend) counts for `gap_max_s` only, and
    one in which nobody could have written does not count (`retract`).

    Args:
        clock: The clock of this observer.
        gap_max_s: The longest time between two calls of `tick` that counts as watching.
    """

    def __init__(self, clock: Clock, gap_max_s: float = 1.0) -> None:
        self._clock = clock
        self._gap_max_s = gap_max_s
        self._now_s = clock.monotonic()
        self._attended_s = 0.0
        self._confirmed_s = 0.0
        self._sights: dict[Hashable, _Sight] = {}
        self._beats: dict[Hashable, _Sight] = {}
        self._line: dict[Hashable, _Sight] = {}

    @property
    def now_s(self) -> float:
        """Return the monotonic time of the last tick, in seconds."""
        return self._now_s

    def stamp(self) -> datetime:
        """Return a moment to mark a value with."""
        return self._clock.now()

    def tick(self) -> None:
        """Read the clock; call it when the state has just been seen, before judging it."""
        now_s = self._clock.monotonic()
        self._attended_s += min(max(now_s - self._now_s, 0.0), self._gap_max_s)
        self._now_s = now_s

    def confirm(self) -> None:
        """Note that somebody has written: the time until now counts, whatever follows."""
        self._confirmed_s = self._attended_s

    def retract(self) -> None:
        """Take back the time since the last `confirm`, in which perhaps nobody could write."""
        self._attended_s = self._confirmed_s

    def age_s(self, what: Hashable, value: object) -> float:
        """Return how long ago, in seconds, this value of `what` was first seen."""
        return self._now_s - self._sight(self._sights, what, value).seen_s

    def beat_age_s(self, node: Hashable, value: object) -> float:
        """Return how long ago, in seconds, a node's own last heartbeat was first seen."""
        return self._now_s - self._sight(self._beats, node, value).seen_s

    def line_age_s(self, line: dict[NodeDesc, datetime]) -> float:
        """Return how long ago, in seconds, the one was first seen that is the first in a line.

        Each has an age of its own: when the first one goes, the next has waited already. Look at
        the line whenever it may have changed; what that takes does not grow with its length.

        Args:
            line: Who stands in it, with the moment of arrival; whoever comes is the last.

        Returns:
            The age; 0 if nobody stands in it.
        """
        for node in reversed(line):
            sight = self._line.get(node)
            if sight is not None and sight.value == line[node]:
                break
            self._sight(self._line, node, line[node])
        if len(self._line) > 2 * len(line):
            self._line = {node: sight for node, sight in self._line.items() if node in line}
        first = next(iter(line), None)
        if first is None:
            return 0.0
        return self._now_s - self._sight(self._line, first, line[first]).seen_s

    def silent(self, beats: Mapping[NodeDesc, datetime], limit_s: float) -> list[NodeDesc]:
        """Look at the heartbeats of all nodes that there are; those of others are forgotten.

        Args:
            beats: The last heartbeat of each node.
            limit_s: For how much attended time, in seconds, a heartbeat may stay the same.

        Returns:
            The nodes whose heartbeat has stayed the same for longer.
        """
        silent = []
        sights, last_s = self._beats, self._attended_s - limit_s
        # Of a thousand nodes each looks at all the others with every exchange.
        for node, beat in beats.items():
            sight = sights.get(node)
            if sight is None or sight.value != beat:
                sights[node] = _Sight(beat, self._now_s, self._attended_s)
            elif sight.attended_s <= last_s:
                silent.append(node)
        if len(sights) > len(beats):
            self._beats = {node: sights[node] for node in beats}
        return silent

    def forget_all_but(self, kept: Iterable[Hashable]) -> None:
        """Drop what is no longer in the state, so that the memory stays bounded by it."""
        keep = set(kept)
        self._sights = {what: sight for what, sight in self._sights.items() if what in keep}

    def _sight(self, sights: dict[Hashable, _Sight], what: Hashable, value: object) -> _Sight:
        sight = sights.get(what)
        if sight is None or sight.value != value:
            sight = _Sight(value, self._now_s, self._attended_s)
            sights[what] = sight
        return sight
