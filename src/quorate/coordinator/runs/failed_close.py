"""A close because the job failed, held until the other members have answered since (R7). Pure.

One failure is often seen by several members: all who say so are answered, and the first one's
reason counts. That they said so is no answer: they may have died since.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.roll import Roll
from quorate.coordinator.runs.session import Session
from quorate.core.node import NodeDesc
from quorate.core.state import WorldName
from quorate.wire.messages import Close, Probe

__all__ = ["Asker", "FailedClose"]


class Asker(NamedTuple):
    """Who says that the job has failed.

    Args:
        session: Its session.
        request: What it has asked.
        holding: The world that it had when it asked.
    """

    session: Session
    request: Close
    holding: WorldName | None


class FailedClose:
    """What is held of a run's close, if one is.

    It only keeps count: whoever holds a close here asks `is_answered` after each word and `lose`
    after each loss, and draws the consequences for those whom `take` returns.

    Args:
        roll: Who is attached.
        outbox: Where the probes go.
    """

    def __init__(self, roll: Roll, outbox: Outbox) -> None:
        self._roll = roll
        self._outbox = outbox
        self._number = 0
        self._members: Set[NodeDesc] = frozenset()
        self._awaited: set[NodeDesc] = set()
        self._askers: dict[NodeDesc, Asker] = {}

    @property
    def is_held(self) -> bool:
        """Whether a close is held."""
        return bool(self._askers)

    @property
    def is_answered(self) -> bool:
        """Whether a close is held, and no answer to it is missing."""
        return self.is_held and not self._awaited

    def hold(self, session: Session, request: Close) -> None:
        """Hold a close; the first one asks the other members whether they live."""
        if not self.is_held:
            self._probe(session.node)
        self._askers[session.node] = Asker(session, request, session.holding)

    def heard(self, node: NodeDesc, number: int) -> bool:
        """Note a word.

        Args:
            node: Whose.
            number: The number of the last probe that it has read; 0 if it does not say.

        Returns:
            Whether it is an answer that was missing. Any other word may be older than the probe.
        """
        # Of each word of each node this is asked, and to look for a node takes the longest.
        if not self._awaited or number < self._number or node not in self._awaited:
            return False
        self._awaited.discard(node)
        return True

    def ask_again(self, session: Session) -> None:
        """Ask a member that was away, if its answer is missing."""
        if session.node in self._awaited:
            self._outbox.send(session.connection, Probe(self._number))

    def awaits(self, node: NodeDesc) -> bool:
        """Return whether the answer of a node is missing."""
        return node in self._awaited

    def lose(self, node: NodeDesc) -> bool:
        """Note that a node is lost. Spares and newcomers do not count.

        Returns:
            Whether it was a member whose work was not done: the failure was a symptom of that.
        """
        if node in self._members:
            return True
        self._awaited.discard(node)
        return False

    def finish(self, node: NodeDesc) -> None:
        """Note that a member's work is done: its end is no loss, also once others regroup."""
        self._members -= {node}

    def take(self) -> list[Asker]:
        """Return all who have asked, the first one first, and hold nothing any more."""
        askers = list(self._askers.values())
        self._members, self._awaited, self._askers = frozenset(), set(), {}
        return askers

    def _probe(self, asking: NodeDesc) -> None:
        state, sessions = self._roll.state, self._roll.sessions
        members = list(state.participants) if state.complete else []
        self._number += 1
        self._members = frozenset(members) - state.finishing.keys()
        self._awaited = set(self._members - {asking})
        connections = [sessions[node].connection for node in members if node in self._awaited]
        self._outbox.send_all(connections, Probe(self._number))
