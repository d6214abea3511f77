"""Who is kept out for a while, and for how long still."""

from __future__ import annotations

from datetime import timedelta

from quorate.coordinator.runs.bans import STORED_EVERY_S, Bans
from tests.coordinator.rooms import Rooms
from tests.core.support import make_settings


def test_who_fails_too_often_is_kept_out() -> None:
    rooms = Rooms(failures_max=2)
    bans = Bans(rooms.roll, rooms.minutes)
    a, b = rooms.add("a"), rooms.add("b")
    for session in (a, b, a):
        assert not rooms.state.bans
        bans.blame(session)
    assert list(rooms.state.bans) == ["address a"]
    event = rooms.minutes.events[-1]
    assert (event.kind, event.node) == ("evicted", str(a.node))
    assert event.text == "address a is kept out for a while: it failed 2 times within 600 s"


def test_r9_what_is_left_is_stored_from_time_to_time() -> None:
    rooms = Rooms(failures_max=1, cool_down=timedelta(seconds=STORED_EVERY_S + 2))
    bans = Bans(rooms.roll, rooms.minutes)
    rooms.let_pass(STORED_EVERY_S)
    bans.pass_time(STORED_EVERY_S)
    bans.blame(rooms.add("a"))
    rooms.touches.clear()
    rooms.let_pass(1)
    bans.pass_time(1)
    assert rooms.touches == [()], "the last time was long ago"
    rooms.let_pass(STORED_EVERY_S - 1)
    bans.pass_time(STORED_EVERY_S - 1)
    assert rooms.touches == [()]
    rooms.let_pass(2)
    bans.pass_time(2)
    assert rooms.state.bans == {}
    assert len(rooms.touches) > 1, "an end is stored at once"


def test_a_run_that_takes_new_settings_counts_by_them() -> None:
    """R13: a run that nobody is attached to any more."""
    rooms = Rooms()
    bans = Bans(rooms.roll, rooms.minutes)
    a = rooms.add("a")
    bans.blame(a)
    assert not rooms.state.bans
    rooms.roll.withdraw(a, "lost", "silent")
    rooms.settings = make_settings(failures_max=1)
    bans.blame(rooms.add("a"))
    assert list(rooms.state.bans) == ["address a"]
