"""The letters of a run carried by hand: keys in a dictionary, a seat that anyone may take.

A `Post` plays etcd and who holds the seat, a `Node` is one node's correspondent. What is put is
read at once, unless a test holds it back.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import msgspec

from quorate.coordinator.agent.attachment import Attachment, Outcome
from quorate.coordinator.engine import Engine
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.core.state import Place, RendezvousState, check
from quorate.errors import RendezvousError
from quorate.etcd.correspondent import Correspondent
from quorate.etcd.letters import Words, read, requests_in
from quorate.etcd.mailroom import Mailroom, NodeKey
from quorate.testing import ManualClock
from quorate.wire.messages import ROLE_AGENT, Close, Hello, Join, Joined, Leave, Request
from tests.core.support import make_settings

__all__ = ["RUN", "Node", "Post"]

RUN = "run"
TICK_S = 0.25


class Post:
    """etcd, its clock, and who holds the seat.

    Attributes:
        keys: The nodes' keys.
        answers: The answer keys.
        puts: How many keys were put, by their kind.
        silent: While it is true, what is decided is stored and nobody is told.
    """

    def __init__(self, min_nodes: int = 2, max_nodes: int = 3, **changes: Any) -> None:
        self.settings: RendezvousSettings = make_settings(min_nodes, max_nodes, **changes)
        self.clock = ManualClock()
        self.revisions = count(1)
        self.keys: dict[str, NodeKey] = {}
        self.answers: dict[str, bytes] = {}
        self.nodes: dict[str, Node] = {}
        self.puts = {"node": 0, "answer": 0}
        self.silent = False
        self.term = 0
        self._ledger: dict[str, bytes] = {}
        self.engine: Engine
        self.mailroom: Mailroom
        self.take_seat()

    @property
    def state(self) -> RendezvousState:
        return self.engine.runs[RUN].state

    def take_seat(self) -> None:
        """Let another node decide from now on; the former one is gone without a word."""
        self.silent = False
        self.term = next(self.revisions)
        epochs = (f"e{self.term}.{number}" for number in count())
        self.engine = Engine(dict(self._ledger), self.clock, lambda: next(epochs), "here")
        self.mailroom = Mailroom(self.engine, RUN, self.term)
        self.mailroom.replace(self.keys)
        self.carry()

    def node(self, name: str, **changes: Any) -> Node:
        """Return a node that has said hello."""
        node = self.nodes[name] = Node(self, name, **changes)
        node.begin()
        return node

    def world(self, *names: str) -> list[Node]:
        """Return the members of a complete round."""
        nodes = [self.node(name) for name in names]
        for node in nodes:
            node.join()
        self.let_pass(31)
        assert set(self.state.participants) == {node.desc for node in nodes}
        return nodes

    def put(self, name: str, value: bytes) -> None:
        self.puts["node"] += 1
        former = self.keys.get(name)
        revision = next(self.revisions)
        created = former.created if former is not None else revision
        self.keys[name] = NodeKey(value, created, lease=7)
        self.mailroom.put(name, self.keys[name])

    def remove(self, name: str) -> None:
        """Let a node's lease end."""
        self.keys.pop(name, None)
        self.answers.pop(name, None)
        self.mailroom.remove(name)
        self.carry()

    def carry(self) -> None:
        """Carry all letters until nobody has more to say."""
        while True:
            self._decide()
            speakers = [node for node in self.nodes.values() if node.wants_to_speak()]
            if not speakers:
                return
            for node in speakers:
                self.put(node.name, node.correspondent.words())

    def let_pass(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            self.mailroom.tick(certain=True)
            self.carry()

    def _decide(self) -> None:
        while self.engine.has_chores:
            self.engine.carry_on()
        while (batch := self.engine.take_batch()) is not None:
            self.mailroom.deliver(self.engine.take_sends())
            for key, value in batch.changes.items():
                if value is None:
                    self._ledger.pop(key, None)
                else:
                    self._ledger[key] = value
            self.engine.settle(batch)
        self.mailroom.deliver(self.engine.take_sends())
        self._check()
        for answer in self.mailroom.take_answers():
            if not self.silent and answer.name in self.keys:
                self.puts["answer"] += 1
                self.answers[answer.name] = answer.value
                if answer.name in self.nodes:
                    self.nodes[answer.name].read(answer.value)

    def _check(self) -> None:
        for run in self.engine.runs.values():
            if run.state.agreed is not None:
                check(run.state, run.settings)


class Node:
    """One life of a node.

    Attributes:
        deaf: While it is true, the node neither reads nor speaks; its lease lives.
    """

    def __init__(self, post: Post, name: str, node_id: str = "", **changes: Any) -> None:
        self.post = post
        self.name = name
        self.desc = NodeDesc(name.rstrip("'"), 1, 0, name)
        self.profile = NodeProfile(node_id=node_id, port=7)
        settings = replace(post.settings, **changes).agreed
        self.hello = Hello(
            PROTOCOL_VERSION, ROLE_AGENT, RUN, name, self.desc, self.profile, settings
        )
        self.attachment = Attachment(lambda _: self.hello, 5.0)
        self.correspondent = Correspondent(self.attachment)
        self.deaf = False
        self.gone = False
        self.outcomes: list[Outcome] = []
        self.places: list[Place] = []

    @property
    def place(self) -> Place:
        return self.places[-1]

    @property
    def errors(self) -> list[RendezvousError]:
        return [outcome.error for outcome in self.outcomes if outcome.error is not None]

    def begin(self) -> None:
        self.correspondent.begin("127.0.0.1", self.post.clock.monotonic())
        self.post.carry()

    def wants_to_speak(self) -> bool:
        able = self.correspondent.has_begun and not self.deaf and not self.gone
        return able and self.correspondent.has_news

    def ask(self, request: Request) -> int:
        self.correspondent.request(getattr(request, "id", 0), request, self.post.clock.monotonic())
        self.post.carry()
        return getattr(request, "id", 0)

    def join(self) -> int:
        after = self.places[-1].world if self.places else None
        return self.ask(Join(self.attachment.next_id(), after, 600.0, self.profile))

    def leave(self) -> int:
        return self.ask(Leave(self.attachment.next_id(), "done"))

    def close(self, reason: str, outcome: str = "") -> int:
        return self.ask(Close(self.attachment.next_id(), reason, outcome))

    def die(self) -> None:
        """End without a word; the lease lives on until the post removes the key."""
        self.gone = True

    def read(self, value: bytes) -> None:
        if self.deaf or self.gone:
            return
        self.correspondent.take(value, self.post.clock.monotonic())
        outcomes = self.attachment.take_outcomes()
        self.outcomes += outcomes
        self.places += [o.answer.place for o in outcomes if isinstance(o.answer, Joined)]

    def said(self) -> list[Request]:
        """Return what its key says now."""
        return list(requests_in(read(self.post.keys[self.name].value, Words)))

    def words(self) -> Words:
        return msgspec.msgpack.decode(self.post.keys[self.name].value, type=Words)
