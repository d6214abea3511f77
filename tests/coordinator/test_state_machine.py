"""Sessions and a coordinator under faults: first safety, after every step; then heal, and progress.

`Attachment` and `Engine` are joined by pipes in memory. Connections are reset, finished, or go
silent; commits stall; the coordinator freezes, dies and comes back with its ledger or without.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quorate.coordinator.agent.attachment import Attachment, Phase
from quorate.coordinator.engine import Batch, Engine
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousTimeout
from quorate.core.state import Place, WorldName, check
from quorate.errors import RendezvousError
from quorate.testing import ManualClock
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    ROLE_AGENT,
    AddNumber,
    Hello,
    Join,
    Joined,
    Leave,
    Number,
    decode_request,
    encode,
)
from tests.core.support import make_settings

NODES = 4
TICK_S = 0.25
HEALED_S = 40.0
AGENTS = st.integers(0, NODES - 1)

# It plays for some seconds where it has the machine to itself.
pytestmark = pytest.mark.timeout(60)

SETTINGS = make_settings(
    2,
    NODES,
    timeout=RendezvousTimeout(
        join=timedelta(seconds=1000), last_call=timedelta(seconds=2), regroup=timedelta(seconds=4)
    ),
    keep_alive_interval=timedelta(seconds=1),
    reconnect_grace=timedelta(seconds=0.5),
)


class Pipe:
    """One connection: bytes on their way, and the coordinator's reader."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.reader = FrameReader(FRAME_BYTES_MAX)
        self.up = b""
        self.down = b""
        self.ends = False


class Node:
    """One life of a node: its session, the world that it holds, and what it asks."""

    def __init__(self, name: str, life: int, now_s: float) -> None:
        self.node = NodeDesc(name, 1, 0, f"life{life}")
        self.attachment = Attachment(self._hello, 1.0, lambda: 0.5)
        self.attachment.dial_at_s = now_s
        self.pipe: Pipe | None = None
        self.silent = False
        self.place: Place | None = None
        self.asked: int | None = None
        self.added: tuple[int, WorldName] | None = None
        self.profile = NodeProfile(node_id=name)

    def _hello(self, _: str) -> Hello:
        agreed, session = SETTINGS.agreed, self.node.incarnation
        profile = self.profile
        return Hello(PROTOCOL_VERSION, ROLE_AGENT, "run", session, self.node, profile, agreed)

    @property
    def world(self) -> WorldName | None:
        return None if self.place is None else self.place.world


