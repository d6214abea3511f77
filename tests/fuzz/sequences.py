"""An engine that is told anything that can be decoded, in any order, and what must hold of it."""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from itertools import count
from unittest import mock

from quorate.coordinator.engine import Batch, Engine, holdings
from quorate.coordinator.engine.reports import Look
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.tally import Histogram
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION
from quorate.core.state import WorldName, check
from quorate.testing import ManualClock
from quorate.wire.messages import (
    ROLE_AGENT,
    Hello,
    Join,
    Joined,
    Pong,
    Refused,
    Reply,
    Request,
    StoreRequest,
    decode_reply,
    decode_request,
    encode,
)
from tests.fuzz.choices import Choices
from tests.fuzz.values import AGREED, GREETING, SECONDS, Maker, built, made_by, maker_of, one_of

Step = tuple[typing.Any, ...]

CONNECTIONS = 4
KEPT_S = 5.0
STEPS_MAX = 80

# What has one size for ever, and the last report, which is kept for those who ask soon after.
BOUNDED = (Histogram, Look)

FIRST = Hello(PROTOCOL_VERSION, ROLE_AGENT, "run", "s1", NodeDesc("a", 1, 0, "s1"), settings=AGREED)


def step(name: str, *makers: Maker) -> Maker:
    return built(lambda *arguments: (name, *arguments), *makers)


CONNECTION = one_of(*range(CONNECTIONS))
GREET = step("greet", CONNECTION, GREETING)
SAY = step("say", CONNECTION, made_by(GREETING, *map(maker_of, typing.get_args(Request))))
USE = step("use", CONNECTION, made_by(*map(maker_of, typing.get_args(StoreRequest))))
JOIN = step("join", CONNECTION, one_of(30.0))
WAIT = step("wait", one_of(0.25, 0.9, 0.9, 1.1, 3.0))
# What is named twice comes twice as often.
STEP = made_by(
    *(GREET, SAY, JOIN, USE, WAIT) * 4,
    *(step("end", CONNECTION, one_of(False, True)), step("store")) * 2,
    step("open", CONNECTION),
    step("join", CONNECTION, SECONDS),
    step("stall"),
    step("restart"),
    step("restrict", CONNECTION),
)


def steps_of(choices: Choices) -> Iterator[Step]:
    """Yield steps until the bytes are used up."""
    while choices.left:
        yield STEP(choices)


