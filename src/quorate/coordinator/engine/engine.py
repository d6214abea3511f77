"""The coordinator without its sockets: messages and ticks in, batches and sends out. Pure.

How to drive it, as `server` and the simulator do:

    engine = Engine(ledger.load(), clock, mint)
    engine.opened(connection)                     a peer has connected
    engine.receive(connection, message)           for each decoded request
    engine.closed(connection, finished)           its connection is gone
    engine.tick()                                 several times a second

    batch = engine.take_batch()                   then, whenever something was handed in
    ledger.commit(batch.changes)                  if there is one: store it, retry until stored
    engine.settle(batch)                          and only now are its answers let out
    for send in engine.take_sends(): ...

    while engine.has_chores:                      what takes long is done in slices: between two of
        engine.carry_on()                         them, others are served; then as above

While a batch is being stored, requests queue up and become the next batch: one write for many
agents (group commit). Nobody is answered from a state that is not stored (R14), pongs excepted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import count
from typing import NamedTuple, TypeVar

import msgspec

from quorate.clock import Clock
from quorate.coordinator.engine.greeting import require_modest, require_sound
from quorate.coordinator.engine.naming import nearest
from quorate.coordinator.engine.operators import act
from quorate.coordinator.engine.reports import Reports, View
from quorate.coordinator.ledgers.records import EntryKey, parse_key, seen_key
from quorate.coordinator.ledgers.stored_state import StoredState
from quorate.coordinator.runs.deadlines import Deadlines
from quorate.coordinator.runs.history import Event
from quorate.coordinator.runs.outbox import Outbox, Send
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.session import Session
from quorate.coordinator.runs.store import RunStore
from quorate.coordinator.runs.tally import Tally
from quorate.core.observer import Observer
from quorate.core.settings import PROTOCOL_VERSION
from quorate.core.state import RendezvousState
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousStateError,
    translating,
)
from quorate.undecodable import UNDECODABLE
from quorate.wire.messages import (
    ROLE_AGENT,
    ROLE_OPERATOR,
    AddNumber,
    CheckKeys,
    Close,
    CompareSet,
    CountKeys,
    DeleteKey,
    Drain,
    Evict,
    Finish,
    GetValue,
    GetWorld,
    Hello,
    History,
    Hold,
    Join,
    Leave,
    OperatorRequest,
    Ping,
    Pong,
    Refused,
    Release,
    Report,
    Request,
    Scale,
    SetValue,
    Status,
    WaitKeys,
    Welcome,
    failure,
    record_of,
)

__all__ = ["CLOSED_KEPT_S", "Batch", "Engine"]

# A judge that was away for longer than this does not count the time (R9).
GAP_MAX_S = 1.0

# How long a closed run is remembered that nobody is attached to, so that latecomers are told how
# it ended and do not begin it anew; the join timeout's default: nobody is on the way for longer.
CLOSED_KEPT_S = 600.0

# How long the worlds of an open run are kept that nobody is attached to.
IDLE_KEPT_S = 3600.0

# A batch takes no more requests once they carry this much: what a ledger writes at once has a
# limit too, and the values lie in it twice where they are also answers.
BATCH_BYTES_MAX = 16 * 1024 * 1024

RUNS_MAX = 10_000

# The nodes of one run that are attached, or are not given up yet.
NODES_MAX = 131_072

Met = TypeVar("Met")

_CORRUPT: dict[type[BaseException], type[RendezvousError]] = {
    ValueError: RendezvousStateError,
    OverflowError: RendezvousStateError,
    **dict.fromkeys(UNDECODABLE, RendezvousStateError),
}

_AGENT_REQUESTS = (Join, Leave, Finish)
_OPERATOR_REQUESTS = (Drain, Evict, Hold, Release, Scale)
_STORE_REQUESTS = (
    SetValue,
    AddNumber,
    CompareSet,
    DeleteKey,
    GetValue,
    WaitKeys,
    CheckKeys,
    CountKeys,
)


class Batch(NamedTuple):
    """What has to be stored before anyone is answered.

    Args:
        number: Counts the batches of this coordinator.
        changes: The keys to set, or to delete where the value is `None`.
        durable: Whether it has to survive a loss of power: it changes a run's state.
        sends: What may be let out once it is stored.
    """

    number: int
    changes: dict[str, bytes | None]
    durable: bool
    sends: list[Send]


class EngineClock:
    """The engine's time: the coordinator's own, less the stretches in which it was away (R9)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read_s = clock.monotonic()
        self._now_s = 0.0

    def advance(self, stalled: bool) -> bool:
        """Read the machine's clock; a stall, or a gap above `GAP_MAX_S`, does not count.

        Returns:
            Whether the time counted. If not, whatever agents sent meanwhile is still to be read:
            nobody must be judged before that.
        """
        read_s = self._clock.monotonic()
        elapsed_s, self._read_s = read_s - self._read_s, read_s
        if stalled or elapsed_s > GAP_MAX_S:
            return False
        self._now_s += elapsed_s
        return True

    def monotonic(self) -> float:
        """Return the attended time in seconds."""
        return self._now_s

    def now(self) -> datetime:
        """Return the wall-clock time, to mark values with."""
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        """Never called: the engine does not wait."""
        raise AssertionError("the engine does not wait")


