"""Virtual time: calls come in the order of their moments, chance comes from the seed."""

from __future__ import annotations

import pytest

from quorate.testing.sim import schedule as module
from quorate.testing.sim.schedule import Livelock, Schedule


def test_calls_come_in_the_order_of_their_moments() -> None:
    schedule, seen = Schedule(1), []
    schedule.after(2, seen.append, "late")
    schedule.after(1, seen.append, "early")
    schedule.at(1, seen.append, "second at the same moment")
    schedule.at(-1, seen.append, "at once")
    schedule.run_until(1.5)
    assert seen == ["at once", "early", "second at the same moment"]
    assert schedule.now_s == 1.5
    schedule.run_until(3)
    assert seen[-1] == "late"
    assert schedule.calls == 4


def test_what_does_not_come_to_rest_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS_MAX", 10)
    schedule = Schedule(1)

    def again() -> None:
        schedule.after(0.0, again)

    schedule.after(1, again)
    with pytest.raises(Livelock, match=r"1\.000 s"):
        schedule.run_until(2)


def test_chance_follows_from_the_seed() -> None:
    one, same, other = Schedule(1), Schedule(1), Schedule(2)
    drawn = [one.between(2, 3) for _ in range(5)]
    assert drawn == [same.between(2, 3) for _ in range(5)]
    assert drawn != [other.between(2, 3) for _ in range(5)]
    assert all(2 <= number <= 3 for number in drawn)
    assert one.chance(1.1)
    assert not one.chance(0.0)
