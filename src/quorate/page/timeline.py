"""What the page shows of one run: a lane for each node, a band for each round, events. Pure.

A `Timeline` compares what it is shown with what it was shown before. What has changed is kept in
the lanes, and said as a diff, which a viewer adds to what it has:

    timeline.observe(glimpse(run), now_s)    -> steps; then there is a new version, or nothing new
    timeline.diff(now_s)                     -> what is new, as JSON in parts
    timeline.snapshot(now_s)                 -> everything, as JSON in parts

Between two steps or two parts something else may be done, but not to the timeline. A diff goes from
one version to the next; a viewer of another version, or of another timeline of the run, asks for
everything. Times are seconds since 1970 on the coordinator's clock, for people only: nothing is
decided by them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from math import inf
from typing import Any

from quorate.coordinator.engine.glimpse import Glimpse, Standing
from quorate.coordinator.engine.parts import PART_NODES, Parts, members, opened
from quorate.coordinator.runs.history import Event, Round
from quorate.core.node import NodeDesc, NodeProfile

__all__ = ["GONE_MAX", "ROUNDS_MAX", "STEPS_MAX", "Timeline"]

# How much is remembered of one run: the last changes of each node, the lanes of nodes that are
# gone, rounds, events. A lane of a few changes takes about a kilobyte.
STEPS_MAX = 32
GONE_MAX = 1000
ROUNDS_MAX = 256
EVENTS_MAX = 200

# More nodes than this to which the same happens between two looks are one event.
NAMED_MAX = 4

# How far apart the moments of two looks may be that are the same: a second is what people are told.
SAME_MOMENT_S = 1.0

LOST = "lost"
GONE = "gone"

# Whoever is lost or turned out was wanted; others go because they are done.
_LOSSES = ("lost", "evicted")

_UNKNOWN = ("", "")


class Lane:
    """One node's life, as a viewer draws it.

    Args:
        number: What the lane is called in diffs.
        node: The node.
        profile: What it says about itself.
    """

    __slots__ = ("marks", "node", "number", "profile", "standing", "steps")

    def __init__(self, number: int, node: NodeDesc, profile: NodeProfile) -> None:
        self.number = number
        self.node = node
        self.profile = profile
        self.marks = (True, "")
        self.standing: Standing | None = None
        self.steps: deque[tuple[float, str, int | None, str]] = deque(maxlen=STEPS_MAX)

    def row(self) -> dict[str, Any]:
        """Return the lane for a viewer that does not have it."""
        return {
            "lane": self.number,
            "node": str(self.node),
            "addr": self.node.addr,
            "node_id": self.profile.node_id,
            "labels": self.profile.labels,
            "marks": self.marks,
            "steps": list(self.steps),
        }


class Timeline:
    """The recent past of one run, and its present.

    Args:
        run_id: The run.
        name: What no other timeline is called: another one of the same run has the same versions,
            and other lanes under the same numbers.
    """

    def __init__(self, run_id: str, name: str) -> None:
        self.name = name
        self.version = 0
        self._run_id = run_id
        self._numbers = 0
        self._lanes: dict[NodeDesc, Lane] = {}
        self._gone: deque[Lane] = deque()
        self._rounds: dict[tuple[str, int], dict[str, Any]] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._last_event: Event | None = None
        self._missed = False
        self._head: dict[str, Any] = {"run": run_id}
        self._waiting: tuple[str, float | None] = ("", None)
        self._news: _News = _News()

    @property
    def head(self) -> dict[str, Any]:
        """What is said of the run as a whole."""
        return self._head

    def observe(self, seen: Glimpse, now_s: float) -> Iterator[None]:
        """Take note of how a run is now, `PART_NODES` nodes a step; go on to the end.

        If something is new there is a new version then, and `diff` leads to it.
        """
        self._news = _News()
        happened = self._unseen(seen.events)
        self._follow_rounds(seen.rounds)
        yield from self._follow_nodes(seen, happened, now_s)
        self._follow_events(happened, seen)
        head = self._describe(seen, now_s)
        if head != self._head or self._news:
            self._head = head
            self.version += 1

    def diff(self, now_s: float) -> Parts:
        """Yield what leads from the version before this one to this one, as JSON."""
        head = {
            "run": self._run_id,
            "timeline": self.name,
            "from": self.version - 1,
            "version": self.version,
            "now": now_s,
            "head": self._head,
        }
        yield PART_NODES, opened(head)
        yield from self._news.parts()
        yield 0, b"}"

    def snapshot(self, now_s: float) -> Parts:
        """Yield everything, as JSON."""
        head = {
            "run": self._run_id,
            "timeline": self.name,
            "version": self.version,
            "now": now_s,
            "head": self._head,
            "rounds": list(self._rounds.values()),
            "events": list(self._events),
        }
        yield PART_NODES, opened(head) + b',"lanes":['
        yield from members(list, (lane.row() for lane in chain(self._gone, self._lanes.values())))
        yield 0, b"]}"

    def _unseen(self, events: Sequence[Event]) -> list[Event]:
        """Return the events since the last look; the oldest may be forgotten already."""
        found: list[Event] = []
        for event in reversed(events):
            if event is self._last_event:
                break
            found.append(event)
        self._missed = bool(self._last_event) and len(found) == len(events)
        if found:
            self._last_event = found[0]
        return found[::-1]

    def _follow_rounds(self, rounds: Sequence[Round]) -> None:
        changed: list[dict[str, Any]] = []
        for record in reversed(rounds):
            band = _band(record)
            name = (record.epoch, record.round)
            known = self._rounds.get(name)
            if known == band:
                break
            changed.append(band)
            if known is not None:
                self._rounds[name] = band
        for band in reversed(changed):
            self._rounds.setdefault((band["epoch"], band["round"]), band)
        while len(self._rounds) > ROUNDS_MAX:
            del self._rounds[next(iter(self._rounds))]
        self._news.rounds = changed[:ROUNDS_MAX][::-1]

    def _follow_nodes(self, seen: Glimpse, happened: list[Event], now_s: float) -> Iterator[None]:
        fates = {event.node: (event.kind, event.text) for event in happened if event.node}
        # Sets made of dictionaries take their hashes over, which views compute anew.
        for node in set(self._lanes) - set(seen.profiles):
            self._retire(self._lanes.pop(node), seen, fates.get(str(node), _UNKNOWN), now_s)
        began_s = self._began_s(seen, now_s)
        nodes = zip(seen.nodes, seen.connections, strict=True)
        while some := list(islice(nodes, PART_NODES)):
            for node, connection in some:
                standing = seen.standing(node)
                lane = self._lanes.get(node) or self._new_lane(node, seen.profiles[node])
                if lane.standing != standing:
                    self._step(lane, standing, now_s if standing.rank is None else began_s)
                marks = (connection is not None, seen.draining.get(node, ""))
                if lane.marks != marks:
                    lane.marks = marks
                    self._news.marks[lane.number] = marks
            if len(some) == PART_NODES:
                yield

    def _began_s(self, seen: Glimpse, now_s: float) -> float:
        """Return since when the members of the world are in it."""
        last = seen.rounds[-1] if seen.rounds else None
        if self._lanes or last is None or last.completed_at is None:
            return now_s
        # Before the first look nothing is known of nodes; of the round it is.
        return min(last.completed_at.timestamp(), now_s)

    def _follow_events(self, happened: list[Event], seen: Glimpse) -> None:
        alike: dict[tuple[str, str], list[Event]] = {}
        for event in happened:
            alike.setdefault((event.kind, event.text.replace(event.node, "")), []).append(event)
        because = {record.round: record.completed_because for record in list(seen.rounds)[-8:]}
        for (kind, text), events in alike.items():
            if len(events) > NAMED_MAX:
                words = " ".join(text.split()).replace(" :", ":")
                count = f"at least {len(events)}" if self._missed else str(len(events))
                self._add_event(kind, f"{count} nodes: {words}", events[-1].at.timestamp())
                continue
            for event in events:
                why = because.get(event.round, "") if kind == "completed" else ""
                self._add_event(kind, _sentence(event, why), event.at.timestamp())

    def _describe(self, seen: Glimpse, now_s: float) -> dict[str, Any]:
        waiting_since_s = self._waits_since(seen, now_s)
        return {
            "run": seen.run_id,
            "epoch": seen.epoch,
            "round": seen.round,
            "phase": seen.phase,
            "closed_reason": seen.closed_reason,
            "waiting_for": seen.waiting_for,
            "waiting_since": waiting_since_s,
            "min_nodes": seen.min_nodes,
            "max_nodes": seen.max_nodes,
            "desired_nodes": seen.desired_nodes,
            "node_unit": seen.node_unit or 1,
            "held": seen.held,
            "counts": seen.counts(),
            "lost": len(seen.departed),
            "cut_off": seen.connections.count(None),
            "bans": len(seen.bans),
        }

    def _waits_since(self, seen: Glimpse, now_s: float) -> float | None:
        """Return since when somebody waits for what is waited for; `None` while nobody does."""
        since_s = None if seen.waits_for_s is None else round(now_s - seen.waits_for_s, 3)
        kind, known_s = self._waiting
        apart_s = inf if since_s is None or known_s is None else abs(since_s - known_s)
        # The same moment on two clocks, which is told once.
        if kind != seen.waiting_kind or apart_s > SAME_MOMENT_S:
            self._waiting = (seen.waiting_kind, since_s)
        return self._waiting[1]

    def _new_lane(self, node: NodeDesc, profile: NodeProfile) -> Lane:
        self._numbers += 1
        lane = self._lanes[node] = Lane(self._numbers, node, profile)
        self._news.lanes.append(lane)
        return lane

    def _step(self, lane: Lane, standing: Standing, now_s: float, why: str = "") -> None:
        lane.standing = standing
        step = (now_s, standing.state, standing.rank, why)
        lane.steps.append(step)
        self._news.steps[lane.number] = step

    def _retire(self, lane: Lane, seen: Glimpse, fate: tuple[str, str], now_s: float) -> None:
        kind, text = fate
        reason = seen.departed.get(lane.node, "") or text
        lost = kind in _LOSSES or reason.startswith(LOST)
        self._step(lane, Standing(LOST if lost else GONE), now_s, reason)
        self._gone.append(lane)
        if len(self._gone) > GONE_MAX:
            self._news.forgotten.append(self._gone.popleft().number)

    def _add_event(self, kind: str, text: str, at_s: float) -> None:
        event = {"at": at_s, "kind": kind, "text": text}
        self._events.append(event)
        self._news.events.append(event)


class _News:
    """What has happened between two versions."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.steps: dict[int, tuple[float, str, int | None, str]] = {}
        self.marks: dict[int, tuple[bool, str]] = {}
        self.forgotten: list[int] = []
        self.rounds: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []

    def __bool__(self) -> bool:
        return any(self.__dict__.values())

    def parts(self) -> Parts:
        """Yield what there is, by its name, each after a comma."""
        new = {lane.number for lane in self.lanes}
        rows: dict[str, Iterable[Any]] = {
            "lanes": (lane.row() for lane in self.lanes),
            "steps": ([lane, *step] for lane, step in self.steps.items() if lane not in new),
            "marks": ([lane, *marks] for lane, marks in self.marks.items() if lane not in new),
        }
        for name, found in self.__dict__.items():
            if found:
                yield 0, f',"{name}":['.encode()
                yield from members(list, rows.get(name, found))
                yield 0, b"]"


def _band(record: Round) -> dict[str, Any]:
    return {
        "epoch": record.epoch,
        "round": record.round,
        "size": record.world_size,
        "completed": record.completed_at.timestamp() if record.completed_at else None,
        "ended": record.ended_at.timestamp() if record.ended_at else None,
        "why": record.completed_because,
        "end": record.ended_because,
    }


def _sentence(event: Event, why: str) -> str:
    text = f"{event.text}: {why}" if why else event.text
    return text if not event.node or event.node in text else f"{event.node}: {text}"
