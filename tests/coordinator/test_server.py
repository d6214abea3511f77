"""The coordinator's shell over real sockets: who is refused, what is stored first, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvloop

from quorate import renewal
from quorate.coordinator import server, writer
from quorate.coordinator.engine import engine
from quorate.coordinator.entrance import connection, connections, flow
from quorate.coordinator.entrance.door import Keys
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.credentials import Token
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousLimitError,
)
from quorate.identity import Endpoint
from quorate.wire import frames
from quorate.wire.messages import (
    ROLE_AGENT,
    ROLE_OPERATOR,
    Challenge,
    Close,
    Failed,
    Flag,
    GetValue,
    Hello,
    Join,
    Joined,
    Ping,
    Pong,
    Proven,
    Redirect,
    Refused,
    Reply,
    Report,
    Request,
    SetValue,
    Status,
    Value,
    Waiting,
    Welcome,
)
from tests.coordinator.gated import GatedLedger, GatedSeat
from tests.served import RawPeer, ThreadedCoordinator, operator_hello, token

Until = Callable[..., Any]
Start = Callable[..., ThreadedCoordinator]

JOIN_TIMEOUT_S = 30.0


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as started:

        def start_one(*args: Any, **kwargs: Any) -> ThreadedCoordinator:
            coordinator = ThreadedCoordinator(*args, **kwargs)
            started.callback(coordinator.stop)
            return coordinator

        yield start_one


def agent_hello(name: str, nodes: int = 1, profile: NodeProfile | None = None) -> Hello:
    session = secrets.token_hex(8)
    return Hello(
        PROTOCOL_VERSION,
        ROLE_AGENT,
        "job",
        session,
        NodeDesc(name, 1, 0, session),
        profile,
        RendezvousSettings("job", nodes, nodes).agreed,
    )


class RawAgent(RawPeer):
    """An agent that says what it is told to; it has said hello."""

    def __init__(
        self, endpoint: Endpoint, name: str = "a", nodes: int = 1, label: str = ""
    ) -> None:
        super().__init__(endpoint)
        self.profile = NodeProfile(labels={"is": label} if label else {})
        self.say(agent_hello(name, nodes, self.profile))

    def ask_to_join(self, request_id: int = 1) -> None:
        self.say(Join(request_id, None, JOIN_TIMEOUT_S, self.profile))


def join_alone(agent: RawAgent) -> tuple[str, int]:
    agent.ask_to_join()
    return agent.read_until(Joined).place.world


def pings(peer: RawPeer, sequence: int = 7) -> bool:
    peer.say(Ping(sequence))
    return peer.read_until(Pong).sequence == sequence


def unframed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


TLS_HELLO = bytes.fromhex("16030102000100")
HOSTILE = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "another program"),
    "tls": (TLS_HELLO, "speaks TLS"),
    "oversize": (
        struct.pack(">I", frames.GREETING_BYTES_MAX + 1),
        f"{frames.GREETING_BYTES_MAX + 1} bytes",
    ),
    "zeros": (bytes(64), "malformed"),
    "no message": (unframed(b"\xc1"), "malformed"),
    "number": (unframed(b"\x01"), "malformed"),
    "unknown tag": (unframed(b"\x91\x63"), "malformed"),
    "no UTF-8": (unframed(b"\x93\x03\x01\xa1\xff"), "malformed"),
    "nested too deep": (unframed(b"\x94\x03\x01\xa1a" + b"\x91" * 5000 + b"\x01"), "malformed"),
    "no hello": (unframed(b"\x93\x14\x01\xa0"), "must be a hello"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_r15_hostile_bytes_end_their_connection_with_a_reason(name: str, start: Start) -> None:
    sent, reason = HOSTILE[name]
    coordinator = start()
    with RawAgent(coordinator.endpoint) as healthy, RawPeer(coordinator.endpoint) as hostile:
        join_alone(healthy)
        hostile.socket.sendall(sent)
        refused = hostile.read()
        assert isinstance(refused, Refused)
        assert reason in refused.message
        assert hostile.read() is None
        assert pings(healthy)


def test_r15_an_oversize_message_after_the_hello_is_refused(start: Start) -> None:
    with RawPeer(start().endpoint) as peer:
        peer.say(operator_hello())
        peer.read_until(Welcome)
        peer.socket.sendall(struct.pack(">I", frames.FRAME_BYTES_MAX + 1))
        assert "bytes" in peer.read_until(Refused).message
        assert peer.read() is None


def test_r15_a_peer_that_dribbles_before_its_hello_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GREETING_TIMEOUT_S", 0.3)
    coordinator = start()
    with RawPeer(coordinator.endpoint) as silent, RawPeer(coordinator.endpoint) as slow:
        deadline = time.monotonic() + 5.0
        slow.socket.settimeout(0.05)
        slow.socket.sendall(b"\0\0\1\0")
        while time.monotonic() < deadline:
            try:
                slow.socket.sendall(b"x")
                if slow.socket.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("a peer that never says hello was kept")
        assert silent.read() is None


def test_r15_a_greeted_peer_may_rest_but_not_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GREETING_TIMEOUT_S", 0.1)
    monkeypatch.setattr(connections, "IDLE_TIMEOUT_S", 0.8)
    with RawPeer(start().endpoint) as peer:
        began_s = time.monotonic()
        peer.say(operator_hello())
        peer.read_until(Welcome)
        assert peer.read() is None
        assert time.monotonic() - began_s >= 0.8


def test_r15_a_peer_that_does_not_read_is_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(connection, "UNSENT_BYTES_MAX", 100_000)
    coordinator = start()
    with RawAgent(coordinator.endpoint) as agent, RawAgent(coordinator.endpoint, "b") as deaf:
        space = join_alone(agent)
        deaf.read_until(Welcome)
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        agent.say(SetValue(2, space, "k", bytes(1 << 20)))
        agent.read_until(Flag)
        for number in range(30):
            with contextlib.suppress(ConnectionError):
                deaf.say(GetValue(10 + number, space, "k", 1.0))
        until(
            lambda: len(coordinator.server._connections.by_number) == 1,
            what="the deaf peer to be dropped",
        )
        assert pings(agent)


def test_r15_an_answer_that_is_too_large_fails_alone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = start()
    with RawAgent(coordinator.endpoint, label="x" * 2000) as agent:
        join_alone(agent)
        with RawPeer(coordinator.endpoint) as operator:
            operator.say(operator_hello())
            operator.read_until(Welcome)
            monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 1500)
            operator.say(Status(3))
            failed = operator.read_until(Failed)
            assert failed.id == 3
            assert "exceeds" in failed.message
        assert pings(agent)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"\x93\x0e\x09\xa0", 9),  # A get whose space is a text.
        (b"\x92\x0c\xcd\x01\x00", 256),  # A compare-and-set that ends after its id.
        (b"\x93\x63\x09\xa0", None),  # A message that there is not.
        (b"\x92\x06\xa0", None),  # A ping, which is not answered by id.
        (b"\x92\x0c\xa1x", None),  # An id that is none.
    ],
)
def test_r15_a_malformed_request_fails_alone_if_it_can_be_told(
    start: Start, body: bytes, told: int | None
) -> None:
    with RawAgent(start().endpoint) as agent:
        space = join_alone(agent)
        agent.socket.sendall(unframed(body))
        agent.say(SetValue(300, space, "k", b""))
        if told is None:
            assert "malformed" in agent.read_until(Refused).message
            assert agent.read() is None
        else:
            failed = agent.read_until(Failed)
            assert (failed.id, failed.code) == (told, "protocol")
            assert agent.read_until(Flag).id == 300


def test_r15_whoever_asks_for_too_much_at_once_waits_and_nobody_else(
    start: Start, until: Until
) -> None:
    ledger = GatedLedger()
    coordinator = start(ledger)
    with RawAgent(coordinator.endpoint, "a") as greedy, RawAgent(coordinator.endpoint, "b") as meek:
        space = join_alone(greedy)
        meek.read_until(Welcome)
        ledger.gate.clear()
        number = 10 * flow.REQUESTS_AT_ONCE_MAX
        greedy.say(*(SetValue(2 + i, space, f"k{i}", b"v") for i in range(number)))
        until(lambda: coordinator.server._flow.kept_waiting, what="the greedy one to be held up")
        assert pings(meek)
        engine = coordinator.server._engine
        assert engine is not None
        assert len(engine._inbox) <= flow.REQUESTS_AT_ONCE_MAX
        ledger.gate.set()
        assert [greedy.read_until(Flag).id for _ in range(number)] == list(range(2, 2 + number))
        assert pings(greedy)


@pytest.mark.parametrize(
    ("body", "answer"),
    [(b"\x92\x02\x01", Failed), (b"\x92\x06\x01", Pong)],
    ids=["malformed", "pings"],
)
def test_r15_a_flood_is_read_in_pieces_and_to_its_end(
    body: bytes, answer: type[Any], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "BEATS_AT_ONCE_MAX", 10)
    paused: list[int] = []
    pause = connection.Connection.pause

    def counted(self: connection.Connection) -> None:
        paused.append(self.number)
        pause(self)

    monkeypatch.setattr(connection.Connection, "pause", counted)
    number = 20 * flow.REQUESTS_AT_ONCE_MAX
    coordinator = start()
    with RawPeer(coordinator.endpoint) as flooding, RawAgent(coordinator.endpoint) as healthy:
        flooding.say(operator_hello())
        flooding.read_until(Welcome)
        flooding.socket.sendall(unframed(body) * number)
        join_alone(healthy)
        for _ in range(number):
            flooding.read_until(answer)
        assert pings(healthy)
    assert len(paused) >= 15


@pytest.mark.parametrize("limit", ["REQUEST_BYTES_AT_ONCE_MAX", "REQUEST_BYTES_AT_ONCE_TOTAL_MAX"])
def test_r15_bytes_of_requests_that_wait_are_bounded(
    start: Start, until: Until, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(flow, limit, 100_000)
    ledger = GatedLedger()
    coordinator = start(ledger)
    with RawAgent(coordinator.endpoint) as agent:
        space = join_alone(agent)
        ledger.gate.clear()
        agent.say(*(SetValue(2 + i, space, "k", bytes(10_000)) for i in range(30)))
        until(lambda: coordinator.server._flow.kept_waiting, what="it to be held up")
        engine = coordinator.server._engine
        assert engine is not None
        assert len(engine._inbox) <= 11
        ledger.gate.set()
        assert [agent.read_until(Flag).id for _ in range(30)] == list(range(2, 32))


def test_r15_without_room_the_oldest_stranger_goes_and_may_come_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "connections_max", lambda files_max: 4)
    endpoint = start().endpoint
    with contextlib.ExitStack() as peers:

        def arrive() -> RawPeer:
            return peers.enter_context(RawPeer(endpoint))

        oldest, second = arrive(), arrive()
        second.say(operator_hello())
        second.read_until(Welcome)
        arrive(), arrive()
        refused = oldest.read()
        assert isinstance(refused, Refused)
        assert refused.code == "connection"
        assert "it may have 4" in refused.message
        assert oldest.read() is None
        assert pings(second)


def test_stopping_leaves_no_connection_open(start: Start) -> None:
    """Those that come in that moment included: what is left open is an error of the tests."""
    coordinator = start()
    peers: list[socket.socket] = []
    with contextlib.suppress(OSError):
        for number in range(200):
            peers.append(socket.create_connection(coordinator.endpoint, timeout=1.0))
            if number == 100:
                coordinator.do(coordinator.server.stop)
    coordinator.stop()
    assert coordinator.server._connections.open_count == 0
    for peer in peers:
        with peer, contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
    gc.collect()


def test_r14_nobody_is_answered_before_it_is_stored(start: Start, until: Until) -> None:
    ledger = GatedLedger()
    ledger.gate.clear()
    with RawAgent(start(ledger).endpoint) as agent:
        agent.ask_to_join()
        agent.say(Ping(1))
        assert isinstance(agent.read(), Pong)
        assert not ledger.commits
        ledger.gate.set()
        assert isinstance(agent.read_until(Welcome), Welcome)
        agent.read_until(Joined)
        assert any(key.startswith("run\0") for key in ledger.kept)


def test_r14_agents_wait_while_the_ledger_fails_and_then_go_on(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "COMMIT_RETRY_S", 0.05)
    ledger = GatedLedger()
    ledger.failures = [RendezvousConnectionError("No space left on device.") for _ in range(3)]
    with RawAgent(start(ledger).endpoint) as agent:
        agent.ask_to_join()
        assert agent.read_until(Waiting).reason == "nothing can be stored: No space left on device"
        agent.read_until(Joined)
        assert not ledger.failures
        assert "No space left on device; agents wait" in caplog.text


def test_what_comes_during_a_write_becomes_one_batch(start: Start, until: Until) -> None:
    ledger = GatedLedger()
    coordinator = start(ledger)
    with RawAgent(coordinator.endpoint) as agent:
        space = join_alone(agent)
        ledger.gate.clear()
        before = len(ledger.commits)
        for number in range(12):
            agent.say(SetValue(10 + number, space, f"k{number}", b"v"))
        until(lambda: len(coordinator.server._engine._inbox) > 0, what="requests to queue up")
        agent.say(Ping(3))
        agent.read_until(Pong)
        ledger.gate.set()
        for _ in range(12):
            agent.read_until(Flag)
        assert len(ledger.commits) - before <= 3


def test_r15_a_batch_has_a_limit(
    start: Start, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(engine, "BATCH_BYTES_MAX", 1000)
    ledger = GatedLedger()
    coordinator = start(ledger)
    with RawAgent(coordinator.endpoint) as agent:
        space = join_alone(agent)
        ledger.gate.clear()
        before = len(ledger.commits)
        agent.say(*(SetValue(10 + number, space, f"k{number}", bytes(600)) for number in range(12)))
        agent.say(Ping(3))
        agent.read_until(Pong)
        ledger.gate.set()
        for _ in range(12):
            agent.read_until(Flag)
        assert max(ledger.commits[before:]) < 3 * 600
        agent.say(GetValue(90, space, "k11", 1.0))
        assert agent.read_until(Value).value == bytes(600)


@pytest.mark.parametrize("error", [RendezvousLimitError("too large"), ValueError("no idea")])
def test_a_coordinator_that_cannot_store_ends_with_the_error(
    error: Exception, start: Start
) -> None:
    ledger = GatedLedger()
    ledger.failures = [error]
    coordinator = start(ledger)
    with RawAgent(coordinator.endpoint) as agent:
        agent.ask_to_join()
        assert agent.read() is None
    assert coordinator.ended()
    assert coordinator.error is error
    assert ledger.closed


def test_a_coordinator_that_cannot_judge_ends_with_the_error(start: Start) -> None:
    coordinator = start()
    error = ValueError("no idea")

    def fail(*_: object, **__: object) -> None:
        raise error

    coordinator.server._engine.tick = fail  # type: ignore[method-assign]
    assert coordinator.ended()
    assert coordinator.error is error


def test_r14_a_coordinator_that_cannot_answer_ends_with_the_error_and_tells_nothing_more(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = MemoryError()

    def fail(message: Reply) -> bytes:
        if isinstance(message, Joined):
            raise error
        return connection.framed(message)

    monkeypatch.setattr(server, "framed", fail)
    coordinator = start()
    with (
        RawAgent(coordinator.endpoint, "a", nodes=2) as first,
        RawAgent(coordinator.endpoint, "b", nodes=2) as second,
    ):
        for agent in (first, second):
            agent.ask_to_join()
        for agent in (first, second):
            while (said := agent.read()) is not None:
                assert not isinstance(said, Joined)
    assert coordinator.ended()
    assert coordinator.error is error


@pytest.mark.parametrize("step", ["_flush", "_do_chore", "_resume_if_at_rest"])
def test_r14_after_a_step_that_fails_nothing_more_is_taken_from_the_engine(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        made = server.CoordinatorServer([], None)
        errors = [ValueError("no idea"), ValueError("follows from it")]

        def fail(*_: object) -> None:
            raise errors[0]

        with monkeypatch.context() as patched:
            patched.setattr(server.CoordinatorServer, step, fail)
            patched.setattr(server, "CHORE_PAUSE_S", 0.0)
            patched.setattr(made._flow, "resume", lambda now_s: 0.0)
            made._plan_flush()
            made._plan_chore()
            made._resume()
            await made._stopped.wait()
        made._fail(errors[1])
        assert made._failure is errors[0]
        assert made._engine is not None
        monkeypatch.setattr(made._engine, "take_batch", None)
        made._flush()

    asyncio.run(play())


def test_r15_nothing_more_is_read_while_the_engine_has_not_come_to_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play() -> None:
        made = server.CoordinatorServer([], None)
        resumed: list[float] = []
        monkeypatch.setattr(made._flow, "resume", resumed.append)
        for has_backlog, times in ((True, 0), (False, 1)):
            monkeypatch.setattr(engine.Engine, "has_backlog", has_backlog)
            made._resume()
            assert len(resumed) == times

    asyncio.run(play())


def test_it_stops_with_its_connections_and_its_ledger(start: Start) -> None:
    ledger = GatedLedger()
    coordinator = start(ledger)
    with RawAgent(coordinator.endpoint) as agent:
        space = join_alone(agent)
        coordinator.stop()
        assert agent.read() is None
        assert ledger.closed
        assert coordinator.error is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(coordinator.endpoint, timeout=1.0)
    again = start(ledger, port=coordinator.endpoint.port)
    with RawPeer(again.endpoint) as operator:
        operator.say(operator_hello(), Status(1))
        status = operator.read_until(Report)
        assert space[0].encode() in status.json


def test_stopping_in_the_middle_of_a_write_tells_nobody(start: Start, until: Until) -> None:
    ledger = GatedLedger()
    ledger.gate.clear()
    coordinator = start(ledger)
    with RawAgent(coordinator.endpoint) as agent:
        agent.ask_to_join()
        agent.say(Ping(1))
        agent.read_until(Pong)
        coordinator.do(coordinator.server.stop)
        until(lambda: not coordinator.server.connections, what="the end to begin")
        ledger.gate.set()
        coordinator.stop()
        assert agent.read() is None
        assert coordinator.error is None


def test_a_write_that_does_not_return_is_told_and_keeps_no_coordinator_from_ending(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "COMMIT_PATIENCE_S", 0.05)
    monkeypatch.setattr(writer, "END_TIMEOUT_S", 0.05)
    ledger = GatedLedger()
    ledger.gate.clear()
    coordinator = start(ledger)
    with RawAgent(coordinator.endpoint) as agent:
        agent.ask_to_join()
        assert agent.read_until(Waiting).reason == coordinator.server.hindrance()
        assert "what is written to does not answer" in coordinator.server.hindrance()
        coordinator.stop()
        assert agent.read() is None
    assert coordinator.error is None
    assert not ledger.closed, "its files are in use"
    ledger.gate.set()
    coordinator.server._writer._thread.join()


def test_an_idle_coordinator_ends_and_one_with_company_does_not(start: Start) -> None:
    alone, visited = start(idle_exit_s=0.3), start(idle_exit_s=0.3)
    with RawPeer(visited.endpoint) as operator:
        operator.say(operator_hello())
        assert alone.ended()
        assert not visited.ended(0.5)
    assert visited.ended()
    assert alone.error is None


def test_many_peers_of_one_moment_are_all_served(start: Start) -> None:
    coordinator = start()

    def visit(number: int) -> int:
        with RawPeer(coordinator.endpoint) as peer:
            requests: list[Request] = [operator_hello(), Status(number)]
            peer.say(*requests)
            return peer.read_until(Report).id

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(visit, range(100))) == list(range(100))


def test_r8_a_peer_that_finishes_while_it_is_written_to_has_finished(
    start: Start, until: Until
) -> None:
    """A process that ends is told from a reset, though a write meets the reset that follows."""
    coordinator = start()
    ended: list[bool] = []
    closed = coordinator.server.closed
    coordinator.server.closed = (  # type: ignore[method-assign]
        lambda connection, finished: (ended.append(finished), closed(connection, finished))[1]
    )
    with RawAgent(coordinator.endpoint) as agent:
        join_alone(agent)
        number = next(iter(coordinator.server._connections.by_number))

        def write_to_the_dead() -> None:
            connection = coordinator.server._connections.by_number[number]
            agent.socket.close()
            connection.write(b"x")
            # The loop must not read the end before the second write: that is the race.
            assert connection.transport is not None
            hung_up = select.poll()
            hung_up.register(connection.transport.get_extra_info("socket"), 0)
            assert hung_up.poll(5000)
            connection.write(b"x")

        coordinator.do(write_to_the_dead)
        until(lambda: ended, what="the end of the connection")
    assert ended == [True]


OURS, NEXT, OPERATORS, STRANGE = (name * 16 for name in (b"o", b"n", b"p", b"s"))
LOCKED = Keys(token(OURS))


class TestToken:
    """R15: who has no token is told nothing, and has no effect."""

    @staticmethod
    def refused(peer: RawPeer) -> str:
        """Return why the peer is refused; nothing else is said to it."""
        refused = peer.read()
        assert isinstance(refused, Refused)
        assert refused.code == "authentication"
        assert peer.read() is None
        return refused.message

    def comes_in(self, coordinator: ThreadedCoordinator, secret: bytes) -> bool:
        with RawPeer(coordinator.endpoint) as peer:
            peer.knock(secret, operator_hello())
            return isinstance(peer.read(), Proven)

    def test_who_knows_it_is_served(self, start: Start) -> None:
        with RawPeer(start(keys=LOCKED).endpoint) as peer:
            peer.knock(OURS, operator_hello())
            peer.say(Status(1))
            assert isinstance(peer.read(), Proven)
            assert isinstance(peer.read(), Welcome)
            assert isinstance(peer.read(), Report)

    def test_who_does_not_is_refused_and_leaves_nothing(self, start: Start) -> None:
        coordinator = start(keys=LOCKED)
        with RawAgent(coordinator.endpoint) as agent, RawPeer(coordinator.endpoint) as stranger:
            assert isinstance(agent.read(), Challenge)
            stranger.knock(STRANGE, operator_hello())
            assert "does not accept" in self.refused(stranger)
            agent.ask_to_join()
            assert "wants a token" in self.refused(agent)
        served = coordinator.server._engine
        assert served is not None
        assert not served.runs
        assert not served.has_work()

    def test_a_replayed_handshake_fails(self, start: Start) -> None:
        coordinator = start(keys=LOCKED)
        hello = operator_hello()
        with RawPeer(coordinator.endpoint) as first, RawPeer(coordinator.endpoint) as second:
            proof = first.knock(OURS, hello)
            first.read_until(Welcome)
            second.say(hello, proof, Status(1))
            assert isinstance(second.read(), Challenge)
            assert "does not accept" in self.refused(second)

    def test_a_nonce_is_used_once(self, start: Start) -> None:
        coordinator = start(keys=LOCKED)
        nonces = set()
        for _ in range(5):
            with RawPeer(coordinator.endpoint) as peer:
                peer.say(operator_hello())
                nonces.add(peer.read_until(Challenge).nonce)
        assert len(nonces) == 5

    def test_the_time_to_prove_it_is_bounded(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections, "GREETING_TIMEOUT_S", 0.3)
        with RawPeer(start(keys=LOCKED).endpoint) as peer:
            peer.say(operator_hello())
            assert isinstance(peer.read(), Challenge)
            assert peer.read() is None

    def test_before_the_proof_messages_are_small(self, start: Start) -> None:
        with RawPeer(start(keys=LOCKED).endpoint) as peer:
            peer.say(operator_hello())
            assert isinstance(peer.read(), Challenge)
            peer.socket.sendall(struct.pack(">I", frames.GREETING_BYTES_MAX + 1))
            assert "bytes" in peer.read_until(Refused).message

    def test_a_coordinator_of_strangers_is_idle(self, start: Start) -> None:
        coordinator = start(idle_exit_s=0.3, keys=LOCKED)
        with RawPeer(coordinator.endpoint) as stranger:
            stranger.say(operator_hello())
            assert coordinator.ended()

    def test_a_secret_is_changed_while_it_serves(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.0)
        file = tmp_path / "token"
        file.write_bytes(OURS)
        coordinator = start(keys=Keys(Token.from_file(file)))
        assert not self.comes_in(coordinator, NEXT)
        file.write_bytes(OURS + b"\n" + NEXT)
        assert [self.comes_in(coordinator, secret) for secret in (OURS, NEXT)] == [True, True]
        file.write_bytes(NEXT)
        assert [self.comes_in(coordinator, secret) for secret in (OURS, NEXT)] == [False, True]

    def test_operators_may_need_a_token_of_their_own(self, start: Start) -> None:
        coordinator = start(keys=Keys(token(OURS), token(OPERATORS)))
        operator = Hello(PROTOCOL_VERSION, ROLE_OPERATOR, "job", "o")
        with RawPeer(coordinator.endpoint) as agent:
            agent.knock(OURS, agent_hello("a"))
            agent.read_until(Welcome)
            with RawPeer(coordinator.endpoint) as looking, RawPeer(coordinator.endpoint) as acting:
                looking.knock(OURS, operator)
                looking.say(Close(1, "enough"))
                assert looking.read_until(Failed).code == "authentication"
                acting.knock(OPERATORS, operator)
                acting.say(Close(2, "enough"))
                assert acting.read_until(Flag).value

    def test_strangers_do_not_fill_the_log(
        self, start: Start, caplog: pytest.LogCaptureFixture, until: Until
    ) -> None:
        coordinator = start(keys=LOCKED)
        for _ in range(20):
            assert not self.comes_in(coordinator, STRANGE)

        def told() -> list[str]:
            lines = [record.getMessage() for record in caplog.records]
            return [line for line in lines if line.startswith("refused")]

        def counted() -> int:
            """Each line stands for one, or says for how many."""
            numbers = [re.match(r"refused (\d+) more", line) for line in told()]
            return sum(int(found[1]) if found else 1 for found in numbers)

        until(lambda: counted() == 20, what="all to be counted")
        assert len(told()) < 10
        assert STRANGE.decode() not in caplog.text

    def test_who_stands_by_says_where_the_holder_is_after_the_proof(self, start: Start) -> None:
        with RawPeer(start(seat=GatedSeat(), keys=LOCKED).endpoint) as peer:
            peer.knock(OURS, operator_hello())
            assert isinstance(peer.read(), Proven)
            assert peer.read() == Redirect("holder:1")

    def test_who_has_not_proved_it_is_not_told_of_uncertainty(
        self, start: Start, until: Until
    ) -> None:
        seat, ledger = GatedSeat(), GatedLedger()
        coordinator = start(seat=seat, keys=LOCKED)
        seat.ledgers.put(ledger)
        until(lambda: coordinator.server._engine is not None, what="its turn")
        with RawPeer(coordinator.endpoint) as peer, RawPeer(coordinator.endpoint) as waiting:
            peer.knock(OURS, operator_hello())
            peer.read_until(Welcome)
            waiting.say(operator_hello())
            assert isinstance(waiting.read(), Challenge)
            ledger.held = False
            assert isinstance(peer.read(), Waiting)
            assert not select.select([waiting.socket], [], [], 0.0)[0]


@pytest.fixture
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a report of a few nodes take as many slices as one of thousands."""
    for module in ("parts", "reports"):
        monkeypatch.setattr(f"quorate.coordinator.engine.{module}.PART_NODES", 1)


