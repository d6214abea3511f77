"""From the nodes' keys in etcd to the engine of who decides, and back to the answer keys. Pure.

A node that has begun anew (its key was created again, or says so) is a new connection of the
engine's; a key that is gone, with its lease or on purpose, is a connection whose process has
ended. A request is handed on once in a connection, however often it is read, for its id grows.

Whoever takes the seat makes a new mailroom and puts all keys into it that are there: requests
without an answer are simply read again, and the engine's own rules make nothing of it happen twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import NamedTuple

import msgspec

from quorate.coordinator.engine import Engine
from quorate.coordinator.runs.outbox import Send
from quorate.errors import RendezvousProtocolError
from quorate.etcd.letters import WORDS_BYTES_MAX, Answers, Words, framed, read, requests_in
from quorate.wire.messages import (
    ROLE_AGENT,
    Changed,
    Hello,
    Ping,
    Pong,
    Probe,
    Refused,
    Reply,
    Request,
    Waiting,
    Welcome,
    failure,
)

__all__ = ["Answer", "Mailroom", "NodeKey"]

# Of these only the newest counts.
_PUSHES = (Welcome, Changed, Waiting, Probe)


class NodeKey(NamedTuple):
    """A node's key as it lies in etcd.

    Args:
        value: Its words, encoded.
        created: The revision that created it: another one means another life of the key.
        lease: The lease that it hangs on.
    """

    value: bytes
    created: int
    lease: int


class Answer(NamedTuple):
    """What has to be put into an answer key.

    Args:
        name: The node's name.
        value: The answers, encoded.
        lease: The node's lease; if it has ended, nobody wants the answer any more.
    """

    name: str
    value: bytes
    lease: int


class _Told(NamedTuple):
    number: int
    kind: type[Reply]
    body: bytes


class _Probed(NamedTuple):
    """The last probe of a node.

    Args:
        told: The number under which it was told: whoever has heard that one has read it.
        probe: The number of the probe itself.
    """

    told: int
    probe: int


class _Node:
    """One connection: a node from one beginning to the next.

    Args:
        connection: The engine's number for it.
        attachment: The node's own.
        created: The revision that created the key.
        lease: The lease of the key.
    """

    __slots__ = (
        "attachment",
        "connection",
        "created",
        "ended",
        "last_id",
        "lease",
        "probed",
        "unheard",
    )

    def __init__(self, connection: int, attachment: int, created: int, lease: int) -> None:
        self.connection = connection
        self.attachment = attachment
        self.created = created
        self.lease = lease
        self.last_id = 0
        self.ended = False
        self.probed = _Probed(0, 0)
        self.unheard: list[_Told] = []

    def tell(self, told: _Told) -> None:
        """Add something to what the node has to read."""
        if told.kind in _PUSHES:
            self.unheard = [former for former in self.unheard if former.kind is not told.kind]
        self.unheard.append(told)


class Mailroom:
    """Carries the letters of one run for as long as the seat is held.

    Args:
        engine: Decides; its clock is moved by `tick`.
        run_id: The run.
        term: The revision at which the seat was taken: it tells these answers from former ones.
    """

    def __init__(self, engine: Engine, run_id: str, term: int) -> None:
        self._engine = engine
        self._run_id = run_id
        self._term = term
        self._nodes: dict[str, _Node] = {}
        self._names: dict[int, str] = {}
        self._connections = count(1)
        self._numbers = count(1)
        self._unsent: dict[str, None] = {}
        self._events: list[str] = []

    def put(self, name: str, key: NodeKey) -> None:
        """Take a node's key as it is now; one that was read before does nothing."""
        try:
            words, said = _opened(name, key.value)
        except RendezvousProtocolError as error:
            self._events.append(f"the key of the node {name} is left unread: {error}")
            return
        node = self._nodes.get(name)
        if node is None or node.created != key.created or node.attachment < words.attachment:
            self._begin(name, words, key, said[0])
        elif words.attachment < node.attachment:
            return
        else:
            node.lease = key.lease
            heard = words.heard if words.term == self._term else 0
            answered = node.probed.probe if heard >= node.probed.told else 0
            self._engine.receive(node.connection, Ping(0, answered))
        self._take(self._nodes[name], words, said[1:])

    def remove(self, name: str) -> None:
        """Note that a node's key is gone: its process has ended, or was silent for too long."""
        node = self._nodes.pop(name, None)
        self._unsent.pop(name, None)
        if node is not None and self._names.pop(node.connection, None) is not None:
            self._engine.closed(node.connection, finished=True)

    def replace(self, keys: Mapping[str, NodeKey]) -> None:
        """Take all keys as they are now, where single changes were missed."""
        for name in self._nodes.keys() - keys.keys():
            self.remove(name)
        for name, key in keys.items():
            self.put(name, key)

    def tick(self, certain: bool) -> None:
        """Let time pass; nodes whose key is there live, for their lease does.

        Args:
            certain: Whether it is certain that the seat is held; else nobody is judged (R17).
        """
        self._engine.alive(self._names)
        self._engine.tick(certain)

    def deliver(self, sends: Iterable[Send]) -> None:
        """Take what the engine lets out; `take_answers` returns it as keys."""
        for send in sends:
            # Nobody waits for a pong here: a lease says the same.
            body = b"" if send.message is None else framed(send.message)
            for connection in send.connections:
                name = self._names.get(connection)
                if name is None:
                    continue
                if send.message is not None and not isinstance(send.message, Pong):
                    told = _Told(next(self._numbers), type(send.message), body)
                    self._nodes[name].tell(told)
                    if isinstance(send.message, Probe):
                        self._nodes[name].probed = _Probed(told.number, send.message.number)
                    self._unsent[name] = None
                if send.end:
                    self._end(name)

    def take_answers(self) -> list[Answer]:
        """Return the answer keys that have to be put, each with all that its node has to read."""
        names, self._unsent = self._unsent, {}
        return [self._answer(name, self._nodes[name]) for name in names]

    def take_events(self) -> list[str]:
        """Return what is worth a word in the log."""
        events, self._events = self._events, []
        return events

    def _answer(self, name: str, node: _Node) -> Answer:
        replies = [(told.number, told.body) for told in node.unheard]
        answers = Answers(node.attachment, self._term, node.ended, replies)
        return Answer(name, msgspec.msgpack.encode(answers), node.lease)

    def _begin(self, name: str, words: Words, key: NodeKey, hello: Request) -> None:
        former = self._nodes.get(name)
        if former is not None and self._names.pop(former.connection, None) is not None:
            self._engine.closed(former.connection, finished=False)
        node = _Node(next(self._connections), words.attachment, key.created, key.lease)
        self._nodes[name] = node
        self._names[node.connection] = name
        self._engine.opened(node.connection)
        if isinstance(hello, Hello) and not self._is_own(hello, name):
            error = RendezvousProtocolError(
                f"A node of the run '{hello.run_id}' speaks where one of the run "
                f"'{self._run_id}' with the session {name} must: give runs that share an etcd "
                f"different ids."
            )
            answer = failure(0, error)
            refused = Refused(answer.code, answer.message)
            self.deliver([Send((node.connection,), refused, end=True)])
        else:
            self._engine.receive(node.connection, hello)

    def _is_own(self, hello: Hello, name: str) -> bool:
        expected = (self._run_id, name, ROLE_AGENT)
        return (hello.run_id, hello.session, hello.role) == expected

    def _take(self, node: _Node, words: Words, requests: list[Request]) -> None:
        if words.term == self._term:
            node.unheard = [told for told in node.unheard if told.number > words.heard]
        for request in requests:
            request_id = getattr(request, "id", 0)
            if request_id > node.last_id:
                node.last_id = request_id
                self._engine.receive(node.connection, request)

    def _end(self, name: str) -> None:
        node = self._nodes[name]
        node.ended = True
        self._unsent[name] = None
        del self._names[node.connection]
        self._engine.closed(node.connection, finished=False)


def _opened(name: str, value: bytes) -> tuple[Words, list[Request]]:
    """Return a node's words, and what is in them.

    Raises:
        RendezvousProtocolError: They are none, or more than a node may say.
    """
    if len(value) > WORDS_BYTES_MAX:
        raise RendezvousProtocolError(
            f"It has {len(value)} bytes, more than the {WORDS_BYTES_MAX} that a node may say."
        )
    words = read(value, Words)
    said = list(requests_in(words))
    if not said:
        raise RendezvousProtocolError(f"The words of the node {name} are empty.")
    return words, said
