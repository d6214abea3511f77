"""Connections that take without giving are ended."""

from __future__ import annotations

from typing import Any

from quorate.page.visitors import CONNECTIONS_MAX, IDLE_MAX_S, Visitors
from quorate.testing import ManualClock


class Connection:
    def __init__(self) -> None:
        self.ended = False

    def force_close(self) -> None:
        self.ended = True


def test_idle_connections_are_ended_and_busy_ones_are_not() -> None:
    clock = ManualClock()
    visitors = Visitors(clock)
    idle, busy = Connection(), Connection()
    connections: list[Any] = [idle, busy]
    with visitors.busy(busy):
        visitors.end_idle(connections)
        clock.advance(IDLE_MAX_S - 1)
        visitors.end_idle(connections)
        assert not idle.ended
        clock.advance(1)
        visitors.end_idle(connections)
        assert idle.ended
        assert not busy.ended
    visitors.end_idle(connections)
    assert not busy.ended, "it becomes idle now"


def test_more_connections_than_the_limit_are_ended_at_once() -> None:
    visitors = Visitors(ManualClock())
    connections: list[Any] = [Connection() for _ in range(CONNECTIONS_MAX + 3)]
    with visitors.busy(connections[-1]):
        visitors.end_idle(connections)
    assert sum(connection.ended for connection in connections) == 3
    assert not connections[-1].ended
