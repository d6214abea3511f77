"""A network of TCP connections: bytes arrive late, but in order, or not at all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from enum import Enum
from itertools import count

from quorate.testing.sim.process import Machine, Process
from quorate.testing.sim.schedule import Schedule

__all__ = ["Connection", "Ending", "Network", "Peer"]

CONNECT_TIMEOUT_S = 1.0

QUICK_S = (0.001, 0.02)
SLOW_S = (0.05, 0.4)
LOSS = 0.05

# Who says nothing for longer than this makes a pause.
PAUSE_S = 2.0

# What is lost is sent again: after a fifth of a second at the earliest.
RETRANSMIT_S = (0.2, 1.5)


class Ending(Enum):
    """How one side of a connection ends, as the other side reads it."""

    FINISH = "finished"
    RESET = "reset"


class Peer(Process):
    """A process with connections."""

    def __init__(self, schedule: Schedule, machine: Machine, network: Network) -> None:
        super().__init__(schedule, machine)
        self.network = network
        self.connections: dict[int, Connection] = {}

    @abstractmethod
    def connected(self, connection: Connection) -> None:
        """Note a new connection."""

    @abstractmethod
    def received(self, connection: Connection, data: bytes) -> None:
        """Take bytes."""

    @abstractmethod
    def ended(self, connection: Connection, ending: Ending) -> None:
        """Note that the other side has ended the connection; this side is ended too."""

    def listens_to(self, connection: Connection) -> bool:
        """Return whether what comes on a connection counts as a word of its sender's."""
        return True

    def refused(self, why: str) -> None:
        """Note that no connection was made."""
        raise AssertionError(f"{self.machine.name} does not dial: {why}")

    def kill(self, ending: Ending | None) -> None:
        """End the process.

        Args:
            ending: How the machine ends its connections; `None` if it is gone itself.
        """
        self.die()
        for connection in list(self.connections.values()):
            if ending is None:
                connection.forget(self)
            else:
                connection.end(self, ending)


class _Stream:
    """One direction of a connection."""

    __slots__ = ("arrives_s", "connection", "source", "stuck", "target", "under_way")

    def __init__(self, connection: Connection, source: Peer, target: Peer) -> None:
        self.connection = connection
        self.source = source
        self.target = target
        self.arrives_s = 0.0
        self.under_way = 0
        self.stuck: list[bytes | Ending | None] = []


class Connection:
    """A connection of two processes; each side ends on its own.

    Args:
        network: What carries it.
        number: Its number; no two have the same.
        client: Who has dialled.
        server: Who has listened.
    """

    __slots__ = ("_down", "_up", "client", "network", "number", "server")

    def __init__(self, network: Network, number: int, client: Peer, server: Peer) -> None:
        self.network = network
        self.number = number
        self.client = client
        self.server = server
        self._up = _Stream(self, client, server)
        self._down = _Stream(self, server, client)

    @property
    def streams(self) -> tuple[_Stream, _Stream]:
        """Return both directions."""
        return (self._up, self._down)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is on its way, in either direction."""
        return not (self._up.under_way or self._down.under_way)

    def send(self, sender: Peer, data: bytes) -> None:
        """Send bytes, unless this side has ended."""
        if self.number in sender.connections:
            self.network.carry(self._from(sender), data)

    def end(self, sender: Peer, ending: Ending) -> None:
        """End this side and tell the other."""
        if sender.connections.pop(self.number, None) is not None:
            self.network.carry(self._from(sender), ending)

    def forget(self, sender: Peer) -> None:
        """End this side without a word, as a machine does that loses its power."""
        sender.connections.pop(self.number, None)

    def open(self) -> None:
        """Tell the server's process of the new connection."""
        self.network.carry(self._up, None)

    def arrive(self, stream: _Stream, item: bytes | Ending | None) -> None:
        """Let something reach its process, or bounce off a side that has ended."""
        target = stream.target
        stream.under_way -= 1
        if item is None and target.alive:
            target.connections[self.number] = self
            target.handle(target.connected, self)
        elif self.number not in target.connections:
            if not isinstance(item, Ending) and target.machine.name not in self.network.dark:
                self.network.carry(self._from(target), Ending.RESET)
        elif isinstance(item, Ending):
            del target.connections[self.number]
            if item is Ending.FINISH:
                self.network.carry(self._from(target), Ending.FINISH)
            target.handle(target.ended, self, item)
        elif item is not None:
            if target.listens_to(self):
                self.network.heard(stream.source, target)
            target.handle(target.received, self, item)

    def _from(self, sender: Peer) -> _Stream:
        return self._up if sender is self.client else self._down