@pytest.mark.usefixtures("_many")
class TestSlices:
    """What takes long is done in slices, and others are served in between."""

    @staticmethod
    def look(endpoint: Endpoint) -> RawPeer:
        """Return an operator who has asked for a report."""
        operator = RawPeer(endpoint)
        operator.say(operator_hello(), Status(1))
        operator.read_until(Welcome)
        return operator

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
    def test_they_come_to_an_end(self, run: Callable[..., None], start: Start) -> None:
        coordinator = start(run=run)
        with contextlib.ExitStack() as agents:
            for name in "abcdefgh":
                agent = agents.enter_context(RawAgent(coordinator.endpoint, name, nodes=9))
                agent.read_until(Welcome)
            with self.look(coordinator.endpoint) as operator:
                report = operator.read_until(Report)
        assert report.compressed
        assert report.text().count(b'"pid"') == 8

    def test_others_are_served_between_two_slices(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "CHORE_PAUSE_S", 3600.0)
        coordinator = start()
        with RawAgent(coordinator.endpoint) as agent, self.look(coordinator.endpoint) as operator:
            join_alone(agent)
            engine = coordinator.server._engine
            assert engine.has_chores
            for _ in range(8):
                assert pings(agent)
                coordinator.do(coordinator.server._do_chore)
            assert operator.read_until(Report).id == 1
            assert not engine.has_chores

    def test_one_that_is_deposed_meanwhile_leaves_them(
        self, start: Start, until: Until, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "CHORE_PAUSE_S", 3600.0)
        seat, ledger = GatedSeat(), GatedLedger()
        coordinator = start(seat=seat)
        seat.ledgers.put(ledger)
        until(lambda: coordinator.server._engine is not None)
        with RawAgent(coordinator.endpoint) as agent:
            agent.read_until(Welcome)
            with self.look(coordinator.endpoint) as operator:
                ledger.failures.append(RendezvousDeposedError("another one has it"))
                agent.ask_to_join()
                assert operator.read() is None
            coordinator.do(coordinator.server._do_chore)
            assert TestSeat.report(coordinator) == Redirect("holder:1")


