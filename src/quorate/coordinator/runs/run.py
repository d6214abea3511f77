"""One run, as the coordinator that owns it decides about it. Pure: time comes with each call.

Here lies what follows from what: a word, an end or the passing of time goes to the room that it
concerns (`roll`: who is attached; `judge`: who is lost; `joins`: who waits for a round; `rounds`:
when one completes; `failed_close`: whose failure is held; `bans`: who is kept out; `herald`: who
is told; `minutes`: what is written down), and what a room finds goes to the others.

What is decided is marked in `dirty` and said into the outbox; the engine stores before it lets
anything out (R14). `touched` are the nodes that it concerned, so that no more has to be stored
than that.
"""

from __future__ import annotations

from quorate.coordinator.runs.bans import Bans
from quorate.coordinator.runs.failed_close import FailedClose
from quorate.coordinator.runs.herald import Herald, stands
from quorate.coordinator.runs.joins import Joins
from quorate.coordinator.runs.judge import Judge, Loss
from quorate.coordinator.runs.minutes import Minutes
from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.roll import Roll
from quorate.coordinator.runs.rounds import Rounds
from quorate.coordinator.runs.session import Session
from quorate.coordinator.runs.tally import RunTally
from quorate.core.action import RendezvousContext
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.observer import Observer
from quorate.core.ops import RendezvousCloseOp
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState, WorldName
from quorate.core.transitions import apply, finish
from quorate.errors import RendezvousError, RendezvousEvictedError, RendezvousProtocolError
from quorate.wire.messages import FAILED, SUCCEEDED, Close, Finish, Flag, Hello, Join, Leave

__all__ = ["Run", "shortened"]

REASON_CHARACTERS_MAX = 1024

# What has to look at all nodes does so only so often.
LOOK_EVERY_S = 1.0

