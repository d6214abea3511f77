"""The herald alone: who is told what, how often, and in how many messages."""

from __future__ import annotations

from quorate.coordinator.runs.herald import EXPLAIN_AFTER_S, EXPLAIN_AGAIN_S, Herald, stands
from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.session import HeldJoin, Session
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.observer import Observer
from quorate.core.ops import RendezvousJoinOp
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState, WorldName
from quorate.core.transitions import apply, scale, withdraw
from quorate.testing.clock import ManualClock
from quorate.wire.messages import Changed, Waiting

NODES = [NodeDesc(f"n{number}", 1, 0, f"i{number}") for number in range(4)]


class Scene:
    """Three members of a complete world of at most four, each with a session at work."""

    def __init__(self, members: int = 3, max_nodes: int = 4) -> None:
        self.settings = RendezvousSettings("run", 2, max_nodes)
        self.state = RendezvousState(epoch="e")
        self.observer = Observer(ManualClock())
        self.sessions: dict[NodeDesc, Session] = {}
        self.outbox = Outbox()
        for node in NODES[:members]:
            apply(self.context(self.add(node)), Decision(Action.ADD_TO_PARTICIPANTS))
        if not self.state.complete:
            apply(self.context(None), Decision(Action.MARK_RENDEZVOUS_COMPLETE))
        for session in self.sessions.values():
            session.holding = self.state.name
        self.herald = Herald(self.state, self.sessions, self.outbox, self.context)

    def add(self, node: NodeDesc) -> Session:
        session = self.sessions[node] = Session(node, NodeProfile(), 0.0)
        session.connection = int(node.addr[1:])
        return session

    def context(self, session: Session | None) -> RendezvousContext:
        node = session.node if session is not None else NodeDesc("", 0, 0)
        return RendezvousContext(node, self.state, self.settings, self.observer)

    def lose(self, node: NodeDesc) -> None:
        withdraw(self.state, self.settings, node, "lost: it was silent", self.observer)
        del self.sessions[node]

    def wait(self, node: NodeDesc) -> Session:
        session = self.add(node)
        apply(self.context(session), Decision(Action.ADD_TO_WAIT_LIST))
        session.join = HeldJoin(1, RendezvousJoinOp(), 600.0, 0.0)
        return session


def test_when_a_run_is_over_nobody_is_told_of_each_one_that_goes() -> None:
    scene = Scene(members=4)
    scene.state.closed = True
    scene.lose(NODES[0])
    scene.herald.tell()
    scene.outbox.take()
    scene.lose(NODES[1])
    scene.herald.tell()
    assert scene.outbox.take() == []


def test_a_quiet_world_is_told_nothing() -> None:
    scene = Scene()
    scene.herald.tell()
    for session in scene.sessions.values():
        scene.herald.greet(session)
    assert scene.outbox.take() == []


def test_r8_a_loss_is_one_message_for_all_and_is_told_once() -> None:
    scene = Scene()
    scene.lose(NODES[2])
    scene.herald.tell()
    scene.herald.tell()
    (send,) = scene.outbox.take()
    assert send.connections == (0, 1)
    assert isinstance(send.message, Changed)
    assert send.message.waiting == 1
    assert send.message.broken
    assert "n2_1_0 lost: it was silent" in send.message.reason


def test_r8_who_holds_another_world_is_told_so() -> None:
    scene = Scene()
    outdated = scene.sessions[NODES[1]]
    outdated.holding = None
    assert not stands(scene.state, outdated)
    assert stands(scene.state, scene.sessions[NODES[0]])
    scene.herald.greet(outdated)
    assert scene.outbox.take() == [], "an agent that was given no world yet is told nothing"


def test_newcomers_do_not_break_a_world() -> None:
    scene = Scene()
    scene.wait(NODES[3])
    scene.herald.tell()
    (send,) = scene.outbox.take()
    assert isinstance(send.message, Changed)
    assert send.message.waiting == 1
    assert not send.message.broken


def test_a_world_that_is_larger_than_the_operator_wants_is_told_so() -> None:
    scene = Scene()
    scale(scene.state, scene.settings, 2, scene.observer)
    scene.herald.tell()
    (send,) = scene.outbox.take()
    assert isinstance(send.message, Changed)
    assert send.message.waiting == 1
    assert send.message.reason == "the operator wants 2 node(s)"


def test_a_new_world_begins_without_a_push() -> None:
    scene = Scene()
    scene.lose(NODES[2])
    scene.herald.tell()
    scene.outbox.take()
    scene.state.departed.clear()
    scene.herald.begin_world()
    scene.herald.tell()
    assert scene.outbox.take() == []


def test_many_departed_are_counted_and_not_all_named() -> None:
    scene = Scene(members=4)
    for node in NODES[1:]:
        scene.state.departed[node] = "left"
    scene.state.departed[NodeDesc("far", 1, 0)] = "left"
    scene.herald.tell()
    (send,) = scene.outbox.take()
    assert isinstance(send.message, Changed)
    assert send.message.reason.endswith("and 1 more")


def test_r16_a_wait_is_explained_after_a_while_once_a_kind() -> None:
    scene = Scene(members=2, max_nodes=4)
    scene.wait(NODES[2])
    scene.wait(NODES[3])
    scene.herald.explain(EXPLAIN_AFTER_S / 2)
    assert scene.outbox.take() == []
    scene.herald.explain(EXPLAIN_AFTER_S)
    (send,) = scene.outbox.take()
    assert send.connections == (2, 3), "one message for all in the same line"
    assert isinstance(send.message, Waiting)
    assert send.message.kind == "next_round"
    scene.herald.explain(EXPLAIN_AFTER_S + EXPLAIN_AGAIN_S / 2)
    assert scene.outbox.take() == []
    scene.herald.explain(EXPLAIN_AFTER_S + EXPLAIN_AGAIN_S)
    assert len(scene.outbox.take()) == 1


def test_r8_who_was_declared_lost_reads_why_and_that_its_world_has_changed() -> None:
    scene = Scene()
    session = scene.sessions[NODES[1]]
    scene.herald.tell_lost(session, "it was silent")
    scene.state.closed, scene.state.closed_reason = True, "done"
    scene.herald.tell_lost(session, "it was silent")
    told = [send.message for send in scene.outbox.take()]
    text = "this node was declared lost: it was silent"
    assert told == [Changed(1, text, broken=True), Changed(0, text, True, "done", True)]


def test_r8_members_that_are_merely_back_are_told_apart_from_those_that_are_lost() -> None:
    scene = Scene()
    back = scene.sessions[NODES[0]]
    apply(scene.context(back), Decision(Action.ADD_TO_PARTICIPANTS))
    scene.herald.tell()
    scene.lose(NODES[1])
    scene.herald.tell()
    told = [send.message for send in scene.outbox.take()]
    changes = [message for message in told if isinstance(message, Changed)]
    assert [(change.waiting > 0, change.returned) for change in changes] == [
        (True, True),
        (True, False),
    ]


def test_r8_who_is_of_another_epoch_has_lost_more_than_members_that_are_back() -> None:
    scene = Scene()
    back, foreign = scene.sessions[NODES[0]], scene.sessions[NODES[1]]
    apply(scene.context(back), Decision(Action.ADD_TO_PARTICIPANTS))
    foreign.holding = WorldName("another", 0)
    scene.herald.greet(foreign)
    scene.herald.tell()
    first = scene.outbox.take()[0]
    assert first.connections == (1,)
    assert isinstance(first.message, Changed)
    assert not first.message.returned
