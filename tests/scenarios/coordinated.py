"""The coordinated way: one engine decides; agents are the messages that they send and read."""

from __future__ import annotations

from itertools import count

from quorate.coordinator.engine import Engine
from quorate.coordinator.runs.outbox import Send
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.core.state import RendezvousState, WorldName
from quorate.errors import RendezvousError, RendezvousReplacedError
from quorate.testing import ManualClock
from quorate.wire.messages import (
    ROLE_AGENT,
    ROLE_OPERATOR,
    Changed,
    Close,
    Done,
    Drain,
    Evict,
    Failed,
    Hello,
    Hold,
    Join,
    Joined,
    Leave,
    Ping,
    Probe,
    Refused,
    Release,
    Reply,
    Request,
    Scale,
    Waiting,
    error_of,
)
from tests.scenarios.way import Happening, Way

__all__ = ["CoordinatedWay"]

# Agents beat at half the keep-alive interval; every scenario's interval is even.
BEATS_PER_INTERVAL = 2


class CoordinatedAgent:
    """An agent's session: what it has asked and what it was told."""

    def __init__(self, node: NodeDesc, profile: NodeProfile, settings: RendezvousSettings) -> None:
        self.node, self.profile, self.settings = node, profile, settings
        self.connection: int | None = None
        self.held: WorldName | None = None
        self.pending: Join | None = None
        self.waits_for = ""
        self.told = Changed(0, "")
        self.alive = self.connected = True
        self.ended = False
        self.heard_s = 0.0
        self.probe = 0

    @property
    def acts(self) -> bool:
        return self.alive and self.connected

    def hello(self) -> Hello:
        return Hello(
            version=PROTOCOL_VERSION,
            role=ROLE_AGENT,
            run_id=self.settings.run_id,
            session=repr(self.node),
            node=self.node,
            profile=self.profile,
            settings=self.settings.agreed,
            holding=self.held,
        )

    def read(self, message: Reply | None) -> Happening | None:
        """Take a message; return how the call ended that it answers, if it answers one."""
        name = self.node.addr
        if isinstance(message, Joined):
            self.pending = None
            self.held = message.place.world
            self.told = Changed(0, "")
            return Happening(name, place=message.place)
        if isinstance(message, Waiting):
            self.waits_for = message.reason
        elif isinstance(message, Changed):
            self.told = message
        elif isinstance(message, Probe):
            self.probe = message.number
        elif isinstance(message, Failed | Refused):
            self.pending = None
            return self._failed(error_of(message))
        return None

    def _failed(self, error: RendezvousError) -> Happening | None:
        """Tell of an error once, though the request and the connection may both end with it."""
        if self.ended:
            return None
        self.ended = isinstance(error, RendezvousReplacedError)
        return Happening(self.node.addr, error=error)