class _EngineObserver(Observer):
    """Coordinated agents beat on their connection; their stamps in the state are never due."""

    def beat_age_s(self, node: object, value: object) -> float:
        """Return 0: no heartbeat has to be written."""
        return 0.0


class _Peer:
    """What is known of one connection."""

    __slots__ = ("may_act", "refused", "role", "run_id", "session", "session_id")

    def __init__(self) -> None:
        self.may_act = True
        self.role = ""
        self.run_id: str | None = None
        self.session_id = ""
        self.session: Session | None = None
        self.refused = False


class _Unmet(Exception):
    """A request that cannot be met; the connection is as good as before."""

    def __init__(self, error: RendezvousError) -> None:
        super().__init__(str(error))
        self.error = error


class _HeldRequest(NamedTuple):
    """A request to a store that waits for a key."""

    run_id: str
    connection: int
    request_id: int


class Engine:
    """All runs of one coordinator.

    Args:
        records: What the ledger holds.
        clock: The coordinator's clock.
        mint: Returns new random text, for epochs.
        name: What the coordinator is called, for people.
        closed_kept_s: How long a closed run is remembered that nobody is attached to.
        tally: Where what happens is counted.
    """

    def __init__(
        self,
        records: Mapping[str, bytes],
        clock: Clock,
        mint: Callable[[], str],
        name: str = "coordinator",
        closed_kept_s: float = CLOSED_KEPT_S,
        tally: Tally | None = None,
    ) -> None:
        self.name = name
        self.tally = tally or Tally()
        self._closed_kept_s = closed_kept_s
        self.runs: dict[str, Run] = {}
        self._machine_clock = clock
        self._clock = EngineClock(clock)
        self._mint = mint
        self._outbox = Outbox()
        self._stores: dict[str, RunStore] = {}
        self._stored: dict[str, StoredState] = {}
        self._peers: dict[int, _Peer] = {}
        view = View(name, clock, self.runs, self._stores, self._peers)
        self._reports = Reports(view, self._outbox)
        self._idle_since_s: dict[str, float] = {}
        self._store_deadlines: Deadlines[_HeldRequest] = Deadlines(self._is_held)
        self._inbox: deque[tuple[int, Request]] = deque()
        self._forgotten: dict[str, bytes | None] = {}
        self._touched: set[str] = set()
        self._in_flight: Batch | None = None
        self._in_flight_at_tick: Batch | None = None
        self._batches = count(1)
        self._batch_bytes = 0
        self._was_away = False
        self._owes_tick = False
        self._ready: list[Send] = []
        self._load(records)

    @property
    def now_s(self) -> float:
        """The engine's time in seconds."""
        return self._clock.monotonic()

    @property
    def has_backlog(self) -> bool:
        """Whether messages wait for their turn."""
        return bool(self._inbox)

    @property
    def has_chores(self) -> bool:
        """Whether somebody waits for what is made in slices; `carry_on` does the next."""
        return self._reports.under_way

    def opened(self, connection: int) -> None:
        """Note a new connection; its first message must be a hello."""
        self._peers[connection] = _Peer()

    def restrict(self, connection: int) -> None:
        """Let a connection change nothing as an operator: its peer has not the token for that."""
        self._peers[connection].may_act = False

    def receive(self, connection: int, message: Request) -> None:
        """Take a message; while a batch is being stored it waits for its turn."""
        peer = self._peers.get(connection)
        if peer is None or peer.refused:
            return
        self._read_clock()
        self._hear(peer, message.probe if isinstance(message, Ping) else 0)
        if isinstance(message, Ping):
            self._ready.append(Send((connection,), Pong(message.sequence)))
        elif self._in_flight is not None or self._batch_bytes >= BATCH_BYTES_MAX:
            self._inbox.append((connection, message))
            if isinstance(message, Hello):
                self._hear_hello(message)
        else:
            self._handle(connection, peer, message)

    def alive(self, connections: Iterable[int]) -> None:
        """Note that peers live, where something else than their words shows it, such as a lease.

        It keeps them from being lost, and no more: it is no answer to a probe (R7).
        """
        for connection in connections:
            peer = self._peers.get(connection)
            if peer is not None and peer.session is not None:
                peer.session.hear(self.now_s)

    def closed(self, connection: int, finished: bool) -> None:
        """Note that a connection is gone; `finished` if it ended in order, as a process's does."""
        peer = self._peers.pop(connection, None)
        self._reports.closed(connection)
        if peer is None or peer.run_id is None or peer.run_id not in self.runs:
            return
        self._read_clock()
        self._stores[peer.run_id].disconnect(connection)
        if peer.session is not None:
            self._observed(peer.run_id).ended(peer.session, connection, finished)

    def tick(self, certain: bool = True) -> None:
        """Let time pass. While a write stalls, no window moves (R9).

        Args:
            certain: Whether it is certain that nobody else decides; else nobody is judged (R17).
        """
        stalled = self._in_flight is not None and self._in_flight is self._in_flight_at_tick
        stalled |= not certain
        self._in_flight_at_tick = self._in_flight
        # Whoever was read first after a gap has hidden it from this tick; others are still unread.
        attended = self._clock.advance(stalled) and not self._was_away
        self._was_away = False
        # What has come during a write is handled first: `settle` makes up for this tick, also where
        # one write follows the other and all ticks fall into one.
        writing = self._in_flight is not None
        self._owes_tick = certain and writing and (attended or self._owes_tick)
        if attended and not writing:
            self._pass_time()

    def carry_on(self) -> None:
        """Do a slice, of less than a millisecond, of what takes long; a report at present.

        What it leads to comes by `take_batch` and `take_sends`, as always.
        """
        self._reports.carry_on(self.now_s)

    def take_batch(self) -> Batch | None:
        """Return what has to be stored now, or `None` if nothing has.

        If it returns a batch, call `settle` with it once it is stored, and not before.
        """
        if self._in_flight is not None:
            return None
        touched, self._touched = self._touched, set()
        for run_id in touched & self.runs.keys():
            self._settle_run(run_id)
        changes, durable = self._take_changes(touched)
        sends = self._outbox.take()
        self._batch_bytes = 0
        if not changes:
            self._ready += sends
            return None
        self._in_flight = Batch(next(self._batches), changes, durable, sends)
        return self._in_flight

    def settle(self, batch: Batch, certain: bool = True) -> None:
        """Let out the answers of a batch that is stored, and handle what came meanwhile.

        Args:
            batch: What is stored.
            certain: As for `tick`, which it may have to make up for.
        """
        assert batch is self._in_flight
        self._in_flight = None
        self._ready += batch.sends
        for run_id in self._touched & self.runs.keys():
            self.runs[run_id].finish_failed_close()
        while self._inbox and self._batch_bytes < BATCH_BYTES_MAX:
            connection, message = self._inbox.popleft()
            peer = self._peers.get(connection)
            if peer is not None and not peer.refused:
                self._handle(connection, peer, message)
        if self._owes_tick and certain and not self._inbox:
            self._owes_tick = False
            # The next tick may come before anything else is read: it must not be the second one at
            # which somebody is overdue (R9).
            self._was_away = True
            self._pass_time()

    def take_sends(self) -> list[Send]:
        """Return what may be sent now."""
        sends, self._ready = self._ready, []
        return sends

    def take_events(self) -> list[tuple[str, Event]]:
        """Return what has happened, each with its run, for the log."""
        events = [(run_id, event) for run_id, run in self.runs.items() for event in run.events]
        for run in self.runs.values():
            run.events.clear()
        return events

    def held_requests(self) -> int:
        """Return how many requests wait for something that has not happened yet."""
        joins = sum(
            session.join is not None
            for run in self.runs.values()
            for session in run.sessions.values()
        )
        return joins + sum(store.held for store in self._stores.values())

    def has_work(self) -> bool:
        """Return whether anybody is connected, or may come back to an open run in time."""
        return bool(self._peers) or any(
            run.awaits_nodes() and not run.state.closed for run in self.runs.values()
        )

    def _pass_time(self) -> None:
        """Look for whatever has become due."""
        for run_id in self.runs:
            self._observed(run_id).tick()
        for held in self._store_deadlines.due(self.now_s):
            self._stores[held.run_id].expire(held.connection, held.request_id)
        self._collect_idle()

    def _read_clock(self) -> None:
        """Note when this is, to the point; a stalled write has to be noticed by the ticks."""
        if self._in_flight is None and not self._clock.advance(stalled=False):
            self._was_away = True

    def _handle(self, connection: int, peer: _Peer, message: Request) -> None:
        try:
            if isinstance(message, Hello):
                self._greet(connection, peer, message)
            elif peer.run_id is None:
                raise RendezvousProtocolError(
                    "The first message of a connection must be a hello: this peer sent "
                    f"{type(message).__name__}."
                )
            # A newer connection speaks for the session; what the former one still held comes late.
            elif peer.session is None or peer.session.connection == connection:
                self._serve(connection, peer, peer.run_id, message)
        except RendezvousError as error:
            # Nothing that the peer has sent after it counts: the reason that it reads is this one.
            peer.refused = True
            answer = failure(0, error)
            self._outbox.end(connection, Refused(answer.code, answer.message))

    def _greet(self, connection: int, peer: _Peer, hello: Hello) -> None:
        require_sound(hello)
        if peer.run_id is not None:
            raise RendezvousProtocolError("A connection must say hello once, this one did twice.")
        resumed = False
        if hello.role == ROLE_AGENT:
            self._ensure_run(hello.run_id)
            self._require_place(hello)
            peer.session, resumed = self._observed(hello.run_id).attach(connection, hello)
        peer.run_id, peer.role = hello.run_id, hello.role
        peer.session_id = hello.session
        self._outbox.send(connection, Welcome(PROTOCOL_VERSION, self.name, resumed))
        if peer.session is not None:
            self.runs[hello.run_id].greet(peer.session)

    def _serve(self, connection: int, peer: _Peer, run_id: str, message: Request) -> None:
        assert not isinstance(message, (Hello, Ping))
        try:
            if isinstance(message, Status):
                _met(lambda: self._reports.ask(connection, message, self.now_s))
            elif isinstance(message, History):
                self._outbox.send(connection, self._history(message))
            else:
                self._require_run(run_id)
                self._serve_run(connection, peer, run_id, message)
        except _Unmet as unmet:
            self._outbox.send(connection, failure(message.id, unmet.error))

    def _serve_run(self, connection: int, peer: _Peer, run_id: str, message: Request) -> None:
        run = self._observed(run_id)
        if isinstance(message, _AGENT_REQUESTS):
            self._serve_agent(connection, peer, run, message)
        elif isinstance(message, _STORE_REQUESTS):
            held_s = self._stores[run_id].handle(connection, peer.session_id, message)
            if self._stores[run_id].changes:
                self._batch_bytes += _bytes_of(message)
            if held_s is not None:
                held = _HeldRequest(run_id, connection, message.id)
                self._store_deadlines.add(self.now_s + held_s, held)
        elif isinstance(message, _OPERATOR_REQUESTS):
            _require_operator(peer, message)
            self._outbox.send(connection, _met(lambda: act(run, message)))
        elif isinstance(message, Close):
            if peer.session is None:
                _require_operator(peer, message)
            run.close(peer.session, connection, message)
        elif isinstance(message, GetWorld):
            self._outbox.send(connection, _met(lambda: record_of(message, run.state.world)))

    def _serve_agent(
        self, connection: int, peer: _Peer, run: Run, message: Join | Leave | Finish
    ) -> None:
        if peer.session is None:
            raise RendezvousProtocolError(
                f"Only agents may send {type(message).__name__}; this peer is none."
            )
        if isinstance(message, Join):
            require_modest(message.profile)
            run.join(peer.session, message)
        elif isinstance(message, Finish):
            run.finish(peer.session, message)
        else:
            run.leave(peer.session, message)

    def _history(self, request: History) -> Report:
        self._require_run(request.run_id)
        return self.runs[request.run_id].history.report(request.id)

    def _require_run(self, run_id: str) -> None:
        if run_id not in self.runs:
            raise _Unmet(
                RendezvousError(
                    f"There is no run '{run_id}' at this coordinator{nearest(run_id, self.runs)}: "
                    f"check the run id, or start it."
                )
            )

    def _hear_hello(self, hello: Hello) -> None:
        """Note a sign of life at once: the connection may be gone when the hello has its turn."""
        run = self.runs.get(hello.run_id)
        session = run.sessions.get(hello.node) if run is not None and hello.node else None
        if session is not None:
            session.hear(self.now_s)

    def _hear(self, peer: _Peer, probe: int) -> None:
        """Note a sign of life; no more follows from it, unless a failed close waits for it."""
        if peer.session is not None and peer.run_id in self.runs:
            run = self.runs[peer.run_id]
            run.observe()
            if run.heard(peer.session, probe):
                self._touched.add(peer.run_id)
                if self._in_flight is None:
                    run.finish_failed_close()

    def _observed(self, run_id: str) -> Run:
        run = self.runs[run_id]
        self._touched.add(run_id)
        run.observe()
        return run

    def _ensure_run(self, run_id: str) -> None:
        if run_id in self.runs:
            return
        if len(self.runs) >= RUNS_MAX:
            raise RendezvousLimitError(
                f"This coordinator already has {RUNS_MAX} runs: use another one."
            )
        self._stored[run_id] = StoredState(run_id)
        self._add_run(run_id, RendezvousState(epoch=self._mint()))

    def _require_place(self, hello: Hello) -> None:
        sessions = self.runs[hello.run_id].sessions
        if len(sessions) >= NODES_MAX and hello.node not in sessions:
            raise RendezvousLimitError(
                f"{NODES_MAX} nodes are attached to the run '{hello.run_id}', and there may be no "
                f"more: use another run."
            )

    def _add_run(self, run_id: str, state: RendezvousState) -> Run:
        observer = _EngineObserver(self._clock)
        run = Run(run_id, state, observer, self._outbox, self.tally.run(run_id))
        self.runs[run_id] = run
        self._stores[run_id] = RunStore(run_id, self._outbox)
        return run

    def _settle_run(self, run_id: str) -> None:
        run = self.runs[run_id]
        run.settle()
        if run.state.world is not None:
            self._stores[run_id].open(run.state.world.name)

    def _take_changes(self, touched: set[str]) -> tuple[dict[str, bytes | None], bool]:
        changes, self._forgotten = self._forgotten, {}
        durable = bool(changes)
        for run_id in touched & self.runs.keys():
            run, store = self.runs[run_id], self._stores[run_id]
            if store.changes:
                changes |= store.changes
                store.changes = {}
            if run.history.changes:
                changes |= run.history.changes
                run.history.changes = {}
            if run.dirty:
                nodes, run.touched, run.dirty = run.touched, {}, False
                run.revision += 1
                durable = True
                if run.rearranged:
                    run.rearranged = False
                    self._stored[run_id].store_whole_next()
                changes |= self._stored[run_id].changes(run.state, nodes)
                moment = self._machine_clock.now().timestamp()
                changes[seen_key(run_id)] = msgspec.msgpack.encode(moment)
        return changes, durable

    def _load(self, records: Mapping[str, bytes]) -> None:
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
                run = self._add_run(run_id, stored.load(records))
                self._stores[run_id].load(entries.get(run_id, {}))
                run.history.load(rounds.get(run_id, {}), run.state)
            if run.state.world is not None:
                self._stores[run_id].open(run.state.world.name)
            # The stamp is this machine's own, and of the run's last change, which may be long ago:
            # it says how old a run is to which nobody was attached when the coordinator ended.
            age_s = self._machine_clock.now().timestamp() - seen.get(run_id, 0.0)
            if not run.sessions and age_s > self._kept_s(run):
                self._forget(run_id)

    def _is_held(self, held: _HeldRequest) -> bool:
        store = self._stores.get(held.run_id)
        return store is not None and store.is_held(held.connection, held.request_id)

    def _collect_idle(self) -> None:
        for run_id, run in list(self.runs.items()):
            if any(session.connection is not None for session in run.sessions.values()):
                self._idle_since_s.pop(run_id, None)
            elif self.now_s - self._idle_since_s.setdefault(run_id, self.now_s) > self._kept_s(run):
                self._forget(run_id)

    def _kept_s(self, run: Run) -> float:
        return self._closed_kept_s if run.state.closed else IDLE_KEPT_S

    def _forget(self, run_id: str) -> None:
        self._idle_since_s.pop(run_id, None)
        history = self.runs.pop(run_id).history
        self.tally.forget(run_id)
        store = self._stores.pop(run_id)
        self._store_deadlines.sweep()
        stored = self._stored.pop(run_id).keys()
        records = (*stored, *history.changes, *history.all_keys())
        for key in (*records, seen_key(run_id), *store.changes, *store.all_keys()):
            self._forgotten[key] = None


def _met(command: Callable[[], Met]) -> Met:
    """Carry out a command; what is wrong with it ends nothing but the command."""
    try:
        return command()
    except RendezvousError as error:
        raise _Unmet(error) from error


def _require_operator(peer: _Peer, message: OperatorRequest | Close) -> None:
    kind = type(message).__name__
    if peer.role != ROLE_OPERATOR:
        raise RendezvousProtocolError(f"Only operators may send {kind}; this peer is none.")
    if not peer.may_act:
        raise _Unmet(
            RendezvousAuthenticationError(
                "This token does not let an operator change anything at this coordinator: give the "
                "operators' token with --token-file."
            )
        )


def _bytes_of(message: Request) -> int:
    if isinstance(message, SetValue):
        return len(message.value)
    return len(message.desired) if isinstance(message, CompareSet) else 0
