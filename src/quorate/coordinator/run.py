"""One run, as the coordinator that owns it decides about it. Pure: time comes with each call.

It holds the shared state, the sessions of the attached agents and their held joins; it runs the
same operations and transitions as the direct way does. What it decides is marked in `dirty` and
said into the outbox; the engine stores before it lets anything out (R14). `touched` are the nodes
that it concerned, so that no more has to be stored than that.
"""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from quorate.coordinator.deadlines import Deadlines
from quorate.coordinator.failures import Failures
from quorate.coordinator.herald import Herald, stands
from quorate.coordinator.history import Event, History
from quorate.coordinator.outbox import Outbox
from quorate.coordinator.session import HeldJoin, Session
from quorate.coordinator.tally import RunTally
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.attendance import attendance
from quorate.core.completion import NEWCOMER, completion, regroup_over
from quorate.core.exclusion import ban_key, require_admissible
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.observer import Observer
from quorate.core.ops import RendezvousCloseOp, RendezvousJoinOp
from quorate.core.settings import AgreedSettings, RendezvousSettings
from quorate.core.state import Place, RendezvousState, WorldName
from quorate.core.transitions import (
    admit,
    apply,
    ban,
    drop_stragglers,
    finish,
    pass_time,
    withdraw,
)
from quorate.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousEvictedError,
    RendezvousGracefulExitError,
    RendezvousProtocolError,
    RendezvousReplacedError,
    RendezvousTimeoutError,
)
from quorate.wire.messages import (
    FAILED,
    SUCCEEDED,
    Changed,
    Close,
    Finish,
    Flag,
    Hello,
    Join,
    Joined,
    Leave,
    Probe,
    Refused,
    failure,
)

__all__ = ["Run", "shortened"]

REASON_CHARACTERS_MAX = 1024

# How much longer than its time somebody is kept out at most, when the coordinator is restarted.
BANS_STORED_EVERY_S = 30.0

_NO_DEADLINE = float("inf")

# Tuples: to hash a member of an enumeration takes longer than to compare it.
_REFUSING = (Action.ERROR_CLOSED, Action.ERROR_TIMEOUT)
_WAITING = (Action.SYNC, Action.KEEP_ALIVE)


class _FailedClose:
    """A close because the job failed, held until the others have answered its probe (R7).

    One failure is often seen by several members: all who asked are answered, the first one's
    reason counts. That they asked is no answer: they may have died since.
    """

    def __init__(self, number: int, members: set[NodeDesc], awaited: set[NodeDesc]) -> None:
        self.number = number
        self.members = members
        self.awaited = awaited
        self.askers: dict[NodeDesc, _Asker] = {}


class _Asker(NamedTuple):
    """Who says that the job has failed, and in which world."""

    session: Session
    request: Close
    holding: WorldName | None


