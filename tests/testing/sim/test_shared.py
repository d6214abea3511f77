"""The backend of the direct way: compare and set, with requests and replies that get lost."""

from __future__ import annotations

import pytest

from quorate.codec import decode_state, encode_state
from quorate.core.node import NodeDesc
from quorate.core.state import RendezvousState
from quorate.errors import RendezvousConnectionError
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.shared import DICTIONARIES, NodeBackend, SharedState

NODE = NodeDesc("a", 1, 0)


@pytest.fixture
def shared() -> SharedState:
    return SharedState(lambda writer, before, data: None)


def node(shared: SharedState, name: str) -> NodeBackend:
    return NodeBackend(Schedule(1), shared, name)


def test_only_the_newest_token_writes(shared: SharedState) -> None:
    a, b = node(shared, "a"), node(shared, "b")
    assert a.get_state() is None
    written = a.set_state(b"1")
    assert written is not None
    assert written[2]
    refused = b.set_state(b"2")
    assert refused == (b"1", written[1], False)
    again = b.set_state(b"2", written[1])
    assert again is not None
    assert again[2]
    assert a.get_state() == again[:2]


def test_a_token_of_before_a_loss_matches_nothing(shared: SharedState) -> None:
    a = node(shared, "a")
    written = a.set_state(b"1")
    assert written is not None
    shared.lose()
    assert a.set_state(b"2", written[1]) is None
    assert a.get_state() is None


def test_a_write_whose_reply_is_lost_is_applied(shared: SharedState) -> None:
    a = node(shared, "a")
    a.losing_reply = True
    with pytest.raises(RendezvousConnectionError):
        a.set_state(b"1")
    found = a.get_state()
    assert found is not None
    assert found[0] == b"1"


def test_a_write_that_was_sent_twice_looks_as_if_somebody_else_had_written(
    shared: SharedState,
) -> None:
    a = node(shared, "a")
    a.repeating = True
    written = a.set_state(b"1")
    assert written is not None
    assert (written[0], written[2]) == (b"1", False)
    assert shared.version == 1, "it was applied once"
    again = a.set_state(b"2", written[1])
    assert again is not None
    assert again[2]


def test_a_late_write_is_applied_if_nobody_else_has_written() -> None:
    for others_write in (False, True):
        schedule = Schedule(1)
        shared = SharedState(lambda writer, before, data: None)
        a, b = NodeBackend(schedule, shared, "a"), NodeBackend(schedule, shared, "b")
        a.late_s = 2.0
        with pytest.raises(RendezvousConnectionError):
            a.set_state(b"late")
        assert shared.data is None
        if others_write:
            b.set_state(b"other")
        schedule.run_until(3)
        assert shared.data == (b"other" if others_write else b"late")


def test_who_is_cut_off_reaches_nothing(shared: SharedState) -> None:
    a, b = node(shared, "a"), node(shared, "b")
    a.cut_off = True
    with pytest.raises(RendezvousConnectionError):
        a.set_state(b"1")
    assert b.get_state() is None
    shared.reachable = False
    with pytest.raises(RendezvousConnectionError):
        b.get_state()


def test_each_reader_has_a_copy_that_it_may_change(shared: SharedState) -> None:
    data = encode_state(RendezvousState("e", departed={NODE: "lost"}))
    one = shared.decode(data)
    for name in DICTIONARIES:
        getattr(one, name)[NODE] = "changed"
    one.round = 9
    assert shared.decode(data) == decode_state(data)


def test_who_watches_hears_of_the_next_change_once(shared: SharedState) -> None:
    a, b = node(shared, "a"), node(shared, "b")
    heard: list[str] = []
    a.watch(lambda: heard.append("nothing can be watched yet"))
    shared.watched = True
    a.watch(lambda: heard.append("a"))
    b.watch(lambda: heard.append("b"))
    b.cut_off = True
    a.set_state(b"1")
    shared.lose()
    assert heard == ["a"]
    a.watch(lambda: heard.append("a"))
    a.set_state(b"2")
    assert heard == ["a", "a"]
