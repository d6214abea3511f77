"""What a simulated user asks of a store."""

from __future__ import annotations

from quorate.core.state import WorldName
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.store_user import PARTS, StoreUser
from quorate.wire.messages import CompareSet, SetValue, Value

WORLD, NEXT = WorldName("epoch", 0), WorldName("epoch", 1)


def test_it_asks_everything_and_sets_no_value_twice() -> None:
    user = StoreUser("user", Schedule(1))
    requests = [user.draw(id, WORLD) for id in range(1, 500)]
    assert {type(request) for request in requests} == PARTS.keys()
    values = [request.value for request in requests if isinstance(request, SetValue)]
    values += [request.desired for request in requests if isinstance(request, CompareSet)]
    assert len(values) == len(set(values))


def test_it_compares_with_what_it_was_told_last_of_this_world() -> None:
    user = StoreUser("user", Schedule(1))
    first = _comparison(user, WORLD, "a")
    assert first.expected == b""
    user.learn(first, Value(first.id, b"other"))
    assert _comparison(user, WORLD, "a").expected == b"other"
    assert _comparison(user, NEXT, "a").expected == b""


def _comparison(user: StoreUser, world: WorldName, key: str) -> CompareSet:
    while True:
        request = user.draw(1, world)
        if isinstance(request, CompareSet) and request.key == key:
            return request
