"""The rooms of one run, worked by hand: no engine, no connections, no ledger.

Connections are numbers, `said` is what was put into the outbox, and time passes at once.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from quorate.coordinator.runs.herald import Herald
from quorate.coordinator.runs.joins import Departure, Joins
from quorate.coordinator.runs.minutes import Minutes
from quorate.coordinator.runs.outbox import Outbox, Send
from quorate.coordinator.runs.roll import Roll
from quorate.coordinator.runs.rounds import Rounds
from quorate.coordinator.runs.session import Session
from quorate.coordinator.runs.tally import Tally
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.observer import Observer
from quorate.core.state import RendezvousState, check
from quorate.testing import ManualClock
from quorate.wire.messages import Join
from tests.core.support import LAST_CALL_S, make_settings

__all__ = ["Rooms"]


class Rooms:
    """A run without its `Run`.

    Attributes:
        touches: What was noted to be stored, oldest first.
    """

    def __init__(self, min_nodes: int = 2, max_nodes: int = 3, **changes: Any) -> None:
        self.settings = make_settings(min_nodes, max_nodes, **changes)
        self.clock = ManualClock()
        self.observer = Observer(self.clock)
        self.state = RendezvousState(epoch="e")
        self.outbox = Outbox()
        self.tally = Tally().run("run")
        self.touches: list[tuple[NodeDesc, ...]] = []
        self.minutes = Minutes("run", self.state, self.observer)
        self.roll = Roll("run", self.state, self.observer, self.tally, self._touch)
        self.herald = Herald(self.state, self.roll.sessions, self.outbox, self.roll.context)
        self.joins = Joins(self.roll, self.outbox, self.herald, self.minutes)
        self.rounds = Rounds(self.roll, self.minutes, self.tally)
        self._numbers = count(1)

    def session(self, name: str, node_id: str = "") -> Session:
        """Return the session of a new life of a node, connected and not let in yet."""
        number = next(self._numbers)
        node = NodeDesc(name, 1, 0, f"life{number}")
        profile, settings = NodeProfile(node_id=node_id), self.settings.agreed
        session = Session(node, profile, self.observer.now_s, settings)
        session.connection = number
        return session

    def add(self, name: str, node_id: str = "") -> Session:
        """Let a node in."""
        session = self.session(name, node_id)
        self.roll.admit(session)
        return session

    def ask(self, session: Session, timeout_s: float = 600.0) -> Departure | None:
        """Hold a join, and look at it once."""
        join = Join(next(self._numbers), session.holding, timeout_s, session.profile)
        self.joins.hold(session, join)
        return self.joins.advance(session)

    def world(self, *names: str) -> list[Session]:
        """Return the sessions of the members of a complete round."""
        sessions = [self.add(name) for name in names]
        for session in sessions:
            self.ask(session)
        if not self.rounds.try_to_complete() and not self.state.complete:
            self.let_pass(LAST_CALL_S)
            assert self.rounds.try_to_complete()
        for session in self.joins.all():
            self.joins.advance(session)
        assert all(session.holding == self.state.name for session in sessions)
        check(self.state, self.settings)
        self.said()
        self.touches.clear()
        return sessions

    def let_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.observer.tick()

    def said(self) -> list[Send]:
        """Return what was said since the last call."""
        return self.outbox.take()

    def _touch(self, *nodes: NodeDesc, **_: bool) -> None:
        self.touches.append(nodes)
