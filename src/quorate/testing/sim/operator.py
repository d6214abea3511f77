"""An operator who commands and looks at random, over connections that fail like all others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Protocol, TypeAlias

import msgspec

from quorate.coordinator.agent.attachment import Attachment
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.core.state import RendezvousState
from quorate.credentials import Token
from quorate.testing.sim.agent import RUN, SimAgent
from quorate.testing.sim.network import Connection, Ending, Network, Peer
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.trace import Trace
from quorate.wire.messages import (
    ROLE_OPERATOR,
    Close,
    Done,
    Drain,
    Evict,
    Hello,
    History,
    Hold,
    OperatorRequest,
    Release,
    Report,
    Scale,
    Status,
)

__all__ = ["Operated", "SimOperator"]

# How long rounds are held, and nodes are kept out.
HOLD_S = (0.5, 4.0)
BAN_S = (1.0, 10.0)

AGAIN_S = 1.0

INTERVAL_S = 5.0

Command: TypeAlias = OperatorRequest | Close | Status | History


class Operated(Protocol):
    """The world that an operator acts on."""

    schedule: Schedule
    trace: Trace
    settings: RendezvousSettings
    network: Network

    def living(self) -> list[SimAgent]:
        """Return the agents that have not ended."""
        ...

    def state(self) -> RendezvousState | None:
        """Return the state as the coordinator that decides has it, if there is one."""
        ...


class SimOperator(Peer):
    """Gives commands, each on a connection of its own; one that is lost is not repeated.

    Args:
        world: The world that it acts on.
        endpoints: The machines of the coordinators.
        token: The coordinators' token, if they have one.

    Attributes:
        commands: What it has asked for.
    """

    def __init__(
        self, world: Operated, endpoints: Sequence[Machine], token: Token | None = None
    ) -> None:
        super().__init__(world.schedule, Machine(world.schedule, "operator"), world.network)
        self._world = world
        self._endpoints = endpoints
        self._token = token
        self._numbers = count(1)
        self.commands: list[Command] = []
        self._asked: list[Command] = []
        self._sessions: dict[int, Attachment] = {}

    def act(self) -> None:
        """Give a command that is left to chance."""
        commands = (self._drain, self._evict, self._hold, self._scale, self._look)
        self.schedule.random.choice(commands)()

    def drain(self, agent: SimAgent) -> None:
        """Let an agent leave when its world ends."""
        self._say(Drain(next(self._numbers), str(agent.node), "at random"))

    def scale(self, wish: int | None) -> None:
        """Wish for worlds of so many nodes; `None` for as many as there may be."""
        self._say(Scale(next(self._numbers), wish))

    def close(self, reason: str) -> None:
        """Close the run."""
        self._say(Close(next(self._numbers), reason))

    def heal(self) -> None:
        """Take back what keeps a run from filling its rounds, until that is so."""
        state = self._world.state()
        if state is None or state.held or state.desired_nodes is not None:
            self._say(Release(next(self._numbers)))
            self.scale(None)
        self.later(AGAIN_S, self.heal)

    def connected(self, connection: Connection) -> None:
        """See `Peer`: say hello, and the oldest command."""
        if not self._asked:
            return
        draw, request = self.schedule.random, self._asked.pop(0)
        session = Attachment(self._hello, INTERVAL_S, draw.random, self._token, draw.randbytes)
        self._sessions[connection.number] = session
        session.connected(self.machine.name, self.machine.monotonic())
        session.request(request.id, request, self.machine.monotonic())
        connection.send(self, session.take_output())

    def received(self, connection: Connection, data: bytes) -> None:
        """See `Peer`."""
        session = self._sessions.get(connection.number)
        if session is None:
            return
        session.received(data, self.machine.monotonic())
        connection.send(self, session.take_output())
        for outcome in session.take_outcomes():
            answer = outcome.answer
            text = answer.text if isinstance(answer, Done) else outcome.error or answer
            self._world.trace.note("operator", "is told: {}", text)
            if isinstance(answer, Report):
                msgspec.json.decode(answer.text())
            connection.end(self, Ending.FINISH)

    def ended(self, connection: Connection, ending: Ending) -> None:
        """See `Peer`."""
        self._sessions.pop(connection.number, None)

    def refused(self, why: str) -> None:
        """See `Peer`."""
        if self._asked:
            self._asked.pop(0)

    def _hello(self, _: str) -> Hello:
        session = f"operator{next(self._numbers)}"
        return Hello(PROTOCOL_VERSION, ROLE_OPERATOR, RUN, session)

    def _drain(self) -> None:
        living = self._world.living()
        if living:
            self.drain(self.schedule.random.choice(living))

    def _evict(self) -> None:
        for_s = self.schedule.between(*BAN_S) if self.schedule.chance(0.7) else None
        living = self._world.living()
        if living:
            name = str(self.schedule.random.choice(living).node)
            self._say(Evict(next(self._numbers), name, for_s, "at random"))

    def _hold(self) -> None:
        self._say(Hold(next(self._numbers), "at random"))
        self.later(self.schedule.between(*HOLD_S), self._release)

    def _release(self) -> None:
        self._say(Release(next(self._numbers)))

    def _scale(self) -> None:
        settings = self._world.settings
        units = range(settings.min_nodes, settings.max_nodes + 1, settings.node_unit)
        self.scale(None if self.schedule.chance(0.2) else self.schedule.random.choice(units))

    def _look(self) -> None:
        number = next(self._numbers)
        self._say(self.schedule.random.choice((Status(number, RUN), History(number, RUN))))

    def _say(self, request: Command) -> None:
        self._world.trace.fault("operator's command", "operator", "{}", request)
        self.commands.append(request)
        self._asked.append(request)
        # It may be the one that does not decide; then nothing comes of it.
        self.network.dial(self, self.schedule.random.choice(self._endpoints))
