"""What waits for its turn, and what of it is forgotten."""

from __future__ import annotations

from quorate.coordinator.engine.inbox import SWEPT_FROM, Inbox
from quorate.wire.messages import Ping, Status
from tests.coordinator.driver import Driver


def test_messages_have_their_turn_in_order() -> None:
    inbox = Inbox()
    for number, connection in enumerate((1, 2, 1, 3)):
        inbox.add(connection, Ping(number))
    assert len(inbox) == 4
    assert [inbox.take() for _ in range(4)] == [
        (1, Ping(0)),
        (2, Ping(1)),
        (1, Ping(2)),
        (3, Ping(3)),
    ]
    assert not inbox


def test_what_ended_connections_asked_is_swept_out() -> None:
    inbox = Inbox()
    for connection in range(SWEPT_FROM):
        inbox.add(connection, Ping(connection))
    for connection in range(SWEPT_FROM, 10 * SWEPT_FROM):
        inbox.add(connection, Ping(0))
        inbox.add(connection, Ping(1))
        inbox.closed(connection)
        assert len(inbox) <= 3 * SWEPT_FROM + 2
    kept = [inbox.take() for _ in range(len(inbox))]
    assert [entry for entry in kept if entry[0] < SWEPT_FROM] == [
        (connection, Ping(connection)) for connection in range(SWEPT_FROM)
    ]


def test_what_has_had_its_turn_is_not_counted_again() -> None:
    inbox = Inbox()
    for connection in (7, 8):
        assert not inbox
        for number in range(SWEPT_FROM):
            inbox.add(connection, Ping(number))
        inbox.closed(connection)
        assert len(inbox) == SWEPT_FROM, "a sweep is not worth its time yet"
        if connection == 7:
            assert [inbox.take()[0] for _ in range(SWEPT_FROM)] == [7] * SWEPT_FROM
    for connection in (9, 10):
        inbox.add(connection, Ping(0))
    inbox.closed(10)
    assert len(inbox) == 1
    assert inbox.take() == (9, Ping(0))


def test_r15_strangers_that_come_and_go_while_a_write_stalls_leave_nothing() -> None:
    driver = Driver(2, 2)
    driver.world("a", "b")
    driver.stall()
    worker = driver.store("w")
    for number in range(200):
        stranger = driver.store(f"s{number}")
        stranger.say(Status(1, ""))
        stranger.cut()
    assert len(driver.engine._inbox) <= SWEPT_FROM + 4
    driver.go_on()
    assert not driver.engine.has_backlog
    assert worker.received, "its hello had its turn"
