"""A session starts with its first word, detached; a held join starts without an explanation."""

from __future__ import annotations

from quorate.coordinator.runs.session import HeldJoin, Session
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import RendezvousJoinOp


def test_a_new_session_is_heard_and_neither_connected_nor_joining() -> None:
    node, profile = NodeDesc("a", 1, 0), NodeProfile(node_id="n")
    session = Session(node, profile, 12.0)
    assert (session.node, session.profile, session.heard_s) == (node, profile, 12.0)
    assert session.connection is None
    assert session.ended_s is None
    assert session.holding is None
    assert session.join is None


def test_a_held_join_knows_what_answers_it_and_until_when() -> None:
    op = RendezvousJoinOp()
    held = HeldJoin(3, op, 20.0, 10.0)
    assert (held.request_id, held.op, held.deadline_s, held.since_s) == (3, op, 20.0, 10.0)
    assert held.reason == ""


def test_silence_counts_from_the_last_word_less_what_is_excused() -> None:
    """R9"""
    session = Session(NodeDesc("a", 1, 0), NodeProfile(), 10.0)
    session.excused_s = 3.0
    assert session.silence_s(17.0) == 4.0
    session.hear(18.0)
    assert session.silence_s(20.0) == 2.0
