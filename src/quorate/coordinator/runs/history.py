"""What has happened in a run: its rounds, and its last events. Pure.

A round's record is a difference to the round before, and is written once when the round completes
and once, briefly, when it ends: a ledger keeps them as long as the run. The moments in it are of
the coordinator's wall clock, for people: nothing is decided by them (R9).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from quorate.coordinator.ledgers.records import EntryKey, end_key, round_key
from quorate.coordinator.runs.herald import who_is_gone
from quorate.core.node import NodeDesc
from quorate.core.state import Moment, RendezvousState, World
from quorate.wire.messages import Report, report_of

__all__ = ["EVENT_KINDS", "Event", "History", "Round"]

# A run that regroups once an hour is known for ten days.
ROUNDS_KEPT = 256

# And however large the differences are, the ledger must be read at each start.
BYTES_KEPT = 8 * 1024 * 1024

EVENTS_KEPT = 512

# What is told at once has to fit into one message: names of 130,000 nodes take 7 MB, and compressed
# a fifth of it.
REPORT_BYTES_MAX = 8 * 1024 * 1024

EVENT_KINDS = (
    "joined",
    "returned",
    "lost",
    "left",
    "completed",
    "regroup",
    "closed",
    "held",
    "released",
    "scaled",
    "drained",
    "evicted",
    "promoted",
    "spare",
    "waiting",
)


class Event(msgspec.Struct, frozen=True):
    """Something that has happened.

    Args:
        at: When.
        kind: One of `EVENT_KINDS`.
        node: To whom; empty if to the whole run.
        round: The round that was complete, or being filled.
        text: What, for people.
        rank: The node's rank, if it has one.
    """

    at: datetime
    kind: str
    node: str
    round: int
    text: str
    rank: int | None = None


class _End(msgspec.Struct, array_like=True):
    at: Moment
    because: str


class Round(msgspec.Struct):
    """One round of a run, as a difference to the one before.

    Args:
        epoch: The epoch of the run's state.
        round: Its number.
        began_at: When the first node joined it, or came back for it.
        completed_at: When it was complete; `None` if it never was.
        duration_s: For how long its world stood, in seconds; `None` while it stands.
        ended_at: When its world ended; `None` while it stands.
        world_size: How many nodes it had; 0 if it was never complete.
        joined: Who is in its world, and was not in the one before.
        departed: Who was in the world before and is not in its own, and why.
        completed_because: Why it was complete.
        ended_because: Why it ended; empty while it stands.
    """

    epoch: str
    round: int
    began_at: Moment
    completed_at: Moment | None = None
    duration_s: float | None = None
    ended_at: Moment | None = None
    world_size: int = 0
    joined: list[str] = []
    departed: dict[str, str] = {}
    completed_because: str = ""
    ended_because: str = ""

    def end(self, at: datetime, because: str) -> None:
        """Note that the round is over."""
        self.ended_at, self.ended_because = at, because
        if self.completed_at is not None:
            # The wall clock may have been set back meanwhile.
            self.duration_s = max((at - self.completed_at).total_seconds(), 0.0)


class History:
    """The past of one run.

    Args:
        run_id: The run.
        state: Its state, new or loaded.

    Attributes:
        rounds: The last rounds, oldest first.
        events: The last events since the coordinator started, oldest first.
        changes: What has to be stored, or deleted where the value is `None`.
    """

    def __init__(self, run_id: str, state: RendezvousState) -> None:
        self.rounds: deque[Round] = deque()
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.changes: dict[str, bytes | None] = {}
        self._run_id = run_id
        self._sizes: deque[int] = deque()
        self._bytes = 0
        # What was answered last, while nothing new has happened: to make it takes long (R15).
        self._told: Report | None = None
        self._began_at: datetime | None = None
        self._standing: Round | None = None
        self._world = state.world
        # A completed round begins with a new, empty `departed`: this one still has who was lost.
        self._departed = state.departed

    def load(self, records: Mapping[EntryKey, bytes], state: RendezvousState) -> None:
        """Take over what a ledger holds of this run.

        Raises:
            msgspec.MsgspecError: It is not a history; so are others of `UNDECODABLE`.
            ValueError: A round lies in the place of another.
        """
        ends = {key.number: value for key, value in records.items() if key.kind == "end"}
        for key in sorted((key for key in records if key.kind == "round"), key=_number):
            record = msgspec.msgpack.decode(records[key], type=Round)
            if record.round != key.number:
                raise ValueError(f"round {record.round} lies where {key.number} must")
            if key.number in ends:
                end = msgspec.msgpack.decode(ends[key.number], type=_End)
                record.end(end.at, end.because)
            self._keep(record, len(records[key]))
        self.changes.clear()
        last = self.rounds[-1] if self.rounds else None
        if last is not None and last.ended_at is None and last.round == state.round:
            self._standing = last

    def note(self, event: Event) -> None:
        """Note an event."""
        self._told = None
        self.events.append(event)

    def observe(self, state: RendezvousState, at: datetime, because: str) -> None:
        """Look at the state after a change of it.

        Args:
            state: The state of the run.
            at: The present moment.
            because: Why the round is complete, if it is.
        """
        if state.world is not None and state.world is not self._world:
            self._complete(state.world, state, at, because)
        if self._standing is not None and (state.closed or not state.complete):
            self._end(self._standing, at, _why_ended(state))
            self._standing = None
        if state.complete:
            return
        if self._began_at is None and state.participants and not state.closed:
            self._began_at = at
        if self._began_at is not None and state.closed:
            record = Round(state.epoch, state.round, self._began_at)
            self._began_at = None
            record.end(at, _why_ended(state))
            self._store(record)

    def all_keys(self) -> Iterable[str]:
        """Return the keys of everything that is stored of it."""
        for record in self.rounds:
            yield round_key(self._run_id, record.round)
            yield end_key(self._run_id, record.round)

    def report(self, request_id: int) -> Report:
        """Return the answer to a question for it, which is made once for each change."""
        if self._told is None:
            self._told = report_of(request_id, self._json())
        return msgspec.structs.replace(self._told, id=request_id)

    def _json(self) -> bytes:
        """Return it as JSON: the newest rounds that fit into a message, and the events."""
        kept: list[bytes] = []
        left = REPORT_BYTES_MAX
        for record in reversed(self.rounds):
            data = msgspec.json.encode(record)
            left -= len(data)
            if left < 0:
                break
            kept.append(data)
        return msgspec.json.encode(
            {
                "run_id": self._run_id,
                "rounds": [msgspec.Raw(data) for data in reversed(kept)],
                "events": list(self.events),
            }
        )

    def _complete(self, world: World, state: RendezvousState, at: datetime, because: str) -> None:
        before = self._world.members if self._world is not None else ()
        known, members = set(before), set(world.members)
        gone = [node for node in before if node not in members]
        if self._standing is not None:
            # It has ended, and the next one is complete, since the last look.
            back = next((node for node in before if node in members), None)
            why = who_is_gone(self._departed) if self._departed else _who_is_back(back)
            self._end(self._standing, at, why)
        self._standing = Round(
            epoch=world.epoch,
            round=world.round,
            began_at=self._began_at or at,
            completed_at=at,
            world_size=len(world.members),
            joined=[str(node) for node in world.members if node not in known],
            departed={str(node): self._why_gone(state, node) for node in gone},
            completed_because=because,
        )
        self._world, self._departed, self._began_at = world, state.departed, None
        self._store(self._standing)

    def _why_gone(self, state: RendezvousState, node: NodeDesc) -> str:
        reason = self._departed.get(node)
        if reason is not None:
            return reason
        return "has no place in the new world" if node in state.last_heartbeats else "had finished"

    def _end(self, record: Round, at: datetime, because: str) -> None:
        self._told = None
        record.end(at, because)
        key = end_key(self._run_id, record.round)
        self.changes[key] = msgspec.msgpack.encode(_End(at, because))

    def _store(self, record: Round) -> None:
        data = msgspec.msgpack.encode(record)
        self._keep(record, len(data))
        self.changes[round_key(self._run_id, record.round)] = data

    def _keep(self, record: Round, size: int) -> None:
        self._told = None
        self.rounds.append(record)
        self._sizes.append(size)
        self._bytes += size
        while len(self.rounds) > ROUNDS_KEPT or (self._bytes > BYTES_KEPT and len(self.rounds) > 1):
            number = self.rounds.popleft().round
            self._bytes -= self._sizes.popleft()
            self.changes[round_key(self._run_id, number)] = None
            self.changes[end_key(self._run_id, number)] = None


def _number(key: EntryKey) -> int:
    return key.number


def _why_ended(state: RendezvousState) -> str:
    if state.closed:
        return f"closed: {state.closed_reason}"
    if state.departed:
        return who_is_gone(state.departed)
    if state.wait_list:
        return f"{len(state.wait_list)} newcomer(s) were waiting"
    world, wanted = state.world, state.desired_nodes
    if world is not None and wanted is not None and wanted < len(world.members):
        return f"the operator wants {wanted} node(s)"
    return _who_is_back(next(iter(state.participants), None))


def _who_is_back(first: NodeDesc | None) -> str:
    return f"{first} came back to regroup" if first is not None else "its members have gone"
