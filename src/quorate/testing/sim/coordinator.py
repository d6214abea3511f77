"""One life of a coordinator: the real engine in a shell of simulated sockets, timers and writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, Protocol

from quorate.coordinator.engine import Batch, Engine
from quorate.coordinator.entrance.door import Door, Keys
from quorate.coordinator.runs.outbox import Send
from quorate.errors import RendezvousAuthenticationError, RendezvousProtocolError
from quorate.testing.sim.custody import Custody
from quorate.testing.sim.engine import SimEngine
from quorate.testing.sim.ledger import SimLedger
from quorate.testing.sim.network import Connection, Ending, Network, Peer
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    Hello,
    Pong,
    Proven,
    Redirect,
    Refused,
    Reply,
    Request,
    decode_word,
    encode,
    failure,
)
from quorate.wire.proof import NONCE_BYTES

__all__ = ["SimCoordinator", "Surroundings", "Watcher"]

TICK_S = 0.25
COMMIT_RETRY_S = 1.0


class Watcher(Protocol):
    """Sees what a coordinator decides, and what it tells."""

    def loaded(self, coordinator: SimCoordinator) -> None:
        """Look at an engine that was just made of what is stored."""
        ...

    def before(self, coordinator: SimCoordinator) -> None:
        """Look at the state before a message is handled, time passes, or consequences are drawn."""
        ...

    def after(self, coordinator: SimCoordinator) -> None:
        """Look at the state after that, before it is stored."""
        ...

    def vouching(self, coordinator: SimCoordinator, changes: Mapping[str, bytes | None]) -> None:
        """Look at what will be stored when all is let out that is made by now.

        Args:
            coordinator: Whose engine it is.
            changes: What is to be stored before.
        """
        ...

    def telling(self, coordinator: SimCoordinator, connection: int, message: Reply) -> None:
        """Look at a message that is let out."""
        ...

    def ticked(self, coordinator: SimCoordinator) -> None:
        """Look at it after a tick, with nothing left that is to be stored or let out."""
        ...

    def happened(self, coordinator: SimCoordinator, text: str) -> None:
        """Look at a line of the coordinator's log."""
        ...


class Surroundings(NamedTuple):
    """What all coordinators of a simulated run have in common.

    Args:
        schedule: The true time.
        network: What carries their connections.
        ledger: What they keep their runs in.
        watcher: Sees everything.
        keys: Who may come in.
    """

    schedule: Schedule
    network: Network
    ledger: SimLedger
    watcher: Watcher
    keys: Keys