class Run:
    """The rendezvous of one run.

    Args:
        run_id: The run.
        state: Its state, new or loaded.
        observer: Reads the engine's clock.
        outbox: Where replies and pushes go.
        tally: Where what happens is counted.

    Attributes:
        revision: Counts the changes that somebody who watches should see.
        sessions: The attached agents.
        history: What has happened.
        observer: Reads the engine's clock.
        dirty: Whether the state has to be stored.
        touched: The nodes that something has happened to since it was stored; the last one last.
        rearranged: Whether it has to be stored whole, since many nodes may have moved.
        events: What has happened, for the log.
    """

    def __init__(
        self,
        run_id: str,
        state: RendezvousState,
        observer: Observer,
        outbox: Outbox,
        tally: RunTally,
    ) -> None:
        self.run_id = run_id
        self.state = state
        self.revision = 0
        self.sessions: dict[NodeDesc, Session] = {}
        self.dirty = False
        self.touched: dict[NodeDesc, None] = {}
        self.rearranged = False
        self.events: list[Event] = []
        self.history = History(run_id, state)
        self.observer = observer
        self._because = ""
        self._wait = ("", 0.0)
        self._failures: Failures | None = None
        self._outbox = outbox
        self._tally = tally
        self._changing_since_s: float | None = None
        self._settings: RendezvousSettings | None = None
        self._deadlines: Deadlines[tuple[Session, HeldJoin]] = Deadlines(_waits)
        self._ended: dict[NodeDesc, Session] = {}
        self._overdue: list[Session] = []
        self._strays: dict[NodeDesc, Session] = {}
        self._failed_close: _FailedClose | None = None
        self._probes = count(1)
        self._places: dict[NodeDesc, Place] = {}
        self._phase: tuple[bool, int, bool] | None = None
        self._line_may_move = False
        self._scanned_s = self._bans_stored_s = observer.now_s
        self._herald = Herald(state, self.sessions, outbox, self._context)
        if state.agreed is not None:
            self._settings = state.agreed.to_settings(run_id)
        for node, profile in state.profiles.items():
            self.sessions[node] = Session(node, profile, observer.now_s)
        if state.complete:
            self._phase = (state.complete, state.round, state.closed)

    @property
    def settings(self) -> RendezvousSettings:
        """The settings that the nodes agreed on; there is no run without a first node."""
        assert self._settings is not None
        return self._settings

    @property
    def now_s(self) -> float:
        """The engine's time of the last reading, in seconds."""
        return self.observer.now_s

    @property
    def waits_for_s(self) -> float | None:
        """For how long, in seconds, the round has waited for what it waits for now."""
        kind, since_s = self._wait
        return self.now_s - since_s if kind and not self.state.complete else None

    def attach(self, connection: int, hello: Hello) -> tuple[Session, bool]:
        """Attach an agent, or resume its session on a new connection (R11).

        Returns:
            The session, and whether it was resumed.

        Raises:
            RendezvousSettingsError: Its settings differ from the run's (R13).
            RendezvousReplacedError: A newer incarnation of the node is attached (R12).
            RendezvousEvictedError: The node is kept out of the run.
        """
        assert hello.node is not None
        assert hello.settings is not None
        node, profile = hello.node, hello.profile or NodeProfile()
        newer = self.state.replaced.get(node)
        if newer is not None:
            raise RendezvousReplacedError(
                f"The node '{profile.node_id}' has joined the run '{self.run_id}' again as "
                f"{newer}: this incarnation ({node}) must end."
            )
        session = self.sessions.get(node)
        resumed = session is not None and node in self.state.last_heartbeats
        if session is None or not resumed:
            self._require_agreed(hello.settings)
            session = Session(node, profile, self.observer.now_s)
            if not self.state.closed:
                self._admit(session)
        if session.connection is not None and session.connection != connection:
            self._outbox.end(session.connection)
        self._strays.pop(node, None)
        session.connection = connection
        self.revision += 1
        session.holding = WorldName(*hello.holding) if hello.holding else None
        self._revive(session)
        return session, resumed

    def heard(self, session: Session, probe: int = 0) -> bool:
        """Note a sign of life.

        Args:
            session: Whose.
            probe: The number of the last probe that it has read; 0 if it does not say (R7).

        Returns:
            Whether a failed close has waited for it: see `finish_failed_close`.
        """
        self._revive(session)
        failed = self._failed_close
        if failed is None or probe < failed.number or session.node not in failed.awaited:
            return False
        failed.awaited.discard(session.node)
        return True

    def ended(self, session: Session, connection: int, finished: bool) -> None:
        """Note that a connection is gone.

        Args:
            session: Whose it was.
            connection: Which one; a session that has a newer one is not affected.
            finished: Whether it was ended in order, as a process that ends does (R8).
        """
        if session.connection != connection:
            return
        session.connection = None
        self.revision += 1
        if self._strays.get(session.node) is session:
            del self._strays[session.node]
        if finished and self.sessions.get(session.node) is session:
            session.ended_s = self.observer.now_s
            self._ended[session.node] = session

    def join(self, session: Session, request: Join) -> None:
        """Take part in a round; the answer is held until it is complete."""
        if session.join is not None and session.join.request_id == request.id:
            return
        if request.profile.node_id != session.profile.node_id:
            raise RendezvousProtocolError(
                f"A session has one node id: it was '{session.profile.node_id}', and is "
                f"'{request.profile.node_id}' in a join."
            )
        now_s = self.observer.now_s
        session.profile = request.profile
        session.holding = WorldName(*request.after) if request.after else None
        held = HeldJoin(
            request.id, RendezvousJoinOp(session.holding), now_s + request.timeout_s, now_s
        )
        session.join = held
        replaced = session.node in self.state.replaced
        if session.node not in self.sessions and not self.state.closed and not replaced:
            self._admit(session)
        self._remind(session, held)
        self._advance(session)

    def leave(self, session: Session, request: Leave) -> None:
        """Let an agent leave (R7)."""
        reason = f"left: {shortened(request.reason)}" if request.reason else "left"
        if session.node in self.sessions:
            self._record("left", reason, session.node)
        self._withdraw(session, reason)
        # Who leaves does not wait for a round any more: nobody is to be told how that ends.
        session.join = None
        self._outbox.send(session.connection, Flag(request.id, True))

    def close(self, session: Session | None, connection: int, request: Close) -> None:
        """Close the run: on request, or on a member's word about its job.

        Such a word counts while the member's world stands. Where another member was lost, work is
        undone, and a failure was a symptom: the member leaves, and the rest regroup.
        """
        if session is None or not request.outcome or self.state.closed:
            self._close(request.reason)
            self._outbox.send(connection, Flag(request.id, True))
            return
        broken = bool(self.state.departed) or not stands(self.state, session)
        if request.outcome == FAILED:
            self._hold_failed_close(session, request, broken)
        elif broken:
            self._let_go(session, f"left: {shortened(request.reason)}")
            self._outbox.send(connection, Flag(request.id, False))
        else:
            self._close(request.reason)
            self._outbox.send(connection, Flag(request.id, True))

    def finish(self, session: Session, request: Finish) -> None:
        """Note that a member's work is done; once that holds for all, the run is closed."""
        changed = finish(self._context(session))
        if changed:
            self._touch(session.node)
        self._outbox.send(session.connection, Flag(request.id, changed))
        state = self.state
        if changed and not state.departed and state.finishing.keys() >= state.participants.keys():
            self._close(f"{SUCCEEDED}: all nodes of round {state.round} have finished")

    def _hold_failed_close(self, session: Session, request: Close, symptom: bool) -> None:
        """Hold a close because the job failed until the others have answered since (R7)."""
        members = self.state.participants if self.state.complete else {}
        failed = self._failed_close
        if failed is None:
            awaited = members.keys() - self.state.finishing.keys() - {session.node}
            failed = _FailedClose(next(self._probes), set(members), awaited)
            self._failed_close = failed
            connections = [self.sessions[node].connection for node in members if node in awaited]
            self._outbox.send_all(connections, Probe(failed.number))
        failed.askers[session.node] = _Asker(session, request, session.holding)
        if symptom:
            self._turn_failed_close_into_leave()
            return
        self.finish_failed_close()

    def finish_failed_close(self) -> None:
        """Close the run for a failed job, once all other members have answered since (R7)."""
        failed = self._failed_close
        if failed is None or failed.awaited:
            return
        self._failed_close = None
        for session, request, _ in failed.askers.values():
            self._close(request.reason)
            self._outbox.send(session.connection, Flag(request.id, True))

    def changed(self, kind: str, text: str, node: NodeDesc | None = None) -> None:
        """Note that an operator has changed the state; what follows comes with `settle`.

        What is about no single node may have moved many: it is stored whole.

        Args:
            kind: One of `quorate.coordinator.history.EVENT_KINDS`.
            text: What has happened, for people.
            node: To whom, if to one.
        """
        if node is None:
            self.dirty = self.rearranged = True
        else:
            self._touch(node)
        self._line_may_move = True
        self._note(text, kind, node)

    def reconsider(self, node: NodeDesc) -> bool:
        """Look at a node's held join again, if there is one.

        Returns:
            Whether the node has left for it.
        """
        session = self.sessions[node]
        if session.join is not None:
            self._advance(session)
        return node not in self.sessions

    def evict(self, node: NodeDesc, reason: str) -> None:
        """Turn a node out now; its agent is told."""
        session = self.sessions[node]
        self._note(f"{node} was {reason}", "evicted", node)
        self._withdraw(session, reason, "evicted")
        text = f"{node} was {reason}. It is no part of the run '{self.run_id}' any more."
        self._turn_away(session, RendezvousEvictedError(text))
        self._doubt_failed_close(node)

    def observe(self) -> None:
        """Read the clock; call it before anything else that is handed to this run."""
        self.observer.tick()

    def tick(self) -> None:
        """Let time pass: judge who is lost, whose deadline is over, what is due."""
        now_s = self.observer.now_s
        self._judge(now_s)
        if now_s - self._scanned_s >= 1.0:
            elapsed_s, self._scanned_s = now_s - self._scanned_s, now_s
            self._shorten_bans(elapsed_s, now_s)
            self._overdue += self._silent(now_s, elapsed_s)
            self._herald.explain(now_s, self.waits_for_s)
        for session, held in self._deadlines.due(now_s):
            self._past_deadline(session, held)
        if self._settings is not None and regroup_over(self.anyone()):
            late = drop_stragglers(self.state, self.observer)
            self._tally.losses["straggler"] += len(late)
            self._note(f"{len(late)} member(s) did not come back in time and lost their places")
            for node in late:
                self._record("left", "did not come back to regroup in time", node)
            self._touch(*late)
            self._line_may_move = True
        self.finish_failed_close()

    def awaits_nodes(self) -> bool:
        """Return whether a node is attached that was heard within the time a loss takes."""
        sessions, now_s = self.sessions.values(), self.observer.now_s
        return any(now_s - session.heard_s < self.settings.silence_s for session in sessions)

    def settle(self) -> None:
        """Draw the consequences of what has changed since the last call: complete, wake, tell."""
        if self._settings is None:
            return
        while True:
            self.history.observe(self.state, self.observer.stamp(), self._because)
            phase = (self.state.complete, self.state.round, self.state.closed)
            if phase != self._phase:
                self._phase = phase
                self._enter_phase()
            elif self._line_may_move:
                self._line_may_move = False
                self._move_line()
            elif not self._try_to_complete():
                break
        if self._changing_since_s is None and self._is_changing():
            self._changing_since_s = self.observer.now_s
        self._herald.tell()

    def _is_changing(self) -> bool:
        """Whether there was a world that has lost a member, or to whose members others come."""
        state = self.state
        changing = bool(state.departed) or not state.complete
        return changing and state.world is not None and not state.closed

    def _require_agreed(self, settings: AgreedSettings) -> None:
        if self.state.agreed is not None and self.state.last_heartbeats:
            self.state.agreed.require_same(self.run_id, settings)
        else:
            self._settings = settings.to_settings(self.run_id)

    def _admit(self, session: Session) -> None:
        require_admissible(self.state, self.run_id, session.node, session.profile)
        node_id = session.profile.node_id
        former = self.state.identities.get(node_id) if node_id else None
        self.sessions[session.node] = session
        self._strays.pop(session.node, None)
        admit(self._context(session))
        self._touch(session.node)
        self._tally.joins += 1
        self._line_may_move = True
        if former is not None and former != session.node:
            self._touch(former)
            self._end_former(former, session)

    def _end_former(self, former: NodeDesc, session: Session) -> None:
        replaced = self.sessions.pop(former, None)
        self._ended.pop(former, None)
        self._tally.losses["replaced"] += 1
        self._note(f"{former} was replaced by {session.node}", "left", former)
        self._doubt_failed_close(former)
        if replaced is not None:
            error = RendezvousReplacedError(
                f"The node '{session.profile.node_id}' has joined the run '{self.run_id}' again "
                f"as {session.node}: this incarnation ({former}) must end."
            )
            self._turn_away(replaced, error)

    def _turn_away(self, session: Session, error: RendezvousError) -> None:
        """End a session for good: its held join and its connection end with an error."""
        if session.join is not None:
            answer = failure(session.join.request_id, error)
            self._outbox.send(session.connection, answer)
            session.join = None
        self._outbox.end(session.connection, _refusal(error))

    def _revive(self, session: Session) -> None:
        session.hear(self.observer.now_s)
        if session.ended_s is not None:
            session.ended_s = None
            self._ended.pop(session.node, None)

    def _context(self, session: Session | None) -> RendezvousContext:
        if session is None:
            return self.anyone()
        return RendezvousContext(
            session.node, self.state, self.settings, self.observer, session.profile
        )

    def anyone(self) -> RendezvousContext:
        """Return a context for questions that do not depend on who asks."""
        return RendezvousContext(NodeDesc("", 0, 0), self.state, self.settings, self.observer)

    def greet(self, session: Session) -> None:
        """Tell an attached agent what has changed while it was away, and ask it what is asked."""
        failed = self._failed_close
        if failed is not None and session.node in failed.awaited:
            self._outbox.send(session.connection, Probe(failed.number))
        self._herald.greet(session)

    def _advance(self, session: Session) -> None:
        """Run a held join until it is answered or has to wait."""
        held = session.join
        assert held is not None
        ctx = self._context(session)
        if held.deadline_s < self.observer.now_s:
            # Before the operation gives up the place that it has.
            held.attendance = attendance(ctx)
        while True:
            try:
                decision = held.op(ctx, held.deadline_s)
            except RendezvousError as error:
                self._answer(session, error)
                drained = self.state.draining.get(session.node)
                if drained is not None and isinstance(error, RendezvousGracefulExitError):
                    self._withdraw(session, drained, "drained")
                    self._note(f"{session.node} has left, {drained}", "left", session.node)
                return
            if decision.action is Action.FINISH:
                self._answer(session, None)
                return
            if decision.action in _REFUSING:
                self._refuse(session, held, decision)
                return
            if decision.action in _WAITING:
                held.reason = decision.reason
                return
            self._carry_out(session, held, ctx, decision)

    def _carry_out(
        self, session: Session, held: HeldJoin, ctx: RendezvousContext, decision: Decision
    ) -> None:
        kind = _kind_of(decision, self.state, session.node)
        was_complete = self.state.complete
        apply(ctx, decision)
        self._touch(session.node)
        self._line_may_move = True
        if decision.action is Action.MARK_RENDEZVOUS_COMPLETE:
            self._because = decision.reason
        else:
            self._record(kind, decision.reason, session.node)
            if self.state.complete and not was_complete:
                self._because = f"all {len(self.state.participants)} nodes are here"
        if session.node not in self.state.last_heartbeats:
            # It gives up waiting, and takes back what it did.
            self.sessions.pop(session.node, None)
            self._tally.losses["timeout"] += 1
        if decision.action is Action.REMOVE_FROM_REDUNDANCY_LIST:
            # A spare waits without a deadline; now that it has a prospect, one counts again (R6).
            timeout_s = self.settings.timeout.join.total_seconds()
            held.deadline_s = self.observer.now_s + timeout_s
            self._remind(session, held)

    def _answer(self, session: Session, error: RendezvousError | None) -> None:
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

    def _place(self, node: NodeDesc) -> Place:
        world = self.state.world
        assert world is not None
        place = self._places.get(node)
        if place is None or place.world != world.name:
            self._places = world.places()
            place = self._places[node]
        return place

    def _refuse(self, session: Session, held: HeldJoin, decision: Decision) -> None:
        error: RendezvousError
        if decision.action is Action.ERROR_CLOSED:
            reason = decision.reason
            error = RendezvousClosedError(
                f"The run '{self.run_id}' is closed: {reason}. Start a new run under another id.",
                reason,
            )
        else:
            waited_s = self.observer.now_s - held.since_s
            error = RendezvousTimeoutError(
                f"No round of the run '{self.run_id}' was completed with {session.node} within "
                f"{waited_s:.0f} s: {held.reason or decision.reason}; {held.attendance}. Start the "
                f"missing nodes, or raise join_timeout."
            )
        self._answer(session, error)
        if decision.action is Action.ERROR_TIMEOUT and session.node in self.sessions:
            # The operation takes back what it did, but not long after its deadline.
            self._withdraw(session, "gave up waiting", "timeout")

    def _remind(self, session: Session, held: HeldJoin) -> None:
        self._deadlines.add(held.deadline_s, (session, held))

    def _past_deadline(self, session: Session, held: HeldJoin) -> None:
        if held.deadline_s < self.observer.now_s:
            self._advance(session)
        self._line_may_move = True

    def _judge(self, now_s: float) -> None:
        """Lose those who were overdue at the last tick and still are (R9).

        A tick that comes late may come before what was sent meanwhile is read; not so the next.
        """
        overdue, self._overdue = self._overdue, []
        for session in overdue:
            reason = self._why_lost(session, now_s)
            if reason and self.sessions.get(session.node) is session:
                has_ended = self._is_past_grace(session, now_s)
                since_s = session.ended_s if has_ended else session.heard_s
                self._tally.detection.observe(now_s - (since_s or 0.0))
                self._lose(session, reason, "ended" if has_ended else "silent")
        self._overdue = [s for s in self._ended.values() if self._is_past_grace(s, now_s)]

    def _is_past_grace(self, session: Session, now_s: float) -> bool:
        grace_s = self.settings.reconnect_grace.total_seconds()
        return session.ended_s is not None and now_s - session.ended_s >= grace_s

    def _why_lost(self, session: Session, now_s: float) -> str:
        if self._is_past_grace(session, now_s):
            return "its process ended"
        if session.silence_s(now_s) >= self.settings.silence_s:
            return f"it was silent for {now_s - session.heard_s:.0f} s"
        return ""

    def _silent(self, now_s: float, elapsed_s: float) -> list[Session]:
        """Return who has been silent for too long: nobody where all are, and none is left to tell.

        Nodes beat twice in an interval: who has heard none of them for that long is more likely
        cut off itself than alone in the world, and lets their windows pause (R9).
        """
        interval_s = self.settings.keep_alive_interval.total_seconds()
        if all(now_s - session.heard_s > interval_s for session in self.sessions.values()):
            for session in self.sessions.values():
                session.excused_s += elapsed_s
            return []
        limit_s = self.settings.silence_s
        return [s for s in self.sessions.values() if s.silence_s(now_s) >= limit_s]

    def _lose(self, session: Session, reason: str, cause: str) -> None:
        self._note(f"lost {session.node}: {reason}", "lost", session.node)
        self._blame(session)
        self._withdraw(session, f"lost: {reason}", cause)
        # Should it be alive after all, this is the first thing that it reads.
        notice = f"this node was declared lost: {reason}"
        closed, why = self.state.closed, self.state.closed_reason
        self._outbox.send(session.connection, Changed(int(not closed), notice, closed, why, True))
        if session.join is not None:
            # It asks again when it is back, and is then attached afresh.
            self._outbox.end(session.connection)
            session.join = None
        self._doubt_failed_close(session.node)

    def _let_go(self, session: Session, reason: str, cause: str = "left") -> None:
        """Let a node leave that did not ask to; a join that is held would never be woken again."""
        self._withdraw(session, reason, cause)
        self._record("left", reason, session.node)
        if session.join is not None:
            self._answer(session, RendezvousError(f"{session.node} has left the run."))

    def _withdraw(self, session: Session, reason: str, cause: str = "left") -> None:
        self._ended.pop(session.node, None)
        self.sessions.pop(session.node, None)
        if session.connection is None:
            session.join = None
        else:
            self._strays[session.node] = session
        if session.node in self.state.last_heartbeats:
            withdraw(self.state, self.settings, session.node, reason, self.observer)
            self._tally.losses[cause] += 1
            self._touch(session.node)
            self._line_may_move = True
        if self._failed_close is not None and session.node in self._failed_close.awaited:
            self._doubt_failed_close(session.node)

    def _close(self, reason: str) -> None:
        ctx = self.anyone()
        decision = RendezvousCloseOp(shortened(reason) or "closed on request")(ctx, _NO_DEADLINE)
        if apply(ctx, decision):
            self.dirty = True
            self._note(f"closed: {self.state.closed_reason}", "closed")

    def _doubt_failed_close(self, lost: NodeDesc) -> None:
        """Take a failure for a symptom if a member was lost whose work was not done (R7).

        Spares and newcomers do not count.
        """
        failed = self._failed_close
        if failed is None or lost not in failed.members:
            return
        if lost in self.state.finishing:
            failed.awaited.discard(lost)
        else:
            self._turn_failed_close_into_leave()

    def _turn_failed_close_into_leave(self) -> None:
        """Somebody else was lost: the failure was a symptom, and the rest regroup (R7).

        Who asked and has come back to regroup meanwhile stays.
        """
        failed, self._failed_close = self._failed_close, None
        assert failed is not None
        for session, request, holding in failed.askers.values():
            if session.node in self.sessions and session.holding == holding:
                self._blame(session)
                reason = f"left after a failure: {shortened(request.reason)}"
                self._let_go(session, reason, "failed")
            self._outbox.send(session.connection, Flag(request.id, self.state.closed))

    def _enter_phase(self) -> None:
        if self.state.complete and not self.state.closed:
            self._herald.begin_world()
            self.observer.forget_all_but((NEWCOMER, node) for node in self.state.wait_list)
            self._count_world()
            self._note(f"round {self.state.round} is complete", "completed")
        if self.state.complete or self.state.closed:
            for session in [s for s in self.sessions.values() if s.join is not None]:
                self._advance(session)
        else:
            if self.state.regrouping_since is not None:
                self._record("regroup", self._why_regroup())
            self._move_line()
        if self.state.complete and self._failed_close is not None and not self.state.closed:
            # Another world is there, without those who have not answered.
            self._turn_failed_close_into_leave()
        if self.state.closed:
            # Those who are lost or have left, and are connected all the same, hear of it too (R7).
            for session in self._strays.values():
                self._herald.greet(session)

    def _why_regroup(self) -> str:
        """Return why the last round has ended, for people."""
        last = self.history.rounds[-1] if self.history.rounds else None
        return last.ended_because if last is not None else ""

    def _count_world(self) -> None:
        self._tally.rounds_completed += 1
        if self._changing_since_s is not None:
            self._tally.regroup.observe(self.observer.now_s - self._changing_since_s)
            self._changing_since_s = None

    def _move_line(self) -> None:
        """Let those who wait take the places that are free, in order of arrival (R5)."""
        for queue in (self.state.wait_list, self.state.redundancy_list):
            for node in list(queue):
                session = self.sessions.get(node)
                if session is None or session.join is None:
                    continue
                self._advance(session)
                if node in queue:
                    break

    def _try_to_complete(self) -> bool:
        if self.state.closed or self.state.complete or not self.state.participants:
            return False
        ctx = self.anyone()
        decision = completion(ctx)
        if decision.action is not Action.MARK_RENDEZVOUS_COMPLETE:
            if decision.kind != self._wait[0]:
                self._wait = (decision.kind, self.observer.now_s)
            return False
        self._wait = ("", 0.0)
        self._because = decision.reason
        self._note(decision.reason)
        self.dirty |= apply(ctx, decision)
        return True

    def _blame(self, session: Session) -> None:
        """Count a failure, and keep a node out for a while that fails again and again."""
        settings = self.settings
        if self._failures is None:
            window_s = settings.failures_window.total_seconds()
            self._failures = Failures(settings.failures_max, window_s)
        key = ban_key(session.node, session.profile)
        if self._failures.note(key, self.observer.now_s):
            window_s = settings.failures_window.total_seconds()
            reason = f"it failed {settings.failures_max} times within {window_s:g} s"
            ban(self.state, key, reason, settings.cool_down.total_seconds())
            self._note(f"{key} is kept out for a while: {reason}", "evicted", session.node)

    def _shorten_bans(self, elapsed_s: float, now_s: float) -> None:
        if not self.state.bans:
            return
        self.dirty |= pass_time(self.state, elapsed_s)
        if now_s - self._bans_stored_s >= BANS_STORED_EVERY_S:
            self._bans_stored_s = now_s
            self.dirty = True

    def _touch(self, *nodes: NodeDesc) -> None:
        """Note that something has happened to nodes, which has to be stored; the last one last."""
        self.dirty = True
        for node in nodes:
            self.touched.pop(node, None)
            self.touched[node] = None

    def _note(self, text: str, kind: str = "", node: NodeDesc | None = None) -> None:
        """Note something for the log, and for the history if it is of a kind."""
        if kind:
            self._record(kind, text, node)
        else:
            self.events.append(Event(self.observer.stamp(), "", "", self.state.round, text))

    def _record(self, kind: str, text: str, node: NodeDesc | None = None) -> None:
        state = self.state
        rank = state.participants.get(node) if state.complete and node is not None else None
        name = "" if node is None else str(node)
        event = Event(self.observer.stamp(), kind, name, state.round, text, rank)
        self.events.append(event)
        self.history.note(event)


def _waits(join: tuple[Session, HeldJoin]) -> bool:
    session, held = join
    return session.join is held


def shortened(reason: str) -> str:
    """Return what of a reason is kept: everybody is told."""
    return reason[:REASON_CHARACTERS_MAX]


def _kind_of(decision: Decision, state: RendezvousState, node: NodeDesc) -> str:
    """Return what kind of event a decision of a joining node is."""
    if decision.action is Action.ADD_TO_PARTICIPANTS:
        return "returned" if node in state.participants or node in state.survivors else "joined"
    return _EVENTS.get(decision.action, "left")


_EVENTS = {
    Action.ADD_TO_WAIT_LIST: "waiting",
    Action.ADD_TO_REDUNDANCY_LIST: "spare",
    Action.REMOVE_FROM_REDUNDANCY_LIST: "promoted",
}


def _refusal(error: RendezvousError) -> Refused:
    answer = failure(0, error)
    return Refused(answer.code, answer.message)
