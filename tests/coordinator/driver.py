"""An engine driven by hand: time, connections and the ledger do what a test says.

A `Driver` plays the server and the clock, an `Agent` is one session of a node. Whatever travels is
encoded and decoded on its way, and after every step each run's invariants are checked.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

from quorate.coordinator.engine import Batch, Engine
from quorate.coordinator.ledgers.stored_state import StoredState
from quorate.coordinator.runs.run import Run
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, AgreedSettings, RendezvousTimeout
from quorate.core.state import Place, RendezvousState, WorldName, check
from quorate.testing import ManualClock
from quorate.wire.messages import (
    ROLE_AGENT,
    ROLE_OPERATOR,
    ROLE_STORE,
    Changed,
    Close,
    Failed,
    Hello,
    Join,
    Joined,
    Leave,
    Ping,
    Pong,
    Probe,
    Refused,
    Reply,
    Request,
    SetValue,
    decode_reply,
    decode_request,
    encode,
)
from tests.core.support import make_settings

__all__ = [
    "QUICK_REGROUP",
    "RUN",
    "TICK_S",
    "Agent",
    "Driver",
    "Peer",
    "assert_stored",
    "places",
    "refusal",
    "rejoin",
]

RUN = "run"
TICK_S = 0.25
BEAT_S = 2.5

QUICK_REGROUP = RendezvousTimeout(regroup=timedelta(seconds=5))

Kind = TypeVar("Kind")


class Peer:
    """One who speaks to the coordinator, and remembers what it reads."""

    def __init__(self, driver: Driver, hello: Hello) -> None:
        self.driver = driver
        self.hello = hello
        self.connection: int | None = None
        self.received: list[Reply] = []
        self.read = 0
        self.beats = True
        self.probe = 0

    def connect(self) -> None:
        self.probe = 0
        self.connection = self.driver.open(self)
        self.say(self.hello)

    def say(self, message: Request) -> None:
        assert self.connection is not None
        self.driver.send(self.connection, message)

    def ping(self) -> None:
        """Say that it is alive, and which probe it has read last."""
        self.say(Ping(1, self.probe))

    def cut(self, finished: bool = False) -> None:
        """End the connection; `finished` as the system does it for a process that ends."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            self.driver.end(connection, finished)

    def take(self) -> list[Reply]:
        """Return what was read since the last call, pongs left out."""
        news, self.read = self.received[self.read :], len(self.received)
        return [message for message in news if not isinstance(message, Pong)]

    def all(self, kind: type[Kind]) -> list[Kind]:
        return [message for message in self.received if isinstance(message, kind)]

    def last(self, kind: type[Kind]) -> Kind:
        return self.all(kind)[-1]

    def take_message(self, message: Reply) -> None:
        self.received.append(message)
        if isinstance(message, Probe):
            self.probe = message.number


class Agent(Peer):
    """One life of a node."""

    def __init__(
        self, driver: Driver, name: str, profile: NodeProfile, settings: AgreedSettings
    ) -> None:
        self.node = NodeDesc(name, 1, 0, f"life{next(driver.numbers)}")
        self.profile = profile
        session = self.node.incarnation
        hello = Hello(
            PROTOCOL_VERSION, ROLE_AGENT, RUN, session, self.node, profile, settings, None
        )
        super().__init__(driver, hello)
        self.pending: Join | None = None
        self.place: Place | None = None
        self.told = Changed(0, "")

    @property
    def holding(self) -> WorldName | None:
        return None if self.place is None else self.place.world

    def reconnect(self) -> None:
        """Dial again, and ask again what is unanswered."""
        self.hello.holding = self.holding
        self.connect()
        if self.pending is not None:
            self.say(self.pending)

    def join(self, timeout_s: float = 600.0) -> int:
        asked = Join(next(self.driver.numbers), self.holding, timeout_s, self.profile)
        self.pending = asked
        self.say(asked)
        return asked.id

    def leave(self, reason: str = "") -> None:
        self.say(Leave(next(self.driver.numbers), reason))

    def close(self, reason: str, outcome: str = "") -> int:
        request_id = next(self.driver.numbers)
        self.say(Close(request_id, reason, outcome))
        return request_id

    def take_message(self, message: Reply) -> None:
        super().take_message(message)
        answered = isinstance(message, Joined | Failed) and self.pending is not None
        if answered and message.id == self.pending.id:
            self.pending = None
        if isinstance(message, Joined):
            self.place, self.told = message.place, Changed(0, "")
        elif isinstance(message, Changed):
            self.told = message