class Coordinated(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock()
        self.numbers = count(1)
        self.ledger: dict[str, bytes] = {}
        self.in_flight: Batch | None = None
        self.stalled = False
        self.worlds: dict[WorldName, tuple[str, int]] = {}
        self.ranks: dict[tuple[WorldName, int], NodeDesc] = {}
        self.sums: set[tuple[WorldName, int]] = set()
        self.gone: list[Pipe] = []
        self.engine = self.new_engine()
        self.nodes = [self.new_node(number) for number in range(NODES)]

    def new_engine(self) -> Engine:
        return Engine(dict(self.ledger), self.clock, lambda: f"e{next(self.numbers)}")

    def new_node(self, number: int) -> Node:
        return Node(f"n{number}", next(self.numbers), self.clock.monotonic())

    # What may happen.

    @rule(steps=st.integers(1, 12))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    @rule(number=AGENTS)
    def joins(self, number: int) -> None:
        node = self.nodes[number]
        if node.asked is None and node.attachment.error is None:
            node.asked = node.attachment.next_id()
            self.ask_join(node, node.asked, 1000.0)

    @rule(number=AGENTS, timeout_s=st.sampled_from([0.5, 3.0]))
    def joins_for_a_short_time(self, number: int, timeout_s: float) -> None:
        node = self.nodes[number]
        if node.asked is None and node.attachment.error is None:
            node.asked = node.attachment.next_id()
            self.ask_join(node, node.asked, timeout_s)

    @rule(number=AGENTS)
    def gives_up(self, number: int) -> None:
        node = self.nodes[number]
        if node.asked is not None:
            node.attachment.forget(node.asked)
            node.asked = None

    @rule(number=AGENTS)
    def leaves(self, number: int) -> None:
        node = self.nodes[number]
        now_s, request = self.clock.monotonic(), node.attachment.next_id()
        node.attachment.request(request, Leave(request, ""), now_s)
        self.gives_up(number)
        node.place = None
        self.exchange()

    @rule(number=AGENTS)
    def adds(self, number: int) -> None:
        """Use the store of the world, one change at a time."""
        node = self.nodes[number]
        if node.place is not None and node.added is None:
            request, world = node.attachment.next_id(), node.place.world
            node.added = (request, world)
            change = AddNumber(request, world, "n", 1)
            node.attachment.request(request, change, self.clock.monotonic())
            self.exchange()

    @rule(number=AGENTS)
    def connection_is_reset(self, number: int) -> None:
        self.cut(self.nodes[number], finished=False)

    @rule(number=AGENTS)
    def process_ends(self, number: int) -> None:
        self.cut(self.nodes[number], finished=True)
        self.nodes[number] = self.new_node(number)

    @rule(number=AGENTS)
    def goes_silent(self, number: int) -> None:
        self.nodes[number].silent = True

    @rule(number=AGENTS)
    def is_heard_again(self, number: int) -> None:
        self.nodes[number].silent = False

    @rule()
    def commits_stall(self) -> None:
        self.stalled = True

    @rule()
    def commits_go_on(self) -> None:
        self.stalled = False
        self.exchange()

    @rule(seconds=st.sampled_from([2.0, 20.0]))
    def coordinator_freezes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: not self.stalled)
    @rule()
    def coordinator_restarts(self) -> None:
        self.restart()

    @rule()
    def coordinator_dies_in_a_commit(self) -> None:
        self.stalled = True
        self.step()
        self.stalled = False
        self.restart()

    @rule()
    def coordinator_loses_its_ledger(self) -> None:
        self.ledger.clear()
        self.restart()

    # What must hold.

    @invariant()
    def state_is_sound(self) -> None:
        for run in self.engine.runs.values():
            check(run.state, run.settings)
            assert run.sessions.keys() == run.state.last_heartbeats.keys()

    def teardown(self) -> None:
        """Heal everything, and demand that all nodes meet in one world."""
        if not hasattr(self, "nodes"):
            return
        self.stalled = False
        for number, node in enumerate(self.nodes):
            node.silent = False
            if node.attachment.error is not None:
                self.nodes[number] = self.new_node(number)
        for _ in range(round(HEALED_S / TICK_S)):
            for node in self.nodes:
                if node.asked is None and (node.place is None or node.attachment.waiting):
                    node.asked = node.attachment.next_id()
                    self.ask_join(node, node.asked, 1000.0)
            self.step()
            self.state_is_sound()
        worlds = {node.world for node in self.nodes}
        assert len(worlds) == 1, f"the nodes did not meet: {worlds}"
        assert None not in worlds
        assert {node.place.size for node in self.nodes if node.place} == {NODES}
        assert [node.attachment.waiting for node in self.nodes] == [0] * NODES

    # How it works.

    def ask_join(self, node: Node, request: int, timeout_s: float) -> None:
        join = Join(request, node.world, timeout_s, node.profile)
        node.attachment.request(request, join, self.clock.monotonic())
        self.exchange()

    def step(self) -> None:
        self.clock.advance(TICK_S)
        now_s = self.clock.monotonic()
        for node in self.nodes:
            if node.attachment.tick(now_s):
                self.cut(node, finished=False)
            elif node.attachment.phase is Phase.DETACHED and now_s >= node.attachment.dial_at_s:
                self.dial(node, now_s)
        self.exchange()
        self.engine.tick()
        self.exchange()

    def dial(self, node: Node, now_s: float) -> None:
        node.attachment.dialing()
        if node.silent:
            node.attachment.refused("silence", now_s)
            return
        node.pipe = Pipe(next(self.numbers))
        self.engine.opened(node.pipe.number)
        node.attachment.connected("192.0.2.1", now_s)

    def cut(self, node: Node, finished: bool) -> None:
        """End a connection; a machine that is silent cannot say so."""
        pipe, node.pipe = node.pipe, None
        node.attachment.lost("cut", self.clock.monotonic())
        if pipe is None:
            return
        if node.silent:
            self.gone.append(pipe)
        else:
            self.engine.closed(pipe.number, finished)
            self.exchange()

    def restart(self) -> None:
        self.in_flight = None
        self.gone.clear()
        self.engine = self.new_engine()
        for node in self.nodes:
            if node.pipe is not None:
                node.pipe = None
                node.attachment.lost("restart", self.clock.monotonic())
        self.exchange()

    def exchange(self) -> None:
        """Move bytes and batches until nothing moves any more."""
        moving = True
        while moving:
            moving = any([self.go_up(node) for node in self.nodes])
            moving |= self.store()
            self.let_out()
            moving |= any([self.come_down(node) for node in self.nodes])

    def go_up(self, node: Node) -> bool:
        pipe = node.pipe
        if pipe is None:
            return False
        pipe.up += node.attachment.take_output()
        if node.silent or not pipe.up:
            return False
        data, pipe.up = pipe.up, b""
        for body in pipe.reader.feed(data):
            self.engine.receive(pipe.number, decode_request(body))
        return True

    def store(self) -> bool:
        self.engine.carry_on()
        batch = self.in_flight or self.engine.take_batch()
        self.in_flight = batch
        if batch is None or self.stalled:
            return False
        for key, value in batch.changes.items():
            if value is None:
                self.ledger.pop(key, None)
            else:
                self.ledger[key] = value
        self.in_flight = None
        self.engine.settle(batch)
        return True

    def let_out(self) -> None:
        pipes = {node.pipe.number: node.pipe for node in self.nodes if node.pipe is not None}
        for send in self.engine.take_sends():
            for number in send.connections:
                pipe = pipes.get(number)
                if pipe is None or pipe.ends:
                    continue
                if send.message is not None:
                    pipe.down += frame(encode(send.message))
                pipe.ends = send.end

    def come_down(self, node: Node) -> bool:
        pipe = node.pipe
        if pipe is None or node.silent:
            return False
        now_s = self.clock.monotonic()
        moved = bool(pipe.down)
        if pipe.down:
            data, pipe.down = pipe.down, b""
            node.attachment.received(data, now_s)
            self.settle(node)
        if pipe.ends:
            node.pipe = None
            node.attachment.lost("ended by the coordinator", now_s)
            self.engine.closed(pipe.number, False)
        return moved

    def settle(self, node: Node) -> None:
        for request, answer, error in node.attachment.take_outcomes():
            if request == node.asked:
                node.asked = None
            if isinstance(answer, Joined):
                self.placed(node, answer.place)
            if node.added is not None and request == node.added[0]:
                if isinstance(answer, Number):
                    self.counted(node.added[1], answer.value)
                node.added = None
            assert answer is not None or isinstance(error, RendezvousError)

    def placed(self, node: Node, place: Place) -> None:
        """R1 and R2: one name, one world; each rank once; rounds only grow."""
        assert 0 <= place.rank < place.size <= NODES
        assert place.size >= SETTINGS.min_nodes
        assert self.worlds.setdefault(place.world, (place.digest, place.size)) == (
            place.digest,
            place.size,
        )
        assert self.ranks.setdefault((place.world, place.rank), node.node) == node.node
        if node.place is not None and node.place.epoch == place.epoch:
            assert place.round > node.place.round
        node.place = place

    def counted(self, world: WorldName, total: int) -> None:
        """R14: every addition is made once, so that no two have the same sum."""
        assert (world, total) not in self.sums
        self.sums.add((world, total))


Coordinated.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestCoordinated = Coordinated.TestCase
