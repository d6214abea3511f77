"""One life of an agent: the real attachment in a shell of simulated sockets and timers.

What its caller does is played too: it joins, works, uses the store, and comes back to regroup
when it is told that somebody waits.
"""

from __future__ import annotations

from typing import Protocol

from quorate.coordinator.agent.attachment import Attachment, Phase
from quorate.coordinator.agent.candidates import Candidates
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, AgreedSettings
from quorate.core.state import Place, WorldName
from quorate.credentials import Token
from quorate.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousTimeoutError,
)
from quorate.testing.sim.network import Connection, Ending, Network, Peer
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.store_user import StoreUser
from quorate.wire.messages import (
    ROLE_AGENT,
    Answer,
    Close,
    Finish,
    Flag,
    GetWorld,
    Hello,
    Join,
    Joined,
    Leave,
    Request,
    StoreRequest,
    WorldRecord,
)

__all__ = ["Listener", "SimAgent"]

RUN = "run"

# How long a caller may take to stop its workers, when it is quick.
STOPPING_S = (0.0, 1.0)

RETRY_S = 1.0

# How likely it is that a caller asks its store again, and soon after it has joined for the record.
AGAIN = 0.5
LOOKS_UP = 0.1


class Listener(Protocol):
    """Hears what agents are answered."""

    def placed(self, agent: SimAgent, place: Place) -> None:
        """Look at a place that an agent was given."""
        ...

    def recorded(self, agent: SimAgent, record: WorldRecord) -> None:
        """Look at the record of a world that an agent was given."""
        ...

    def asked(self, agent: SimAgent, request: StoreRequest) -> None:
        """Look at what a store is asked."""
        ...

    def stored(
        self, agent: SimAgent, request: StoreRequest, answer: Answer | RendezvousError
    ) -> None:
        """Look at the answer of a store, or the error that it ended in."""
        ...

    def failed(self, agent: SimAgent, error: RendezvousError) -> None:
        """Look at an error in which a join ended, or the whole session."""
        ...


