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

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import NamedTuple

from quorate.clock import Clock
from quorate.coordinator.engine.clock import EngineClock
from quorate.coordinator.engine.greeting import require_sound
from quorate.coordinator.engine.holdings import CLOSED_KEPT_S, Holdings
from quorate.coordinator.engine.inbox import Inbox
from quorate.coordinator.engine.peer import Peer
from quorate.coordinator.engine.reports import Reports, View
from quorate.coordinator.engine.service import Service
from quorate.coordinator.runs.history import Event
from quorate.coordinator.runs.outbox import Outbox, Send
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.tally import Tally
from quorate.core.settings import PROTOCOL_VERSION
from quorate.errors import RendezvousError, RendezvousLimitError, RendezvousProtocolError
from quorate.wire.messages import (
    ROLE_AGENT,
    Hello,
    Ping,
    Pong,
    Refused,
    Request,
    Welcome,
    failure,
)

__all__ = ["Batch", "Engine"]

# A batch takes no more requests once they have given it this much to store: what a ledger writes
# at once has a limit too. The last one may add a value and an answer of 4 MiB each.
BATCH_BYTES_MAX = 16 * 1024 * 1024

# The nodes of one run that are attached, or are not given up yet.
NODES_MAX = 131_072


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


class Engine:
    """All runs of one coordinator.

    Args:
        records: What the ledger holds.
        clock: The coordinator's clock.
        mint: Returns new random text, for epochs.
        name: What the coordinator is called, for people.
        closed_kept_s: How long a closed run is remembered that nobody is attached to.
        tally: Where what happens is counted.
        is_shared: Whether coordinators on other machines write this ledger too.
    """

    def __init__(
        self,
        records: Mapping[str, bytes],
        clock: Clock,
        mint: Callable[[], str],
        name: str = "coordinator",
        closed_kept_s: float = CLOSED_KEPT_S,
        tally: Tally | None = None,
        is_shared: bool = False,
    ) -> None:
        self.name = name
        self.tally = tally or Tally()
        self._clock = EngineClock(clock)
        self._outbox = Outbox()
        self._holdings = Holdings(self._clock, clock, mint, self._outbox, self.tally, closed_kept_s)
        self._peers: dict[int, Peer] = {}
        view = View(name, clock, self._holdings.runs, self._holdings.stores, self._peers)
        self._reports = Reports(view, self._outbox)
        self._service = Service(self._holdings, self._reports, self._outbox)
        self._inbox = Inbox()
        self._in_flight: Batch | None = None
        self._in_flight_at_tick: Batch | None = None
        self._batches = count(1)
        self._batch_bytes = 0
        self._was_away = False
        self._owes_tick = False
        self._ready: list[Send] = []
        self._holdings.load(records, is_shared)

    @property
    def runs(self) -> Mapping[str, Run]:
        """The runs, by their ids."""
        return self._holdings.runs

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
        self._peers[connection] = Peer()

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
            self._inbox.add(connection, message)
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
        self._inbox.closed(connection)
        self._reports.closed(connection)
        if peer is None or peer.run_id is None or peer.run_id not in self.runs:
            return
        self._read_clock()
        self._holdings.stores[peer.run_id].disconnect(connection)
        if peer.session is not None:
            self._holdings.touch(peer.run_id).ended(peer.session, connection, finished)

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
        changes, durable = self._holdings.take_changes()
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
        self._holdings.finish_failed_closes()
        while self._inbox and self._batch_bytes < BATCH_BYTES_MAX:
            connection, message = self._inbox.take()
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
        return self._holdings.take_events()

    def held_requests(self) -> int:
        """Return how many requests wait for something that has not happened yet."""
        joins = sum(
            session.join is not None
            for run in self.runs.values()
            for session in run.sessions.values()
        )
        return joins + sum(store.held for store in self._holdings.stores.values())

    def has_work(self) -> bool:
        """Return whether anybody is connected, or may come back to an open run in time."""
        return bool(self._peers) or any(
            run.awaits_nodes() and not run.state.closed for run in self.runs.values()
        )

    def _pass_time(self) -> None:
        """Look for whatever has become due."""
        for run_id, run in self.runs.items():
            if run.may_change:
                self._holdings.touch(run_id).tick()
        self._holdings.expire()

    def _read_clock(self) -> None:
        """Note when this is, to the point; a stalled write has to be noticed by the ticks."""
        if self._in_flight is None and not self._clock.advance(stalled=False):
            self._was_away = True

    def _handle(self, connection: int, peer: Peer, message: Request) -> None:
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
                self._batch_bytes += self._service.serve(connection, peer, message, self.now_s)
        except RendezvousError as error:
            # Nothing that the peer has sent after it counts: the reason that it reads is this one.
            peer.refused = True
            answer = failure(0, error)
            self._outbox.end(connection, Refused(answer.code, answer.message))

    def _greet(self, connection: int, peer: Peer, hello: Hello) -> None:
        require_sound(hello)
        if peer.run_id is not None:
            raise RendezvousProtocolError("A connection must say hello once, this one did twice.")
        resumed = False
        if hello.role == ROLE_AGENT:
            _require_place(self._holdings.ensure(hello.run_id), hello)
            peer.session, resumed = self._holdings.touch(hello.run_id).attach(connection, hello)
        peer.run_id, peer.role = hello.run_id, hello.role
        peer.session_id = hello.session
        self._outbox.send(connection, Welcome(PROTOCOL_VERSION, self.name, resumed))
        if peer.session is not None:
            self.runs[hello.run_id].greet(peer.session)

    def _hear_hello(self, hello: Hello) -> None:
        """Note a sign of life at once: the connection may be gone when the hello has its turn."""
        run = self.runs.get(hello.run_id)
        session = run.sessions.get(hello.node) if run is not None and hello.node else None
        if session is not None:
            session.hear(self.now_s)

    def _hear(self, peer: Peer, probe: int) -> None:
        """Note a sign of life; no more follows from it, unless a failed close waits for it."""
        run = self.runs.get(peer.run_id) if peer.run_id is not None else None
        if peer.session is not None and run is not None:
            run.observe()
            if run.heard(peer.session, probe):
                self._holdings.touch(run.run_id)
                if self._in_flight is None:
                    run.finish_failed_close()


def _require_place(run: Run, hello: Hello) -> None:
    if len(run.sessions) >= NODES_MAX and hello.node not in run.sessions:
        raise RendezvousLimitError(
            f"{NODES_MAX} nodes are attached to the run '{run.run_id}', and there may be no more: "
            f"use another run."
        )
