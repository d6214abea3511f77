"""All runs of a coordinator, each with its stores, and what of them lies in the ledger. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from quorate.clock import Clock
from quorate.coordinator.engine.clock import EngineClock, EngineObserver
from quorate.coordinator.ledgers.records import EntryKey, parse_key, seen_key, store_key
from quorate.coordinator.ledgers.stored_state import StoredState
from quorate.coordinator.runs.deadlines import Deadlines
from quorate.coordinator.runs.history import Event, History
from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.store import RunStore
from quorate.coordinator.runs.tally import Tally
from quorate.core.state import RendezvousState
from quorate.errors import (
    RendezvousError,
    RendezvousLimitError,
    RendezvousStateError,
    translating,
)
from quorate.stores.keyspace import entry_bytes
from quorate.undecodable import UNDECODABLE

__all__ = ["CLOSED_KEPT_S", "Holdings"]

# How long a closed run is remembered that nobody is attached to, so that latecomers are told how
# it ended and do not begin it anew; the join timeout's default: nobody is on the way for longer.
CLOSED_KEPT_S = 600.0

# How long the worlds of an open run are kept that nobody is attached to.
IDLE_KEPT_S = 3600.0

# How long a run is kept to which nobody is connected and that nobody would miss: a stranger needs
# one word for each.
EMPTY_KEPT_S = 15.0

RUNS_MAX = 10_000

# Nobody waits for the deletion of stores that are over, and they may be larger than what a ledger
# writes at once: about so much of their keys is deleted with each write.
DELETED_BYTES_MAX = 1024 * 1024

_CORRUPT: dict[type[BaseException], type[RendezvousError]] = {
    ValueError: RendezvousStateError,
    OverflowError: RendezvousStateError,
    **dict.fromkeys(UNDECODABLE, RendezvousStateError),
}


class _HeldRequest(NamedTuple):
    """A request to a store that waits for a key."""

    run_id: str
    connection: int
    request_id: int


class Holdings:
    """What a coordinator has: its runs and their stores.

    Args:
        clock: The engine's time.
        machine_clock: The coordinator's clock, whose wall-clock time says when a run has changed.
        mint: Returns new random text, for epochs.
        outbox: Where runs and stores put what is to be sent.
        tally: Where what happens is counted.
        closed_kept_s: How long a closed run is remembered that nobody is attached to, in seconds.

    Attributes:
        runs: The runs, by their ids.
        stores: The stores of each run, by its id.
    """

    def __init__(
        self,
        clock: EngineClock,
        machine_clock: Clock,
        mint: Callable[[], str],
        outbox: Outbox,
        tally: Tally,
        closed_kept_s: float,
    ) -> None:
        self.runs: dict[str, Run] = {}
        self.stores: dict[str, RunStore] = {}
        self._clock = clock
        self._machine_clock = machine_clock
        self._mint = mint
        self._outbox = outbox
        self._tally = tally
        self._closed_kept_s = closed_kept_s
        self._stored: dict[str, StoredState] = {}
        self._held: Deadlines[_HeldRequest] = Deadlines(self._is_held)
        self._touched: set[str] = set()
        self._eventful: dict[str, None] = {}
        self._idle_since_s: dict[str, float] = {}
        self._forgotten: dict[str, bytes | None] = {}
        self._obsolete: dict[str, None] = {}

    def load(self, records: Mapping[str, bytes], is_shared: bool) -> None:
        """Take over what a ledger holds.

        Args:
            records: What it holds.
            is_shared: Whether coordinators on other machines write it too: by their wall clocks
                nobody can tell here how long ago something was (R9).

        Raises:
            RendezvousStateError: It holds what no coordinator has written.
        """
        entries: dict[str, dict[EntryKey, bytes]] = {}
        rounds: dict[str, dict[EntryKey, bytes]] = {}
        run_ids: list[str] = []
        seen: dict[str, float] = {}
        for text, value in records.items():
            with translating(_CORRUPT, f"Reading the entry {text!r} of the coordinator's ledger"):
                key = parse_key(text)
                if key.kind == "run":
                    run_ids.append(key.run_id)
                elif key.kind == "seen":
                    seen[key.run_id] = msgspec.msgpack.decode(value, type=float)
                elif key.kind in {"round", "end"}:
                    rounds.setdefault(key.run_id, {})[key] = value
                elif key.kind != "amendment":
                    entries.setdefault(key.run_id, {})[key] = value
        for run_id in run_ids:
            with translating(_CORRUPT, f"Loading the run '{run_id}' from the ledger"):
                stored = self._stored[run_id] = StoredState(run_id)
                run = self._add(run_id, stored.load(records))
                self.stores[run_id].load(entries.pop(run_id, {}))
                run.history.load(rounds.get(run_id, {}), run.state)
            self._open_store(run)
            if is_shared or run.sessions:
                continue
            # The stamp is this machine's own, and of the run's last change, which may be long ago:
            # it says how old a run is to which nobody was attached when the coordinator ended.
            age_s = self._machine_clock.now().timestamp() - seen.get(run_id, 0.0)
            if age_s > self._kept_s(run):
                self._forget(run_id)
        # A coordinator has ended while it deleted the stores of runs that it had forgotten.
        for left in entries.values():
            self._obsolete |= dict.fromkeys(map(store_key, left))

    def ensure(self, run_id: str) -> Run:
        """Return a run, which begins if there is none under this id.

        Raises:
            RendezvousLimitError: There are too many.
        """
        if run_id not in self.runs:
            if len(self.runs) >= RUNS_MAX:
                raise RendezvousLimitError(
                    f"This coordinator already has {RUNS_MAX} runs: use another one."
                )
            self._stored[run_id] = StoredState(run_id)
            self._add(run_id, RendezvousState(epoch=self._mint()))
        return self.runs[run_id]

    def touch(self, run_id: str) -> Run:
        """Return a run that something happens to now."""
        run = self.runs[run_id]
        self._touched.add(run_id)
        self._eventful[run_id] = None
        run.observe()
        return run

    def hold(self, run_id: str, connection: int, request_id: int, timeout_s: float) -> None:
        """Let a request to a store wait for a key, for `timeout_s` seconds at most."""
        due_s = self._clock.monotonic() + timeout_s
        self._held.add(due_s, _HeldRequest(run_id, connection, request_id))

    def expire(self) -> None:
        """End the waits that have lasted too long, and forget runs that nobody has come back to."""
        now_s = self._clock.monotonic()
        for held in self._held.due(now_s):
            self.stores[held.run_id].expire(held.connection, held.request_id)
        for run_id, run in list(self.runs.items()):
            if run.is_connected:
                self._idle_since_s.pop(run_id, None)
            elif now_s - self._idle_since_s.setdefault(run_id, now_s) > self._kept_s(run):
                self._forget(run_id)

    def finish_failed_closes(self) -> None:
        """Decide on failed closes that waited for a write, or for a word that came during it."""
        for run_id in self._touched & self.runs.keys():
            self.runs[run_id].finish_failed_close()

    def take_changes(self) -> tuple[dict[str, bytes | None], bool]:
        """Let what has happened come to what follows from it; return what is to be stored.

        Returns:
            What has changed since the last time, as keys of a ledger (`None`: it is forgotten),
            and whether that has to survive a loss of power.
        """
        touched, self._touched = self._touched, set()
        changes, self._forgotten = self._forgotten, {}
        durable = bool(changes)
        for run_id in touched & self.runs.keys():
            run, store = self.runs[run_id], self.stores[run_id]
            run.settle()
            self._open_store(run)
            durable |= run.dirty
            changes |= _taken(store) | _taken(run.history)
            self._give_up(store)
            if run.dirty:
                changes |= self._take_state(run_id, run)
        return changes | self._take_obsolete(changes), durable

    def take_events(self) -> list[tuple[str, Event]]:
        """Return what has happened since the last time, each with its run."""
        eventful, self._eventful = self._eventful, dict.fromkeys(self._touched)
        events = []
        for run_id in eventful:
            run = self.runs.get(run_id)
            if run is not None:
                events += [(run_id, event) for event in run.events]
                run.events.clear()
        return events

    def _take_state(self, run_id: str, run: Run) -> dict[str, bytes | None]:
        nodes, run.touched, run.dirty = run.touched, {}, False
        run.revision += 1
        if run.rearranged:
            run.rearranged = False
            self._stored[run_id].store_whole_next()
        moment = self._machine_clock.now().timestamp()
        stamp: dict[str, bytes | None] = {seen_key(run_id): msgspec.msgpack.encode(moment)}
        return self._stored[run_id].changes(run.state, nodes) | stamp

    def _open_store(self, run: Run) -> None:
        store, world = self.stores[run.run_id], run.state.world
        if world is not None:
            store.open(world.name)
        else:
            store.clear()

    def _add(self, run_id: str, state: RendezvousState) -> Run:
        observer = EngineObserver(self._clock)
        run = Run(run_id, state, observer, self._outbox, self._tally.run(run_id))
        self.runs[run_id] = run
        self.stores[run_id] = RunStore(run_id, self._outbox)
        return run

    def _is_held(self, held: _HeldRequest) -> bool:
        store = self.stores.get(held.run_id)
        return store is not None and store.is_held(held.connection, held.request_id)

    def _kept_s(self, run: Run) -> float:
        if run.state.closed:
            return self._closed_kept_s
        return IDLE_KEPT_S if run.would_be_missed else EMPTY_KEPT_S

    def _forget(self, run_id: str) -> None:
        self._idle_since_s.pop(run_id, None)
        history = self.runs.pop(run_id).history
        self._tally.forget(run_id)
        store = self.stores.pop(run_id)
        self._held.sweep()
        stored = self._stored.pop(run_id).keys()
        for key in (*stored, *history.changes, *history.all_keys(), seen_key(run_id)):
            self._forgotten[key] = None
        self._give_up(store)
        self._obsolete |= dict.fromkeys((*store.changes, *store.all_keys()))

    def _give_up(self, store: RunStore) -> None:
        dropped, store.dropped = store.dropped, []
        self._obsolete |= dict.fromkeys(dropped)

    def _take_obsolete(self, changes: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
        """Return what else to delete with `changes`; under what is in these lies something new."""
        if self._obsolete:
            for key in changes:
                self._obsolete.pop(key, None)
        deleted: dict[str, bytes | None] = {}
        left_bytes = DELETED_BYTES_MAX
        while self._obsolete and left_bytes > 0:
            key, _ = self._obsolete.popitem()
            deleted[key] = None
            left_bytes -= entry_bytes(key, b"")
        return deleted


def _taken(holder: RunStore | History) -> dict[str, bytes | None]:
    changes, holder.changes = holder.changes, {}
    return changes
