"""All connections of a coordinator, on transports that are none: room, time limits, the end."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from quorate.coordinator.entrance import connections as connections_module
from quorate.coordinator.entrance import unfinished as unfinished_module
from quorate.coordinator.entrance.connection import PIECE_BYTES, Connection
from quorate.coordinator.entrance.connections import (
    GREETING_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    SCAN_S,
    Connections,
)
from quorate.coordinator.entrance.door import Keys
from quorate.testing import ManualClock
from quorate.tls import TlsContexts, TlsFiles, client_context, server_context
from quorate.wire.frames import frame
from quorate.wire.messages import Challenge, Ping, Refused, Waiting, encode
from quorate.wire.tls import TlsPipe
from tests.certificates import Authority
from tests.coordinator.wire import Notes, Wire
from tests.served import operator_hello, token

TICK_S = 0.25


class Coordinator(Notes):
    """Hands on those who knock."""

    connections: Connections

    def knocked(self, connection: Connection, data_bytes: int) -> None:
        self.connections.knocked(connection, data_bytes)

    def holds(self, connection: Connection, unfinished_bytes: int) -> None:
        self.connections.holds(connection, unfinished_bytes)


class House:
    """Connections, and the coordinator that they are of."""

    def __init__(
        self,
        connections_max: int = 100,
        keys: Keys | None = None,
        tls: TlsContexts | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.notes = Coordinator(self.clock)
        self.connections = Connections(connections_max, keys or Keys(), tls, self.clock.monotonic)
        self.notes.connections = self.connections
        self.wires: dict[int, Wire] = {}

    def arrive(self, greeted: bool = False) -> Connection:
        """Let a peer come; it says hello if it is to be `greeted`."""
        connection, wire = self.connections.make(self.notes), Wire()
        connection.connection_made(wire)
        self.connections.add(connection)
        self.wires[connection.number] = wire
        if greeted:
            connection.data_received(frame(encode(operator_hello())))
            self.connections.admission.welcomed(connection.number)
        return connection

    def wire(self, connection: Connection) -> Wire:
        return self.wires[connection.number]

    def end_after(self, seconds: float) -> None:
        """Let time pass, and scan."""
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            self.connections.tick()


def test_numbers_are_used_once() -> None:
    house = House()
    numbers = [house.arrive().number, house.connections.next_number(), house.arrive().number]
    assert len(set(numbers)) == 3
    assert all(numbers)
    assert set(house.connections.by_number) == {numbers[0], numbers[2]}


def test_those_who_have_come_in_are_told() -> None:
    house = House()
    stranger, peer = house.arrive(), house.arrive(greeted=True)
    waiting = Waiting("stalled", "no space", 0.0)
    house.connections.tell(waiting)
    assert house.wire(stranger).replies == []
    assert house.wire(peer).replies == [waiting]


def test_r15_without_room_the_oldest_stranger_is_turned_away() -> None:
    house = House(connections_max=4)
    peer, oldest = house.arrive(greeted=True), house.arrive()
    others = [house.arrive(), house.arrive()]
    (refused,) = house.wire(oldest).replies
    assert isinstance(refused, Refused)
    assert "it may have 4" in refused.message
    assert not oldest.is_open
    assert all(connection.is_open for connection in (peer, *others))


def test_r15_of_unfinished_messages_no_more_is_kept_than_there_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unfinished_module, "UNFINISHED_BYTES_TOTAL_MAX", 200_000)
    house = House()
    message = frame(bytes(90_000))
    peers = [house.arrive(greeted=True) for _ in range(4)]
    for peer in peers[:2]:
        peer.data_received(message[:80_000])
    peers[0].data_received(message[80_000:-1])
    peers[2].data_received(message[:80_000])
    (refused,) = house.wire(peers[1]).replies
    assert isinstance(refused, Refused)
    assert "send it again" in refused.message
    assert [peer.is_open for peer in peers] == [True, False, True, True]
    house.connections.remove(peers[2])
    peers[3].data_received(message[:80_000])
    assert peers[0].is_open


def test_r15_the_time_to_say_hello_is_shorter_than_the_time_to_rest() -> None:
    house = House()
    stranger, peer = house.arrive(), house.arrive(greeted=True)
    house.end_after(GREETING_TIMEOUT_S)
    assert stranger.is_open
    house.end_after(SCAN_S)
    assert not stranger.is_open
    house.end_after(IDLE_TIMEOUT_S - GREETING_TIMEOUT_S - SCAN_S)
    assert peer.is_open
    house.end_after(SCAN_S)
    assert not peer.is_open


def test_who_says_something_stays_and_who_is_paused_too() -> None:
    house = House()
    speaking, paused = house.arrive(greeted=True), house.arrive(greeted=True)
    paused.pause()
    house.end_after(IDLE_TIMEOUT_S)
    speaking.data_received(frame(encode(Ping(1))))
    house.end_after(SCAN_S)
    assert speaking.is_open
    assert paused.is_open


def test_r15_who_says_something_else_than_hello_does_not_stay() -> None:
    house = House()
    speaking, paused = house.arrive(), house.arrive()
    paused.pause()
    house.end_after(GREETING_TIMEOUT_S)
    speaking.data_received(frame(encode(Ping(1))))
    house.end_after(SCAN_S)
    assert not speaking.is_open
    assert not paused.is_open


def test_it_is_looked_at_no_more_often_than_needed() -> None:
    house = House()
    stranger = house.arrive()
    house.end_after(GREETING_TIMEOUT_S)
    house.end_after(SCAN_S / 2)
    assert stranger.is_open
    house.end_after(SCAN_S / 2)
    assert not stranger.is_open


def test_those_that_were_given_up_are_known_no_more_and_still_awaited() -> None:
    house = House()
    given_up = house.arrive()
    house.connections.abort()
    assert house.wire(given_up).aborted
    later = house.arrive()
    assert list(house.connections.by_number) == [later.number]
    assert house.connections.open_count == 2
    assert not house.connections.remove(given_up)
    assert house.connections.remove(later)
    asyncio.run(house.connections.gone())
    assert house.connections.open_count == 0


def test_who_does_not_go_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.coordinator.entrance.connections.END_TIMEOUT_S", 0.01)
    house = House()
    house.arrive()
    asyncio.run(house.connections.gone())
    assert house.connections.open_count == 1


def test_each_has_a_nonce_of_its_own_if_there_is_a_token() -> None:
    house = House(keys=Keys(token(b"s" * 16)))
    assert not house.connections.are_open_to_all
    nonces = set()
    for _ in range(5):
        connection = house.arrive(greeted=True)
        (challenge,) = house.wire(connection).replies
        assert isinstance(challenge, Challenge)
        nonces.add(challenge.nonce)
    assert len(nonces) == 5


def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    connection = house.arrive()
    for _ in range(5):
        house.connections.note_refusal(connection, "why not")
    house.connections.tick()
    assert [record.getMessage() for record in caplog.records] == ["refused 10.0.0.1:4711: why not"]
    house.end_after(1.0)
    assert caplog.records[-1].getMessage() == "refused 4 more peers"


class Caller:
    """A peer whose words come over TLS."""

    def __init__(self, house: House, context: ssl.SSLContext) -> None:
        self.house = house
        self.connection = house.arrive()
        self.pipe = TlsPipe(context, server_side=False, server_hostname="localhost")

    def knock(self) -> None:
        """Send what the handshake has to send next."""
        wire = self.house.wire(self.connection)
        answer, wire.sent = wire.sent, b""
        self.pipe.feed(answer)
        self.connection.data_received(self.pipe.take_output())


class TestHandshakes:
    @pytest.fixture
    def files(self, tmp_path: Path) -> TlsFiles:
        return Authority(tmp_path / "certificates").issue("node")

    @pytest.fixture
    def context(self, files: TlsFiles) -> ssl.SSLContext:
        return client_context(TlsFiles(files.ca_file))

    @pytest.fixture
    def tls(self, files: TlsFiles) -> TlsContexts:
        return TlsContexts(TlsFiles("", files.cert_file, files.key_file), server_context)

    def test_r15_members_are_looked_at_between_handshakes(
        self, tls: TlsContexts, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def play() -> None:
            monkeypatch.setattr(connections_module, "HANDSHAKES_AT_ONCE_MAX", 2)
            house = House(tls=tls)
            callers = [Caller(house, context) for _ in range(5)]
            for caller in callers:
                caller.knock()
            for begun in (0, 2, 4, 5):
                assert sum(caller.connection.has_begun for caller in callers) == begun
                await asyncio.sleep(0)

        asyncio.run(play())

    def test_r15_handshakes_that_take_long_keep_members_waiting_no_longer(
        self, tls: TlsContexts, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def play() -> None:
            monkeypatch.setattr(connections_module, "HANDSHAKES_S", 0.0)
            house = House(tls=tls)
            callers = [Caller(house, context) for _ in range(3)]
            for caller in callers:
                caller.knock()
            for begun in range(4):
                assert sum(caller.connection.has_begun for caller in callers) == begun
                await asyncio.sleep(0)

        asyncio.run(play())

    def test_r15_a_turn_that_fails_does_not_take_that_of_others(
        self, tls: TlsContexts, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def play() -> None:
            failures: list[object] = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, what: failures.append(what["exception"]))
            house = House(tls=tls)
            callers = [Caller(house, context) for _ in range(3)]
            monkeypatch.setattr(type(callers[0].connection), "take_turn", fail)
            for caller in callers:
                caller.knock()
            for count in range(4):
                assert len(failures) == count
                await asyncio.sleep(0)

        def fail(_: Connection) -> None:
            raise MemoryError

        asyncio.run(play())

    def test_r15_who_sends_much_before_its_hello_has_turns_for_it(
        self, tls: TlsContexts, context: ssl.SSLContext
    ) -> None:
        async def play() -> None:
            house = House(tls=tls)
            caller = Caller(house, context)
            for _ in range(2):
                caller.knock()
                await asyncio.sleep(0)
            caller.pipe.send(frame(bytes(3 * PIECE_BYTES)))
            caller.connection.data_received(caller.pipe.take_output())
            for left in (True, True, True, True, False):
                assert bool(caller.connection.unread) == left
                assert (house.connections._unread_bytes > 0) == left
                await asyncio.sleep(0)

        asyncio.run(play())

    def test_who_waits_for_its_turn_loses_no_time(
        self, tls: TlsContexts, context: ssl.SSLContext
    ) -> None:
        async def play() -> None:
            house = House(tls=tls)
            caller, silent = Caller(house, context), house.arrive()
            house.end_after(GREETING_TIMEOUT_S / 2)
            caller.knock()
            house.end_after(3 * GREETING_TIMEOUT_S)
            assert (caller.connection.is_open, silent.is_open) == (True, False)
            await asyncio.sleep(0)
            assert caller.connection.has_begun
            house.end_after(GREETING_TIMEOUT_S / 2)
            assert caller.connection.is_open
            house.end_after(SCAN_S)
            assert not caller.connection.is_open

        asyncio.run(play())

    def test_r15_what_is_kept_unread_has_a_limit(
        self, tls: TlsContexts, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def play() -> None:
            house = House(tls=tls)
            first, gone, second, third = (Caller(house, context) for _ in range(4))
            gone.knock()
            house.connections.remove(gone.connection)
            monkeypatch.setattr(connections_module, "UNREAD_BYTES_TOTAL_MAX", 800)
            first.knock()
            assert not first.connection.has_begun
            second.knock()
            assert second.connection.has_begun
            await asyncio.sleep(0)
            third.knock()
            assert not third.connection.has_begun
            await asyncio.sleep(0)
            assert (gone.connection.has_begun, third.connection.has_begun) == (False, True)

        asyncio.run(play())

    def test_r15_without_room_those_who_wait_for_us_stay_longest(
        self, tls: TlsContexts, context: ssl.SSLContext
    ) -> None:
        async def play() -> None:
            house = House(connections_max=6, tls=tls)
            first, second = Caller(house, context), Caller(house, context)
            silent = house.arrive()
            first.knock()
            second.knock()
            third = house.arrive()
            assert [each.is_open for each in (silent, third)] == [False, True]
            house.connections.remove(third)
            for _ in range(2):
                Caller(house, context).knock()
            assert (first.connection.is_open, second.connection.is_open) == (True, True)
            await asyncio.sleep(0)
            assert first.connection.has_begun
            assert second.connection.has_begun

        asyncio.run(play())


def test_r9_time_in_which_the_coordinator_was_away_counts_for_nobody() -> None:
    house = House()
    stranger = house.arrive()
    house.clock.advance(2 * GREETING_TIMEOUT_S)
    house.end_after(GREETING_TIMEOUT_S)
    assert stranger.is_open
    house.end_after(SCAN_S)
    assert not stranger.is_open
