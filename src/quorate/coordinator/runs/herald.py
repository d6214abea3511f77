"""What attached agents are told without having asked. Pure.

Changes of the world go to those who are at work (R8), reasons to those who wait (R16): the same
message for all whom it concerns, and only when it is worth its N messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.session import Session
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.attendance import attendance, ends_in_s
from quorate.core.completion import nodes_waiting
from quorate.core.node import NodeDesc
from quorate.core.state import RendezvousState
from quorate.wire.messages import Changed, Waiting

__all__ = ["Herald", "stands", "who_is_gone"]

# Waiting agents are told why once this time has passed, and again when the kind of reason changes
# or after the longer time (R16): explaining must not cost a message a join.
EXPLAIN_AFTER_S = 1.0
EXPLAIN_AGAIN_S = 10.0

# How many of the departed are named; of a thousand, the number says enough.
NAMED_MAX = 3

PARTICIPANTS = "participants"

_NO_DEADLINE = float("inf")


def stands(state: RendezvousState, session: Session) -> bool:
    """Return whether the world that an agent was given last is the present one, with it in it."""
    return state.complete and session.node in state.participants and session.holding == state.name


def who_is_gone(departed: Mapping[NodeDesc, str]) -> str:
    """Return who has gone and why, for people: some by name, the rest by their number."""
    gone = "; ".join(f"{node} {reason}" for node, reason in islice(departed.items(), NAMED_MAX))
    more = len(departed) - NAMED_MAX
    return f"{gone} and {more} more" if more > 0 else gone


class Herald:
    """Tells the agents of one run.

    Args:
        state: The run's state.
        sessions: The attached agents.
        outbox: Where the messages go.
        context: Returns what an operation may look at, for a session or for nobody in particular.
    """

    def __init__(
        self,
        state: RendezvousState,
        sessions: Mapping[NodeDesc, Session],
        outbox: Outbox,
        context: Callable[[Session | None], RendezvousContext],
    ) -> None:
        self._state = state
        self._sessions = sessions
        self._outbox = outbox
        self._context = context
        self._told = self._signature(0)
        self._to_greet: list[tuple[Session, bool]] = []
        self._explained: dict[str, tuple[str, float]] = {}

    def begin_world(self) -> None:
        """Note that a world begins, before its members are answered: that needs no push to them.

        Whoever holds another world and waits for none may not have heard of the regroup: it may
        have begun and ended since the last call of `tell`.
        """
        self._told = self._signature(0)
        self._explained.clear()
        for session in self._sessions.values():
            if session.join is None and not stands(self._state, session):
                self.greet(session)

    def greet(self, session: Session, is_back: bool = False) -> None:
        """Have `tell` say to one agent what has changed, if anything has, since its world.

        Not before: what was handled just now may have consequences that are still to be drawn.

        Args:
            session: The agent's.
            is_back: Whether it may still believe what it was told over another connection: if
                nobody waits any more, it is told that too.
        """
        self._to_greet.append((session, is_back))

    def tell_lost(self, session: Session, reason: str) -> None:
        """Tell a node that it was declared lost: should it be alive, it reads this first (R8)."""
        notice = f"this node was declared lost: {reason}"
        closed, why = self._state.closed, self._state.closed_reason
        self._outbox.send(session.connection, Changed(int(not closed), notice, closed, why, True))

    def tell(self) -> None:
        """Push what has changed to the agents that are at work, and to those to greet (R8)."""
        state = self._state
        to_greet, self._to_greet = self._to_greet, []
        for session, is_back in to_greet:
            self._tell_one(session, is_back)
        told = self._signature(nodes_waiting(self._context(None), None))
        if told == self._told:
            return
        self._told = told
        standing: list[Session] = []
        outdated: list[Session] = []
        for session in self._sessions.values():
            if session.join is None and (session.holding is not None or state.closed):
                (standing if stands(state, session) else outdated).append(session)
        for group in (standing, outdated):
            if group:
                message = self._change(self._waiting_for(group[0]), group[0])
                self._outbox.send_all(_connections(group), message)

    def _tell_one(self, session: Session, is_back: bool) -> None:
        if session.join is None and (session.holding is not None or self._state.closed):
            waiting = self._waiting_for(session)
            if waiting or is_back or self._state.closed:
                self._outbox.send(session.connection, self._change(waiting, session))

    def explain(self, now_s: float, waits_for_s: float | None = None) -> None:
        """Tell waiting agents what they wait for: the same words for all in one line (R16).

        Args:
            now_s: The engine's time.
            waits_for_s: For how long the open round has waited for what it waits for now.
        """
        lines: dict[str, list[Session]] = {}
        for session in self._sessions.values():
            if session.join is not None and now_s - session.join.since_s >= EXPLAIN_AFTER_S:
                lines.setdefault(self._line_of(session), []).append(session)
        for line, sessions in lines.items():
            since_s = waits_for_s if line == PARTICIPANTS else None
            self._explain_to(line, sessions, now_s, since_s)

    def _explain_to(
        self, line: str, sessions: list[Session], now_s: float, since_s: float | None
    ) -> None:
        held = sessions[0].join
        if held is None or self._state.closed:
            return
        decision = held.op(self._context(sessions[0]), _NO_DEADLINE)
        if decision.action not in {Action.SYNC, Action.KEEP_ALIVE}:
            return
        kind, at_s = self._explained.get(line, ("", now_s))
        if kind == decision.kind and now_s - at_s < EXPLAIN_AGAIN_S:
            return
        self._explained[line] = (decision.kind, now_s)
        for session in sessions:
            if session.join is not None:
                session.join.reason = decision.reason
        if since_s is None:
            since_s = now_s - held.since_s
        message = self._waiting(decision, sessions[0], since_s)
        self._outbox.send_all(_connections(sessions), message)

    def _waiting(self, decision: Decision, session: Session, since_s: float) -> Waiting:
        ctx = self._context(session)
        there, left_s = attendance(ctx), ends_in_s(ctx, decision.kind)
        return Waiting(
            decision.kind,
            decision.reason,
            round(since_s, 1),
            there.missing,
            there.missing_count,
            None if left_s is None else round(left_s, 1),
        )

    def _line_of(self, session: Session) -> str:
        if session.node in self._state.participants:
            return PARTICIPANTS
        return "wait_list" if session.node in self._state.wait_list else "spares"

    def _signature(self, waiting: int) -> tuple[object, ...]:
        """Return what has to differ for a push to be worth its N messages."""
        state = self._state
        # Of a closed run all go away: who goes is no news for thousands of others.
        departed = bool(state.departed) if state.closed else len(state.departed)
        return (waiting > 0, departed, state.closed, state.complete, state.round)

    def _waiting_for(self, session: Session) -> int:
        return nodes_waiting(self._context(session), session.holding)

    def _change(self, waiting: int, session: Session) -> Changed:
        state = self._state
        return Changed(
            waiting=waiting,
            reason=self._why_changed(session) if waiting else "",
            closed=state.closed,
            closed_reason=state.closed_reason,
            broken=bool(state.departed) or not stands(state, session),
            returned=waiting > 0 and self._is_merely_regrouping(session),
        )

    def _is_merely_regrouping(self, session: Session) -> bool:
        """Return whether nothing is known of an agent's world but that members have left it."""
        state, holding = self._state, session.holding
        is_known = holding is not None and holding.epoch == state.epoch
        return is_known and not state.departed and not state.complete

    def _why_changed(self, session: Session) -> str:
        state = self._state
        if state.departed:
            return who_is_gone(state.departed)
        if session.holding is not None and session.holding.epoch != state.epoch:
            return "the coordinator started anew and does not know this world"
        if not state.complete:
            return "members have come back to regroup"
        if session.node not in state.participants:
            return "this node has lost its place: it was declared lost, or came back too late"
        if state.desired_nodes is not None and state.desired_nodes < len(state.participants):
            return f"the operator wants {state.desired_nodes} node(s)"
        return f"{len(state.wait_list)} newcomer(s) are waiting to join"


def _connections(sessions: Iterable[Session]) -> Iterable[int | None]:
    return (session.connection for session in sessions)
