"""The coordinator's shell: hands to the engine what comes in, stores, and sends what follows.

All decisions are `engine`'s. One connection is `connection`'s, all of them together are
`connections`'; the ledger is used by way of `writer`; `tenure` knows when there is something to
decide. This is what holds them together.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from quorate.clock import Clock, SystemClock
from quorate.coordinator.chronicle import tell
from quorate.coordinator.engine import CLOSED_KEPT_S, Batch, Engine
from quorate.coordinator.entrance.admission import connections_max
from quorate.coordinator.entrance.connection import Connection, framed
from quorate.coordinator.entrance.connections import Connections
from quorate.coordinator.entrance.door import Keys
from quorate.coordinator.entrance.flow import Flow
from quorate.coordinator.entrance.reception import Reception
from quorate.coordinator.hindrance import Hindrance
from quorate.coordinator.inquiries import Inquiries
from quorate.coordinator.ledgers.base import Ledger, Seat
from quorate.coordinator.runs.outbox import Send
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.tally import Tally
from quorate.coordinator.tenure import Tenure
from quorate.coordinator.writer import Writer
from quorate.errors import RendezvousConnectionError, RendezvousDeposedError
from quorate.tls import TlsContexts
from quorate.wire.messages import Hello, Ping, Reply, Request

__all__ = ["CoordinatorServer"]

logger = logging.getLogger("quorate.coordinator")

TICK_S = 0.25

# What takes long is done in slices that are shorter than this pause between them, in which
# everybody else is served: a slice planned for the next turn of the loop would be in every turn.
CHORE_PAUSE_S = 0.001


class CoordinatorServer:
    """Serves an engine on listening sockets.

    Args:
        listeners: Bound, listening sockets; they are closed at the end.
        ledger: Where runs are kept; `None` for runs that die with the process.
        idle_exit_s: End after nobody was connected for so long; `None` to serve for ever.
        clock: The time.
        closed_kept_s: How long a closed run is remembered that nobody is attached to.
        keys: Who may come in.
        seat: For one of several coordinators that share a ledger: it decides while it holds the
            seat, and sends agents to the holder otherwise (R17). Then `ledger` is `None`.
        tls: What all connections are secured with; `None` for plain ones.

    Raises:
        RendezvousStateError: The ledger holds something that is not a coordinator's.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        ledger: Ledger | None,
        idle_exit_s: float | None = None,
        clock: Clock | None = None,
        seat: Seat | None = None,
        closed_kept_s: float = CLOSED_KEPT_S,
        keys: Keys | None = None,
        tls: TlsContexts | None = None,
    ) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.tally = Tally()
        self._clock = clock or SystemClock()
        self._closed_kept_s = closed_kept_s
        self._idle_exit_s = idle_exit_s
        files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._connections = Connections(connections_max(files_max), keys or Keys(), tls, self.now_s)
        self._reception = Reception(listeners, partial(self._connections.make, self), self.now_s)
        self._flow = Flow()
        self._resuming: asyncio.TimerHandle | None = None
        self._inquiries = Inquiries(self._plan_flush)
        self._hindrance = Hindrance(self._connections.tell)
        self._writer = Writer(self._hindrance, self.tally, self.now_s, self._stop_if_failed)
        self._tenure = Tenure(ledger, seat, self._writer, self._hindrance, self.now_s)
        self._engine: Engine | None = None
        if not self._tenure.has_turns:
            self._engine = self._new_engine(ledger.load() if ledger is not None else {})
        self._withheld: list[Send] = []
        self._flush_planned = self._chore_planned = False
        self._busy_s = self.now_s()
        self._stopped = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Serve until told to stop, or idle for long enough.

        Raises:
            Exception: What kept the coordinator from going on; agents start another one.
        """
        loop = asyncio.get_running_loop()
        self._reception.open()
        tasks = [loop.create_task(self._tick_for_ever())]
        if self._tenure.has_turns:
            tasks.append(loop.create_task(self._take_turns()))
        for task in tasks:
            task.add_done_callback(self._stop_if_failed)
        try:
            await self._stopped.wait()
        finally:
            for task in tasks:
                task.cancel()
            await self._end()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask `run` to return."""
        self._stopped.set()

    @property
    def runs(self) -> Mapping[str, Run]:
        """The runs, to look at and not to touch; none while another coordinator decides."""
        return MappingProxyType(self._engine.runs if self._engine is not None else {})

    @property
    def connections(self) -> int:
        """The number of connections."""
        return len(self._connections.by_number)

    @property
    def held_requests(self) -> int:
        """The number of requests that wait for something that has not happened yet."""
        return self._engine.held_requests() if self._engine is not None else 0

    def hindrance(self) -> str:
        """Return why nobody is answered here now; empty while this coordinator decides."""
        if self._engine is None:
            return f"this coordinator stands by for {self._tenure.holder() or 'an election'}"
        return self._hindrance.reason

    async def ask(
        self, run_id: str, make_request: Callable[[int], Request], timeout_s: float
    ) -> Reply:
        """Ask the engine something as an operator does who is connected.

        Args:
            run_id: The run of the operator's hello; empty for none.
            make_request: Gets the request's id.
            timeout_s: How long to wait for the answer, in seconds.

        Raises:
            RendezvousConnectionError: Nobody decides here.
            TimeoutError: There was no answer in time: the ledger does not answer.
        """
        if self._engine is None:
            raise RendezvousConnectionError(f"Nothing can be asked here: {self.hindrance()}.")
        number = self._connections.next_number()
        return await self._inquiries.ask(self._engine, number, run_id, make_request, timeout_s)

    # What follows is `connection.Service`.

    def now_s(self) -> float:
        """Return the machine's monotonic time, for the connections' own limits."""
        return self._clock.monotonic()

    def opened(self, connection: Connection) -> None:
        """Number a new connection."""
        self.tally.connections_opened += 1
        self._connections.add(connection)
        if self._connections.are_open_to_all:
            self.admitted(connection, may_act=True)

    def knocked(self, connection: Connection, data_bytes: int) -> None:
        """Let a connection have its turn to shake hands."""
        self._connections.knocked(connection, data_bytes)

    def admitted(self, connection: Connection, may_act: bool) -> None:
        """Tell the engine of a connection, whose words are handed to it from now on."""
        if self._engine is not None:
            self._engine.opened(connection.number)
            if not may_act:
                self._engine.restrict(connection.number)

    def received(self, connection: Connection, message: Request, body_bytes: int) -> None:
        """Hand a message to the engine; its effects follow once this turn of the loop is over."""
        if self._engine is None:
            connection.redirect(self._tenure.holder())
            return
        self._engine.receive(connection.number, message)
        if isinstance(message, Hello):
            self._connections.admission.welcomed(connection.number)
            if self._hindrance.waiting is not None:
                connection.write(framed(self._hindrance.waiting))
        if isinstance(message, Ping):
            self._flow.beat(connection, body_bytes, self.now_s())
        else:
            self._flow.count(connection, body_bytes)
        self._plan_flush()

    def failed(self, connection: Connection, body_bytes: int) -> None:
        """Count a request that meant nothing as any other; the flush lets its sender go on."""
        self._flow.count(connection, body_bytes)
        self._plan_flush()

    def holds(self, connection: Connection, unfinished_bytes: int) -> None:
        """Count what is kept of unfinished messages."""
        self._connections.holds(connection, unfinished_bytes)

    def refused(self, connection: Connection, why: Exception | str) -> None:
        """Log why a peer is refused."""
        self._connections.note_refusal(connection, why)

    def closed(self, connection: Connection, finished: bool) -> None:
        """Tell the engine that a connection is gone."""
        self._flow.gone(connection.number)
        if self._connections.remove(connection) and self._engine is not None:
            self._engine.closed(connection.number, finished)
            self._plan_flush()

    def _plan_flush(self) -> None:
        """Flush once for all that this turn of the loop brings: that is what makes a batch."""
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self._take_step, self._flush)

    def _take_step(self, step: Callable[[], None]) -> None:
        """Do what the loop is to do; if it fails, end with the error, as with that of a task.

        What it has taken from the engine would be lost to those who wait for it. Agents ask the
        next coordinator again, which knows what is stored (R14).
        """
        try:
            step()
        except Exception as error:
            self._fail(error)

    def _flush(self) -> None:
        self._flush_planned = False
        # After a failure it is not certain what was taken from the engine and not stored.
        engine = self._engine if self._failure is None else None
        while engine is not None:
            if engine.has_chores:
                self._plan_chore()
            batch = engine.take_batch()
            self._send_if_held(engine.take_sends())
            tell(logger, engine.take_events())
            if batch is None:
                if not self._writer.is_busy:
                    self._resume()
                return
            if self._tenure.ledger is not None:
                self._writer.begin(self._store(engine, self._tenure.ledger, batch))
                return
            engine.settle(batch)

    def _plan_chore(self) -> None:
        if not self._chore_planned:
            self._chore_planned = True
            asyncio.get_running_loop().call_later(CHORE_PAUSE_S, self._take_step, self._do_chore)

    def _do_chore(self) -> None:
        """Do a slice of what takes long; the flush plans the next one."""
        self._chore_planned = False
        if self._engine is not None and self._engine.has_chores:
            self._engine.carry_on()
            self._flush()

    async def _store(self, engine: Engine, ledger: Ledger, batch: Batch) -> None:
        try:
            await self._writer.store(ledger, batch)
        except RendezvousDeposedError as error:
            self._tenure.depose(ledger, error)
            return
        engine.settle(batch, certain=self._tenure.is_held())
        # Whoever was kept waiting for this does not wait for what the greedy ask next.
        self._send_if_held(engine.take_sends())
        self._resume()
        self._flush()

    def _resume(self) -> None:
        """Read on from who may, unless the engine has not come to an end with what was asked."""
        if self._engine is not None and self._engine.has_backlog:
            return
        again_s = self._flow.resume(self.now_s())
        if again_s is not None and self._resuming is None:
            loop = asyncio.get_running_loop()
            self._resuming = loop.call_later(again_s, self._take_step, self._resume_if_at_rest)

    def _resume_if_at_rest(self) -> None:
        """Read on, unless it follows anyway from what is being carried out."""
        self._resuming = None
        if not self._flush_planned and not self._writer.is_busy:
            self._resume()

    def _send_if_held(self, sends: list[Send]) -> None:
        """Let answers out while it is certain that nobody else decides, else keep them back."""
        self._withheld += sends
        if self._withheld and self._tenure.is_held():
            sends, self._withheld = self._withheld, []
            self._send(sends)

    def _send(self, sends: list[Send]) -> None:
        connections = self._connections.by_number
        for send in sends:
            for number in send.connections:
                if number not in connections:
                    self._inquiries.answer(number, send.message)
            found = map(connections.get, send.connections)
            present = [connection for connection in found if connection and connection.is_open]
            # What is large is made only for those who still read.
            data = framed(send.message) if send.message is not None and present else b""
            for connection in present:
                if data:
                    connection.write(data)
                if send.end:
                    connection.close()

    async def _take_turns(self) -> None:
        """Decide whenever the seat is ours; in between, send agents to its holder (R17)."""
        while True:
            self._engine = self._new_engine(await self._tenure.begin())
            logger.info("this coordinator decides now")
            # Whoever waits here for the seat to be taken says hello again, to the engine.
            self._connections.abort()
            await self._tenure.over()
            logger.warning("this coordinator does not decide any more; agents move to the next")
            self._engine = None
            self._withheld.clear()
            self._connections.abort()

    def _new_engine(self, records: Mapping[str, bytes]) -> Engine:
        return Engine(
            records,
            self._clock,
            lambda: secrets.token_hex(4),
            self.name,
            self._closed_kept_s,
            self.tally,
            self._tenure.has_turns,
        )

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._engine is not None:
                held = self._tenure.is_held()
                self._tenure.tell_certainty(held)
                self._engine.tick(certain=held)
                self._flush()
                if not held:
                    self._tenure.find_out()
            self._connections.tick()
            self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        now_s = self.now_s()
        if self._engine is None or self._engine.has_work():
            self._busy_s = now_s
        elif self._idle_exit_s is not None and now_s - self._busy_s >= self._idle_exit_s:
            logger.info("nobody was connected for %g s: this coordinator ends", self._idle_exit_s)
            self.stop()

    def _stop_if_failed(self, task: asyncio.Task[None]) -> None:
        """End with the error of a task without which agents would wait in vain."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End with the error that came first; others may follow from it."""
        self._failure = self._failure or error
        self.stop()

    async def _end(self) -> None:
        await self._reception.close()
        if self._resuming is not None:
            self._resuming.cancel()
        self._writer.cancel()
        self._connections.abort()
        self._tenure.close()
        if await self._writer.close() and self._tenure.ledger is not None:
            self._tenure.ledger.close()
        await self._connections.gone()