class CoordinatedWay(Way):
    """One coordinator, with a ledger that holds what was committed."""

    def __init__(self, settings: RendezvousSettings) -> None:
        self._settings = settings
        self._clock = ManualClock()
        self._numbers = count(1)
        self._ledger: dict[str, bytes] = {}
        self._agents: dict[str, CoordinatedAgent] = {}
        self._by_connection: dict[int, CoordinatedAgent] = {}
        self._happenings: list[Happening] = []
        self._operator, self._told = 0, ""
        self._engine = self._new_engine()

    def add(
        self, agent: str, node: NodeDesc, profile: NodeProfile, settings: RendezvousSettings
    ) -> None:
        self._agents[agent] = CoordinatedAgent(node, profile, settings)

    def join(self, agent: str, timeout_s: float) -> None:
        asked = self._agents[agent]
        asked.ended = False
        asked.pending = Join(next(self._numbers), asked.held, timeout_s, asked.profile)
        if asked.connection is None:
            self._connect(asked)
        else:
            self._send(asked, asked.pending)

    def leave(self, agent: str) -> None:
        left = self._agents[agent]
        # Its process ends with it: nobody waits for a round any more.
        left.ended = True
        self._send(left, Leave(next(self._numbers), ""))
        self._deliver()
        self.die(agent)

    def die(self, agent: str) -> None:
        dead = self._agents[agent]
        dead.alive = False
        self._disconnect(dead, finished=True)

    def silence(self, agent: str) -> None:
        self._agents[agent].connected = False

    def restore(self, agent: str) -> None:
        """The agent has noticed the cut by now: it dials again."""
        restored = self._agents[agent]
        restored.connected = True
        self._disconnect(restored, finished=False)
        self._connect(restored)

    def close(self, agent: str, reason: str) -> None:
        self._send(self._agents[agent], Close(next(self._numbers), reason))

    def operate(self, command: str, words: list[str], options: dict[str, str]) -> str:
        requests = {
            "drain": lambda id: Drain(id, words[0], options.get("reason", "")),
            "evict": lambda id: Evict(id, words[0], _seconds(options), options.get("reason", "")),
            "hold": lambda id: Hold(id, options.get("reason", "")),
            "release": Release,
            "scale": lambda id: Scale(id, None if words[0] == "max" else int(words[0])),
        }
        operator = next(self._numbers)
        self._engine.opened(operator)
        run_id, session = self._settings.run_id, f"operator{operator}"
        self._engine.receive(operator, Hello(PROTOCOL_VERSION, ROLE_OPERATOR, run_id, session))
        self._engine.receive(operator, requests[command](next(self._numbers)))
        self._told = ""
        self._operator = operator
        self._deliver()
        self._engine.closed(operator, finished=True)
        return self._told

    def freeze(self, seconds: float) -> None:
        """What agents send meanwhile is read when the coordinator wakes up."""
        self._clock.advance(seconds)
        self._engine.tick()
        self._beat()

    def skew(self, agent: str, seconds: float) -> None:
        """Agents do not tell the time; the coordinator's own clock goes wrong instead."""
        self._clock.wall_skew_s = seconds

    def begin_anew(self, with_state: bool) -> None:
        if not with_state:
            self._ledger.clear()
        self._engine = self._new_engine()
        self._by_connection.clear()
        for agent in self._agents.values():
            agent.connection = None
            if agent.acts:
                self._connect(agent)

    def pass_second(self) -> None:
        self._clock.advance(1)
        self._beat()
        # Who is overdue at one tick is lost at the next; there are several in a second.
        self._engine.tick()
        self._engine.tick()
        self.settle()

    def settle(self) -> None:
        self._deliver()

    def take_happenings(self) -> list[Happening]:
        happenings, self._happenings = self._happenings, []
        return happenings

    def waiting(self, agent: str) -> int:
        return self._agents[agent].told.waiting

    def reason(self, agent: str) -> str:
        asked = self._agents[agent]
        return asked.waits_for if asked.pending is not None else asked.told.reason

    @property
    def state(self) -> RendezvousState:
        run = self._engine.runs.get(self._settings.run_id)
        return RendezvousState() if run is None else run.state

    def _new_engine(self) -> Engine:
        return Engine(self._ledger, self._clock, lambda: f"e{next(self._numbers)}")

    def _connect(self, agent: CoordinatedAgent) -> None:
        agent.connection, agent.probe = next(self._numbers), 0
        self._by_connection[agent.connection] = agent
        self._engine.opened(agent.connection)
        self._send(agent, agent.hello())
        if agent.pending is not None:
            self._send(agent, agent.pending)

    def _disconnect(self, agent: CoordinatedAgent, finished: bool) -> None:
        if agent.connection is not None:
            self._by_connection.pop(agent.connection, None)
            self._engine.closed(agent.connection, finished)
            agent.connection = None

    def _send(self, agent: CoordinatedAgent, message: Request) -> None:
        if agent.acts and agent.connection is not None:
            agent.heard_s = self._clock.monotonic()
            self._engine.receive(agent.connection, message)

    def _beat(self) -> None:
        every_s = self._settings.keep_alive_interval.total_seconds() / BEATS_PER_INTERVAL
        for agent in self._agents.values():
            if self._clock.monotonic() - agent.heard_s >= every_s:
                self._send(agent, Ping(0, agent.probe))

    def _deliver(self) -> None:
        """Store what is to be stored, then let its answers out, until nothing is left."""
        while True:
            self._engine.carry_on()
            batch = self._engine.take_batch()
            if batch is not None:
                self._commit(batch.changes)
                self._engine.settle(batch)
            sends = self._engine.take_sends()
            if batch is None and not sends and not self._engine.has_chores:
                return
            for send in sends:
                self._hand_over(send)

    def _commit(self, changes: dict[str, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self._ledger.pop(key, None)
            else:
                self._ledger[key] = value

    def _hand_over(self, send: Send) -> None:
        for connection in send.connections:
            if connection == self._operator and isinstance(send.message, Done):
                self._told = send.message.text
            elif connection == self._operator and isinstance(send.message, Failed):
                self._told = send.message.message
            agent = self._by_connection.get(connection)
            if agent is None or not agent.acts:
                continue
            happening = agent.read(send.message)
            if happening is not None:
                self._happenings.append(happening)
            if send.end:
                self._disconnect(agent, finished=False)


def _seconds(options: dict[str, str]) -> float | None:
    return float(options["for"].removesuffix("s")) if "for" in options else None
