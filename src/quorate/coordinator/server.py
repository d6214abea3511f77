"""The coordinator's shell: sockets, timers, and the one writer. All decisions are `engine`'s."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from types import MappingProxyType

from quorate.clock import Clock, SystemClock
from quorate.coordinator.admission import Admission, connections_max
from quorate.coordinator.chronicle import tell
from quorate.coordinator.connection import Connection, framed
from quorate.coordinator.door import Door, Keys
from quorate.coordinator.engine import CLOSED_KEPT_S, Batch, Engine
from quorate.coordinator.flow import Flow
from quorate.coordinator.ledger import Ledger, Seat
from quorate.coordinator.outbox import Send
from quorate.coordinator.reception import Reception
from quorate.coordinator.refusals import RefusalLog
from quorate.coordinator.run import Run
from quorate.coordinator.tally import Tally
from quorate.core.settings import PROTOCOL_VERSION
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
)
from quorate.tls import TlsContexts
from quorate.wire.messages import (
    ROLE_OPERATOR,
    Hello,
    Ping,
    Reply,
    Request,
    Waiting,
    Welcome,
)
from quorate.wire.proof import NONCE_BYTES
from quorate.wire.tls import TlsPipe

__all__ = ["Companion", "CoordinatorServer", "serve"]

logger = logging.getLogger("quorate.coordinator")

TICK_S = 0.25

# How often dead connections are looked for, of which there are thousands.
SCAN_S = 1.0

# A peer that does not say hello in this time is no agent; agents say it in their first packet.
GREETING_TIMEOUT_S = 10.0

# Agents and stores beat every few seconds; a connection without a whole message for this long is
# dead.
IDLE_TIMEOUT_S = 120.0

COMMIT_RETRY_S = 1.0

# Connections that are dropped are gone after a turn or two of the loop.
END_TIMEOUT_S = 2.0

# What agents that wait are told while a shared ledger does not answer.
UNCERTAIN = Waiting("uncertain", "what the coordinators share their runs in does not answer", 0.0)


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
        self._reception = Reception(listeners, self._new_connection, self.now_s)
        self._admission = Admission(connections_max(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
        self._keys = keys or Keys()
        self._open_door = Door(Keys(), b"")
        self._refusals = RefusalLog()
        self._tls = tls
        self._closed_kept_s = closed_kept_s
        self._ledger = ledger
        self._seat = seat
        self._idle_exit_s = idle_exit_s
        self._clock = clock or SystemClock()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.tally = Tally()
        self._engine: Engine | None = None
        if seat is None:
            self._engine = self._new_engine(ledger.load() if ledger is not None else {})
        self._withheld: list[Send] = []
        self._uncertain_since_s: float | None = None
        self._obstacle: Waiting | None = None
        self._inquiries: dict[int, asyncio.Future[Reply]] = {}
        self._connections: dict[int, Connection] = {}
        self._open_count = 0
        self._flow = Flow()
        self._last_number = 0
        self._flush_planned = False
        self._writer = ThreadPoolExecutor(1, "quorate-writer")
        self._writing: asyncio.Task[None] | None = None
        self._busy_s = self._scanned_s = self._clock.monotonic()
        self._stopped = asyncio.Event()
        self._deposed = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Serve until told to stop, or idle for long enough.

        Raises:
            Exception: What kept the coordinator from going on; agents start another one.
        """
        loop = asyncio.get_running_loop()
        self._reception.open()
        tasks = [loop.create_task(self._tick_for_ever())]
        if self._seat is not None:
            tasks.append(loop.create_task(self._take_seat(self._seat)))
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
        return len(self._connections)

    @property
    def held_requests(self) -> int:
        """The number of requests that wait for something that has not happened yet."""
        return self._engine.held_requests() if self._engine is not None else 0

    def hindrance(self) -> str:
        """Return why nobody is answered here now; empty while this coordinator decides."""
        if self._engine is None:
            assert self._seat is not None
            return f"this coordinator stands by for {self._seat.holder() or 'an election'}"
        return self._obstacle.reason if self._obstacle is not None else ""

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
        engine = self._engine
        if engine is None:
            raise RendezvousConnectionError(f"Nothing can be asked here: {self.hindrance()}.")
        self._last_number += 1
        number = self._last_number
        answer = self._inquiries[number] = asyncio.get_running_loop().create_future()
        engine.opened(number)
        engine.receive(number, Hello(PROTOCOL_VERSION, ROLE_OPERATOR, run_id, f"page{number}"))
        engine.receive(number, make_request(1))
        self._plan_flush()
        try:
            return await asyncio.wait_for(answer, timeout_s)
        finally:
            del self._inquiries[number]
            engine.closed(number, finished=True)

    def _new_connection(self) -> Connection:
        pipe = TlsPipe(self._tls.current(), server_side=True) if self._tls is not None else None
        return Connection(self, self._new_door(), pipe)

    def now_s(self) -> float:
        """Return the machine's monotonic time, for the connections' own limits."""
        return self._clock.monotonic()

    def _new_door(self) -> Door:
        """Return the door of a new connection; those that are open to everybody are one."""
        if self._keys.token is None:
            return self._open_door
        return Door(self._keys, secrets.token_bytes(NONCE_BYTES))

    def opened(self, connection: Connection) -> None:
        """Number a new connection."""
        self._last_number += 1
        self.tally.connections_opened += 1
        connection.number = self._last_number
        connection.heard_s = self.now_s()
        self._connections[connection.number] = connection
        self._open_count += 1
        if self._keys.token is None:
            self.admitted(connection, may_act=True)
        leaving = self._admission.arrived(connection.number)
        if leaving is not None and leaving in self._connections:
            self._turn_away(self._connections[leaving])

    def _turn_away(self, connection: Connection) -> None:
        """End a connection for which there is no room; it may come again."""
        connection.refuse(
            RendezvousConnectionError(
                f"The coordinator has no room for another connection: it may have "
                f"{self._admission.connections_max}. Allow it more open files (ulimit -n)."
            )
        )

    def admitted(self, connection: Connection, may_act: bool) -> None:
        """Tell the engine of a connection, whose words are handed to it from now on."""
        if self._engine is not None:
            self._engine.opened(connection.number)
            if not may_act:
                self._engine.restrict(connection.number)

    def refused(self, connection: Connection, why: Exception | str) -> None:
        """Log why a peer is refused, unless another one was a moment ago."""
        if self._refusals.note(self.now_s()):
            logger.warning("refused %s: %s", connection.peer(), why)

    def received(self, connection: Connection, message: Request, body_bytes: int) -> None:
        """Hand a message to the engine; its effects follow once this turn of the loop is over."""
        if self._engine is None:
            assert self._seat is not None
            connection.redirect(self._seat.holder())
            return
        self._engine.receive(connection.number, message)
        if isinstance(message, Hello):
            self._admission.welcomed(connection.number)
            if self._obstacle is not None:
                connection.write(framed(self._obstacle))
        if not isinstance(message, Ping):
            self._flow.count(connection, body_bytes)
        self._plan_flush()

    def closed(self, connection: Connection, finished: bool) -> None:
        """Tell the engine that a connection is gone."""
        self._open_count -= 1
        self._admission.gone(connection.number)
        self._flow.gone(connection.number)
        known = self._connections.pop(connection.number, None) is not None
        if known and self._engine is not None:
            self._engine.closed(connection.number, finished)
            self._plan_flush()

    def _resume(self) -> None:
        """Read on from everybody, unless the engine has not come to an end with what was asked."""
        if self._engine is not None and self._engine.has_backlog:
            return
        self._flow.resume()

    def _plan_flush(self) -> None:
        """Flush once for all that this turn of the loop brings: that is what makes a batch."""
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        engine = self._engine
        while engine is not None:
            batch = engine.take_batch()
            self._send_if_held(engine.take_sends())
            tell(logger, engine.take_events())
            if batch is None:
                if not self._is_writing():
                    self._resume()
                return
            if self._ledger is not None:
                self._writing = asyncio.get_running_loop().create_task(
                    self._store(engine, self._ledger, batch)
                )
                self._writing.add_done_callback(self._stop_if_failed)
                return
            engine.settle(batch)

    async def _store(self, engine: Engine, ledger: Ledger, batch: Batch) -> None:
        """Write a batch, however often it takes; until then nobody is answered (R14)."""
        loop = asyncio.get_running_loop()
        begun_s = self.now_s()
        stalled_since_s: float | None = None
        while True:
            try:
                await loop.run_in_executor(
                    self._writer, ledger.commit, batch.changes, batch.durable
                )
                break
            except RendezvousDeposedError as error:
                self._note_deposition(ledger, error)
                return
            except RendezvousConnectionError as error:
                why = str(error).rstrip(".")
                logger.error("%s; agents wait until it can be stored, trying again", why)
                if stalled_since_s is None:
                    stalled_since_s = self.now_s()
                elif self._obstacle is None:
                    self._obstruct(Waiting("stalled", f"nothing can be stored: {why}", 0.0))
                await asyncio.sleep(COMMIT_RETRY_S)
        self.tally.commit.observe(self.now_s() - begun_s)
        if stalled_since_s is not None:
            self._obstacle = None
            stall_s = self.now_s() - stalled_since_s
            logger.info("writing goes on after a stall of %.1f s", stall_s)
        engine.settle(batch)
        self._resume()
        self._flush()

    async def _take_seat(self, seat: Seat) -> None:
        """Decide whenever the seat is ours; in between, send agents to its holder (R17)."""
        while True:
            self._ledger, records = await self._await_turn(seat)
            self._engine = self._new_engine(records)
            self._deposed.clear()
            logger.info("this coordinator decides now")
            # Whoever waits here for the seat to be taken says hello again, to the engine.
            self._abort_connections()
            await self._deposed.wait()
            logger.warning("this coordinator does not decide any more; agents move to the next")
            self._engine = self._uncertain_since_s = self._obstacle = None
            self._withheld.clear()
            self._abort_connections()

    async def _await_turn(self, seat: Seat) -> tuple[Ledger, dict[str, bytes]]:
        """Return the ledger once the seat is ours, and what is in it."""
        loop = asyncio.get_running_loop()
        while True:
            ledger = await loop.run_in_executor(self._writer, seat.take)
            try:
                return ledger, await loop.run_in_executor(self._writer, ledger.load)
            except RendezvousConnectionError as error:
                logger.warning("%s; this coordinator gives the seat up again", error)
                await asyncio.sleep(COMMIT_RETRY_S)

    def _note_deposition(self, ledger: Ledger, error: RendezvousDeposedError) -> None:
        """Stop deciding; what is told of a ledger that was given up before is no news."""
        if ledger is self._ledger and not self._deposed.is_set():
            logger.warning("%s", error)
            self._deposed.set()

    def _find_out(self) -> None:
        """Where it is not certain that the seat is still ours: an empty write will tell."""
        if self._engine is not None and self._ledger is not None and not self._is_writing():
            self._writing = asyncio.get_running_loop().create_task(self._probe(self._ledger))
            self._writing.add_done_callback(self._stop_if_failed)

    def _tell_certainty(self, held: bool) -> None:
        """Say, when it begins and ends, that nobody is answered (R16)."""
        since_s = self._uncertain_since_s
        if not held and since_s is None:
            self._uncertain_since_s = self.now_s()
            logger.warning("%s: nobody is answered until it does", UNCERTAIN.reason)
            self._obstruct(UNCERTAIN)
        elif held and since_s is not None:
            self._uncertain_since_s = self._obstacle = None
            logger.info("it is certain again who decides, after %.1f s", self.now_s() - since_s)

    def _obstruct(self, obstacle: Waiting) -> None:
        """Tell everybody, and whoever comes meanwhile, why nobody is answered (R16)."""
        self._obstacle = obstacle
        for connection in self._connections.values():
            if connection.greeted:
                connection.write(framed(obstacle))

    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    async def _probe(self, ledger: Ledger) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, ledger.commit, {})
        except RendezvousDeposedError as error:
            self._note_deposition(ledger, error)
        except RendezvousConnectionError as error:
            logger.warning("%s; agents wait until it is clear who decides", error)

    def _new_engine(self, records: dict[str, bytes]) -> Engine:
        return Engine(
            records,
            self._clock,
            lambda: secrets.token_hex(4),
            self.name,
            self._closed_kept_s,
            self.tally,
        )

    def _send_if_held(self, sends: list[Send]) -> None:
        """Let answers out while it is certain that nobody else decides, else keep them back."""
        self._withheld += sends
        if self._withheld and (self._ledger is None or self._ledger.is_held()):
            sends, self._withheld = self._withheld, []
            self._send(sends)

    def _send(self, sends: list[Send]) -> None:
        for send in sends:
            for number in send.connections:
                if number not in self._connections:
                    self._answer_inquiry(number, send.message)
            found = map(self._connections.get, send.connections)
            present = [connection for connection in found if connection and connection.is_open]
            # What is large is made only for those who still read.
            data = framed(send.message) if send.message is not None and present else b""
            for connection in present:
                if data:
                    connection.write(data)
                if send.end:
                    connection.close()

    def _answer_inquiry(self, number: int, message: Reply | None) -> None:
        inquiry = self._inquiries.get(number)
        if inquiry is None or inquiry.done() or message is None or isinstance(message, Welcome):
            return
        inquiry.set_result(message)

    def _stop_if_failed(self, task: asyncio.Task[None]) -> None:
        """End with the error of a task without which agents would wait in vain."""
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self.stop()

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._engine is not None:
                held = self._ledger is None or self._ledger.is_held()
                self._tell_certainty(held)
                self._engine.tick(certain=held)
                self._flush()
                if not held:
                    self._find_out()
            self._end_dead_connections()
            self._stop_if_idle()
            if untold := self._refusals.take_untold(self.now_s()):
                logger.warning("refused %d more peers", untold)

    def _end_dead_connections(self) -> None:
        now_s = self.now_s()
        if now_s - self._scanned_s < SCAN_S:
            return
        self._scanned_s = now_s
        for connection in list(self._connections.values()):
            limit_s = IDLE_TIMEOUT_S if connection.greeted else GREETING_TIMEOUT_S
            is_late = now_s - connection.heard_s > limit_s and not connection.paused
            if is_late and connection.transport is not None:
                connection.transport.abort()

    def _stop_if_idle(self) -> None:
        now_s = self.now_s()
        if self._engine is None or self._engine.has_work():
            self._busy_s = now_s
        elif self._idle_exit_s is not None and now_s - self._busy_s >= self._idle_exit_s:
            logger.info("nobody was connected for %g s: this coordinator ends", self._idle_exit_s)
            self.stop()

    async def _end(self) -> None:
        await self._reception.close()
        if self._writing is not None and self._is_writing():
            self._writing.cancel()
        self._abort_connections()
        if self._seat is not None:
            self._seat.close()
        self._writer.shutdown(wait=True)
        if self._ledger is not None:
            self._ledger.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                while self._open_count:
                    await asyncio.sleep(0)

    def _abort_connections(self) -> None:
        """Drop all connections; agents take this for a restart, and dial again."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            if connection.transport is not None:
                connection.transport.abort()


Companion = Callable[[CoordinatorServer], AbstractAsyncContextManager[None]]


def _alone(server: CoordinatorServer) -> AbstractAsyncContextManager[None]:
    del server
    return nullcontext()


def serve(
    listeners: Sequence[socket.socket],
    ledger: Ledger | None,
    idle_exit_s: float | None = None,
    seat: Seat | None = None,
    closed_kept_s: float = CLOSED_KEPT_S,
    keys: Keys | None = None,
    tls: TlsContexts | None = None,
    companion: Companion = _alone,
) -> None:
    """Serve a coordinator in this process until a signal or idleness ends it.

    Args:
        listeners: Bound, listening sockets.
        ledger: Where runs are kept; `None` for runs that die with the process.
        idle_exit_s: End after nobody was connected for so long, in seconds.
        seat: For one of several coordinators that share a ledger.
        closed_kept_s: How long a closed run is remembered that nobody is attached to, in seconds.
        keys: Who may come in; everybody if it is `None`.
        tls: What all connections are secured with; `None` for plain ones.
        companion: What is to live beside it in its loop and look at it, such as a status page.

    Raises:
        RendezvousStateError: The ledger holds something that is not a coordinator's.
    """
    _raise_open_files_limit()

    async def main() -> None:
        server = CoordinatorServer(
            listeners,
            ledger,
            idle_exit_s,
            seat=seat,
            closed_kept_s=closed_kept_s,
            keys=keys,
            tls=tls,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
        async with companion(server):
            await server.run()

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


def _raise_open_files_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