class TestSeat:
    """R17: one of several coordinators that share a ledger."""

    @pytest.fixture
    def seat(self) -> GatedSeat:
        return GatedSeat()

    @pytest.fixture
    def coordinator(self, start: Start, seat: GatedSeat) -> ThreadedCoordinator:
        return start(seat=seat)

    @staticmethod
    def report(coordinator: ThreadedCoordinator) -> object:
        """Return the first answer to an operator."""
        with RawPeer(coordinator.endpoint) as peer:
            peer.say(operator_hello())
            return peer.read()

    def await_turn(self, coordinator: ThreadedCoordinator, until: Until) -> None:
        until(lambda: isinstance(self.report(coordinator), Welcome))

    def test_who_stands_by_names_the_holder_and_ends_the_connection(
        self, coordinator: ThreadedCoordinator
    ) -> None:
        with RawPeer(coordinator.endpoint) as peer:
            peer.say(operator_hello(), Status(1))
            assert peer.read() == Redirect("holder:1")

    def test_who_holds_it_decides_from_what_is_stored(
        self, coordinator: ThreadedCoordinator, seat: GatedSeat, until: Until
    ) -> None:
        ledger = GatedLedger()
        seat.ledgers.put(ledger)
        self.await_turn(coordinator, until)
        with RawAgent(coordinator.endpoint) as agent:
            agent.say(Join(1, None, JOIN_TIMEOUT_S, agent.profile))
            assert agent.read_until(Joined).id == 1
        assert ledger.commits

    def test_who_was_deposed_drops_what_was_not_stored(
        self, coordinator: ThreadedCoordinator, seat: GatedSeat, until: Until
    ) -> None:
        former, later = GatedLedger(), GatedLedger()
        seat.ledgers.put(former)
        self.await_turn(coordinator, until)
        former.failures.append(RendezvousDeposedError("another one has it"))
        with RawAgent(coordinator.endpoint) as agent:
            assert agent.read() is None
        assert self.report(coordinator) == Redirect("holder:1")
        seat.ledgers.put(later)
        self.await_turn(coordinator, until)
        assert not former.commits

    def test_an_answer_that_was_kept_back_is_none_of_the_next_turn(
        self, coordinator: ThreadedCoordinator, seat: GatedSeat, until: Until
    ) -> None:
        """It was never certain."""
        former, later = GatedLedger(), GatedLedger()
        seat.ledgers.put(former)
        self.await_turn(coordinator, until)
        former.held = False
        asked = coordinator.begin(coordinator.server.ask("", Status, JOIN_TIMEOUT_S))

        def is_kept_back() -> bool:
            return any(isinstance(send.message, Report) for send in coordinator.server._withheld)

        until(is_kept_back, what="an answer that is kept back")
        former.failures.append(RendezvousDeposedError("another one has it"))
        until(lambda: coordinator.server._engine is None, what="the end of its turn")
        seat.ledgers.put(later)
        self.await_turn(coordinator, until)
        with RawAgent(coordinator.endpoint) as agent:
            join_alone(agent)
        assert not asked.done()
        asked.cancel()

    def test_one_that_cannot_read_what_is_stored_takes_it_again(
        self, coordinator: ThreadedCoordinator, seat: GatedSeat, until: Until
    ) -> None:
        class Unreadable(GatedLedger):
            def load(self) -> dict[str, bytes]:
                raise RendezvousConnectionError("etcd did not answer")

        seat.ledgers.put(Unreadable())
        seat.ledgers.put(GatedLedger())
        self.await_turn(coordinator, until)
        assert seat.takes == 2

    def test_while_it_is_uncertain_nobody_is_answered_and_all_are_told(
        self, coordinator: ThreadedCoordinator, seat: GatedSeat, until: Until
    ) -> None:
        """R16: not even a pong, but why."""
        ledger = GatedLedger()
        seat.ledgers.put(ledger)
        self.await_turn(coordinator, until)
        with RawAgent(coordinator.endpoint) as agent:
            assert isinstance(agent.read(), Welcome)
            ledger.failures += [RendezvousConnectionError("etcd did not answer")] * 2
            ledger.held = False
            told = agent.read()
            assert isinstance(told, Waiting)
            assert "does not answer" in told.reason
            agent.say(Ping(7))
            with RawAgent(coordinator.endpoint, "late") as late:
                assert isinstance(late.read(), Waiting)
            until(lambda: not ledger.failures)
            assert not select.select([agent.socket], [], [], 0.0)[0]
            ledger.held = True
            assert agent.read_until(Pong) == Pong(7)

    def test_one_that_is_uncertain_asks_who_decides(
        self, coordinator: ThreadedCoordinator, seat: GatedSeat, until: Until
    ) -> None:
        """It was frozen: nothing is to be stored, and yet it must stand by."""
        ledger = GatedLedger()
        seat.ledgers.put(ledger)
        self.await_turn(coordinator, until)
        ledger.failures.append(RendezvousDeposedError("another one has it"))
        ledger.held = False
        until(lambda: self.report(coordinator) == Redirect("holder:1"))