class SimAgent(Peer):
    """An agent and its caller.

    Args:
        schedule: The true time.
        machine: Where it runs.
        network: What carries its connection.
        endpoints: The machines of the coordinators.
        node: Who it is.
        profile: What it says about itself.
        settings: What it was given.
        listener: Hears what it is answered.
        token: What it and the coordinators must know, if they ask for it.

    Attributes:
        place: The place in the world that it was given last.
        joining: The id of the join that is unanswered.
        closing: The id of its last word that the job has ended, while that is unanswered.
        returning: Whether it is stopping its workers, to regroup.
        stuck: Whether its caller does not react, while the attachment goes on.
        over: Whether the caller does not want to join again.
        outcome: The error in which its last join ended.
        asked_s: When it has asked for a place last, in true time.
        limit_s: For how long it wanted to wait then.
        asking: The store request that is unanswered.
    """

    def __init__(
        self,
        schedule: Schedule,
        machine: Machine,
        network: Network,
        endpoints: list[Machine],
        node: NodeDesc,
        profile: NodeProfile,
        settings: AgreedSettings,
        listener: Listener,
        token: Token | None,
    ) -> None:
        super().__init__(schedule, machine, network)
        self.node = node
        self.profile = profile
        self.settings = settings
        self.place: Place | None = None
        self.joining: int | None = None
        self.returning = False
        self.stuck = False
        self.over = False
        self.outcome: RendezvousError | None = None
        self.asked_s = self.limit_s = 0.0
        self.asking: StoreRequest | None = None
        self.slow_s = 0.0
        self._interval_s = settings.keep_alive_interval
        self._machines = {machine.name: machine for machine in endpoints}
        self._candidates = Candidates(list(self._machines))
        self._listener = listener
        self._connection: Connection | None = None
        self.closing: int | None = None
        self._user = StoreUser(node.incarnation, schedule)
        self._looking_up: int | None = None
        self.attachment = Attachment(
            self._hello,
            self._interval_s,
            schedule.random.random,
            token,
            schedule.random.randbytes,
        )

    def start(self, timeout_s: float | None = None) -> None:
        """Dial, and join."""
        self.join(timeout_s)
        self._dial_later()
        self.later(self._interval_s / 4, self._tick)

    def join(self, timeout_s: float | None = None) -> None:
        """Ask for a place in the next round."""
        self.returning = False
        if self.joining is not None or self.over:
            return
        after = None if self.place is None else self.place.world
        limit_s = self.settings.join_timeout if timeout_s is None else timeout_s
        self.asked_s, self.limit_s = self.schedule.now_s, limit_s
        self.joining = self._ask(lambda id: Join(id, after, limit_s, self.profile))

    def give_up(self) -> None:
        """Stop waiting for a round, as a caller does that was interrupted."""
        if self.joining is not None:
            self.attachment.forget(self.joining)
            self.joining = None
            self._rejoin_later()

    def leave(self) -> None:
        """Leave the run, and wait for no round; the process ends soon after, answered or not."""
        self.over = True
        if self.joining is not None:
            self.attachment.forget(self.joining)
            self.joining = None
        self._ask(lambda id: Leave(id, "wants to"))
        self.later(1.0, self.kill, Ending.FINISH)

    def close(self, reason: str, outcome: str) -> None:
        """Close the run, or say how the job has ended."""
        self.closing = self._ask(lambda id: Close(id, reason, outcome))

    def finish(self) -> None:
        """Say that this node's work is done, and do not come back."""
        self.over = True
        self._ask(Finish)

    def use_store(self) -> None:
        """Change or read the store of the world, one request at a time."""
        if self.place is None or self.asking is not None:
            return
        id = self.attachment.next_id()
        request = self._user.draw(id, self.place.world)
        self.asking = request
        self._listener.asked(self, request)
        self.attachment.request(id, request, self.machine.monotonic())

    @property
    def is_attached(self) -> bool:
        """Whether a coordinator has accepted its present connection."""
        return self.attachment.attached

    def is_attached_to(self, coordinator: Peer) -> bool:
        """Return whether that coordinator has accepted its present connection."""
        connection = self._connection
        return self.is_attached and connection is not None and connection.server is coordinator

    def has_read_all(self, connection: Connection) -> bool:
        """Return whether it is attached over a connection, and has read what came over it."""
        awake = self.alive and not self.frozen
        return awake and self.is_attached and connection is self._connection and connection.is_quiet

    def connected(self, connection: Connection) -> None:
        """See `Peer`."""
        if connection.number not in self.connections:
            self.refused("ended before it began")
            return
        self._connection = connection
        self.attachment.connected(self.machine.name, self.machine.monotonic())

    def refused(self, why: str) -> None:
        """See `Peer`."""
        self._candidates.failed()
        self.attachment.refused(why, self.machine.monotonic())
        self._dial_later()

    def received(self, connection: Connection, data: bytes) -> None:
        """See `Peer`."""
        if connection is self._connection:
            self.attachment.received(data, self.machine.monotonic())

    def ended(self, connection: Connection, ending: Ending) -> None:
        """See `Peer`."""
        if connection is self._connection:
            self._connection = None
            self._lose(ending.value)

    def cut(self, ending: Ending | None) -> None:
        """Lose the connection: reset, or without a word to the coordinator."""
        connection = self._connection
        if connection is None:
            return
        if ending is None:
            connection.forget(self)
        else:
            connection.end(self, ending)
        self.handle(self.ended, connection, Ending.RESET)

    def turn_over(self) -> None:
        """Write what is to be written, and let the caller react to what came."""
        attachment = self.attachment
        output = attachment.take_output()
        if output and self._connection is not None:
            self._connection.send(self, output)
        for outcome in attachment.take_outcomes():
            self._settle(outcome.request_id, outcome.answer, outcome.error)
        if attachment.error is not None and self.alive:
            self._listener.failed(self, attachment.error)
            self.kill(Ending.FINISH)
        elif attachment.waiting and self.is_working:
            self.come_back()

    @property
    def is_working(self) -> bool:
        """Whether its workers run, and it stops them when it is told that somebody waits."""
        idle = self.joining is None and not self.returning
        return idle and self.place is not None and not (self.over or self.stuck)

    def come_back(self) -> None:
        """Stop the workers, and join again."""
        self.returning = True
        stopping_s = self.slow_s or self.schedule.between(*STOPPING_S)
        self.slow_s = 0.0
        self.later(stopping_s, self.join)

    def _settle(
        self, request_id: int, answer: Answer | None, error: RendezvousError | None
    ) -> None:
        if request_id == self.joining:
            self.joining = None
            if isinstance(answer, Joined):
                self.place = answer.place
                self._listener.placed(self, answer.place)
                self.later(self.schedule.between(0.0, 0.5), self.use_store)
                if self.schedule.chance(LOOKS_UP):
                    self._looking_up = self._ask(GetWorld)
            elif error is not None:
                self._fail(error)
        elif request_id == self.closing:
            self.closing = None
            if isinstance(answer, Flag) and not answer.value:
                # The run goes on without this node: it has left.
                self.kill(Ending.FINISH)
        elif request_id == self._looking_up:
            if isinstance(answer, WorldRecord):
                self._listener.recorded(self, answer)
        elif self.asking is not None and request_id == self.asking.id:
            self._learn(self.asking, answer, error)

    def _learn(
        self, request: StoreRequest, answer: Answer | None, error: RendezvousError | None
    ) -> None:
        self.asking = None
        if error is not None:
            self._listener.stored(self, request, error)
        elif answer is not None:
            self._user.learn(request, answer)
            self._listener.stored(self, request, answer)
        if self.schedule.chance(AGAIN):
            self.later(self.schedule.between(0.0, 0.3), self.use_store)

    def _fail(self, error: RendezvousError) -> None:
        self.outcome = error
        self._listener.failed(self, error)
        if isinstance(error, RendezvousClosedError):
            self.over = True
            self.later(RETRY_S, self.kill, Ending.FINISH)
        elif isinstance(error, RendezvousTimeoutError):
            self._rejoin_later()
        else:
            self.kill(Ending.FINISH)

    def _rejoin_later(self) -> None:
        self.returning = True
        self.later(RETRY_S, self.join)

    def _ask(self, make_request: object) -> int:
        id = self.attachment.next_id()
        assert callable(make_request)
        request: Request = make_request(id)
        self.attachment.request(id, request, self.machine.monotonic())
        return id

    def _hello(self, _: str) -> Hello:
        session = self.node.incarnation
        return Hello(
            PROTOCOL_VERSION, ROLE_AGENT, RUN, session, self.node, self.profile, self.settings
        )

    @property
    def holding(self) -> WorldName | None:
        """The name of the world that it was given last."""
        return None if self.place is None else self.place.world

    def _tick(self) -> None:
        self.later(self._interval_s / 4, self._tick)
        if self.attachment.tick(self.machine.monotonic()) and self._connection is not None:
            connection, self._connection = self._connection, None
            connection.end(self, Ending.RESET)
            self._lose("no answer")

    def _lose(self, why: str) -> None:
        """Look for a coordinator again, as the shell of the client does."""
        if self.attachment.is_served:
            self._candidates.accepted()
        else:
            self._candidates.failed(self.attachment.is_answered)
        self.attachment.lost(why, self.machine.monotonic())
        self._dial_later()

    def _dial_later(self) -> None:
        wait_s = self.attachment.dial_at_s - self.machine.monotonic()
        self.later(max(wait_s, 0.0), self._dial)

    def _dial(self) -> None:
        if self.attachment.phase is Phase.DETACHED:
            self.attachment.dialing()
            named, self.attachment.redirected_to = self.attachment.redirected_to, ""
            target = self._candidates.advance(named if named in self._machines else None)
            self.network.dial(self, self._machines[target])