class Network:
    """Carries bytes between machines, and knows which ways are blocked.

    Args:
        schedule: The true time.

    Attributes:
        dark: The names of machines that are without power.
        listeners: Who accepts connections, by machine.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.dark: set[str] = set()
        self.listeners: dict[str, Peer] = {}
        self._arrived_s: dict[tuple[Peer, Peer], float] = {}
        self._pauses: dict[tuple[Peer, Peer], tuple[float, float]] = {}
        self._schedule = schedule
        self._numbers = count(1)
        self._blocked: set[tuple[str, str]] = set()
        self._stuck: list[_Stream] = []
        self._delay_s = QUICK_S
        self._loss = 0.0
        self._slow_until_s = 0.0
        self._disturbed_s: dict[str, float] = {}

    def be_slow(self) -> None:
        """Let packets be late, and let some of them be sent again."""
        self._delay_s, self._loss = SLOW_S, LOSS

    def be_quick(self) -> None:
        """Let packets be quick again."""
        self._delay_s, self._loss = QUICK_S, 0.0
        self._slow_until_s = self._schedule.now_s

    def block(self, ways: Iterable[tuple[str, str]]) -> None:
        """Let nothing pass from the first to the second machine of each pair."""
        for way in ways:
            self._blocked.add(way)
            self.disturb(*way)

    def unblock(self, ways: Iterable[tuple[str, str]]) -> None:
        """Let pass again, also what was stuck meanwhile."""
        for way in ways:
            self._blocked.discard(way)
            self.disturb(*way)
        stuck, self._stuck = self._stuck, []
        for stream in stuck:
            items, stream.stuck = stream.stuck, []
            stream.under_way -= len(items)
            for item in items:
                self.carry(stream, item)

    def unblock_all(self) -> None:
        """Let everything pass."""
        self.unblock(sorted(self._blocked))

    def disturb(self, *machines: str) -> None:
        """Note that nothing is to be expected of these machines' connections for a while."""
        for machine in machines:
            self._disturbed_s[machine] = self._schedule.now_s

    def calm_s(self, one: Machine, other: Machine) -> float:
        """Return for how long two machines could have talked without being disturbed."""
        if self._loss or self.is_blocked(one, other) or self.is_blocked(other, one):
            return 0.0
        ends = [self._disturbed_s.get(machine.name, 0.0) for machine in (one, other)]
        return self._schedule.now_s - max(*ends, self._slow_until_s)

    def heard(self, source: Peer, target: Peer) -> None:
        """Note that bytes have arrived."""
        pair, now_s = (source, target), self._schedule.now_s
        last_s = self._arrived_s.get(pair, 0.0)
        self._arrived_s[pair] = now_s
        if now_s - last_s >= PAUSE_S:
            self._pauses[pair] = (last_s, now_s)

    def heard_s(self, source: Peer, target: Peer, read_s: float) -> float:
        """Return when bytes of a process reached another's machine last.

        A pause that has ended since `read_s` lasts still, for one that has read nothing since.
        """
        began_s, ended_s = self._pauses.get((source, target), (0.0, 0.0))
        return began_s if ended_s > read_s else self._arrived_s.get((source, target), 0.0)

    def is_blocked(self, source: Machine, target: Machine) -> bool:
        """Return whether nothing passes from one machine to the other."""
        return (source.name, target.name) in self._blocked

    def dial(self, client: Peer, server_machine: Machine) -> None:
        """Connect; the client's `connected` or `refused` says what came of it."""
        blocked = self.is_blocked(client.machine, server_machine)
        self._schedule.after(self._delay(), self._reach, client, server_machine, blocked)

    def carry(self, stream: _Stream, item: bytes | Ending | None) -> None:
        """Send something along one direction; it is never overtaken."""
        stream.under_way += 1
        if (stream.source.machine.name, stream.target.machine.name) in self._blocked:
            if not stream.stuck:
                self._stuck.append(stream)
            stream.stuck.append(item)
            return
        stream.arrives_s = max(stream.arrives_s, self._schedule.now_s + self._delay())
        self._schedule.at(stream.arrives_s, stream.connection.arrive, stream, item)

    def _delay(self) -> float:
        delay_s = self._schedule.between(*self._delay_s)
        if self._loss and self._schedule.chance(self._loss):
            delay_s += self._schedule.between(*RETRANSMIT_S)
        return delay_s

    def _reach(self, client: Peer, machine: Machine, blocked: bool) -> None:
        listener = self.listeners.get(machine.name)
        if blocked or machine.name in self.dark or self.is_blocked(machine, client.machine):
            if not blocked and listener is not None and listener.alive:
                # The listener's machine has heard the first packet; its answer is lost.
                connection = Connection(self, next(self._numbers), client, listener)
                self._schedule.after(self._delay(), connection.open)
            self._schedule.after(CONNECT_TIMEOUT_S, client.handle, client.refused, "no answer")
        elif listener is None or not listener.alive:
            self._schedule.after(self._delay(), client.handle, client.refused, "nobody listens")
        elif client.alive:
            connection = Connection(self, next(self._numbers), client, listener)
            client.connections[connection.number] = connection
            connection.open()
            self._schedule.after(self._delay(), client.handle, client.connected, connection)