class SimCoordinator(Peer):
    """A coordinator that listens on a machine; `start` loads the ledger.

    Args:
        around: What it shares with others, and with its other lives.
        machine: Where it runs.
        name: What it is called.

    Attributes:
        ledger: What it keeps its runs in.
        engine: The real engine; `None` while another coordinator decides.
        fence: What it was given with the seat, if there is one.
        started_s: When it began to decide.
        ticked_s: When it has ticked last before the present tick.
        withheld: What may be let out once it is certain that nobody else decides.
        readers: Puts together what arrives, by connection.
        doors: Keep back what arrives until its sender has come in, by connection.
        shares_ledger: Whether others write its ledger too.
    """

    shares_ledger = False

    def __init__(self, around: Surroundings, machine: Machine, name: str) -> None:
        super().__init__(around.schedule, machine, around.network)
        self.engine: Engine | None = None
        self.name = name
        self.fence = 0
        self.started_s = self.schedule.now_s
        self.ticked_s = self._ticks_s = self.schedule.now_s
        self._has_ticked = False
        self._custody = Custody()
        self.ledger = around.ledger
        self._watcher = around.watcher
        self.readers: dict[int, FrameReader] = {}
        self.doors: dict[int, Door] = {}
        self._keys = around.keys
        self.withheld: list[Send] = []

    def start(self) -> None:
        """Listen, and decide."""
        self.network.listeners[self.machine.name] = self
        self.begin()
        self.later(TICK_S, self._tick)

    def die(self) -> None:
        """See `Process`."""
        super().die()
        self.ledger.abandon(self)

    def connected(self, connection: Connection) -> None:
        """See `Peer`."""
        locked = self._keys.token is not None
        nonce = self.schedule.random.randbytes(NONCE_BYTES) if locked else b""
        self.readers[connection.number] = FrameReader()
        self.doors[connection.number] = Door(self._keys, nonce)
        if self.engine is not None and not locked:
            self.engine.opened(connection.number)

    def received(self, connection: Connection, data: bytes) -> None:
        """See `Peer`."""
        reader = self.readers.get(connection.number)
        if reader is None:
            return
        try:
            for body in reader.feed(data):
                request = self._enter(connection, body)
                if isinstance(request, Hello):
                    reader.bytes_max = FRAME_BYTES_MAX
                if request is not None and self.engine is None:
                    self._redirect(connection)
                    return
                if request is not None and self.engine is not None:
                    self.engine.receive(connection.number, request)
        except (RendezvousProtocolError, RendezvousAuthenticationError) as error:
            answer = failure(0, error)
            connection.send(self, frame(encode(Refused(answer.code, answer.message))))
            self._drop(connection, Ending.FINISH)

    def _enter(self, connection: Connection, body: bytes) -> Request | None:
        reply, request = self.doors[connection.number].enter(decode_word(body), body)
        if reply is not None:
            connection.send(self, frame(encode(reply)))
        if isinstance(reply, Proven) and self.engine is not None:
            self.engine.opened(connection.number)
        return request

    def ended(self, connection: Connection, ending: Ending) -> None:
        """See `Peer`."""
        self.doors.pop(connection.number, None)
        if self.readers.pop(connection.number, None) is not None and self.engine is not None:
            self.engine.closed(connection.number, ending is Ending.FINISH)

    def listens_to(self, connection: Connection) -> bool:
        """See `Peer`: whoever has not shown that it knows the token may be anybody."""
        door = self.doors.get(connection.number)
        return self._keys.token is None or (door is not None and door.is_open)

    def turn_over(self) -> None:
        """Store what is to be stored, and let out what may go."""
        engine = self.engine
        if engine is None:
            return
        engine.carry_on()
        batch = engine.take_batch()
        sends = engine.take_sends()
        if batch is not None:
            self._custody.keep(batch)
            self._watcher.vouching(self, batch.changes)
        elif not self._custody.keeps and any(not isinstance(s.message, Pong) for s in sends):
            self._watcher.vouching(self, {})
        self._custody.let_out(sends)
        self._send(sends)
        for _, event in engine.take_events():
            self._watcher.happened(self, event.text)
        if batch is not None:
            self._store(batch)
        elif self._has_ticked and self._is_idle(engine):
            self._watcher.ticked(self)
        self._has_ticked = False

    def _is_idle(self, engine: Engine) -> bool:
        return not (self._custody.keeps or self.withheld or engine.has_backlog)

    def is_certain(self) -> bool:
        """Return whether it is certain that nobody else decides (R17)."""
        return True

    def holder(self) -> str:
        """Return where the coordinator is that decides, empty if none is known."""
        return ""

    def deposed(self) -> None:
        """Note that another coordinator decides."""
        raise AssertionError(f"{self.name} is alone and cannot be deposed")

    def resign(self) -> None:
        """Give up, in favour of others, what is held: the process ends in order."""

    def reaches_ledger(self) -> bool:
        """Return whether writes get through."""
        return True

    def begin(self) -> None:
        """Decide, or stand by until this may."""
        self.decide()

    def decide(self) -> None:
        """Load what is stored, and decide from now on."""
        self.started_s = self.schedule.now_s
        self._custody = Custody()
        self.engine = SimEngine(
            partial(self._watcher.before, self),
            partial(self._watcher.after, self),
            dict(self.ledger.records),
            self.machine,
            self._mint,
            self.name,
            is_shared=self.shares_ledger,
        )
        self._watcher.loaded(self)

    def _mint(self) -> str:
        return f"{self.schedule.random.getrandbits(32):08x}"

    def tick(self) -> None:
        """Let the engine's time pass."""
        if self.engine is not None:
            self.engine.tick(certain=self.is_certain())

    def _tick(self) -> None:
        self.ticked_s, self._ticks_s = self._ticks_s, self.schedule.now_s
        self.tick()
        self._has_ticked = True
        self.later(TICK_S, self._tick)

    def _store(self, batch: Batch) -> None:
        def done(outcome: str) -> None:
            engine = self.engine
            if engine is None or engine is not writing:
                return
            if outcome == "stored":
                self._custody.release()
                engine.settle(batch, certain=self.is_certain())
            elif outcome == "deposed":
                self.deposed()
            else:
                self.later(COMMIT_RETRY_S, write)

        def write() -> None:
            if self.engine is writing and not self.reaches_ledger():
                self.later(COMMIT_RETRY_S, write)
            elif self.engine is writing:
                self.ledger.commit(self, self.fence, batch.changes, done)

        writing = self.engine
        write()

    def _send(self, sends: list[Send]) -> None:
        self.withheld += sends
        if not self.withheld or not self.is_certain():
            return
        sends, self.withheld = self.withheld, []
        for send in sends:
            data = frame(encode(send.message)) if send.message is not None else b""
            for number in send.connections:
                connection = self.connections.get(number)
                if connection is None:
                    continue
                if send.message is not None:
                    self._watcher.telling(self, number, send.message)
                    connection.send(self, data)
                if send.end:
                    self._drop(connection, Ending.FINISH)

    def _redirect(self, connection: Connection) -> None:
        connection.send(self, frame(encode(Redirect(self.holder()))))
        self._drop(connection, Ending.FINISH)

    def _drop(self, connection: Connection, ending: Ending) -> None:
        connection.end(self, ending)
        self.ended(connection, Ending.RESET)
