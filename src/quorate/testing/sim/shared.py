"""The backend that all nodes of the direct way share, as one node reaches it."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import get_origin

from msgspec.structs import fields

from quorate.backends.base import RendezvousBackend, Token
from quorate.codec import decode_state
from quorate.core.state import RendezvousState
from quorate.errors import RendezvousConnectionError
from quorate.testing.sim.schedule import Schedule

__all__ = ["NodeBackend", "SharedState"]

# What can be changed in place in a state; nothing in these can.
DICTIONARIES = [field.name for field in fields(RendezvousState) if get_origin(field.type) is dict]


class SharedState:
    """Bytes with a version.

    Args:
        written: Told the writer, what was there before, and what is there now.

    Attributes:
        data: The bytes, `None` if there are none.
        reachable: Whether anybody reaches it.
        slow: Whether its answers take long.
        losing: How likely it is that a call loses its request or its reply.
        watched: Whether nodes that wait hear of a change.
    """

    def __init__(self, written: Callable[[object, bytes | None, bytes], None]) -> None:
        self.data: bytes | None = None
        self.reachable = True
        self.slow = False
        self.losing = 0.0
        self.watched = False
        self._written = written
        self._watching: list[Callable[[], object]] = []
        self._version = 0
        self._decoded = (b"", RendezvousState())

    @property
    def version(self) -> int:
        """The number of the last write; a loss counts as one, so that no token ever returns."""
        return self._version

    def decode(self, data: bytes) -> RendezvousState:
        """Return what some of the bytes stand for, to be changed at will.

        What many nodes read is decoded once and copied: most of the time would go there.
        """
        if self._decoded[0] is not data:
            self._decoded = (data, decode_state(data))
        state = copy(self._decoded[1])
        for name in DICTIONARIES:
            setattr(state, name, dict(getattr(state, name)))
        return state

    def write(self, writer: object, data: bytes) -> None:
        """Replace the bytes."""
        before, self.data = self.data, data
        self._written(writer, before, data)
        self._change()

    def lose(self) -> None:
        """Forget everything."""
        self.data = None
        self._change()

    def watch(self, changed: Callable[[], object]) -> None:
        """Call a function with the next change, if this backend can watch."""
        if self.watched:
            self._watching.append(changed)

    def _change(self) -> None:
        self._version += 1
        watching, self._watching = self._watching, []
        for changed in watching:
            changed()


class NodeBackend(RendezvousBackend):
    """A `RendezvousBackend`, with faults in both directions.

    Args:
        schedule: The chance.
        shared: What it reaches.
        writer: Whose it is.

    Attributes:
        cut_off: Whether this node does not reach it.
        losing_reply: Whether the next write is applied and looks as if it were not.
        repeating: Whether the next write is sent twice on its way: the second answer is the one
            that is read.
        late_s: How long after the node has given it up the next write arrives; 0 if it is not late.
    """

    def __init__(self, schedule: Schedule, shared: SharedState, writer: object) -> None:
        self.cut_off = False
        self.losing_reply = False
        self.repeating = False
        self.late_s = 0.0
        self._schedule = schedule
        self._shared = shared
        self._writer = writer

    @property
    def name(self) -> str:
        """See `RendezvousBackend`."""
        return "simulated"

    def watch(self, changed: Callable[[], object]) -> None:
        """Call a function with the next change, if this node hears of it."""
        self._shared.watch(lambda: None if self._is_away() else changed())

    def get_state(self) -> tuple[bytes, Token] | None:
        """See `RendezvousBackend`."""
        self._pass(self._shared.losing)
        if self._shared.data is None:
            return None
        return self._shared.data, self._shared.version

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        """See `RendezvousBackend`."""
        shared = self._shared
        late_s, self.late_s = self.late_s, 0.0
        if late_s:
            self._schedule.after(late_s, self._compare_and_set, state, token)
        self._pass(1.0 if late_s else shared.losing / 2)
        has_set = self._compare_and_set(state, token)
        repeats, self.repeating = self.repeating, False
        loses, self.losing_reply = self.losing_reply, False
        self._pass(1.0 if loses else shared.losing / 2)
        if shared.data is None:
            return None
        return shared.data, shared.version, has_set and not repeats

    def _compare_and_set(self, state: bytes, token: Token | None) -> bool:
        shared = self._shared
        has_set = token == (None if shared.data is None else shared.version)
        if has_set:
            shared.write(self._writer, state)
        return has_set

    def _is_away(self) -> bool:
        return self.cut_off or not self._shared.reachable

    def _pass(self, losing: float) -> None:
        if self._is_away() or (losing > 0 and self._schedule.chance(losing)):
            raise RendezvousConnectionError("The simulated backend does not answer.")
