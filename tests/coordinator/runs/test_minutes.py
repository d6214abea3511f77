"""What is written down, and where."""

from __future__ import annotations

from tests.coordinator.rooms import Rooms


def test_a_note_is_for_the_log_alone() -> None:
    rooms = Rooms()
    rooms.minutes.note("nothing much")
    assert [event.text for event in rooms.minutes.events] == ["nothing much"]
    assert not rooms.minutes.history.events


def test_a_record_is_for_the_history_too_with_the_rank_of_a_member() -> None:
    rooms = Rooms(2, 2)
    _, b = rooms.world("a", "b")
    spare = rooms.add("spare")
    rooms.minutes.events.clear()
    rooms.minutes.history.events.clear()
    for node in (b.node, spare.node, None):
        rooms.minutes.record("held", "so it was", node)
    assert list(rooms.minutes.history.events) == rooms.minutes.events
    assert [(event.node, event.rank) for event in rooms.minutes.events] == [
        (str(b.node), 1),
        (str(spare.node), None),
        ("", None),
    ]


def test_it_says_why_the_last_round_has_ended() -> None:
    rooms = Rooms(2, 2)
    assert rooms.minutes.why_ended() == ""
    a, b = rooms.world("a", "b")
    rooms.minutes.observe()
    assert rooms.minutes.why_ended() == "", "it stands"
    rooms.roll.withdraw(b, "lost: it was silent", "silent")
    rooms.ask(a)
    rooms.minutes.observe()
    assert rooms.minutes.why_ended() == f"{b.node} lost: it was silent"
    assert rooms.minutes.history.rounds[-1].completed_because == "all 2 nodes are here"
