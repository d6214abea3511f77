"""What the caller of one agent does with the stores of its worlds, drawn from the seed."""

from __future__ import annotations

import random

from quorate.core.state import WorldName
from quorate.testing.sim.schedule import Schedule
from quorate.wire.messages import (
    AddNumber,
    Answer,
    CheckKeys,
    CompareSet,
    CountKeys,
    DeleteKey,
    GetValue,
    SetValue,
    StoreRequest,
    Value,
    WaitKeys,
)

__all__ = ["StoreUser"]

COUNTER = "counter"

# Few, so that users come across each other.
KEYS = ("a", "b", "c")

# How long it waits for a key: for less, and for more than it takes to come back after a reset.
WAITS_S = (0.5, 3.0)

# How likely each request is, in parts of all.
PARTS = {
    AddNumber: 30,
    CompareSet: 25,
    GetValue: 12,
    WaitKeys: 12,
    SetValue: 8,
    DeleteKey: 5,
    CheckKeys: 5,
    CountKeys: 3,
}


class StoreUser:
    """Draws requests; each value that it sets is another one.

    Args:
        name: What no other user is called.
        schedule: The source of chance.
    """

    def __init__(self, name: str, schedule: Schedule) -> None:
        self._name = name
        self._random: random.Random = schedule.random
        self._world: WorldName | None = None
        self._known: dict[str, bytes] = {}

    def draw(self, id: int, world: WorldName) -> StoreRequest:
        """Return a request to the store of a world."""
        if world != self._world:
            self._world, self._known = world, {}
        draw = self._random
        (kind,) = draw.choices(list(PARTS), list(PARTS.values()))
        key, value = draw.choice(KEYS), f"{self._name}.{id}".encode()
        if kind is AddNumber:
            return AddNumber(id, world, COUNTER, 1)
        if kind is CompareSet:
            return CompareSet(id, world, key, self._known.get(key, b""), value)
        if kind is SetValue:
            return SetValue(id, world, key, value)
        if kind is DeleteKey:
            return DeleteKey(id, world, key)
        if kind is CountKeys:
            return CountKeys(id, world)
        if kind is GetValue:
            return GetValue(id, world, key, draw.choice(WAITS_S))
        keys = tuple(draw.sample(KEYS, draw.choice((1, 1, 2))))
        if kind is CheckKeys:
            return CheckKeys(id, world, keys)
        return WaitKeys(id, world, keys, draw.choice(WAITS_S))

    def learn(self, request: StoreRequest, answer: Answer) -> None:
        """Note what was answered: the next comparison is with that."""
        if isinstance(request, GetValue | CompareSet) and isinstance(answer, Value):
            self._known[request.key] = answer.value
        elif isinstance(request, DeleteKey):
            self._known.pop(request.key, None)