class Driver:
    """A coordinator, its ledger and its clock.

    Attributes:
        stalled: While it is true, no batch can be stored.
        certain: Whether it is certain, once a batch is stored, that nobody else decides.
        ledger: What is stored.
        batches: How many batches were stored.
    """

    def __init__(self, min_nodes: int = 2, max_nodes: int = 3, **changes: Any) -> None:
        self.settings = make_settings(min_nodes, max_nodes, **changes)
        self.clock = ManualClock()
        self.ledger: dict[str, bytes] = {}
        self.numbers = count(1)
        self.peers: dict[int, Peer] = {}
        self.stalled = False
        self.certain = True
        self.batches = 0
        self._in_flight: Batch | None = None
        self.engine = self._new_engine()

    @property
    def run(self) -> Run:
        return self.engine.runs[RUN]

    @property
    def state(self) -> RendezvousState:
        return self.run.state

    @property
    def agents(self) -> list[Agent]:
        return [peer for peer in self.peers.values() if isinstance(peer, Agent)]

    def agent(self, name: str, node_id: str = "", **changes: Any) -> Agent:
        """Return an attached agent; `changes` are to its settings."""
        given = {"min_nodes": self.settings.min_nodes, "max_nodes": self.settings.max_nodes}
        settings = make_settings(**(given | changes)).agreed if changes else self.settings.agreed
        agent = Agent(self, name, NodeProfile(node_id=node_id, port=7, release="1"), settings)
        agent.connect()
        return agent

    def operator(self, run_id: str = RUN) -> Peer:
        return self._other(ROLE_OPERATOR, run_id, "")

    def store(self, session: str, run_id: str = RUN) -> Peer:
        return self._other(ROLE_STORE, run_id, session)

    def world(self, *names: str, **changes: Any) -> list[Agent]:
        """Return agents that are the members of a complete round."""
        agents = [self.agent(name, **changes) for name in names]
        for agent in agents:
            agent.join()
        if not self.state.complete:
            self.let_pass(31)
        assert {agent.node for agent in agents} == set(self.state.participants)
        for agent in agents:
            agent.take()
        return agents

    def open(self, peer: Peer) -> int:
        connection = next(self.numbers)
        self.peers[connection] = peer
        self.engine.opened(connection)
        return connection

    def send(self, connection: int, message: Request) -> None:
        self.engine.receive(connection, decode_request(encode(message)))
        self.deliver()

    def end(self, connection: int, finished: bool) -> None:
        self.peers.pop(connection, None)
        self.engine.closed(connection, finished)
        self.deliver()

    def deliver(self) -> None:
        """Store what is to be stored, let out what may go, until there is no more to do.

        Of what takes long a slice is done each time; `finish` does the rest.
        """
        self.engine.carry_on()
        self._let_out()
        while not self.stalled:
            batch = self._in_flight or self.engine.take_batch()
            if batch is None:
                break
            self._commit(batch.changes)
            self._in_flight = None
            self.engine.settle(batch, self.certain)
            self._let_out()
        if self.stalled and self._in_flight is None:
            self._in_flight = self.engine.take_batch()
        self._let_out()
        self._check()

    def stall(self) -> None:
        """Let a write begin that does not end: what is said from now on becomes one batch.

        It takes a world, whose store is written to.
        """
        writer = self.store("writer")
        self.stalled = True
        writer.say(SetValue(next(self.numbers), self.state.name, "key", b""))

    def go_on(self) -> None:
        """Let writes end again."""
        self.stalled = False
        self.deliver()

    def finish(self) -> None:
        """Do what takes long to its end."""
        while self.engine.has_chores:
            self.deliver()

    def let_pass(self, seconds: float) -> None:
        """Let time pass in ticks; agents that can beat."""
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            if (self.clock.monotonic() / BEAT_S).is_integer():
                self.beat()
            self.engine.tick()
            self.deliver()

    def beat(self) -> None:
        for connection, peer in list(self.peers.items()):
            if peer.beats:
                self.send(connection, Ping(0, peer.probe))

    def freeze(self, seconds: float) -> None:
        """Let time pass without a tick; what agents have said meanwhile is read afterwards."""
        self.clock.advance(seconds)
        self.engine.tick()
        self.deliver()
        self.beat()

    def crash(self, with_ledger: bool = True) -> None:
        """Kill the coordinator and start it again; every connection is reset."""
        self._in_flight = None
        if not with_ledger:
            self.ledger.clear()
        for peer in self.peers.values():
            peer.connection = None
        self.peers.clear()
        self.engine = self._new_engine()
        self.deliver()

    def messages(self) -> int:
        """Return how many messages every peer was sent so far, pongs left out."""
        peers = {id(peer): peer for peer in self.peers.values()}.values()
        return sum(not isinstance(m, Pong) for peer in peers for m in peer.received)

    def _other(self, role: str, run_id: str, session: str) -> Peer:
        session = session or f"other{next(self.numbers)}"
        peer = Peer(self, Hello(PROTOCOL_VERSION, role, run_id, session))
        peer.connect()
        return peer

    def _new_engine(self) -> Engine:
        return Engine(dict(self.ledger), self.clock, lambda: f"e{next(self.numbers)}", "here")

    def _let_out(self) -> None:
        for send in self.engine.take_sends():
            for connection in send.connections:
                peer = self.peers.get(connection)
                if peer is None:
                    continue
                if send.message is not None:
                    peer.take_message(decode_reply(encode(send.message)))
                if send.end:
                    if peer.connection == connection:
                        peer.connection = None
                    del self.peers[connection]
                    self.engine.closed(connection, False)

    def _commit(self, changes: dict[str, bytes | None]) -> None:
        self.batches += 1
        for key, value in changes.items():
            if value is None:
                self.ledger.pop(key, None)
            else:
                self.ledger[key] = value

    def _check(self) -> None:
        for run in self.engine.runs.values():
            if run.state.agreed is not None:
                check(run.state, run.settings)
            assert run.sessions.keys() == run.state.last_heartbeats.keys()
            if self._in_flight is None:
                assert_stored(self.ledger, run)


def assert_stored(ledger: dict[str, bytes], run: Run) -> None:
    """Check that the ledger holds the run's state as it is, the order of arrivals included."""
    stored = StoredState(run.run_id).load(ledger)
    # What is left of a ban goes by between two writes.
    assert list(stored.bans) == list(run.state.bans)
    stored.bans = run.state.bans
    assert stored == run.state
    for name in ("participants", "survivors", "wait_list", "redundancy_list"):
        assert list(getattr(stored, name)) == list(getattr(run.state, name)), name


def refusal(peer: Peer) -> Refused:
    """Return why the peer's connection was ended."""
    assert peer.connection is None, "the connection stands"
    return peer.last(Refused)


def places(*agents: Agent) -> list[int]:
    """Return the agents' ranks, after checking that all hold the present world."""
    world = agents[0].driver.state.world
    assert world is not None
    for agent in agents:
        assert agent.place is not None
        assert agent.place.world == world.name
        assert agent.place.digest == world.digest()
        assert agent.place.size == len(world.members)
    return [agent.place.rank for agent in agents if agent.place is not None]


def rejoin(*agents: Agent) -> None:
    """Let agents join, in this order."""
    for agent in agents:
        agent.join()
