"""An engine that is told anything that can be decoded, in any order, and what must hold of it.

What is told is made by strategies from the types of the messages: a message that is added to the
protocol is fuzzed without a change here.
"""

from __future__ import annotations

import typing
from collections import Counter
from datetime import UTC, datetime
from itertools import count
from unittest import mock

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from quorate.coordinator import engine as engine_module
from quorate.coordinator.engine import Batch, Engine
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RANK_POLICIES, AgreedSettings
from quorate.core.state import WorldName, check
from quorate.testing import ManualClock
from quorate.wire.messages import (
    FAILED,
    ROLE_AGENT,
    ROLE_OPERATOR,
    ROLE_STORE,
    SUCCEEDED,
    Hello,
    Join,
    Joined,
    Pong,
    Refused,
    Reply,
    Request,
    StoreRequest,
    Word,
    decode_reply,
    decode_request,
    encode,
)

CONNECTIONS = 4
KEPT_S = 5.0
STEPS_MIN, STEPS_MAX = 12, 80

AGREED = AgreedSettings(
    protocol_version=PROTOCOL_VERSION,
    min_nodes=1,
    max_nodes=3,
    join_timeout=30.0,
    last_call_timeout=0.5,
    regroup_timeout=1.0,
    keep_alive_interval=0.5,
    keep_alive_max_attempt=3,
    rank_policy="stable",
    reconnect_grace=0.3,
    failures_max=2,
    failures_window=2.0,
    cool_down=1.0,
)

NUMBERS = st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1]))
SECONDS = st.sampled_from([0.0, 0.5, 2.0, 1e9, -1.0, -1e12, float("inf")])
TEXTS = st.sampled_from(["", "a", "b", "b2", "b10", "x" * 1100, "\0", "é\n{}"])
EPOCHS = st.sampled_from(["e1", "e2", "e3", ""])
SPACES = st.tuples(EPOCHS, st.integers(0, 2))

# What counts is drawn often: fields of these names.
BY_NAME: dict[str, st.SearchStrategy[object]] = {
    "version": st.sampled_from([PROTOCOL_VERSION] * 9 + [0]),
    "role": st.sampled_from([ROLE_AGENT] * 6 + [ROLE_STORE, ROLE_OPERATOR, ""]),
    "run_id": st.sampled_from(["run"] * 6 + ["run2", ""]),
    "session": st.sampled_from(["s1", "s2", "s3"]),
    "incarnation": st.sampled_from(["s1", "s2"]),
    "outcome": st.sampled_from(["", FAILED, SUCCEEDED, "?"]),
    "space": SPACES,
    "holding": st.none() | SPACES,
    "after": st.none() | SPACES,
    "key": st.sampled_from(["k", "l", "x" * 1100]),
    "keys": st.lists(st.sampled_from(["k", "l"]), max_size=3).map(tuple),
    "for_s": st.sampled_from([None, 0.0, 1.0, 1e9, float("inf")]),
    "nodes": st.none() | st.integers(0, 4),
    "rank_policy": st.sampled_from(RANK_POLICIES),
}


def strategy_of(kind: typing.Any) -> st.SearchStrategy[typing.Any]:
    """Return what makes values of a type, as it stands in an annotation."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is typing.Annotated:
        return strategy_of(arguments[0])
    if origin is tuple and arguments[-1] is not ...:
        return st.tuples(*map(strategy_of, arguments))
    if origin is tuple:
        return st.lists(strategy_of(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(*map(strategy_of, arguments), max_size=2)
    if arguments:
        return st.one_of(*map(strategy_of, arguments))
    return SCALARS[kind] if kind in SCALARS else struct_of(kind)


def struct_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[typing.Any]:
    """Return what makes messages and records of a type."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if hints.get("node") is str:
        hints["node"] = typing.Literal["a", "b2", "n1", "0", "1", ""]
    fields = {
        field: BY_NAME[field] if field in BY_NAME else strategy_of(hints[field])
        for field in kind.__struct_fields__
    }
    return st.builds(kind, **fields)