_NO_DEADLINE = float("inf")


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
        self.observer = observer
        self.revision = 0
        self.dirty = False
        self.touched: dict[NodeDesc, None] = {}
        self.rearranged = False
        self._outbox = outbox
        self._tally = tally
        self._minutes = minutes = Minutes(run_id, state, observer)
        self.events, self.history = minutes.events, minutes.history
        self._roll = roll = Roll(run_id, state, observer, tally, self._touch)
        self.sessions = roll.sessions
        self._herald = Herald(state, roll.sessions, outbox, roll.context)
        self._judge = Judge(roll)
        self._bans = Bans(roll, minutes)
        self._failed_close = FailedClose(roll, outbox)
        self._joins = Joins(roll, outbox, self._herald, minutes)
        self._rounds = Rounds(roll, minutes, tally)
        self._looked_s = observer.now_s

    @property
    def settings(self) -> RendezvousSettings:
        """The settings that the nodes agreed on; there is no run without a first node."""
        return self._roll.settings

    @property
    def now_s(self) -> float:
        """The engine's time of the last reading, in seconds."""
        return self.observer.now_s

    @property
    def may_change(self) -> bool:
        """Whether anything can become due here as time passes."""
        return bool(self.sessions or self._roll.strays or self.state.bans)

    @property
    def is_connected(self) -> bool:
        """Whether an agent is connected; it may be one that has left, and will join again."""
        # Strays are known for as long as they are connected.
        return bool(self._roll.strays) or any(
            session.connection is not None for session in self.sessions.values()
        )

    @property
    def would_be_missed(self) -> bool:
        """Whether there is more to it than that somebody was here; who comes again begins anew."""
        state = self.state
        wished = state.held or state.desired_nodes is not None or state.bans
        return bool(state.world or state.closed or wished)

    @property
    def waits_for_s(self) -> float | None:
        """For how long, in seconds, the round has waited for what it waits for now."""
        return self._rounds.waits_for_s

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
            raise self._roll.replaced_error(profile.node_id, node, newer)
        session, stray = self.sessions.get(node), self._roll.strays.get(node)
        resumed = session is not None and node in self.state.last_heartbeats
        if session is None or not resumed:
            session = Session(node, profile, self.now_s, hello.settings)
            if not self.state.closed:
                self._admit(session)
        for former in (session, stray):
            if former is not None and former.connection not in {None, connection}:
                self._outbox.end(former.connection)
                former.connection = None
        self._roll.strays.pop(node, None)
        session.connection, session.settings = connection, hello.settings
        self.revision += 1
        session.holding = WorldName(*hello.holding) if hello.holding else None
        self._judge.heard(session)
        return session, resumed

    def greet(self, session: Session) -> None:
        """Tell an attached agent what has changed while it was away, and ask it what is asked."""
        self._failed_close.ask_again(session)
        # Who has had no world yet believes nothing about one.
        self._herald.greet(session, is_back=session.holding is not None)

    def heard(self, session: Session, probe: int = 0) -> bool:
        """Note a sign of life.

        Args:
            session: Whose.
            probe: The number of the last probe that it has read; 0 if it does not say (R7).

        Returns:
            Whether a failed close has waited for it: see `finish_failed_close`.
        """
        self._judge.heard(session)
        return self._failed_close.heard(session.node, probe)

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
        if self._roll.strays.get(session.node) is session:
            del self._roll.strays[session.node]
        if finished and self._roll.is_attached(session):
            self._judge.ended(session)

    def join(self, session: Session, request: Join) -> None:
        """Take part in a round; the answer is held until it is complete."""
        if session.join is not None and session.join.request_id == request.id:
            return
        if request.profile.node_id != session.profile.node_id:
            raise RendezvousProtocolError(
                f"A session has one node id: it was '{session.profile.node_id}', and is "
                f"'{request.profile.node_id}' in a join."
            )
        session.profile = request.profile
        session.holding = WorldName(*request.after) if request.after else None
        replaced = session.node in self.state.replaced
        if session.node not in self.sessions and not self.state.closed and not replaced:
            self._admit(session)
        self._joins.hold(session, request)
        self._advance(session)

    def leave(self, session: Session, request: Leave) -> None:
        """Let an agent leave (R7)."""
        self._let_go(session, f"left: {shortened(request.reason)}" if request.reason else "left")
        self._outbox.send(session.connection, Flag(request.id, True))

    def close(self, session: Session | None, connection: int, request: Close) -> None:
        """Close the run: on request, or on a member's word about its job.

        By the first word of the reason agents tell whether a run has succeeded or failed: that of
        an operator begins with neither.

        Such a word counts while the member's world stands, and is else a leave of that node alone.
        Where another member was lost, work is undone, and a failure was a symptom: the member
        leaves, and the rest regroup.
        """
        if session is None or not request.outcome or self.state.closed:
            self._close(request.reason if session is not None else _by_operator(request.reason))
            self._outbox.send(connection, Flag(request.id, True))
            return
        broken = bool(self.state.departed)
        if request.outcome == FAILED and stands(self.state, session):
            self._hold_failed_close(session, request, broken)
        elif request.outcome == FAILED:
            # It says nothing about the present world: what is held of that one's stays held.
            self._leave_after_failure(session, request)
        elif broken or not stands(self.state, session):
            self._let_go(session, f"left: {shortened(request.reason)}")
            self._outbox.send(connection, Flag(request.id, False))
        else:
            self._close(request.reason)
            self._outbox.send(connection, Flag(request.id, True))

    def finish(self, session: Session, request: Finish) -> None:
        """Note that a member's work is done; once that holds for all, the run is closed."""
        changed = finish(self._roll.context(session))
        if changed:
            self._touch(session.node)
            self._failed_close.finish(session.node)
        self._outbox.send(session.connection, Flag(request.id, changed))
        state = self.state
        if changed and not state.departed and state.finishing.keys() >= state.participants.keys():
            self._close(f"{SUCCEEDED}: all nodes of round {state.round} have finished")

    def finish_failed_close(self) -> None:
        """Close the run for a failed job, once all other members have answered since (R7)."""
        if not self._failed_close.is_answered:
            return
        for session, request, _ in self._failed_close.take():
            self._close(request.reason)
            self._outbox.send(session.connection, Flag(request.id, True))

    def changed(self, kind: str, text: str, node: NodeDesc | None = None) -> None:
        """Note that an operator has changed the state; what follows comes with `settle`.

        What is about no single node may have moved many: it is stored whole.

        Args:
            kind: One of `quorate.coordinator.runs.history.EVENT_KINDS`.
            text: What has happened, for people.
            node: To whom, if to one.
        """
        if node is None:
            self.dirty = self.rearranged = True
        else:
            self._touch(node)
        self._roll.moved = True
        self._minutes.record(kind, text, node)

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
        self._minutes.record("evicted", f"{node} was {reason}", node)
        self._withdraw(session, reason, "evicted")
        text = f"{node} was {reason}. It is no part of the run '{self.run_id}' any more."
        self._joins.turn_away(session, RendezvousEvictedError(text))
        self._doubt_failed_close(node)

    def observe(self) -> None:
        """Read the clock; call it before anything else that is handed to this run."""
        self.observer.tick()

    def tick(self) -> None:
        """Let time pass: judge who is lost, whose deadline is over, what is due."""
        for loss in self._judge.lost():
            self._lose(loss)
        elapsed_s = self.now_s - self._looked_s
        if elapsed_s >= LOOK_EVERY_S:
            self._looked_s = self.now_s
            self._bans.pass_time(elapsed_s)
            self._judge.look_for_silence(elapsed_s)
            self._herald.explain(self.now_s, self.waits_for_s)
        for session in self._joins.due():
            self._advance(session)
        self._rounds.drop_stragglers()
        self.finish_failed_close()

    def settle(self) -> None:
        """Draw the consequences of what has changed since the last call: complete, wake, tell."""
        if not self._roll.has_settings:
            return
        while True:
            self._minutes.observe()
            if self._rounds.has_turned():
                self._enter_phase()
            elif self._roll.moved:
                self._roll.moved = False
                self._move_line()
            elif not self._rounds.try_to_complete():
                break
        self._rounds.note_change()
        self._herald.tell()

    def awaits_nodes(self) -> bool:
        """Return whether a node is attached that was heard within the time a loss takes."""
        return self._judge.awaits_nodes()

    def anyone(self) -> RendezvousContext:
        """Return a context for questions that do not depend on who asks."""
        return self._roll.anyone()

    def _admit(self, session: Session) -> None:
        if not self.may_change:
            # It was not looked at while it was idle: that time is nobody's.
            self._looked_s = self.now_s
        former = self._roll.admit(session)
        if former is None:
            return
        replaced = self._roll.end(former, "replaced")
        self._minutes.record("left", f"{former} was replaced by {session.node}", former)
        self._doubt_failed_close(former)
        if replaced is not None:
            node_id, newer = session.profile.node_id, str(session.node)
            error = self._roll.replaced_error(node_id, former, newer)
            self._joins.turn_away(replaced, error)

    def _advance(self, session: Session) -> None:
        """Run a held join until it is answered or has to wait."""
        stood = self.state.complete
        departure = self._joins.advance(session)
        if stood and not self.state.complete:
            # Why a world has ended is not known any more once the next one is complete, which may
            # be before `settle`.
            self._minutes.observe()
        if departure is None:
            return
        self._withdraw(session, *departure)
        text = departure.reason
        if departure.cause == "drained":
            text = f"{session.node} has left, {text}"
        self._minutes.record("left", text, session.node)

    def _move_line(self) -> None:
        """Let those who wait take the places that are free, in order of arrival (R5)."""
        for session in self._joins.in_line():
            self._advance(session)

    def _enter_phase(self) -> None:
        if self.state.complete and not self.state.closed:
            self._herald.begin_world()
            self.observer.forget_all_but(())
            self._rounds.count_world()
            self._minutes.record("completed", f"round {self.state.round} is complete")
        if self.state.complete or self.state.closed:
            for session in self._joins.all():
                self._advance(session)
        else:
            if self.state.regrouping_since is not None:
                self._minutes.record("regroup", self._minutes.why_ended())
            self._move_line()
        if self.state.complete and self._failed_close.is_held and not self.state.closed:
            # Another world is there, without those who have not answered.
            self._turn_failed_close_into_leave()
        if self.state.closed:
            # Those who are lost or have left, and are connected all the same, hear of it too (R7).
            for session in self._roll.strays.values():
                self._herald.greet(session)

    def _lose(self, loss: Loss) -> None:
        session, reason = loss.session, loss.reason
        self._tally.detection.observe(loss.noticed_s)
        self._minutes.record("lost", f"lost {session.node}: {reason}", session.node)
        self._bans.blame(session)
        self._withdraw(session, f"lost: {reason}", loss.cause)
        self._herald.tell_lost(session, reason)
        if session.join is not None:
            # It asks again when it is back, and is then attached afresh.
            self._outbox.end(session.connection)
            session.join = None
        self._doubt_failed_close(session.node)

    def _let_go(self, session: Session, reason: str, cause: str = "left") -> None:
        """Let a node leave; a join that is held would never be woken again."""
        if session.node in self.sessions:
            self._minutes.record("left", reason, session.node)
        self._withdraw(session, reason, cause)
        if session.join is not None:
            self._joins.answer(session, RendezvousError(f"{session.node} has left the run."))

    def _withdraw(self, session: Session, reason: str, cause: str = "left") -> None:
        self._roll.withdraw(session, reason, cause)
        if self._failed_close.awaits(session.node):
            self._doubt_failed_close(session.node)

    def _close(self, reason: str) -> None:
        ctx = self.anyone()
        decision = RendezvousCloseOp(shortened(reason) or "closed on request")(ctx, _NO_DEADLINE)
        if apply(ctx, decision):
            self._touch()
            self._minutes.record("closed", f"closed: {self.state.closed_reason}")

    def _hold_failed_close(self, session: Session, request: Close, symptom: bool) -> None:
        """Hold a close because the job failed until the others have answered since (R7)."""
        self._failed_close.hold(session, request)
        if symptom:
            self._turn_failed_close_into_leave()
        else:
            self.finish_failed_close()

    def _doubt_failed_close(self, lost: NodeDesc) -> None:
        """Take a failure for a symptom if a member was lost whose work was not done (R7)."""
        if self._failed_close.lose(lost):
            self._turn_failed_close_into_leave()

    def _turn_failed_close_into_leave(self) -> None:
        """Somebody else was lost: the failure was a symptom, and the rest regroup (R7).

        Who asked and has come back to regroup meanwhile stays.
        """
        for session, request, holding in self._failed_close.take():
            if session.holding == holding and session.join is None:
                self._leave_after_failure(session, request)
            else:
                self._outbox.send(session.connection, Flag(request.id, self.state.closed))

    def _leave_after_failure(self, session: Session, request: Close) -> None:
        if session.node in self.sessions:
            if self._roll.has_had_place(session.node):
                self._bans.blame(session)
            reason = f"left after a failure: {shortened(request.reason)}"
            self._let_go(session, reason, "failed")
        self._outbox.send(session.connection, Flag(request.id, self.state.closed))

    def _touch(self, *nodes: NodeDesc, rearranged: bool = False) -> None:
        """Note that something has happened to nodes, which has to be stored; the last one last."""
        self.dirty = True
        self.rearranged |= rearranged
        for node in nodes:
            self.touched.pop(node, None)
            self.touched[node] = None


def _by_operator(reason: str) -> str:
    return f"by the operator: {reason}" if reason else "by the operator"


def shortened(reason: str) -> str:
    """Return what of a reason is kept: everybody is told."""
    return reason[:REASON_CHARACTERS_MAX]