class Play:
    """Drives an engine, and checks after each step what it is, says and stores."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.epochs = count(1)
        self.ids = count(10)
        self.ledger: dict[str, bytes] = {}
        self.in_flight: Batch | None = None
        self.stalled = False
        self.connections: dict[int, int] = {}
        self.last_connection = 0
        self.hellos: dict[int, Hello] = {}
        self.worlds: dict[int, WorldName] = {}
        self.checked: dict[str, tuple[Run, int]] = {}
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        return Engine(
            dict(self.ledger), self.clock, lambda: f"e{next(self.epochs)}", closed_kept_s=KEPT_S
        )

    def step(self, name: str, *arguments: typing.Any) -> None:
        getattr(self, name)(*arguments)
        self.exchange()
        self.examine()

    def open(self, slot: int) -> None:
        if slot in self.connections:
            self.engine.closed(self.connections[slot], finished=False)
        self.last_connection += 1
        self.connections[slot] = self.last_connection
        self.engine.opened(self.last_connection)

    def greet(self, slot: int, hello: Hello) -> None:
        self.open(slot)
        self.hellos[self.last_connection] = hello
        self.say(slot, hello)

    def say(self, slot: int, message: Request) -> None:
        """Say it as it arrives: encoded, and decoded again."""
        slot = self.connected(slot)
        if slot in self.connections:
            self.asked[getattr(message, "id", 0)] += 1
            self.engine.receive(self.connections[slot], decode_request(encode(message)))

    def connected(self, slot: int) -> int:
        """Return a slot that has a connection, if any has one: this one rather than another."""
        return slot if slot in self.connections else next(iter(self.connections), slot)

    def join(self, slot: int, timeout_s: float) -> None:
        """Ask for a round as an agent does that keeps to the protocol."""
        slot = self.connected(slot)
        connection = self.connections.get(slot, 0)
        if connection in self.hellos:
            profile = self.hellos[connection].profile or NodeProfile()
            after = self.worlds.get(connection)
            self.say(slot, Join(next(self.ids), after, timeout_s, profile))

    def use(self, slot: int, request: StoreRequest) -> None:
        """Use the store of a world that was told last."""
        if self.worlds:
            request.space = max(self.worlds.values(), key=lambda world: world.round)
            request.id = next(self.ids)
            self.say(slot, request)

    def end(self, slot: int, finished: bool) -> None:
        connection = self.connections.pop(slot, None)
        if connection is not None:
            self.engine.closed(connection, finished)

    def restrict(self, slot: int) -> None:
        if slot in self.connections:
            self.engine.restrict(self.connections[slot])

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.engine.tick()

    def stall(self) -> None:
        self.stalled = True

    def store(self) -> None:
        self.stalled = False

    def restart(self) -> None:
        """End the coordinator as it is; the next one has what was stored."""
        self.in_flight = None
        self.connections.clear()
        self.engine = self.new_engine()

    def exchange(self) -> None:
        self.engine.carry_on()
        self.in_flight = self.in_flight or self.engine.take_batch()
        while self.in_flight is not None and not self.stalled:
            batch, self.in_flight = self.in_flight, None
            for key, value in batch.changes.items():
                if value is None:
                    self.ledger.pop(key, None)
                else:
                    self.ledger[key] = value
            self.engine.settle(batch)
            self.in_flight = self.engine.take_batch()
        for send in self.engine.take_sends():
            if send.message is not None:
                self.read(send.message)
            if isinstance(send.message, Joined):
                self.worlds[send.connections[0]] = send.message.place.world
            if send.end:
                gone = set(send.connections)
                self.connections = {s: c for s, c in self.connections.items() if c not in gone}
                for connection in gone:
                    self.engine.closed(connection, finished=False)
        self.engine.take_events()

    def read(self, reply: Reply) -> None:
        """Nobody is answered more often than it has asked, and in words that it can read."""
        body = encode(reply)
        assert encode(decode_reply(body)) == body
        if not isinstance(reply, Pong | Refused):
            answered = getattr(reply, "id", None)
            if answered is not None:
                self.answered[answered] += 1
                assert self.answered[answered] <= self.asked[answered], reply

    def examine(self) -> None:
        """Check those runs that have changed since they were checked."""
        for run in self.engine.runs.values():
            if run.dirty or self.checked.get(run.run_id) != (run, run.revision):
                self.checked[run.run_id] = (run, run.revision)
                if run.state.agreed is not None:
                    check(run.state, run.settings)
                assert run.sessions.keys() == run.state.last_heartbeats.keys()

    def leave_alone(self) -> None:
        """Let everybody go: in the end nothing is left of them, in memory or in the ledger."""
        for slot in list(self.connections):
            self.end(slot, finished=True)
        self.step("store")
        for _ in range(round(2 * KEPT_S / 0.9)):
            if not self.engine.runs:
                break
            self.step("wait", 0.9)
        # The batch that has forgotten the last run.
        self.step("wait", 0.9)
        assert not self.ledger, self.ledger.keys()
        sizes = {name: len(held) for name, held in containers("engine", self.engine)}
        assert not any(sizes.values()), sizes


def containers(
    name: str, holder: object, seen: set[int] | None = None
) -> Iterator[tuple[str, Sized]]:
    """Yield all in which an object can keep much: its own, and those of the objects it is made of.

    Args:
        name: What the object is called.
        holder: The object; of other packages' objects only the containers are looked at.
        seen: Objects that were looked at already.
    """
    seen = set() if seen is None else seen
    if id(holder) in seen or isinstance(holder, (str, bytes, tuple, *BOUNDED)):
        return
    seen.add(id(holder))
    if isinstance(holder, Sized):
        yield name, holder
    if type(holder).__module__.startswith("quorate."):
        for part, held in getattr(holder, "__dict__", {}).items():
            yield from containers(f"{name}.{part}", held, seen)


def play(steps: Iterable[Step]) -> None:
    """Whatever is told in whatever order, the engine does what `Play` expects of it."""
    with mock.patch.multiple(holdings, IDLE_KEPT_S=KEPT_S, EMPTY_KEPT_S=KEPT_S):
        world = Play()
        played: list[Step] = []
        try:
            for each in (("greet", 0, FIRST), ("join", 0, 30.0), ("wait", 0.9), *steps):
                played.append(each)
                world.step(*each)
            world.leave_alone()
        except Exception as error:
            error.add_note("\n".join(f"after {each}" for each in played))
            raise
