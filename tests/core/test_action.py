from __future__ import annotations

from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.node import NodeProfile
from tests.core.support import Run, node

NAMES = """
    KEEP_ALIVE ADD_TO_PARTICIPANTS ADD_TO_WAIT_LIST ADD_TO_REDUNDANCY_LIST
    REMOVE_FROM_PARTICIPANTS REMOVE_FROM_WAIT_LIST REMOVE_FROM_REDUNDANCY_LIST
    MARK_RENDEZVOUS_COMPLETE MARK_RENDEZVOUS_CLOSED SYNC ERROR_CLOSED ERROR_TIMEOUT FINISH
"""


def test_the_actions_are_those_of_the_field() -> None:
    assert {action.name for action in Action} == set(NAMES.split())


def test_a_decision_is_an_action_with_its_reason() -> None:
    """R16"""
    decision = Decision(Action.SYNC, "waiting for 2 more nodes (3 of 5)", "min_nodes")
    assert decision.action is Action.SYNC
    assert decision.reason.startswith("waiting for 2")
    assert decision.kind == "min_nodes"
    assert Decision(Action.FINISH) == (Action.FINISH, "", "")


def test_a_context_has_an_empty_profile_if_the_node_said_nothing() -> None:
    run = Run()
    bare = RendezvousContext(node("a"), run.state, run.settings, run.observer)
    assert bare.profile == NodeProfile()
    told = RendezvousContext(
        node("a"), run.state, run.settings, run.observer, NodeProfile(node_id="n")
    )
    assert told.profile.node_id == "n"
