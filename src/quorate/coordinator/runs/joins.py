"""The held joins of a run: what each waits for, who is next in line, and how it ends. Pure.

A join is looked at again only when something that it waits for has changed, or its time is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from quorate.coordinator.runs.deadlines import Deadlines
from quorate.coordinator.runs.herald import Herald
from quorate.coordinator.runs.minutes import Minutes
from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.roll import Roll
from quorate.coordinator.runs.session import HeldJoin, Session
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.attendance import attendance
from quorate.core.node import NodeDesc
from quorate.core.ops import RendezvousJoinOp
from quorate.core.state import Place, RendezvousState
from quorate.core.transitions import apply
from quorate.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousTimeoutError,
)
from quorate.wire.messages import Join, Joined, Refused, failure

__all__ = ["Departure", "Joins"]

# Tuples: to hash a member of an enumeration takes longer than to compare it.
_REFUSING = (Action.ERROR_CLOSED, Action.ERROR_TIMEOUT)
_WAITING = (Action.SYNC, Action.KEEP_ALIVE)

_LONG_AGO = float("-inf")


class Departure(NamedTuple):
    """Why a node leaves the run with the answer to its join.

    Args:
        reason: For people.
        cause: What it is counted under.
    """

    reason: str
    cause: str


class Joins:
    """The held joins of one run; each lies in its session.

    Args:
        roll: Who is attached.
        outbox: Where the answers go.
        herald: Tells whoever was answered what has changed since.
        minutes: Where it is noted who takes which place.
    """

    def __init__(self, roll: Roll, outbox: Outbox, herald: Herald, minutes: Minutes) -> None:
        self._roll = roll
        self._outbox = outbox
        self._herald = herald
        self._minutes = minutes
        self._deadlines: Deadlines[tuple[Session, HeldJoin]] = Deadlines(_waits)
        self._places: dict[NodeDesc, Place] = {}

    def hold(self, session: Session, request: Join) -> None:
        """Hold a join until `advance` answers it."""
        now_s = self._roll.now_s
        op = RendezvousJoinOp(session.holding)
        session.join = HeldJoin(request.id, op, now_s + request.timeout_s, now_s)
        self._remind(session, session.join)

    def all(self) -> list[Session]:
        """Return the sessions that have a held join."""
        return [each for each in self._roll.sessions.values() if each.join is not None]

    def due(self) -> Iterator[Session]:
        """Yield, for `advance`, the sessions whose held join has no time left."""
        now_s = self._roll.now_s
        for session, held in self._deadlines.due(now_s):
            self._roll.moved = True
            if held.deadline_s < now_s:
                yield session

    def in_line(self) -> Iterator[Session]:
        """Yield, for `advance`, who may take the places that are free, in order of arrival (R5).

        When one has found no place, nobody behind it in the same list does.
        """
        state = self._roll.state
        for queue in (state.wait_list, state.redundancy_list):
            for node in list(queue):
                session = self._roll.sessions.get(node)
                if session is None or session.join is None:
                    continue
                yield session
                if node in queue:
                    break

    def advance(self, session: Session) -> Departure | None:
        """Run a held join until it is answered or has to wait.

        Returns:
            Why the node must be withdrawn, if it leaves the run for the answer.
        """
        held = session.join
        assert held is not None
        ctx = self._roll.context(session)
        while True:
            # Too late, it takes nothing back: more follows from a withdrawal than it knows of.
            deadline_s = held.deadline_s if held.deadline_s >= self._roll.now_s else _LONG_AGO
            try:
                decision = held.op(ctx, deadline_s)
            except RendezvousError as error:
                return self._fail(session, error)
            if decision.action is Action.FINISH:
                self.answer(session, None)
                return None
            if decision.action in _REFUSING:
                return self._refuse(session, held, ctx, decision)
            if decision.action in _WAITING:
                held.reason = decision.reason
                return None
            self._carry_out(session, held, ctx, decision)

    def answer(self, session: Session, error: RendezvousError | None) -> None:
        """Answer a held join: with the node's place in the present world, or with an error."""
        held = session.join
        assert held is not None
        session.join = None
        if error is not None:
            self._outbox.send(session.connection, failure(held.request_id, error))
            return
        place = self._place(session.node)
        session.holding = place.world
        self._outbox.send(session.connection, Joined(held.request_id, place))
        # An answer that comes late may be about a world that has changed since (R8).
        self._herald.greet(session)

    def turn_away(self, session: Session, error: RendezvousError) -> None:
        """End a session for good: its held join and its connection end with an error."""
        if session.join is not None:
            self.answer(session, error)
        answer = failure(0, error)
        self._outbox.end(session.connection, Refused(answer.code, answer.message))

    def _fail(self, session: Session, error: RendezvousError) -> Departure | None:
        self.answer(session, error)
        drained = self._roll.state.draining.get(session.node)
        if drained is not None and isinstance(error, RendezvousGracefulExitError):
            return Departure(drained, "drained")
        return None

    def _refuse(
        self, session: Session, held: HeldJoin, ctx: RendezvousContext, decision: Decision
    ) -> Departure | None:
        run_id = self._roll.run_id
        if decision.action is Action.ERROR_CLOSED:
            self.answer(session, RendezvousClosedError.of_run(run_id, decision.reason))
            return None
        waited_s = self._roll.now_s - held.since_s
        error = RendezvousTimeoutError(
            f"No round of the run '{run_id}' was completed with {session.node} within "
            f"{waited_s:.0f} s: {held.reason or decision.reason}; {attendance(ctx)}. Start the "
            f"missing nodes, or raise join_timeout."
        )
        self.answer(session, error)
        if session.node not in self._roll.sessions:
            return None
        return Departure(f"gave up: {decision.reason}", "timeout")

    def _carry_out(
        self, session: Session, held: HeldJoin, ctx: RendezvousContext, decision: Decision
    ) -> None:
        state = self._roll.state
        kind = _kind_of(decision, state, session.node)
        was_complete = state.complete
        apply(ctx, decision)
        self._roll.touch(session.node)
        self._roll.moved = True
        if decision.action is Action.MARK_RENDEZVOUS_COMPLETE:
            self._minutes.because = decision.reason
        else:
            self._minutes.record(kind, decision.reason, session.node)
            if state.complete and not was_complete:
                self._minutes.because = f"all {len(state.participants)} nodes are here"
        if decision.action is Action.REMOVE_FROM_REDUNDANCY_LIST:
            # A spare waits without a deadline; now that it has a prospect, one counts again (R6).
            timeout_s = self._roll.settings.timeout.join.total_seconds()
            held.deadline_s = self._roll.now_s + timeout_s
            self._remind(session, held)

    def _place(self, node: NodeDesc) -> Place:
        world = self._roll.state.world
        assert world is not None
        place = self._places.get(node)
        if place is None or place.world != world.name:
            self._places = world.places()
            place = self._places[node]
        return place

    def _remind(self, session: Session, held: HeldJoin) -> None:
        self._deadlines.add(held.deadline_s, (session, held))


def _waits(join: tuple[Session, HeldJoin]) -> bool:
    session, held = join
    return session.join is held


def _kind_of(decision: Decision, state: RendezvousState, node: NodeDesc) -> str:
    """Return what kind of event a decision of a joining node is."""
    if decision.action is Action.ADD_TO_PARTICIPANTS:
        return "returned" if node in state.participants or node in state.survivors else "joined"
    return _EVENTS.get(decision.action, "completed")


_EVENTS = {
    Action.ADD_TO_WAIT_LIST: "waiting",
    Action.ADD_TO_REDUNDANCY_LIST: "spare",
    Action.REMOVE_FROM_REDUNDANCY_LIST: "promoted",
}