SCALARS: dict[object, st.SearchStrategy[typing.Any]] = {
    int: NUMBERS,
    float: SECONDS,
    str: TEXTS,
    bytes: st.sampled_from([b"", b"1", b"x", b"-9", b"9" * 30]),
    bool: st.booleans(),
    type(None): st.none(),
    datetime: st.datetimes(timezones=st.none() | st.just(UTC)),
    NodeDesc: st.builds(
        NodeDesc,
        st.sampled_from(["a", "b2", "b10"]),
        st.just(1),
        st.just(0),
        BY_NAME["incarnation"],
    ),
    NodeProfile: st.builds(
        NodeProfile,
        st.sampled_from(["", "", "", "n1"]),
        st.none() | st.integers(-1, 2),
        st.sampled_from([{}, {"block": "1"}, {"block": "2"}]),
        st.sampled_from([0, 29400, 65535]),
        st.sampled_from([1, 2, 0, 65536]),
    ),
    AgreedSettings: st.one_of(
        st.just(AGREED),
        st.just(AGREED),
        st.builds(
            msgspec.structs.replace,
            st.just(AGREED),
            min_nodes=st.integers(0, 3),
            max_nodes=st.sampled_from([1, 2, 2**63]),
            rank_policy=BY_NAME["rank_policy"],
            join_timeout=SECONDS,
            node_unit=st.integers(0, 2),
        ),
    ),
}

STORE_REQUESTS = st.one_of(*map(struct_of, typing.get_args(StoreRequest)))
HELLOS = st.builds(
    Hello,
    version=st.just(PROTOCOL_VERSION),
    role=st.just(ROLE_AGENT),
    run_id=st.just("run"),
    session=BY_NAME["session"],
    node=SCALARS[NodeDesc],
    profile=SCALARS[NodeProfile],
    settings=st.just(AGREED),
    holding=BY_NAME["holding"],
)
REQUESTS = st.one_of(HELLOS, *map(struct_of, typing.get_args(Request)))
WORDS = st.one_of(*map(struct_of, typing.get_args(Word)))
REPLIES = st.one_of(*map(struct_of, typing.get_args(Reply)))

FIRST = Hello(PROTOCOL_VERSION, ROLE_AGENT, "run", "s1", NodeDesc("a", 1, 0, "s1"), settings=AGREED)

CONNECTION = st.integers(0, CONNECTIONS - 1)
STEPS = st.one_of(
    st.tuples(st.just("open"), CONNECTION),
    st.tuples(st.just("greet"), CONNECTION, HELLOS),
    st.tuples(st.just("say"), CONNECTION, REQUESTS),
    st.tuples(st.just("say"), CONNECTION, REQUESTS),
    st.tuples(st.just("join"), CONNECTION, SECONDS),
    st.tuples(st.just("join"), CONNECTION, st.just(30.0)),
    st.tuples(st.just("use"), CONNECTION, STORE_REQUESTS),
    st.tuples(st.just("use"), CONNECTION, STORE_REQUESTS),
    st.tuples(st.just("end"), CONNECTION, st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.25, 0.9, 1.1, 3.0])),
    st.tuples(st.just("stall")),
    st.tuples(st.just("store")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("restrict"), CONNECTION),
)


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
        if slot in self.connections:
            self.asked[getattr(message, "id", 0)] += 1
            self.engine.receive(self.connections[slot], decode_request(encode(message)))

    def join(self, slot: int, timeout_s: float) -> None:
        """Ask for a round as an agent does that keeps to the protocol."""
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
        for run in self.engine.runs.values():
            if run.state.agreed is not None:
                check(run.state, run.settings)
            assert run.sessions.keys() == run.state.last_heartbeats.keys()

    def leave_alone(self) -> None:
        """Let everybody go: in the end nothing is left of them, in memory or in the ledger."""
        self.store()
        for slot in list(self.connections):
            self.end(slot, finished=True)
        for _ in range(round((2 * KEPT_S + 40.0) / 0.9)):
            self.clock.advance(0.9)
            self.engine.tick()
            self.exchange()
        self.examine()
        assert not self.ledger, self.ledger.keys()
        sizes = {name: len(held) for name, held in vars(self.engine).items() if is_sized(held)}
        assert not any(sizes.values()), sizes


def is_sized(held: object) -> bool:
    return not isinstance(held, str) and hasattr(held, "__len__")


@given(st.lists(STEPS, min_size=STEPS_MIN, max_size=STEPS_MAX))
def play(steps: list[tuple[typing.Any, ...]]) -> None:
    """Whatever is told in whatever order, the engine does what `Play` expects of it."""
    with mock.patch.object(engine_module, "IDLE_KEPT_S", KEPT_S):
        world = Play()
        world.step("greet", 0, FIRST)
        world.step("join", 0, 30.0)
        world.step("wait", 0.9)
        for step in steps:
            world.step(*step)
        world.leave_alone()
