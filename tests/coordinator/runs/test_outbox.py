"""The outbox keeps the order, and drops what nobody would get."""

from __future__ import annotations

from quorate.coordinator.runs.outbox import Outbox, Send
from quorate.wire.messages import Pong, Probe, Refused


def test_it_returns_what_was_said_in_order_and_forgets_it() -> None:
    outbox = Outbox()
    outbox.send(1, Pong(1))
    outbox.send_all([2, None, 3], Probe(1))
    outbox.end(4, Refused("error", "no"))
    outbox.end(5)
    assert len(outbox) == 4
    assert outbox.take() == [
        Send((1,), Pong(1)),
        Send((2, 3), Probe(1)),
        Send((4,), Refused("error", "no"), end=True),
        Send((5,), None, end=True),
    ]
    assert outbox.take() == []


def test_nobody_is_nobody() -> None:
    outbox = Outbox()
    outbox.send(None, Pong(1))
    outbox.send_all([None, None], Probe(1))
    outbox.send_all([], Probe(1))
    outbox.end(None)
    assert len(outbox) == 0


def test_connection_zero_is_a_connection() -> None:
    outbox = Outbox()
    outbox.send(0, Pong(1))
    outbox.send_all([0], Probe(1))
    outbox.end(0)
    assert [send.connections for send in outbox.take()] == [(0,), (0,), (0,)]
