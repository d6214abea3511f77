"""All connections of a coordinator, on transports that are none: room, time limits, the end."""

from __future__ import annotations

import asyncio

import pytest

from quorate.coordinator.connection import Connection
from quorate.coordinator.connections import (
    GREETING_TIMEOUT_S,
    IDLE_TIMEOUT_S,
    SCAN_S,
    Connections,
)
from quorate.coordinator.door import Keys
from quorate.testing import ManualClock
from quorate.wire.frames import frame
from quorate.wire.messages import Challenge, Ping, Refused, Waiting, encode
from tests.coordinator.wire import Notes, Wire
from tests.served import operator_hello, token


class House:
    """Connections, and the coordinator that they are of."""

    def __init__(self, connections_max: int = 100, keys: Keys | None = None) -> None:
        self.clock = ManualClock()
        self.notes = Notes(self.clock)
        self.connections = Connections(connections_max, keys or Keys(), None, self.clock.monotonic)
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
        self.clock.advance(seconds)
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
    house.clock.advance(IDLE_TIMEOUT_S)
    speaking.data_received(frame(encode(Ping(1))))
    house.end_after(SCAN_S)
    assert speaking.is_open
    assert paused.is_open


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
    monkeypatch.setattr("quorate.coordinator.connections.END_TIMEOUT_S", 0.01)
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
